"""What a host writes, where it cannot write, and that neither harms the calls that it serves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from cli.harness import CONNECTRIO, LOOPBACK, PATIENCE
from e2e.client import Client, fetch, request
from e2e.programs import eventually

NOISY = Path(__file__).parents[1] / "noisy.py"
BACKENDS = ["asyncio", "uvloop", "trio"]
DROPPED = "connectrio_log_lines_dropped_total"
SINGLE_AND_SEVERAL = pytest.mark.parametrize("processes", [1, 2])

each_backend = pytest.mark.parametrize("backend", BACKENDS)


class Host:
    """`connectrio serve` with a connector that is noisy. Its standard output is read, unless told otherwise."""

    def __init__(self, directory, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, shell=""):
        command = [*CONNECTRIO, "serve", *LOOPBACK, "--no-entry-points", "--modules", str(NOISY), *options]
        if shell:
            command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CONNECTRIO_")}
        self.process = subprocess.Popen(
            command, cwd=directory, env=clean, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True
        )
        self.output = ""
        self.is_json = "console" not in options

    def ready(self):
        """Wait until it serves."""
        while not (found := re.search(r"gRPC +(\S+)\n +metrics +(\S+)/metrics", self.output)):
            if self.is_json:
                line = self.process.stderr.readline()
                if '"event": "serving"' in line:
                    served = json.loads(line)
                    self.target, self.url = served["grpc"], served["http"]
                    return self
            else:
                line = self.process.stdout.readline()
            assert line, f"it has ended: {self.process.communicate(timeout=PATIENCE)}"
            self.output += line
        self.target, self.url = found.groups()
        return self

    def do(self, does):
        """How a poll ends whose job does that: a status and a text."""
        with Client(self.target) as client:
            return poll(client, does)

    def dropped(self):
        """The number of lines that were dropped, as /metrics shows it."""
        text = fetch(f"{self.url}/metrics")[1]
        return float(re.search(rf"^{DROPPED} (\S+)$", text, re.MULTILINE)[1])

    def end(self):
        """Send SIGTERM once. Return the exit code and what it wrote to standard error since it was read last."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors


def poll(client, does, task_type="noisy"):
    meta = json.dumps({"does": does}).encode()
    try:
        client.tasks.GetTask(request("get", task_type=task_type, meta=meta), timeout=PATIENCE)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


@contextmanager
def hosting(directory, *options, **streams):
    host = Host(directory, *options, **streams)
    try:
        yield host
    finally:
        host.process.kill()
        host.process.communicate()


def options(backend, processes=1, form="json"):
    several = ["--processes", str(processes)] if processes > 1 else []
    return ["--backend", backend, "--log-format", form, *several]


@SINGLE_AND_SEVERAL
@each_backend
def test_a_reader_of_the_log_that_has_gone_costs_the_lines_alone(tmp_path, backend, processes):
    with hosting(tmp_path, *options(backend, processes)) as host:
        host.ready()
        host.process.stderr.close()
        with Client(host.target) as neighbour:
            assert poll(neighbour, "") == ("OK", "")
            for _ in range(3):
                status, text = host.do("raise")
                assert status == "INTERNAL"
                assert "in code that nobody waits for" in text
            assert poll(neighbour, "") == ("OK", "")
        eventually(lambda: host.dropped() >= 3)  # lines are written, and counted, in a thread
        host.process.stderr = None
        assert host.end()[0] == 0


@SINGLE_AND_SEVERAL
@each_backend
def test_a_log_that_nobody_reads_holds_neither_calls_nor_the_end(tmp_path, backend, processes):
    """More lines than a pipe and the queue take. The first signal ends the host."""
    with hosting(tmp_path, *options(backend, processes)) as host, Client(host.ready().target) as client:
        assert poll(client, "flood") == ("OK", "")
        eventually(lambda: host.dropped() > 1000)
        assert poll(client, "raise")[0] == "INTERNAL"
        reading, host.process.stderr = host.process.stderr, None
        assert host.end()[0] == 0
        for line in reading.read().splitlines()[:-1]:  # the last one may be cut short
            json.loads(line)
        reading.close()


@each_backend
def test_a_reader_that_comes_back_learns_of_the_gap(tmp_path, backend):
    with hosting(tmp_path, *options(backend)) as host, Client(host.ready().target) as client:
        assert poll(client, "flood") == ("OK", "")
        events = (json.loads(line) for line in host.process.stderr)
        gap = next(line for line in events if line["event"].startswith("log lines are missing here"))
        assert gap["lines"] > 1000
        assert host.dropped() == gap["lines"]


