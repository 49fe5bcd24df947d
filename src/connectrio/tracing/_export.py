"""Where the spans go: to the provider that the program has set, or over OTLP/HTTP to a collector.

The exporter is set up from OpenTelemetry's own environment variables. It sends from a thread of its own, so a collector
that hangs holds up no call.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence

import anyio
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import PROCESS_PID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from connectrio.diagnostics import Repeats, set_trace_source
from connectrio.logs import get_logger
from connectrio.service.workers import call_soon_from_threads
from connectrio.tracing._spans import current_ids, method_span, on_server_call

__all__ = ["Tracing"]

logger = get_logger("connectrio.tracing")

# seconds for the last spans at the end of the host; Kubernetes kills some seconds after the drain
_FLUSH_TIMEOUT = 3.0
# seconds between two lines about a full queue of spans
_QUEUE_PERIOD = 60.0


class Tracing:
    """What a host does about traces from its start to its end.

    It uses the tracer provider that the program has set. If there is none, it sets one, which exports over OTLP/HTTP.

    :ivar on_call: for the host's `Server`
    :ivar method_span: for its `AsyncConnectorService`
    :raises ValueError: a variable of OpenTelemetry has a wrong value
    """

    on_call = staticmethod(on_server_call)
    method_span = staticmethod(method_span)

    def __init__(self) -> None:
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            trace.set_tracer_provider(_make_provider())
            provider = trace.get_tracer_provider()
        self._is_ours = provider is _ours
        if self._is_ours:
            _export.begin()
        set_trace_source(current_ids)

    async def stop(self) -> None:
        """Export the last spans of this process if no other host in it does; wait for that for a few seconds."""
        if not self._is_ours or (processor := _export.end()) is None:
            return
        done, call_soon = anyio.Event(), call_soon_from_threads()

        def flush() -> None:
            processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's
            try:
                call_soon(done.set)
            except RuntimeError:  # the event loop has ended: nobody waits any more
                return

        # not anyio's: those keep the process from ending while the collector hangs
        threading.Thread(target=flush, name="last spans", daemon=True).start()
        with anyio.move_on_after(_FLUSH_TIMEOUT):
            await done.wait()
            return
        logger.warning("the last spans were not exported in time, and are lost", seconds=_FLUSH_TIMEOUT)


def _make_provider() -> TracerProvider:
    global _ours  # noqa: PLW0603 - OpenTelemetry has one provider for the process, and keeps its first
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "connectrio"}))
    resource = resource.merge(Resource({PROCESS_PID: os.getpid()}))
    # at exit it would wait for a collector that hangs; hosts flush it
    _ours = TracerProvider(resource=resource, shutdown_on_exit=False)
    _ours.add_span_processor(_export)
    return _ours


class _Export(SpanProcessor):
    """Passes spans on while a host runs: the provider outlives the hosts, because it cannot be replaced."""

    def __init__(self) -> None:
        self._hosts = 0
        self._processor: BatchSpanProcessor | None = None

    def begin(self) -> None:
        """Export from now on."""
        if self._processor is None:
            self._processor = BatchSpanProcessor(_Exporter())
        self._hosts += 1

    def end(self) -> BatchSpanProcessor | None:
        """Export no more. Return what is to be shut down; None if another host still exports."""
        self._hosts -= 1
        if self._hosts:
            return None
        processor, self._processor = self._processor, None
        return processor

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span for the next batch."""
        processor = self._processor
        if processor is not None:
            processor.on_end(span)


class _Exporter(SpanExporter):
    """Exports over OTLP/HTTP. It logs when exporting begins to fail and when it works again, and nothing in between."""

    def __init__(self) -> None:
        self._otlp = trace_exporter.OTLPSpanExporter()
        self._lost = 0
        self._failing_since = 0.0
        logging.getLogger(trace_exporter.__name__).addFilter(_attempts)
        logging.getLogger("opentelemetry.sdk._shared_internal").addFilter(_queue)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, in the thread of the processor."""
        _attempts.first = ""
        result = self._otlp.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                self._failing_since = time.monotonic()
                logger.warning("spans cannot be exported, and are lost", reason=_attempts.first)
            self._lost += len(spans)
        elif self._lost:
            seconds = round(time.monotonic() - self._failing_since, 1)
            logger.info("spans are exported again", lost=self._lost, seconds=seconds)
            self._lost = 0
        return result

    def shutdown(self) -> None:
        """Give up what is being sent."""
        self._otlp.shutdown()  # type: ignore[no-untyped-call]  # as above


class _Attempts(logging.Filter):
    """Keeps the first line that the exporter logs about a batch, and lets none out: it logs several for each.

    :ivar first: why the batch could not be sent
    """

    first = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.first = self.first or record.getMessage()
        return False


class _Queue(logging.Filter):
    """Lets a line about the queue of spans out once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._repeats = Repeats(_QUEUE_PERIOD)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._repeats.count(record.msg) is not None


_ours: TracerProvider | None = None
_export = _Export()
_attempts = _Attempts()
_queue = _Queue()
