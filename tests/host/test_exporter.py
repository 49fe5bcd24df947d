"""The exporter on real sockets of the loopback interface."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import anyio
import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from connectrio.connector.failures import LoadFailure
from connectrio.host.exporter import _connection, _http, serve_exporter
from connectrio.host.exporter._messages import Response
from connectrio.host.settings import HostSettings
from connectrio.service.metrics import Metrics
from connectrio.telemetry.report import HostReport, StackReport
from host.reports import report

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
    not_ready: list[str] = field(default_factory=list)
    told: HostReport = field(default_factory=report)
    stack: list[StackReport] = field(default_factory=list)

    @property
    def collectors(self):
        return self.metrics.registry

    async def refresh(self):
        """Do nothing."""

    async def report(self):
        return self.told

    async def stacks(self):
        return self.stack


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@asynccontextmanager
async def exporter(view: View, settings: HostSettings | None = None, context=None):
    """Yield the address of a running exporter."""
    async with anyio.create_task_group() as tasks:
        sockets = [socket.create_server(("127.0.0.1", 0))]
        [address] = await tasks.start(partial(serve_exporter, sockets, view, settings, context=context))
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


OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/openmetrics-text; version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=99.0.0", PLAIN),
        ("application/openmetrics-text; version=one", PLAIN),
        ("application/openmetrics-text; version=1.x.\xff", PLAIN),
        ("application/openmetrics-text; version=0.0.1", PLAIN),
        ("text/plain; version=", PLAIN),
        ("text/html; q=nonsense", PLAIN),
        (";=,;;,=,", PLAIN),
        ("", PLAIN),
        ("application/openmetrics-text," * 500, OPENMETRICS),
    ],
)
async def test_the_format_is_negotiated_and_nonsense_is_answered_in_plain_text(accept, content_type):
    async with exporter(View()) as address:
        answer = await get(address, "/metrics", accept=accept)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith(content_type)
    assert answer.body.endswith(b"# EOF\n") == (content_type == OPENMETRICS)


async def test_some_metrics_only():
    async with exporter(View()) as address:
        assert (await get(address, "/metrics?name[]=python_info")).body.count(b"# TYPE") == 1
        assert (await get(address, "/metrics?name[]=no_such&x")).body == b""
        assert (await get(address, "/metrics?%zz&=&name[")).body.count(b"# TYPE") > 1


@pytest.mark.parametrize(
    ("view", "status"), [(View(), 200), (View(is_ready=False, state="draining", connectors=0, not_ready=["x"]), 503)]
)
async def test_health(view, status):
    view.failures = [LoadFailure("entry point snowflake", "ModuleNotFoundError", "the text of the error")]
    async with exporter(view) as address:
        alive = await get(address, "/healthz")
        ready = await get(address, "/readyz")
    assert (alive.status, ready.status) == (200, status)
    for answer in (alive, ready):
        assert answer.headers["content-type"] == "application/json"
        assert answer.json == {
            "state": view.state,
            "connectors": view.connectors,
            "failures": [{"source": "entry point snowflake", "error": "ModuleNotFoundError"}],
            "not_ready": view.not_ready,
        }


async def test_the_state_is_asked_for_at_each_request():
    view = View()
    async with exporter(view) as address:
        assert (await get(address, "/readyz")).status == 200
        view.is_ready = False
        assert (await get(address, "/readyz")).status == 503


async def test_other_paths_and_methods():
    async with exporter(View(), HostSettings(page=False)) as address:
        for path in ("/other", "/favicon.ico", "/metrics/x", "/%2fmetrics", "/metrics;x"):
            assert (await get(address, path)).status == 404
        assert (await get(address, "//")).status == 200
        for method in ("POST", "OPTIONS", "BREW"):
            refused = await get(address, "/readyz", method=method)
            assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        for path in ("/metrics", "/readyz"):
            head = await get(address, path, method="HEAD")
            assert (head.status, head.body) == (200, b"")


READYZ = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET /rea", READYZ])
async def test_open_connections_do_not_delay_the_end(sent, monkeypatch):
    monkeypatch.setattr(_http, "_GRACE", HOUR)
    monkeypatch.setattr(_connection, "_REQUEST_TIMEOUT", HOUR)
    async with exporter(View()) as address:
        stream = await anyio.connect_tcp(*address)
        if sent:
            await stream.send(sent)
        # the first connection has been accepted when a later one has been served
        await get(address, "/readyz")
    async with stream:
        received = b"".join([chunk async for chunk in stream])
    assert received.startswith(b"HTTP/1.1 200") == sent.endswith(b"\r\n\r\n")


async def test_a_request_that_is_in_flight_at_the_end_is_answered(monkeypatch):
    class Slow(View):
        asked = anyio.Event()
        go_on = anyio.Event()

        async def refresh(self):
            self.asked.set()
            await self.go_on.wait()

    reserve = set()
    monkeypatch.setattr(_http, "_GRACE", HOUR)
    os_open, os_close = os.open, os.close

    def opened(*arguments):
        reserve.add(descriptor := os_open(*arguments))
        return descriptor

    def closed(descriptor):
        reserve.discard(descriptor)
        os_close(descriptor)

    monkeypatch.setattr(
        _http, "os", SimpleNamespace(open=opened, close=closed, devnull=os.devnull, O_RDONLY=os.O_RDONLY)
    )
    view = Slow()
    view.asked, view.go_on = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as clients:
        answers = []

        async def ask(address):
            answers.append(await get(address, "/readyz"))

        async with exporter(view) as address:
            clients.start_soon(ask, address)
            await view.asked.wait()

            async def answer_later():
                await anyio.wait_all_tasks_blocked()
                view.go_on.set()

            clients.start_soon(answer_later)
    assert answers[0].status == 200
    assert reserve == set()


async def test_a_response_that_nobody_takes_does_not_delay_the_end(monkeypatch):
    monkeypatch.setattr(_connection, "_RESPONSE_TIMEOUT", HOUR)
    monkeypatch.setattr(_http, "_GRACE", 0.05)
    monkeypatch.setattr(_http, "Pages", Huge)
    async with exporter(View()) as address, await anyio.connect_tcp(*address) as stream:
        await stream.send(READYZ)
        await stream.receive()


async def test_a_response_is_sent_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(_connection, "_RESPONSE_TIMEOUT", 0.05)
    monkeypatch.setattr(_http, "Pages", Huge)
    async with exporter(View()) as address, await anyio.connect_tcp(*address) as stream:
        await stream.send(READYZ)
        await anyio.sleep(0.2)
        received = await read_to_the_end(stream)
    assert received.startswith(b"HTTP/1.1 200")
    assert len(received) < Huge.SIZE


class Huge:
    SIZE = 50_000_000

    def __init__(self, view, access):
        """As `Pages`."""

    async def answer(self, request):
        return Response(200, b"x" * self.SIZE, "text/plain")


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


async def test_a_failure_is_that_requests_alone():
    class Broken(View):
        @property
        def connectors(self):
            raise RuntimeError("no idea")

        @connectors.setter
        def connectors(self, value):
            pass

    with capture_logs() as logs:
        async with exporter(Broken()) as address:
            failed = await get(address, "/readyz")
            assert (failed.status, failed.body) == (
                500,
                b"500 Internal Server Error: the request failed; see the host's log\n",
            )
            assert (await get(address, "/metrics")).status == 200
    errors = [line for line in logs if line["log_level"] == "error"]
    assert len(errors) == 1
    assert errors[0]["exc_info"]


def test_importing_connectrio_imports_no_exporter():
    code = "import sys, connectrio; print(sorted({'h11', 'prometheus_client'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# the import of the HTTP server


async def test_the_first_request_waits_for_the_http_server_to_load(monkeypatch):
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


async def test_the_http_server_loads_before_somebody_connects(monkeypatch):
    loaded = threading.Event()

    def load(name):
        loaded.set()
        return importlib.import_module(name)

    monkeypatch.setattr("connectrio.host.exporter.import_module", load)
    monkeypatch.setattr("connectrio.host.exporter._IMPORT_DELAY", 0.01)
    async with exporter(View()):
        assert await anyio.to_thread.run_sync(loaded.wait, PATIENCE)


async def test_an_import_that_fails_costs_that_request_alone(monkeypatch):
    failures = [OSError(errno.EMFILE, "Too many open files")] * 3

    def load(name):
        if failures:
            raise failures.pop()
        return importlib.import_module(name)

    monkeypatch.setattr("connectrio.host.exporter.import_module", load)
    monkeypatch.setattr("connectrio.host.exporter._PATIENCE", PATIENCE)
    with capture_logs() as logs:
        async with exporter(View()) as address:
            refused = [await get(address, "/readyz") for _ in range(3)]
            assert [each.status for each in refused] == [503, 503, 503]
            assert refused[0].body == b"the exporter cannot import its HTTP server; see the host's log\n"
            assert (await get(address, "/readyz")).status == 200
    assert [line["log_level"] for line in logs] == ["error"]


async def test_the_exporter_starts_again_when_it_has_failed(monkeypatch):
    failures = [RuntimeError("a fault of the event loop")]

    async def serve(*arguments):
        if failures:
            raise failures.pop()
        await serve_http(*arguments)

    serve_http = _http.serve_http
    monkeypatch.setattr(_http, "serve_http", serve)
    monkeypatch.setattr("connectrio.host.exporter._RESTART_DELAY", 0.01)
    with capture_logs() as logs:
        async with exporter(View()) as address:
            assert (await get(address, "/readyz")).status == 200
    assert [line["event"] for line in logs] == ["the exporter failed; it is started again"]


async def test_accepting_goes_on_after_a_failure(monkeypatch):
    failures = [OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("a fault of the event loop")]
    wait_readable = anyio.wait_readable

    async def fail(waited_for):
        if failures and waited_for.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise failures.pop()
        await wait_readable(waited_for)

    monkeypatch.setattr(_http, "_ACCEPT_RETRY_DELAY", 0.01)
    with capture_logs() as logs:
        async with exporter(View()) as address:
            await get(address, "/readyz")
            monkeypatch.setattr(anyio, "wait_readable", fail)
            for _ in range(2):
                assert (await get(address, "/readyz")).status == 200
    assert [(line["event"], line["delay_seconds"]) for line in logs] == [
        ("the exporter cannot accept connections; it tries again", 0.01),
        ("the exporter cannot accept connections; it tries again", 0.02),
    ]


# HTTP


async def speak(address: tuple[str, int], *sent: bytes) -> bytes:
    """Send bytes over one connection, wait until it is closed, and return what was received."""
    async with await anyio.connect_tcp(*address) as stream:
        for each in sent:
            await stream.send(each)
        return await read_to_the_end(stream)


async def read_to_the_end(stream) -> bytes:
    """Return what is received until the connection is closed, in order or not."""
    received = bytearray()
    with anyio.fail_after(PATIENCE), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            received += await stream.receive()
    return bytes(received)


LAST = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        ([READYZ, LAST], [200, 200]),
        ([READYZ * 3 + LAST], [200, 200, 200, 200]),
        ([READYZ[:7], READYZ[7:20], READYZ[20:] + LAST[:3], LAST[3:]], [200, 200]),
        ([b"GET /healthz HTTP/1.0\r\n\r\n"], [200]),
        ([b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n", LAST], [200, 200]),
        ([b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n", b"123"], [200]),
        ([b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", b"9\r\n123"], [405]),
        ([b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"], [405]),
        ([b"GET /healthz HTTP/1.1\r\n\r\n"], [400]),  # without Host
        ([b"GET /healthz\r\n\r\n"], [400]),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"], [400]),  # TLS
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], [404, 400]),  # HTTP/2
        ([b"GET /healthz HTTP/1.1\r\nhost: x\r\na\x00b: c\r\n\r\n"], [400]),
        ([b"GET /healthz HTTP/1.1\r\nhost: x\r\naccept: ", b"a" * 2_000_000], [431]),
        ([b"GET /", b"a" * 200_000], [431]),
        ([b"GET http://[ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"], [404]),
    ],
)
async def test_requests_on_one_connection(sent, statuses):
    async with exporter(View()) as address:
        received = await speak(address, *sent)
        assert [int(each) for each in re.findall(rb"HTTP/1.1 (\d+) ", received)] == statuses
        assert (await get(address, "/readyz")).status == 200


@pytest.mark.parametrize("sent", [b"", READYZ[:10], READYZ])
async def test_a_client_that_sends_nothing_more_is_left(sent, monkeypatch):
    monkeypatch.setattr(_connection, "_REQUEST_TIMEOUT", 0.05)
    async with exporter(View()) as address:
        received = await speak(address, sent) if sent else await speak(address)
    assert received.startswith(b"HTTP/1.1 200") == (sent == READYZ)


async def test_many_silent_connections_take_nothing_from_a_scrape(monkeypatch):
    """The connection that has waited longest is closed for a new one."""
    monkeypatch.setattr(_http, "_MAX_CONNECTIONS", 8)
    monkeypatch.setattr(_connection, "_REQUEST_TIMEOUT", HOUR)
    async with exporter(View()) as address, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(await anyio.connect_tcp(*address)) for _ in range(20)]
        kept = await stack.enter_async_context(await anyio.connect_tcp(*address))
        for path in ("/metrics", "/healthz"):
            assert (await get(address, path)).status == 200
        for each in silent[:10]:
            with anyio.fail_after(PATIENCE), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await each.receive()
        await kept.send(LAST)
        with anyio.fail_after(PATIENCE):
            assert (await kept.receive()).startswith(b"HTTP/1.1 200")
