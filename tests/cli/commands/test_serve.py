"""`connectrio serve` as a process."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
import trustme

from cli.harness import LOOPBACK, PATIENCE, TOY_MODULE, Process, serving_toys
from connectrio._version import __version__


def test_what_it_prints_at_start(tmp_path):
    """For people: all on standard output, and the log on standard error."""
    with serving_toys(tmp_path, "--backend", "asyncio", "--log-format", "console") as (host, target):
        host.signal(signal.SIGTERM)
        outcome = host.wait()
    assert outcome.code == 0
    assert target.startswith("127.0.0.1:")
    lines = outcome.out.splitlines()
    assert lines[0].startswith("connectrio ")
    assert lines[1] == f"  gRPC     {target}"
    assert lines[2].startswith("  metrics  http://127.0.0.1:")
    assert lines[2].endswith("/metrics")
    assert "/readyz" in lines[3]
    assert lines[4] == lines[2].replace("metrics", "status ", 1).replace("/metrics", "/status")
    assert lines[5:8] == [
        "Connector Metadata",
        "Connector Name  Support Task Types  Loaded from",
        f"Toy             toy (0)             module {TOY_MODULE}",
    ]
    assert lines[8].startswith("In production: ")
    assert [event in outcome.err for event in ("serving", "drained", "stopped")] == [False, True, True]


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("processes", [1, 2])
def test_in_json_the_start_is_a_line_of_the_log(tmp_path, backend, processes):
    options = ["--backend", backend, "--grace", "7", *(["--processes", "2"] if processes > 1 else [])]
    with serving_toys(tmp_path, *options) as (host, target):
        host.signal(signal.SIGTERM)
        outcome = host.wait()
    assert (outcome.code, outcome.out) == (0, "")
    lines = [json.loads(line) for line in outcome.err.splitlines()]
    (serving,) = [line for line in lines if line["event"] == "serving"]
    assert serving["grpc"] == target
    assert (serving["version"], serving["backend"], serving["pid"]) == (__version__, backend, host.pid)
    assert serving.get("processes", 1) == processes
    assert "process" not in serving
    assert serving["http"].startswith("http://127.0.0.1:")
    assert serving["connectors"] == [{"name": "Toy", "task_types": ["toy (0)"], "source": f"module {TOY_MODULE}"}]
    assert serving["not_loaded"] == []
    assert serving["settings"].items() >= {"grace": 7.0, "modules": [str(TOY_MODULE)], "entry_points": False}.items()
    assert "drain_delay" not in serving["settings"]
    stopped = [line for line in lines if line["event"] == "stopped"]
    assert len(stopped) == processes
    assert all(line["seconds"] >= 0 for line in stopped)
    assert [line.get("process") for line in stopped] == [None] if processes == 1 else True


def test_the_second_signal_is_logged(tmp_path):
    with serving_toys(tmp_path, "--drain-delay", "3600") as (host, _):
        host.signal(signal.SIGTERM)
        host.error_with('"draining"')
        host.signal(signal.SIGTERM)
        outcome = host.wait()
    assert outcome.code == 128 + signal.SIGTERM
    line = next(json.loads(line) for line in outcome.err.splitlines() if "at once: a second" in line)
    assert (line["event"], line["level"], line["signal"]) == (
        "stopping at once: a second SIGTERM", "warning", "SIGTERM",
    )  # fmt: skip


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_what_is_unsafe_is_said_at_start(tmp_path, address):
    unsafe = ["--unsafe-sql", "--unsafe-pickle", "--no-entry-points", "--timeout", "0", "--log-format", "console"]
    with Process("serve", "--host", address, "--port", "0", "--prometheus-port", "0", *unsafe, cwd=tmp_path) as host:
        outcome = host.wait()
    assert outcome.code == 0
    for words in ("SQL is not confined: anyone who can", "pickles are read: anyone who can"):
        for text in (outcome.out, outcome.err):
            assert (words.upper() if address == "0.0.0.0" else words) in text


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("backend", ["uvloop", "trio"])
def test_a_signal_ends_it_without_a_traceback(tmp_path, backend, signum):
    with serving_toys(tmp_path, "--backend", backend) as (host, _):
        host.signal(signum)
        outcome = host.wait()
    assert outcome.code == 0
    assert "Traceback" not in outcome.err


def test_an_entry_point_that_fails_is_named(tmp_path):
    package = tmp_path / "broken-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[flyte.connectors]\nbroken = no_such_module\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    with Process("serve", *LOOPBACK, "--timeout", "0", cwd=tmp_path, environment=environment) as host:
        outcome = host.wait()
    assert outcome.code == 0
    serving = next(json.loads(line) for line in outcome.err.splitlines() if '"serving"' in line)
    (failure,) = serving["not_loaded"]
    assert failure.startswith("entry point broken (no_such_module): ModuleNotFoundError")


def test_a_taken_port_is_an_error(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["serve", "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", "0"]
        with Process(*arguments, cwd=tmp_path) as host:
            outcome = host.wait()
    assert outcome.code == 1
    assert outcome.out == ""
    line = json.loads(outcome.err.splitlines()[-1])
    assert (line["event"], line["level"]) == ("the host cannot start", "error")
    assert line["error"].startswith(f"cannot listen on 127.0.0.1:{port} for gRPC: another process has it.")
    assert "--port" in line["error"]


def test_for_people_an_error_is_no_line_of_a_log(tmp_path):
    arguments = ["serve", *LOOPBACK, "--modules", "no_such_module", "--log-format", "console"]
    with Process(*arguments, cwd=tmp_path) as host:
        outcome = host.wait()
    assert outcome.code == 1
    assert outcome.err.startswith("error: cannot load connectors from 'no_such_module': ")


def test_a_module_that_cannot_be_loaded_is_an_error(tmp_path):
    with Process("serve", *LOOPBACK, "--modules", "no_such_module", cwd=tmp_path) as host:
        outcome = host.wait()
    assert (outcome.code, outcome.out) == (1, "")
    error = json.loads(outcome.err)["error"]
    assert error.startswith("cannot load connectors from 'no_such_module': ModuleNotFoundError: ")
    assert "Traceback" not in outcome.err


BROKEN = "import json\n\njson.loads('{')\n"


@pytest.mark.parametrize("processes", [1, 2])
def test_in_json_the_picture_of_a_module_is_a_field(tmp_path, processes):
    (tmp_path / "broken.py").write_text(BROKEN)
    several = ["--processes", "2"] if processes > 1 else []
    with Process("serve", *LOOPBACK, "--modules", "broken.py", *several, cwd=tmp_path) as host:
        outcome = host.wait()
    assert (outcome.code, outcome.out) == (1, "")
    lines = [json.loads(line) for line in outcome.err.splitlines()]
    assert lines[-1]["event"] == "the host cannot start"
    assert lines[-1]["error"].endswith(f"({tmp_path / 'broken.py'}:3)")
    (line, *_) = [line for line in lines if "exception" in line]
    assert line["event"] == "the host cannot start"
    source, first, place, *_ = line["exception"].splitlines()
    assert (source, first) == ("   3 | json.loads('{')", "Traceback (most recent call last):")
    assert place == f'  File "{tmp_path / "broken.py"}", line 3, in <module>'


@pytest.mark.parametrize("command", [["serve", "--log-format", "console"], ["check"], ["run", "toy", "--modules"]])
def test_for_people_the_picture_of_a_module_follows_the_error(tmp_path, command):
    (tmp_path / "broken.py").write_text(BROKEN)
    modules = ["--modules", "broken.py", *LOOPBACK] if command[0] == "serve" else ["broken.py"]
    with Process(*command, *modules, cwd=tmp_path) as host:
        outcome = host.wait()
    assert (outcome.code, outcome.out) == (1, "")
    lines = outcome.err.splitlines()
    assert lines[0].startswith("error: cannot load connectors from 'broken.py': JSONDecodeError: ")
    assert lines[1:3] == ["       3 | json.loads('{')", "    Traceback (most recent call last):"]
    assert f'      File "{tmp_path / "broken.py"}", line 3, in <module>' in lines


def test_a_host_with_tls(tmp_path, run):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "host.pem")
    with serving_toys(tmp_path, "--tls-cert", "host.pem", "--unix-socket", "host.sock", "--log-format", "console") as (
        host,
        target,
    ):
        assert host.line_with("gRPC").endswith(" with TLS")
        assert host.line_with("unix:").endswith("host.sock")
        trusting = run("ls", "--target", target, "--tls-ca", str(tmp_path / "ca.pem"), "--tls-name", "localhost")
        doubting = run("ls", "--target", target, "--tls", "--timeout", str(PATIENCE))
        plaintext = run("ls", "--target", target, "--timeout", str(PATIENCE))
        local = run("ls", "--target", f"unix:{tmp_path}/host.sock")
    assert (trusting.code, local.code) == (0, 0)
    assert (doubting.code, plaintext.code) == (1, 1)
    assert "certificate" in doubting.err


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--tls-ca", "missing.pem"], "missing.pem"), (["--tls-key", "alone.key"], "alone.key is of no use without")],
)
def test_tls_options_that_are_wrong(run, options, message):
    outcome = run("ls", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
