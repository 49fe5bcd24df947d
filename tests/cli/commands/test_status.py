"""`connectrio ps`, `top`, `show` and `stacks`: what they print of a host, and what they say when they cannot."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import signal
import socket
import threading
import time
from contextlib import contextmanager

import msgspec
import pytest
from rich.console import Console
from rich.text import Text

from cli.harness import Commands, hosting
from cli.test_terminal import on_a_terminal, plain
from cli.toy import Toy
from connectrio.cli.commands.status import _fitting
from connectrio.cli.status_view import calls, details, duration, jobs
from connectrio.connector.registry import Registry
from connectrio.host.host import Host
from connectrio.telemetry.report import Attention, CertificateReport, PhaseChange, StackReport, TaskName
from connectrio.telemetry.search import JobDetails
from host.reports import NOW, call, connector, failure, incident, job, report
from rpc.kit.certificates import pki

__all__ = ["pki"]

META = '{"number":1}'
META_JOB = hashlib.sha256(META.encode()).hexdigest()[:12]
LINK = ("logs", "https://vendor.example/1")


def told():
    """What the host of these tests tells, with times that fit the clock."""
    now = time.time()
    sick = job(
        trouble=4, seen=now - 600, changed=now - 300, polled=now - 240, failing_since=now - 200, polls=9,
        failed_polls=3, absorbed=2, answered_until=600, error="no route\nto host", place="toy.py:42 in get",
        message="working",
        phases=(PhaseChange(phase="QUEUED", at=0), PhaseChange(phase="RUNNING", at=60)), links=(LINK,), origin="fresh",
    )  # fmt: skip
    over = job(
        job=META_JOB, key="other", task=TaskName(output_prefix="s3://b/o"), phase="SUCCEEDED", is_final=True,
        seen=now - 10, changed=now - 5, polled=None, process=1,
    )  # fmt: skip
    return report(
        now=now, started=now - 7384, jobs=[over, sick], calls=[call(started=now - 5)], restart_safe="it is safe",
        dropped_lines=3,
        certificates=[
            CertificateReport(port="gRPC", file="tls.crt", expires=now + 200_000),
            CertificateReport(port="exporter", file="x.crt", expires=None),
            CertificateReport(port="gRPC", file="old", expires=now - 1),
        ],
        failures=[failure(at=now - 30, similar=2, peer="10.0.0.1:40000", seconds=2.0, process=1)],
        incidents=[incident(began=now - 100, last=now)],
        connectors=[connector(slots=10, active=1, waiting=2, jobs={"RUNNING": 1}, p95=0.25, p99=2.0, rate=1.5)],
        attention=[
            Attention(
                kind="incident", severity="error", text="the vendor is down", what_to_do="call them", since=now - 60
            )
        ],
    )  # fmt: skip


class Told(Host):
    """A host that tells `told()`."""

    async def report(self):
        return told()

    async def stacks(self):
        return [
            StackReport(kind="task", name="call 1", what="get f7c1", frames=["toy.py:42 in get: await poll()"]),
            StackReport(kind="thread", name="MainThread", what="", frames=["a.py:1 in main: run()"], process=1),
        ]


@contextmanager
def telling(**settings):
    """A host that tells `told()`: its URL."""
    registry = Registry()
    registry.register(Toy())
    with hosting(registry, Told, **settings) as addresses:
        yield addresses.url


@pytest.fixture(scope="module")
def url(_quiet):
    with telling() as found:
        yield found


@pytest.fixture
def ask(capsys, url):
    """Runs commands against the host."""
    return Commands(capsys, "--url", url)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0ms"),
        (0.25, "250ms"),
        (1, "1s"),
        (59.9, "59s"),
        (60, "1m0s"),
        (3600, "1h0m"),
        (200_000, "2d7h"),
        (-1, "0ms"),
    ],
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


def test_ps_lists_calls_and_jobs_that_are_not_over(ask):
    outcome = ask("ps")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "Calls: 1"
    assert lines[1].split() == ["For", "Call", "Execution", "Node", "Task", "Type", "Stage", "Where", "Client"]
    assert lines[2].split() == [
        "5s",
        "get",
        "f7c1",
        "n0",
        "toy",
        "connector",
        "toy.py:42",
        "in",
        "get",
        "10.0.0.1:40000",
    ]
    assert lines[3] == "Jobs: 1"
    assert lines[5].split() == [
        "!!!", "f7c1", "n0", "1", "toy", "RUNNING", "5m0s", "4m0s", "ago", "0123456789ab", "no", "route", "to", "host",
    ]  # fmt: skip
    assert len(lines) == 6


def test_ps_of_all(ask):
    lines = ask("ps", "--all").out.splitlines()
    assert lines[3] == "Jobs: 2"
    assert "s3://b/o" in lines[6]
    assert ask("ps", "--all", "--limit", "1").out.splitlines()[3] == "Jobs: 2, the first 1 are shown"


def test_ps_searches(ask):
    assert ask("ps", "--search", "NOBODY").out == "Calls: 0\nJobs: 0\n"
    found = ask("ps", "--all", "--search", "b/O", "--json").document
    assert (found["calls"], found["total_calls"], found["total_jobs"]) == ([], 0, 1)
    assert [each["job"] for each in found["jobs"]] == [META_JOB]


@pytest.mark.parametrize("limit", ["0", "-1", "10001"])
def test_a_limit_that_makes_no_sense(ask, limit):
    outcome = ask("ps", "--limit", limit)
    assert (outcome.code, "--limit must be from 1 to 10000" in outcome.err) == (1, True)


@pytest.mark.parametrize("name", ["f7c1", "flytesnacks-development-f7c1", "key-of-0", "0123456789ab"])
def test_show(ask, name):
    outcome = ask("show", name)
    assert (outcome.code, outcome.err) == (0, "")
    for line in (
        "job 0123456789ab: execution f7c1 (acme/flytesnacks/development), node n0, attempt 1",
        "  phase      RUNNING for 5m0s: working",
        "  key        key-of-0",
        "  phases     QUEUED 1970-01-01 00:00:00Z, RUNNING 1970-01-01 00:01:00Z",
        "  polls      9, 3 failed, 2 of them absorbed; the last success 4m0s ago",
        "  error      no route to host",
        "  Flyte sees RUNNING in place of the error, until 1970-01-01 00:10:00Z",
        "  task       execution f7c1 (acme/flytesnacks/development), node n0, attempt 1; toy (0)",
        "  error      UNAVAILABLE: no route",
        "  where      toy.py:42 in get",
        "  link       logs: https://vendor.example/1",
        "live call: get by 10.0.0.1:40000 for 5s (connector)",
        "  client     10.0.0.1:40000; the call took 2s in process 1",
        "  cause      the other system",
    ):
        assert line in outcome.out.splitlines()
    assert "incident of toy: get connection since" in outcome.out
    assert "and 2 like it" in outcome.out


@pytest.mark.parametrize("way", ["text", "file", "stdin", "base64"])
def test_show_by_resource_meta(ask, tmp_path, monkeypatch, way):
    (tmp_path / "meta.json").write_text(f"{META}\n")
    if way == "stdin":
        monkeypatch.setattr("sys.stdin", io.StringIO(META))
    name = {"text": META, "file": "@meta.json", "stdin": "-", "base64": "base64:eyJudW1iZXIiOjF9"}[way]
    outcome = ask("show", name)
    assert outcome.out.splitlines()[0] == f"job {META_JOB}: execution not known, last asked of process 1"
    assert "none succeeded" in outcome.out
    assert ask("show", META_JOB, "--json").document["jobs"][0]["job"] == META_JOB


@pytest.mark.parametrize("name", ["nobody", "a/b", "..", "?x#y", "ü", "x" * 100_000, "@meta.json"])
def test_show_of_what_the_host_does_not_know(ask, tmp_path, name):
    (tmp_path / "meta.json").write_text("{}")
    outcome = ask("show", name)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("error: the host knows no ")
    assert "connectrio ps --all --search" in outcome.err


def test_show_of_nothing(ask):
    assert ask("show", "").code == 2
    assert ask("show", "@nowhere").code == 2


def test_what_show_leaves_out_and_explains():
    orphan = job(error="created for a client that had gone", polls=0, polled=None)
    hung = failure(status="DEADLINE_EXCEEDED")
    lines = [line for line, _ in details(JobDetails(jobs=[orphan], calls=[], failures=[hung], incidents=[]), NOW)]
    assert [line for line in lines if line.startswith("  where")] == ["  where      toy.py:42 in get"]
    assert "  cause      the other system does not answer, or the connector asks it without a time-out" in lines


def test_stacks(ask):
    assert ask("stacks").out.splitlines() == [
        "task call 1: get f7c1",
        "  toy.py:42 in get: await poll()",
        "thread MainThread of process 1",
        "  a.py:1 in main: run()",
    ]
    assert [each["kind"] for each in ask("stacks", "--json").document["stacks"]] == ["task", "thread"]


def test_top_in_a_pipe(ask):
    outcome = ask("top")
    lines = outcome.out.splitlines()
    assert lines[0] == "serving, ready; connectrio 1.2.3, up 2h3m"
    assert lines[1] == "log lines that could not be written: 3"
    assert lines[2].startswith("the certificate of the gRPC port expires in ")
    assert lines[2].endswith(": tls.crt")
    assert lines[3:5] == [
        "the certificate of the exporter port cannot be read: x.crt",
        "the certificate of the gRPC port has expired: old"
    ]  # fmt: skip
    assert lines[5] == "restart: it is safe"
    assert lines[6:8] == ["error for 1m0s: the vendor is down", "  call them"]
    assert lines[8] == "Connectors: 1"
    row = ["toy", "(0)", "1", "of", "10,", "2", "wait", "1.50", "-", "250ms", "2s", "0", "0", "RUNNING:1", "open"]
    assert lines[10].split() == row
    assert [line for line in lines if line.startswith(("Jobs", "Calls: "))] == ["Jobs: 1", "Calls: 1"]
    assert ask("top", "--once").out.splitlines()[8:] == lines[8:]
    assert ask("top", "--json").document["state"] == "serving"
    assert ask("top", "--interval", "0").code == 1


def test_what_does_not_fit_on_a_screen_is_counted():
    small = Console(width=60, height=5, file=io.StringIO())
    lines = [Text(f"line {number}") for number in range(5)]

    def drawn(parts):
        small.file = io.StringIO()
        small.print(_fitting(parts, small), end="")
        return small.file.getvalue().split()

    assert drawn(lines) == " ".join(f"line {number}" for number in range(5)).split()
    cut = " ".join(drawn([*lines, Text("one"), Text("two")]))
    assert cut == ("line 0 line 1 line 2 line 3 … 3 more lines: see connectrio top --once")


def test_jobs_and_calls_name_their_process():
    assert jobs([job(process=1)], 1, NOW).rows[0][4] == "toy #1"
    assert calls([call(process=1)], 1).rows[0][4] == "toy #1"
    found = JobDetails(jobs=[job(orphaned=NOW, polled=None)], calls=[call(process=1)], failures=[], incidents=[])
    lines = [line for line, _ in details(found, NOW)]
    assert "live call: get by 10.0.0.1:40000 for 5s (connector) in process 1" in lines
    assert "  orphan     since 2023-11-14 22:13:20Z" in lines


def test_top_on_a_terminal(tmp_path, url):
    """It draws the screen again and again, until Ctrl-C."""

    def watch(text):
        if plain(text).count("Connectors: 1") >= 2 and processes:
            processes.pop().send_signal(signal.SIGINT)  # once: a second one would end it at once

    processes = []
    code, text = on_a_terminal(
        "top", "--interval", "0.01", "--url", url, cwd=tmp_path, watch=watch, started=processes.append
    )
    assert code == 0
    assert "the vendor is down" in plain(text)
    assert "\x1b[?1049h" in text
    assert text.rindex("\x1b[?1049l") > text.rindex("Connectors")


def test_top_goes_on_when_the_host_is_gone(tmp_path, free_target):
    def watch(text):
        if plain(text).count("trying again") >= 2 and processes:
            processes.pop().send_signal(signal.SIGINT)

    processes = []
    code, text = on_a_terminal(
        "top", "--interval", "0.01", "--url", f"http://{free_target}", cwd=tmp_path, watch=watch,
        started=processes.append,
    )  # fmt: skip
    assert (code, "no answer from" in plain(text)) == (0, True)


# what goes wrong

COMMANDS = [["ps"], ["top", "--once"], ["show", "f7c1"], ["stacks"]]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_host(run, free_target, command, form):
    outcome = run(*command, *form, "--url", f"http://{free_target}")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"error: no answer from http://{free_target}: Connection refused\nhint: ")


@pytest.mark.parametrize("given", ["127.0.0.1:9090", "ftp://a", "http://", "http://a:b", "http://a:0", "http://[::1"])
def test_a_url_that_is_none(run, given):
    outcome = run("ps", "--url", given)
    assert outcome.code == 2
    assert f"--url must be like http://127.0.0.1:9090, got {given!r}" in outcome.err


def test_the_url_of_the_environment(run, url, monkeypatch):
    monkeypatch.setenv("CONNECTRIO_URL", f"{url}/")
    assert run("ps").out.startswith("Calls: 1")


@pytest.mark.usefixtures("_quiet")
def test_tokens(run, tmp_path, monkeypatch):
    tokens = tmp_path / "tokens"
    tokens.write_text("first\nsecond\n")
    with telling(page_token_file=tokens) as url:
        refused = run("ps", "--url", url)
        assert (refused.code, "--token-file FILE or in CONNECTRIO_TOKEN" in refused.err) == (1, True)
        assert run("ps", "--url", url, "--token-file", "tokens").code == 0
        monkeypatch.setenv("CONNECTRIO_TOKEN", "second")
        assert run("ps", "--url", url).code == 0
        monkeypatch.setenv("CONNECTRIO_TOKEN", "third")
        assert "the token is none of" in run("ps", "--url", url).err
        assert run("ps", "--url", url, "--token-file", "tokens").code == 0
        missing = run("ps", "--url", url, "--token-file", "nowhere")
        assert (missing.code, "cannot read nowhere" in missing.err) == (2, True)
        monkeypatch.setenv("CONNECTRIO_TOKEN", "a\nb")
        assert run("ps", "--url", url).code == 2


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_host_without_a_page(run, command):
    with telling(page=False) as url:
        outcome = run(*command, "--url", url)
    assert (outcome.code, outcome.out) == (1, "")
    assert "are off (--no-page)" in outcome.err
    assert "hint: start the host without --no-page" in outcome.err


@pytest.mark.usefixtures("_quiet")
def test_a_host_with_tls(run, pki):
    with telling(tls_cert=pki.server.cert, tls_key=pki.server.key, prometheus_tls=True) as url:
        assert url.startswith("https://")
        assert run("ps", "--url", url, "--tls-ca", str(pki.ca)).code == 0
        unknown = run("ps", "--url", url)
        assert (unknown.code, "--tls-ca FILE" in unknown.err) == (1, True)
        wrong = run("ps", "--url", url.replace("https", "http"))
        assert (wrong.code, "use https://" in wrong.err) == (1, True)
        assert run("ps", "--url", url, "--tls-ca", "nowhere").code == 2


@contextmanager
def answering(status, body):
    """A server that gives one answer to everything: its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Print nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


