"""The spans. Their names and attributes are those of OpenTelemetry's semantic conventions for RPC.

No error gets into a span as it is, because its text and its traceback may hold secrets: a span has the text that the
client reads.
Calls of gRPC's own services (health, reflection), whose names begin with "grpc.", have no spans.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import Any

from grpclib.const import Status
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagators.textmap import Getter, Setter
from opentelemetry.trace import Span, SpanKind, StatusCode

from connectrio._version import __version__
from connectrio.diagnostics import Repeats, type_name
from connectrio.logs import get_logger
from connectrio.rpc import Call, OnCallEnd
from connectrio.rpc.exceptions import is_cancellation, only_leaf
from connectrio.service.errors import DeliveryError
from connectrio.service.methods import ConnectorMethod
from connectrio.service.telemetry import CallRecord

__all__ = ["current_ids", "method_span", "on_channel_call", "on_server_call"]

logger = get_logger("connectrio.tracing")

_Attributes = dict[str, str | int]

_OWN_SERVICES = "/grpc."
# the others are the client's mistakes: "Server" in the semantic conventions for gRPC
_SERVER_ERRORS = {
    Status.UNKNOWN,
    Status.DEADLINE_EXCEEDED,
    Status.UNIMPLEMENTED,
    Status.INTERNAL,
    Status.UNAVAILABLE,
    Status.DATA_LOSS,
}

# a sampler that fails would fail for each call
_failures = Repeats(60.0)
# asks for the provider of the process when it makes its first span
_tracer = trace.get_tracer("connectrio", __version__)


def on_server_call(call: Call) -> OnCallEnd | None:
    """Begin the span of a call that a server answers, in the trace that its metadata names.

    The span is the current one of the call's task. For `Server(on_call=…)`.
    """
    if call.method.startswith(_OWN_SERVICES):
        return None
    attributes = _rpc(call)
    if call.user_agent:
        attributes["user_agent.original"] = call.user_agent
    if call.peer:
        attributes |= _address("network.peer", call.peer)
        if "network.peer.address" in attributes:
            attributes |= _address("client", call.peer)
    parent = propagate.extract(call.metadata, getter=_METADATA)
    span = _tracer.start_span(call.method[1:], parent, SpanKind.SERVER, attributes)
    token = attach(trace.set_span_in_context(span, parent))

    def end(status: Status, message: str | None) -> None:
        detach(token)
        _end(span, status, message, is_error=status in _SERVER_ERRORS)

    return end


def on_channel_call(call: Call) -> OnCallEnd | None:
    """Begin the span of a call that a channel makes, in the current trace, and name it in the call's metadata.

    For `Channel(on_call=…)`.
    """
    if call.method.startswith(_OWN_SERVICES):
        return None
    attributes = _rpc(call) | _address("server", call.peer)
    span = _tracer.start_span(call.method[1:], None, SpanKind.CLIENT, attributes)
    propagate.inject(call.metadata, trace.set_span_in_context(span), setter=_METADATA)
    return lambda status, message: _end(span, status, message, is_error=status is not Status.OK)


def method_span(record: CallRecord, method: ConnectorMethod) -> MethodSpan:
    """Return a span around one call of a connector's method, inside the span of the RPC."""
    return MethodSpan(record, method)


def current_ids() -> tuple[str, str] | None:
    """Return the ids of the current trace and span in hex; None if there is none, or if it is not sampled."""
    context = trace.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return None
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


class MethodSpan:
    """A span that is the current one while its block runs. If tracing fails, that is logged, and the block goes on."""

    def __init__(self, record: CallRecord, method: ConnectorMethod) -> None:
        self._record = record
        self._method = method
        self._span: Span | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        self._safely(self._begin)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, places: TracebackType | None
    ) -> None:
        """End the span; an error passes through."""
        self._safely(lambda: self._end(error))

    def _begin(self) -> None:
        method, attributes = self._method, self._record.trace_attributes()
        outer = trace.get_current_span()
        if outer.is_recording():  # the span of the RPC; else it has ended, and the creation of the job goes on
            outer.set_attributes(attributes)
        attributes["flyte.operation"] = method.operation.value
        attributes["code.function.name"] = f"{type(method.connector).__module__}.{method.label}"
        self._span = _tracer.start_span(method.label, attributes=attributes)
        self._token = attach(trace.set_span_in_context(self._span))

    def _end(self, error: BaseException | None) -> None:
        span, token = self._span, self._token
        if token is not None:
            detach(token)
        if span is None:
            return
        if error is not None:
            cause = only_leaf(error)
            if is_cancellation(error) or type(cause) is DeliveryError:  # the client is gone
                span.set_attribute("flyte.cancelled", True)
            else:
                span.set_attribute("error.type", type_name(cause))
                span.set_status(StatusCode.ERROR, self._record.client_text(error))
        span.end()

    def _safely(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as failure:  # noqa: BLE001 - a sampler or a span processor may be the application's
            left_out = _failures.count("method")
            if left_out is not None:
                error = type_name(failure)
                logger.warning("tracing failed; the calls go on", error=error, left_out=left_out)


def _rpc(call: Call) -> _Attributes:
    return {"rpc.system.name": "grpc", "rpc.method": call.method[1:]}


def _address(prefix: str, text: str) -> _Attributes:
    """Return the attributes for "host:port", "[ipv6]:port", "unix:path", or another name of a target."""
    if text.startswith("unix"):
        return {"network.transport": "unix"}
    host, _, port = text.rpartition(":")
    if not (host and port.isdecimal()):
        return {f"{prefix}.address": text}
    return {f"{prefix}.address": host.strip("[]"), f"{prefix}.port": int(port)}


def _end(span: Span, status: Status, message: str | None, *, is_error: bool) -> None:
    span.set_attribute("rpc.response.status_code", status.name)
    if status is not Status.OK and message:
        span.set_attribute("grpc.status_message", message)
    if is_error:
        span.set_attribute("error.type", status.name)
        span.set_status(StatusCode.ERROR, message)
    span.end()


class _Metadata(Getter[Any], Setter[Any]):
    """Reads and writes the context in a call's metadata."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        found: list[str] = carrier.getall(key.lower(), [])
        return found or None

    def keys(self, carrier: Any) -> list[str]:
        return list(carrier)

    def set(self, carrier: Any, key: str, value: str) -> None:
        carrier[key.lower()] = value


_METADATA = _Metadata()
