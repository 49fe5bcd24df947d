"""Measure how late the event loop is; name the code that blocks it, and answer the probes meanwhile.

A connector's `async def` that blocks delays every other call. A blocked event loop cannot report that, so a thread
watches it:

1. A task on the event loop notes the time ten times a second, and how late it was woken for that. When a note is
   overdue, the thread finds the connector's method and line on the stack of the event loop's thread, and logs them.
2. Until the event loop is free again, the thread takes the exporter's connections. It answers /metrics as usual, and
   all other paths with 503, so that a probe of Kubernetes shows the reason instead of a time-out, and a browser a page.
3. If the thread itself was delayed, it draws no conclusion: a busy machine or a debugger held up the whole process.
"""

from __future__ import annotations

import html
import json
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ssl import SSLContext
from types import FrameType, MappingProxyType

import anyio
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from connectrio.connector.registry import Registry
from connectrio.diagnostics import format_stack, place_of
from connectrio.logs import get_logger
from connectrio.rpc.sockets import close_in_children
from connectrio.service.live_calls import record_of
from connectrio.service.log_stream import send_responses
from connectrio.service.methods import ConnectorMethod
from connectrio.service.metrics import Metrics
from connectrio.service.places import home_of
from connectrio.telemetry.attention import Block
from connectrio.telemetry.jobs import NOBODY
from connectrio.telemetry.report import TaskName

__all__ = ["Culprit", "Watchdog", "find_culprit"]

logger = get_logger("connectrio.host.watchdog")

# the functions that call methods of connectors, and the name of the local variable with the method
_CALLERS = {ConnectorMethod.__call__.__code__: "self", send_responses.__code__: "method"}
_NOBODY = "unknown"
# seconds for a prober to send its request
_PATIENCE = 0.5
# seconds between two notes; and how many of them are remembered: a second's
_BEAT = 0.1
_REMEMBERED = 10
# times in which the event loop was blocked
_MOST_BLOCKS = 100
_WHAT_TO_DO = "make the method a plain `def`, or await there; the log has the stack"
# for browsers; it may load nothing
_BLOCKED = "503 Service Unavailable"
_ONLY_TEXT = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>blocked: connectrio</title><link rel="icon" href="data:,"></head>
<body><main>
<h1>The event loop is blocked, and with it all calls</h1>
<p>For {seconds} s: {reason}.</p>
<p>{what_to_do}. The status page comes back when the event loop is free.</p>
<p><a href="">Refresh</a></p>
</main></body>
</html>
"""


@dataclass(frozen=True)
class Culprit:
    """The code that blocks the event loop.

    :ivar task_type: the connector's; "unknown" if no connector's code runs
    :ivar operation: the name of the method; "unknown" for code that no method has called, as in a lifespan
    :ivar method: "DuckDBConnector.get"
    :ivar line: the innermost line of the connector's code, or else of any code: "my_connector.py:42 in get"
    :ivar task: the task of Flyte that the call is for
    :ivar job: the id of the job that the call is about; "" if not known
    """

    task_type: str
    operation: str
    method: str
    line: str
    task: TaskName = NOBODY
    job: str = ""

    @property
    def names(self) -> dict[str, str]:
        """What is known of the call, by the names of the log's fields."""
        task = self.task
        known = {"project": task.project, "domain": task.domain, "execution": task.execution, "node": task.node}
        return {name: text for name, text in {**known, "job": self.job}.items() if text}

    @property
    def whom(self) -> str:
        """Whose call it is, as the end of a sentence."""
        names = self.names
        shown = [f"{name} {names[name]}" for name in ("execution", "node") if name in names]
        if "execution" not in names:
            shown = [f"job {self.job}"] if self.job else []
        return f", for {', '.join(shown)}" if shown else ""


@dataclass(frozen=True)
class _Block:
    began: float
    culprit: Culprit


