"""`connectrio ls`, and `health` with exit codes that probes understand."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cli.harness import CONNECTRIO, Process, hosting, serving_toys
from cli.toy import Toy
from connectrio.connector.registry import Registry

FAILURE = "entry point broken (broken:main): ImportErrör"


def test_ls_shows_connectors_task_types_and_load_failures(ask):
    outcome = ask("ls")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "Connector Name  Task Types",
        "Toy             toy (0)",
        "Mute            mute (0)",
    ]
    assert outcome.err == f"warning: not loaded: {FAILURE}\n"


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_ls_as_json(ask, backend):
    outcome = ask("ls", "--json", "--backend", backend)
    assert outcome.err == ""
    assert outcome.document == {
        "connectors": [
            {"name": "Toy", "task_types": [{"name": "toy", "version": 0}]},
            {"name": "Mute", "task_types": [{"name": "mute", "version": 0}]},
        ],
        "load_failures": [FAILURE],
        "outages": [],
    }


@pytest.mark.parametrize("service", [[], ["flyteidl2.connector.AsyncConnectorService"]])
def test_serving(ask, service):
    outcome = ask("health", *service)
    assert (outcome.code, outcome.out) == (0, "SERVING\n")
    assert outcome.err == f"warning: not loaded: {FAILURE}\n"


def test_serving_as_json(ask):
    assert ask("health", "--json").document == {
        "service": "",
        "status": "SERVING",
        "load_failures": [FAILURE],
        "outages": [],
        "not_ready": [],
    }


@pytest.fixture(scope="module")
def closed():
    """A host with a connector whose lifespan does not open, which needs all to be open."""

    class Closed(Toy):
        name = "Closed Toy"

        @asynccontextmanager
        async def lifespan(self):
            raise OSError("no database")
            yield

    registry = Registry()
    registry.register(Closed())
    with hosting(registry, require_lifespans=True) as addresses:
        yield addresses


def test_a_connector_that_is_not_open_is_named(run, closed):
    outcome = run("ls", "--target", closed.target)
    assert outcome.code == 0
    assert outcome.err == "warning: not open: Closed Toy: lifespan failed (OSError)\n"
    assert run("ls", "--json", "--target", closed.target).document["outages"] == [
        "Closed Toy: lifespan failed (OSError)"
    ]


def test_why_a_host_is_not_ready(run, closed):
    outcome = run("health", "--target", closed.target)
    assert (outcome.code, outcome.out) == (1, "NOT_SERVING\n")
    assert outcome.err.splitlines() == [
        (
            "warning: not ready: require_lifespans is set, and that of toy (0) is not open: lifespan failed (OSError);"
            " the host tries again, the log and the status page say why"
        ),
        "warning: not open: Closed Toy: lifespan failed (OSError)",
    ]
    assert run("health", "--json", "--target", closed.target).document["load_failures"] == []


def test_an_unknown_service(ask):
    outcome = ask("health", "no.such.Service")
    assert outcome.code == 1
    assert "error: NOT_FOUND: unknown service 'no.such.Service'" in outcome.err


def test_health_of_no_host(run, free_target):
    outcome = run("health", "--target", free_target)
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith("error: UNAVAILABLE: ")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ({"not_ready": ["the host is draining", "more"]}, "/readyz answers, not ready: the host is draining; more\n"),
        ({"not_ready": []}, "/readyz answers that its host is ready; is --target the address of the same host?\n"),
        ({}, "connectrio serve"),
        ([], "connectrio serve"),
    ],
)
def test_health_of_a_host_whose_port_is_closed(run, free_target, answer, hint):
    class Readyz(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503)
            self.end_headers()
            self.wfile.write(json.dumps(answer if self.path == "/readyz" else {"not_ready": ["wrong path"]}).encode())

        def log_message(self, *args): ...

    with HTTPServer(("127.0.0.1", 0), Readyz) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        outcome = run("health", "--target", free_target, "--url", f"http://127.0.0.1:{server.server_port}")
        thread.join(30)
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith("error: UNAVAILABLE: ")
    assert hint in outcome.err


@pytest.mark.parametrize("url", ["", "nonsense", "http://127.0.0.1:1", "https://127.0.0.1:1"])
def test_a_url_without_an_answer_changes_nothing(run, free_target, url):
    outcome = run("health", "--target", free_target, "--url", url)
    assert outcome.code == 3
    assert "connectrio serve" in outcome.err


def test_a_host_that_does_not_answer(run):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        outcome = run("health", "--timeout", "0.2", "--target", f"127.0.0.1:{silent.getsockname()[1]}")
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith(("error: DEADLINE_EXCEEDED: ", "error: UNAVAILABLE: "))
    assert ("/readyz" in outcome.err) == outcome.err.startswith("error: DEADLINE")


@pytest.mark.parametrize("shell", ["2>&-", ">&- 2>&-", "2>/dev/full"])
def test_health_of_no_host_for_nobody(tmp_path, free_target, shell):
    """The exit code does not depend on whether the message can be printed."""
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", *CONNECTRIO, "health", "--target", free_target]
    ended = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stdout) == (3, b"")


def test_wrong_usage_of_health(run):
    assert run("health", "--nope").code == 2


def test_watching_a_host_that_drains(tmp_path):
    with serving_toys(tmp_path) as (host, target):
        with Process("health", "--watch", "--json", "--target", target, cwd=tmp_path) as watch:
            assert json.loads(watch.line_with("SERVING")) == {"service": "", "status": "SERVING"}
            host.signal(signal.SIGTERM)
            outcome = watch.wait()
        assert host.wait().code == 0
    assert [json.loads(line)["status"] for line in outcome.out.splitlines()] == ["SERVING", "NOT_SERVING"]
    assert outcome.code == 3
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_a_watch_is_ended_by_a_signal(tmp_path, host, backend):
    with Process("health", "--watch", "--target", host.target, "--backend", backend, cwd=tmp_path) as watch:
        watch.line_with("SERVING")
        watch.signal(signal.SIGINT)
        outcome = watch.wait()
    assert (outcome.code, outcome.err) == (130, "interrupted\n")