BLOCKED = {"state": "blocked", "method": "Slow.get", "line": "slow.py:7 in get", "seconds": 3.25}


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (
            503,
            json.dumps(BLOCKED).encode(),
            "Slow.get has blocked the host's event loop for 3.25 s, at slow.py:7 in get",
        ),
        (404, b"404 Not Found: there are /metrics, /healthz and /readyz\n", "answered 404: 404 Not Found: there are"),
        (200, b"# HELP", "answered 200: # HELP"),
        (200, b"[]", "answered 200: []"),
        (200, b"{}", "has not the form that this command knows"),
        (200, b'{"stacks": [{"kind": 5}], "total": 1}', "has not the form that this command knows"),
        (301, b"", "answered 301"),
        (500, b'{"error": "the request failed"}', "the request failed"),
        (500, b"{}", "the host answered 500"),
        (200, b"\xff\xfe", "answered 200"),
    ],
)
def test_answers_that_are_none(run, status, body, error):
    with answering(status, body) as url:
        outcome = run("stacks", "--url", url)
    assert (outcome.code, outcome.out) == (1, "")
    assert error in outcome.err
    assert "hint: " in outcome.err


def test_a_host_that_does_not_answer_in_time(run):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outcome = run("ps", "--timeout", "0.05", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert outcome.code == 1
    assert "did not answer within 0.05 s" in outcome.err


def test_an_answer_of_a_newer_host(run):
    document = {
        "total": 1,
        "stacks": [{**msgspec.to_builtins(StackReport(kind="task", name="t", what="", frames=[])), "new": 1}],
    }
    with answering(200, json.dumps(document).encode()) as url:
        assert run("stacks", "--url", url).out == "task t\n"