class Watchdog:
    """Watches one event loop.

    :param seconds: the time for which it may be blocked; with 0, it is only measured how late it is
    :param registry: the connectors that may block it
    :param sockets: the exporter's; duplicates of them stay open while this runs
    :param context: returns the exporter's TLS context for a new connection; None if it is without TLS
    :param names_tasks: whether everyone who can reach the exporter may see whose call it is that blocks
    :ivar blocks: the last times in which it was blocked
    """

    def __init__(
        self,
        seconds: float,
        *,
        metrics: Metrics,
        registry: Registry,
        sockets: Sequence[socket.socket] = (),
        context: Callable[[], SSLContext] | None = None,
        names_tasks: bool = True,
    ) -> None:
        self._seconds = seconds
        self._period = min(0.25, seconds / 4)
        self._interval = min(_BEAT, self._period) if seconds else _BEAT
        self._delays: deque[float] = deque(maxlen=_REMEMBERED)
        self._metrics = metrics
        self._registry = registry
        self._sockets = list(sockets)
        self._context = context
        self._names_tasks = names_tasks
        self._stop = threading.Event()
        self._answers = True
        self._beat = time.monotonic()
        self._loop_thread = 0
        self._block: _Block | None = None
        self.blocks: deque[Block] = deque(maxlen=_MOST_BLOCKS)

    @property
    def culprit(self) -> Culprit | None:
        """The code that blocks the event loop now, as everyone may see it; None if it is not blocked."""
        block = self._block
        return None if block is None else self._for_everyone(block.culprit)

    def _for_everyone(self, culprit: Culprit) -> Culprit:
        return culprit if self._names_tasks else replace(culprit, task=NOBODY, job="")

    def lag(self) -> float:
        """Return by how many seconds the event loop is late: at worst in the last second, or now if that is more.

        Any thread may call this.
        """
        return max(0.0, time.monotonic() - self._beat - self._interval, *list(self._delays))

    def stop_answering(self) -> None:
        """Take no more connections of the exporter, whose sockets another process has as well."""
        self._answers = False

    async def run(self) -> None:
        """Watch the event loop that this runs on, until cancelled."""
        self._loop_thread = threading.get_ident()
        self._beat = time.monotonic()
        self._metrics.loop_lag.set_function(self.lag)
        if self._seconds:
            self._start_thread()
        try:
            while True:
                self._beat = time.monotonic()
                await anyio.sleep(self._interval)
                delay = max(0.0, time.monotonic() - self._beat - self._interval)
                self._delays.append(delay)
                self._metrics.loop_delays.observe(delay)
        finally:
            self._stop.set()
            self._metrics.loop_lag.set_function(lambda: 0.0)

    def _start_thread(self) -> None:
        duplicates = [each.dup() for each in self._sockets]
        for each in duplicates:
            close_in_children(each)
        threading.Thread(target=self._watch, args=[duplicates], name="connectrio watchdog", daemon=True).start()

    # the thread's part

    def _watch(self, sockets: list[socket.socket]) -> None:
        try:
            looked = time.monotonic()
            while not self._stop.is_set():
                self._wait(sockets)
                now = time.monotonic()
                was_delayed = now - looked >= self._period + self._seconds / 2
                is_late = now - self._beat > self._period + self._seconds
                if is_late and self._block is None and not was_delayed:
                    self._blocked(now)
                elif not is_late and self._block is not None:  # true however slow the probers are
                    self._free(now, self._block)
                looked = time.monotonic()
        finally:
            for each in sockets:
                each.close()

    def _wait(self, sockets: list[socket.socket]) -> None:
        block = self._block
        if block is None or not sockets or not self._answers:
            self._stop.wait(self._period)
            return
        ready, _, _ = select.select(sockets, [], [], self._period)
        for each in ready:
            try:
                connection, _ = each.accept()
                with connection:
                    connection.settimeout(_PATIENCE)
                    if self._context is None:
                        self._answer(connection, block)
                        continue
                    with self._context().wrap_socket(connection, server_side=True) as secured:
                        self._answer(secured, block)
            except OSError:
                continue  # the event loop has accepted it, or the prober is gone
            except Exception:
                # the thread goes on: the metrics may be at fault, and it is the only one that sees the block end
                logger.exception("the watchdog could not answer a request")

    def _blocked(self, now: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented, for debuggers
        if frame is None:
            return
        try:
            culprit = find_culprit(frame, self._registry)
        except BaseException:  # a connector's attributes may be properties that fail, with SystemExit as well
            logger.exception("the code that blocks the event loop cannot be named")
            culprit = Culprit(_NOBODY, _NOBODY, _NOBODY, place_of(frame))
        self._block = _Block(self._beat, culprit)
        self._metrics.loop_blocks.labels(culprit.task_type, culprit.operation).inc()
        logger.error(
            "the event loop is blocked, and with it all calls; make the method a plain `def`, or await",
            method=culprit.method,
            where=culprit.line,
            task_type=culprit.task_type,
            operation=culprit.operation,
            **culprit.names,
            seconds=round(now - self._beat, 3),
            stack=format_stack(frame),
        )

    def _free(self, now: float, block: _Block) -> None:
        seconds = now - block.began
        labels = block.culprit.task_type, block.culprit.operation
        self._metrics.loop_blocked_seconds.labels(*labels).inc(seconds)
        culprit = block.culprit
        self.blocks.append(Block(culprit.method, culprit.line, culprit.task_type, time.time(), seconds, culprit.whom))
        logger.warning(
            "the event loop is free again",
            method=culprit.method,
            where=culprit.line,
            **culprit.names,
            seconds=round(seconds, 3),
        )
        self._block = None

    def _answer(self, connection: socket.socket, block: _Block) -> None:
        head = connection.recv(4096).decode("latin-1")
        path = head.partition(" ")[2].partition(" ")[0].partition("?")[0].rstrip("/")
        wants_html = path != "/metrics" and _wants_html(head)
        if path in ("", "/metrics") and not wants_html:
            connection.sendall(_response("200 OK", CONTENT_TYPE_LATEST, generate_latest(self._metrics.registry)))
            return
        culprit, seconds = self._for_everyone(block.culprit), round(time.monotonic() - block.began, 3)
        reason = f"{culprit.method} blocks the event loop at {culprit.line}{culprit.whom}"
        if wants_html:
            shown = {"seconds": seconds, "reason": reason, "what_to_do": _WHAT_TO_DO.capitalize()}
            page = _PAGE.format_map({name: html.escape(str(text)) for name, text in shown.items()})
            connection.sendall(
                _response(_BLOCKED, "text/html; charset=utf-8", page.encode("utf-8", "replace"), _ONLY_TEXT)
            )
            return
        report = {
            "state": "blocked",
            "method": culprit.method,
            "line": culprit.line,
            **culprit.names,
            "seconds": seconds,
            "not_ready": [reason],
            "what_to_do": _WHAT_TO_DO,
        }
        connection.sendall(_response(_BLOCKED, "application/json", json.dumps(report).encode()))


def _wants_html(head: str) -> bool:
    """Return whether a request is a browser's for a page."""
    lines = (line.partition(":") for line in head.lower().split("\r\n")[1:])
    return any(name.strip() == "accept" and "text/html" in value for name, _, value in lines)


def _response(status: str, content_type: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    sent = {"content-type": content_type, "content-length": str(len(body)), "connection": "close", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def find_culprit(frame: FrameType, registry: Registry) -> Culprit:
    """Return the connector's code that runs in `frame`, the innermost frame of a thread.

    The method is the one that the host has called further out on the same stack, and the task that of the RPC method
    still further out, so nothing is guessed. If there is no method, the culprit is the code of the connector's package
    itself.
    """
    homes = [(home_of(each.connector), each.connector.task_type_name) for each in registry.registered()]
    own: FrameType | None = None
    owner = _NOBODY
    found: Culprit | None = None
    called = current = frame
    while True:
        if current.f_code in _CALLERS:
            method = current.f_locals[_CALLERS[current.f_code]]
            found = Culprit(method.owner, method.operation.value, method.label, place_of(own or called))
        elif found is not None and (record := record_of(current)) is not None:
            return replace(found, task=record.for_task, job=record.shown_job)
        elif found is None and own is None:
            file = current.f_code.co_filename
            owner = next((name for home, name in homes if home and file.startswith(home)), _NOBODY)
            own = current if owner != _NOBODY else None
        if current.f_back is None:
            break
        called, current = current, current.f_back
    return found or Culprit(owner, _NOBODY, (own or frame).f_code.co_qualname, place_of(own or frame))
