"""The watchdog: which code blocks, and the answers to probes."""

from __future__ import annotations

import http.client
import importlib.util
import json
import select
import socket
import ssl
import sys
import threading
import time

import anyio
import pytest
from prometheus_client.registry import Collector
from structlog.testing import capture_logs

from connectrio import AsyncConnector, ResourceMeta
from connectrio.connector.registry import Registry
from connectrio.host.watchdog import Culprit, Watchdog, find_culprit
from connectrio.rpc.tls import ServerTLS
from connectrio.service.metrics import Metrics
from connectrio.telemetry.report import TaskName

MODULE = """
import sys
from connectrio import AsyncConnector, ResourceMeta

class Away(AsyncConnector):
    task_type_name = "away"
    metadata_type = ResourceMeta
    async def create(self, *args, **kwargs): ...
    get = delete = create

    def look(self):
        return sys._getframe()

    def call(self, function):
        return function()
"""


class Here(AsyncConnector):
    task_type_name = "here"
    metadata_type = ResourceMeta

    async def create(self, *args, **kwargs): ...

    async def get(self, *args, **kwargs): ...

    async def delete(self, *args, **kwargs): ...


@pytest.fixture
def away(tmp_path):
    """A connector in a file."""
    path = tmp_path / "away.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("away", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["away"] = module
    spec.loader.exec_module(module)
    yield module.Away()
    del sys.modules["away"]


def registry(*connectors) -> Registry:
    found = Registry()
    for connector in connectors:
        found.register(connector)
    return found


def test_code_of_a_connector_that_no_method_called(away):
    culprit = find_culprit(away.look(), registry(away))
    assert (culprit.task_type, culprit.operation, culprit.method) == ("away", "unknown", "Away.look")
    assert culprit.line.endswith("away.py:12 in Away.look")


def test_a_library_that_a_connector_calls(away):
    frame = away.call(sys._getframe)
    assert find_culprit(frame, registry(away)).line.endswith("away.py:15 in Away.call")


def test_nobodys_code(away):
    culprit = find_culprit(sys._getframe(), registry())
    assert (culprit.task_type, culprit.operation) == ("unknown", "unknown")
    assert culprit.line.endswith("in test_nobodys_code")


def test_a_connector_without_a_file():
    class Nowhere(Here):
        task_type_name = "nowhere"

    Nowhere.__module__ = "there.is.none"
    assert find_culprit(sys._getframe(), registry(Nowhere())).task_type == "unknown"


async def test_nothing_is_concluded_from_a_process_that_stood_still():
    """Neither the event loop nor the watchdog's thread could run."""
    metrics = Metrics()
    watchdog = Watchdog(0.2, metrics=metrics, registry=registry(Here()))
    watchdog._loop_thread = threading.get_ident()
    held = threading.Event()
    watchdog._wait = lambda sockets: (time.sleep(0.5), held.set(), watchdog._stop.set())
    with capture_logs() as logs:
        watchdog._watch([])
    assert held.is_set()
    assert watchdog.culprit is None
    assert not logs


def test_slow_probers_do_not_hide_that_the_event_loop_is_free():
    """Else the thread would go on to take connections, and tell probes that all is blocked."""
    from connectrio.host.watchdog import _Block

    watchdog = Watchdog(0.2, metrics=Metrics(), registry=registry(Here()))
    watchdog._block = _Block(time.monotonic(), Culprit("tiny", "get", "Tiny.get", "tiny.py:1 in get"))

    def wait(_):
        time.sleep(0.5)
        watchdog._beat = time.monotonic()
        watchdog._stop.set()

    watchdog._wait = wait
    watchdog._watch([])
    assert watchdog.culprit is None
    assert [block.method for block in watchdog.blocks] == ["Tiny.get"]


async def test_a_connector_that_cannot_be_looked_at_is_reported_as_unknown():
    class Hides(Here):
        hides = False

        @property
        def task_type_name(self):
            if self.hides:
                raise SystemExit(9)
            return "hides"

    hiding = Hides()
    watched = registry(hiding)
    hiding.hides = True
    watchdog = Watchdog(0.2, metrics=Metrics(), registry=watched)
    watchdog._loop_thread = threading.get_ident()
    with capture_logs() as logs:
        await anyio.to_thread.run_sync(watchdog._blocked, time.monotonic())
    assert [line["event"][:29] for line in logs] == ["the code that blocks the even", "the event loop is blocked, an"]
    assert watchdog.culprit.task_type == "unknown"


