"""The exporter on real sockets of the loopback interface."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from prometheus_client import generate_latest

from connectrio.connector.failures import LoadFailure
from connectrio.host.exporter import serve_exporter
from connectrio.host.exporter._http import make_app
from connectrio.service.metrics import Metrics

# seconds; only ends a test that fails
PATIENCE = 30.0
# for time-outs that must not expire
HOUR = 3600.0


@dataclass
class View:
    is_ready: bool = True
    state: str = "serving"
    connectors: int = 2
    failures: list[LoadFailure] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    processes: list[dict[str, object]] = field(default_factory=list)

    @property
    def collectors(self):
        return self.metrics.registry

    async def refresh(self):
        """Do nothing."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@asynccontextmanager
async def exporter(view: View):
    """Yield the address of a running exporter."""
    async with anyio.create_task_group() as tasks:
        sockets = [socket.create_server(("127.0.0.1", 0))]
        [address] = await tasks.start(serve_exporter, sockets, view)
        yield address
        tasks.cancel_scope.cancel()
    assert all(each.fileno() == -1 for each in sockets)


def fetch(address: tuple[str, int], path: str, method: str = "GET", **headers: str) -> Answer:
    request = urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return Answer(response.status, _lower(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _lower(error.headers), error.read())


def _lower(headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


async def get(address: tuple[str, int], path: str, **headers: str) -> Answer:
    return await anyio.to_thread.run_sync(lambda: fetch(address, path, **headers))


@pytest.mark.parametrize("path", ["/", "/metrics", "/metrics/"])
async def test_metrics(path):
    view = View()
    view.metrics.inputs_received("tiny", 5)
    async with exporter(view) as address:
        answer = await get(address, path)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    text = answer.body.decode()
    assert 'flyte_connector_input_literal_bytes_sum{task_type="tiny"} 5.0' in text
    names = [line for line in text.splitlines() if line.startswith("# ")]
    assert names == [line for line in generate_latest(view.metrics.registry).decode().splitlines() if line[0] == "#"]


async def test_openmetrics_names_and_compression():
    async with exporter(View()) as address:
        answer = await get(address, "/metrics", accept="application/openmetrics-text; version=1.0.0")
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert answer.body.endswith(b"# EOF\n")
        answer = await get(address, "/metrics?name[]=python_info")
        assert answer.body.count(b"# TYPE") == 1
        answer = await get(address, "/metrics", **{"accept-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("view", "status"), [(View(), 200), (View(is_ready=False, state="draining", connectors=0), 503)]
)
async def test_health(view, status):
    view.failures = [LoadFailure("entry point snowflake", "ModuleNotFoundError: no module")]
    async with exporter(view) as address:
        alive = await get(address, "/healthz")
        ready = await get(address, "/readyz")
    assert (alive.status, ready.status) == (200, status)
    for answer in (alive, ready):
        assert answer.headers["content-type"] == "application/json"
        assert answer.json == {
            "state": view.state,
            "connectors": view.connectors,
            "failures": [{"source": "entry point snowflake", "error": "ModuleNotFoundError: no module"}],
        }


async def test_the_state_is_asked_for_at_each_request():
    view = View()
    async with exporter(view) as address:
        assert (await get(address, "/readyz")).status == 200
        view.is_ready = False
        assert (await get(address, "/readyz")).status == 503


async def test_other_paths_and_methods():
    async with exporter(View()) as address:
        for path in ("/other", "/favicon.ico", "/metrics/x"):
            assert (await get(address, path)).status == 404
        assert (await get(address, "/readyz", method="POST")).status == 405
        for path in ("/metrics", "/readyz"):
            head = await get(address, path, method="HEAD")
            assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize("sent", [b"", b"GET /rea", b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n"])
async def test_open_connections_do_not_delay_the_end(sent, monkeypatch):
    monkeypatch.setattr("connectrio.host.exporter._http._GRACE", HOUR)
    monkeypatch.setattr("connectrio.host.exporter._http._Config.keep_alive_timeout", HOUR)
    async with exporter(View()) as address:
        stream = await anyio.connect_tcp(*address)
        if sent:
            await stream.send(sent)
        # the first connection has been accepted when a later one has been served
        await get(address, "/readyz")
    async with stream:
        received = b"".join([chunk async for chunk in stream])
    assert received.startswith(b"HTTP/1.1 200") == sent.endswith(b"\r\n\r\n")


async def test_a_request_that_never_ends_does_not_either(monkeypatch):
    async def hangs(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 10_000_000, "more_body": True})
        await anyio.sleep_forever()

    monkeypatch.setattr("connectrio.host.exporter._http._GRACE", 0.05)
    monkeypatch.setattr("connectrio.host.exporter._http.make_app", lambda view: hangs)
    async with exporter(View()) as address, await anyio.connect_tcp(*address) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await stream.receive()
        await stream.receive()


async def test_the_address_is_reported():
    async with exporter(View()) as (host, port):
        assert host == "127.0.0.1"
        assert port > 0


async def test_cancelled_at_once():
    sockets = [socket.create_server(("127.0.0.1", 0))]
    with anyio.CancelScope() as scope:
        scope.cancel()
        await serve_exporter(sockets, View())
    assert all(each.fileno() == -1 for each in sockets)


async def test_stopped_while_it_starts():
    async with anyio.create_task_group() as tasks:
        await tasks.start(serve_exporter, [socket.create_server(("127.0.0.1", 0))], View())
        tasks.cancel_scope.cancel()


async def test_nothing_is_printed(capfd):
    async with exporter(View()) as address:
        await get(address, "/readyz")
    assert capfd.readouterr() == ("", "")


async def test_a_failure_of_the_application_is_logged():
    from structlog.testing import capture_logs

    class Broken(View):
        @property
        def connectors(self):
            raise RuntimeError("no idea")

        @connectors.setter
        def connectors(self, value):
            pass

    with capture_logs() as logs:
        async with exporter(Broken()) as address:
            assert (await get(address, "/readyz")).status == 500
            assert (await get(address, "/metrics")).status == 200
    errors = [line for line in logs if line["log_level"] == "error"]
    assert len(errors) == 1
    assert errors[0]["exc_info"]


def test_the_application_needs_no_server():
    assert [route.path for route in make_app(View()).routes] == ["/", "/metrics", "/healthz", "/readyz"]


def test_importing_connectrio_imports_no_exporter():
    code = "import sys, connectrio; print(sorted({'hypercorn', 'starlette', 'prometheus_client'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_the_first_request_waits_for_the_web_server_to_load(monkeypatch):
    """It loads in a thread."""
    loading, may_load = threading.Event(), threading.Event()

    def slowly(name):
        loading.set()
        assert may_load.wait(PATIENCE)
        return importlib.import_module(name)

    monkeypatch.setattr("connectrio.host.exporter.import_module", slowly)
    async with exporter(View()) as address, anyio.create_task_group() as tasks:
        tasks.start_soon(get, address, "/readyz")
        assert await anyio.to_thread.run_sync(loading.wait, PATIENCE)
        may_load.set()