@pytest.mark.parametrize("shell", ["2>&-", ">&- 2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"])
@each_backend
def test_a_host_without_standard_streams_serves(tmp_path, backend, shell):
    """Closed ones, and those of a full disk."""
    socket = tmp_path / "host.sock"
    with hosting(tmp_path, *options(backend), "--unix-socket", str(socket), shell=shell) as host:
        with Client(f"unix:{socket}", **{"grpc.initial_reconnect_backoff_ms": 100}) as client:
            client.connecting().result(PATIENCE)
            assert poll(client, "") == ("OK", "")
            assert poll(client, "raise")[0] == "INTERNAL"
            assert poll(client, "print") == ("OK", "")
        assert host.end()[0] == 0


@pytest.mark.parametrize(
    ("does", "status", "text"),
    [
        ("exit", "INTERNAL", "failed to get noisy task with error:\n (SystemExit in the error's own text)."),
        ("nest", "INTERNAL", "failed to get noisy task with error:\n ValueError: innermost; ValueError: beside; "),
        ("close", "OK", ""),
    ],
)
@each_backend
def test_what_a_connector_does_costs_its_own_call(tmp_path, backend, does, status, text):
    with hosting(tmp_path, *options(backend)) as host, Client(host.ready().target) as neighbour:
        assert poll(neighbour, "") == ("OK", "")
        found = host.do(does)
        assert found[0] == status
        assert found[1].startswith(text)
        assert poll(neighbour, "") == ("OK", "")
        assert host.do("raise")[0] == "INTERNAL"
        code, errors = host.end()
    assert code == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    failed = [line for line in lines if line["event"] == "call failed"]
    assert len(failed) == 1 + (status != "OK")
    assert all(line["exception"].startswith("Traceback (most recent call last):\n") for line in failed)


@SINGLE_AND_SEVERAL
@each_backend
def test_all_that_a_host_writes_to_standard_error_is_json(tmp_path, monkeypatch, backend, processes):
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    with hosting(tmp_path, *options(backend, processes)) as host:
        host.ready()
        for does in ["print", "log", "warn", "thread", "collect", "callback", "raise"]:
            status, _ = host.do(does)
            assert status == ("INTERNAL" if does == "raise" or (does, backend) == ("callback", "trio") else "OK")
        code, errors = host.end()
    assert code == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    events = [line["event"] for line in lines]
    for event in ("first", "second", "a vendor's line", "call failed", "drained"):
        assert event in events
    assert "on standard output" in events
    assert "a detail" in events
    assert "too detailed" not in events
    assert 20 <= events.count("again and again") < 50
    assert any("UserWarning: old" in event for event in events)
    exceptions = {line["event"]: line["exception"] for line in lines if "exception" in line}
    assert exceptions["with a traceback"].endswith("ExitsError: (SystemExit in the error's own text)")
    assert exceptions["a thread ended because of an error"].endswith("ValueError: in code that nobody waits for")
    ignored = "an error was ignored, because nothing could be told of it"
    assert exceptions[ignored].endswith("ValueError: while it was collected")
    if backend != "trio":
        assert any("Exception in callback" in event for event in exceptions)


@SINGLE_AND_SEVERAL
def test_single_loggers_have_levels_of_their_own(tmp_path, processes):
    levels = ["--log-level", "info", "vendor=debug", "connectrio.service=error"]
    with hosting(tmp_path, *options("trio", processes), *levels) as host:
        assert host.ready().do("log") == ("OK", "")
        assert host.do("raise")[0] == "INTERNAL"
        code, errors = host.end()
    assert code == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    events = [(line["event"], line.get("logger")) for line in lines]
    assert ("too detailed", "vendor.client") in events
    assert ("drained", None) in events
    assert ("call failed", None) in events
    assert "call finished" not in dict(events)


def test_text_of_others_cannot_forge_lines_for_people(tmp_path):
    with hosting(tmp_path, *options("asyncio", form="console"), "--log-level", "debug") as host:
        host.ready()
        assert host.do("forge")[0] == "INTERNAL"
        with Client(host.target) as client:
            assert poll(client, "", task_type="a\x1b[31m\nforged \u2028 \x9b")[0] == "NOT_FOUND"
        _, errors = host.end()
    plain = re.sub(r"\x1b\[\d*m", "", errors)  # the log's own colours
    assert all(line.isprintable() for line in plain.split("\n"))
    assert not [line for line in plain.split("\n") if line.startswith(("forged", "2026-01-01"))]
    assert "\\x1b[2Jfirst" in plain


def test_the_last_lines_of_a_host_that_cannot_start_are_written(tmp_path):
    with hosting(tmp_path, "--log-format", "json", "--modules", "no_such_module") as host:
        _, errors = host.process.communicate(timeout=PATIENCE)
    assert host.process.returncode == 1
    assert [json.loads(line)["event"] for line in errors.splitlines()] == ["the host cannot start"]