@pytest.mark.parametrize("seconds", [0, 3600])
async def test_it_measures_how_late_the_event_loop_is(seconds):
    metrics = Metrics()
    watchdog = Watchdog(seconds, metrics=metrics, registry=registry())

    def shown(name, **labels):
        return metrics.registry.get_sample_value(f"connectrio_event_loop_{name}", labels)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watchdog.run)
        await anyio.wait_all_tasks_blocked()
        time.sleep(0.3)  # what is measured; two tenths of it are too late for the next note
        while not watchdog._delays:  # noqa: ASYNC110 - only this test waits for it
            await anyio.sleep(0.01)
        assert shown("lag_seconds") == max(watchdog._delays) >= 0.2
        assert shown("delay_seconds_count") == len(watchdog._delays)
        assert shown("delay_seconds_bucket", le="0.1") < shown("delay_seconds_count")
        watchdog._beat -= 60
        assert shown("lag_seconds") > 59
        tasks.cancel_scope.cancel()
    assert shown("lag_seconds") == 0
    assert watchdog.culprit is None


async def test_without_a_limit_no_thread_watches():
    others = threading.enumerate()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Watchdog(0, metrics=Metrics(), registry=registry()).run)
        await anyio.wait_all_tasks_blocked()
        found = [each.name for each in threading.enumerate() if each not in others]
        tasks.cancel_scope.cancel()
    assert "connectrio watchdog" not in found


async def test_it_stops_with_its_task():
    others = threading.enumerate()  # threads of other tests, which may still run
    [listener] = sockets = [socket.create_server(("127.0.0.1", 0))]
    watchdog = Watchdog(1, metrics=Metrics(), registry=registry(), sockets=sockets)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watchdog.run)
        await anyio.wait_all_tasks_blocked()
        [thread] = [each for each in threading.enumerate() if each.name == "connectrio watchdog" and each not in others]
        tasks.cancel_scope.cancel()
    await anyio.to_thread.run_sync(thread.join, 30)
    assert not thread.is_alive()
    listener.close()


def test_probers_are_left_to_the_process_that_has_the_port_now():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        watchdog = Watchdog(1, metrics=Metrics(), registry=registry(), sockets=[listener])
        from connectrio.host.watchdog import _Block

        watchdog._block = _Block(time.monotonic(), Culprit("tiny", "get", "Tiny.get", "tiny.py:1 in get"))
        watchdog.stop_answering()
        with socket.create_connection(listener.getsockname()):
            watchdog._wait([listener])
            assert select.select([listener], [], [], 0)[0] == [listener]


def test_probers_that_say_nothing_or_leave():
    """Each prober gets an answer, or is dropped after half a second."""
    listener = socket.create_server(("127.0.0.1", 0))
    watchdog = Watchdog(1, metrics=Metrics(), registry=registry(), sockets=[listener])
    from connectrio.host.watchdog import _Block

    watchdog._block = _Block(time.monotonic(), Culprit("tiny", "get", "Tiny.get", "tiny.py:1 in get"))
    address = listener.getsockname()
    for _ in range(2):
        with socket.create_connection(address):
            pass  # gone
    silent = socket.create_connection(address)
    prober = http.client.HTTPConnection(*address)
    prober.request("GET", "/readyz")  # sent before the accept, so that the half second cannot be too short

    while not select.select([prober.sock], [], [], 0)[0]:
        watchdog._wait([listener])
    answer = prober.getresponse()
    report = json.loads(answer.read())
    assert (answer.status, report["method"], report["line"]) == (503, "Tiny.get", "tiny.py:1 in get")
    for each in (silent, prober, listener):
        each.close()


def test_probers_of_a_port_with_tls(pki):
    listener = socket.create_server(("127.0.0.1", 0))
    tls = ServerTLS(pki.server.cert, pki.server.key, protocols=("http/1.1",))
    watchdog = Watchdog(1, metrics=Metrics(), registry=registry(), sockets=[listener], context=tls.context)
    from connectrio.host.watchdog import _Block

    watchdog._block = _Block(time.monotonic(), Culprit("tiny", "get", "Tiny.get", "tiny.py:1 in get"))
    host, port = listener.getsockname()
    plain = socket.create_connection((host, port))
    plain.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
    stop = threading.Event()

    def answer():
        while not stop.is_set():
            watchdog._wait([listener])

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        statuses = []
        for path, accept in (("/readyz", "*/*"), ("/metrics", "text/html"), ("/", "*/*"), ("/", "text/html,*/*")):
            context = ssl.create_default_context(cafile=pki.ca)
            prober = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
            prober.request("GET", path, headers={"accept": accept})
            answered = prober.getresponse()
            statuses.append((answered.status, b"tiny.py:1" in answered.read()))
            prober.close()
    finally:
        stop.set()
        thread.join(30)
    assert statuses == [(503, True), (200, False), (200, False), (503, True)]
    plain.close()
    listener.close()


def test_a_browser_gets_a_page():
    listener = socket.create_server(("127.0.0.1", 0))
    watchdog = Watchdog(1, metrics=Metrics(), registry=registry(), sockets=[listener])
    from connectrio.host.watchdog import _Block

    task = TaskName(project="p", execution="<b>f1", node="n0")
    culprit = Culprit("tiny", "get", "Tiny.<x>", "tiny.py:1 in \udc80", task, "0a1b")
    watchdog._block = _Block(time.monotonic() - 5, culprit)
    stop = threading.Event()

    def answer():
        while not stop.is_set():
            watchdog._wait([listener])

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        answers = []
        for path, accept in (("/status", "text/html,*/*;q=0.1"), ("/", "text/html"), ("/status", "text/event-stream")):
            prober = http.client.HTTPConnection(*listener.getsockname(), timeout=30)
            prober.request("GET", path, headers={"Accept": accept})
            answered = prober.getresponse()
            answers.append((answered.status, answered.headers, answered.read().decode()))
            prober.close()
    finally:
        stop.set()
        thread.join(30)
        listener.close()
    assert [status for status, _, _ in answers] == [503] * 3
    assert json.loads(answers[2][2])["execution"] == "<b>f1"
    for _, headers, text in answers[:2]:
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "s: Tiny.&lt;x&gt; blocks the event loop at tiny.py:1 in ?, for execution &lt;b&gt;f1, node n0." in text
        assert "plain `def`" in text
        assert '<a href="">Refresh</a>' in text
        assert "<script" not in text


@pytest.mark.parametrize(
    ("culprit", "whom"),
    [
        (Culprit("tiny", "get", "Tiny.get", "", TaskName(execution="f1", node="n0"), "0a"), "execution f1, node n0"),
        (Culprit("tiny", "get", "Tiny.get", "", TaskName(execution="f1")), "execution f1"),
        (Culprit("tiny", "get", "Tiny.get", "", job="0a1b"), "job 0a1b"),
    ],
)
def test_whose_call_blocks(culprit, whom):
    assert culprit.whom == f", for {whom}"


def test_where_a_token_is_asked_for_nobody_else_sees_whose_call_blocks():
    from connectrio.host.watchdog import _Block

    watchdog = Watchdog(1, metrics=Metrics(), registry=registry(), names_tasks=False)
    task = TaskName(project="p", execution="f1", node="n0")
    block = watchdog._block = _Block(
        time.monotonic(), Culprit("tiny", "get", "Tiny.get", "tiny.py:1 in get", task, "0a1b")
    )
    assert (watchdog.culprit.line, watchdog.culprit.whom) == ("tiny.py:1 in get", "")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for accept in ("*/*", "text/html"):
            ours.sendall(f"GET /readyz HTTP/1.1\r\naccept: {accept}\r\n\r\n".encode())
            watchdog._answer(theirs, block)
            answer = ours.recv(65536).decode()
            assert "tiny.py:1 in get" in answer
            assert "f1" not in answer
            assert "0a1b" not in answer
    watchdog._free(time.monotonic(), block)
    assert watchdog.blocks[0].whom == ", for execution f1, node n0"  # for the log and the page


def test_metrics_that_cannot_be_collected_do_not_end_it():
    class Broken(Collector):
        def describe(self):
            return []

        def collect(self):
            raise RuntimeError("no idea")

    listener = socket.create_server(("127.0.0.1", 0))
    watchdog = Watchdog(1, metrics=Metrics(), registry=registry(), sockets=[listener])
    from connectrio.host.watchdog import _Block

    watchdog._metrics.registry.register(Broken())
    watchdog._block = _Block(time.monotonic(), Culprit("tiny", "get", "Tiny.get", "tiny.py:1 in get"))
    with socket.create_connection(listener.getsockname()) as scraper, capture_logs() as logs:
        scraper.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        while not logs:
            watchdog._wait([listener])
    assert [line["event"] for line in logs] == ["the watchdog could not answer a request"]
    listener.close()
