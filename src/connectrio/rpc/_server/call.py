"""One call on the server: the request's checks, the servicer, the status.

Rules:
1. A call always ends: with a status, or because nobody is left to tell.
2. Whatever the servicer raises ends this call and nothing else. Only a cancellation from outside passes through.
3. The stream is released when the call has ended here, not when the client has gone; until then it is winding up.
4. After the servicer has returned nothing waits, so that the status cannot be cancelled half-way.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from grpclib.const import Handler, Status
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.events import _DispatchServerEvents
from grpclib.exceptions import GRPCError, ProtocolError
from h2.errors import ErrorCodes

from connectrio.logs import get_logger
from connectrio.rpc._grpc.compression import ACCEPT_ENCODING, IDENTITY, accepted_encodings, is_supported
from connectrio.rpc._grpc.headers import (
    CONTENT_TYPE,
    decode_metadata,
    decode_timeout,
    is_grpc_content_type,
    trailers_only,
)
from connectrio.rpc._http2.stream import Headers, Stream, StreamTerminatedError
from connectrio.rpc._server.stream import ServerStream
from connectrio.rpc.call import Call, reset_current_call, set_current_call
from connectrio.rpc.deadline import Deadline
from connectrio.rpc.options import ServerOptions
from connectrio.rpc.peer import Peer
from connectrio.rpc.status import fit_status_message

log = get_logger("connectrio.rpc")

# bytes; a refusal tells the client what was wrong with its request, not the whole of it
_LONGEST_REFUSAL = 256


@dataclass(frozen=True)
class CallContext:
    """What the calls of a connection have in common.

    :ivar decoding: how many large messages are decoded at once, in threads, where they leave the event loop its turns
    """

    mapping: Mapping[str, Handler]
    codec: CodecBase
    status_details_codec: StatusDetailsCodecBase | None
    dispatch: _DispatchServerEvents
    options: ServerOptions
    peer: Peer
    peer_name: str
    decoding: anyio.CapacityLimiter


@dataclass(frozen=True)
class Outcome:
    """How the servicer's part of a call ended."""

    status: Status
    message: str | None = None
    details: Any = None


class CancelCause(enum.Enum):
    """Who cancelled a call's scope, when it was not its deadline."""

    CLIENT = enum.auto()
    SHUTDOWN = enum.auto()


class RefusedRequestError(Exception):
    """The request is not one that this server can answer.

    :ivar headers: the whole response
    """

    def __init__(self, headers: Headers) -> None:
        super().__init__(headers)
        self.headers = headers

    @classmethod
    def http(cls, code: int, message: str) -> RefusedRequestError:
        """For a request that is not gRPC: an HTTP status beside the gRPC one."""
        headers = _refusal(Status.INTERNAL, message)
        return cls([(":status", str(code)), *headers[1:]])

    @classmethod
    def grpc(cls, status: Status, message: str) -> RefusedRequestError:
        """For a gRPC request: a response that is nothing but a status."""
        return cls(_refusal(status, message))

    @classmethod
    def encoding(cls, name: str) -> RefusedRequestError:
        """For messages that cannot be read, with those that could be."""
        headers = _refusal(Status.UNIMPLEMENTED, f"grpc-encoding {name!r} is not supported")
        return cls([*headers, ("grpc-accept-encoding", ACCEPT_ENCODING)])


def _refusal(status: Status, message: str) -> list[tuple[str, str]]:
    return [*trailers_only(status, fit_status_message(message, _LONGEST_REFUSAL))]


def admit(stream: Stream, context: CallContext) -> ServerCall | None:
    """The call that the request on `stream` asks for; or None when it was answered right here, with a refusal."""
    try:
        return ServerCall(stream, *_check_request(stream.headers or [], context), context)
    except RefusedRequestError as refusal:
        stream.send_headers(refusal.headers, end_stream=True)
        stream.reset(ErrorCodes.NO_ERROR)
        stream.release()
        return None


def _check_request(headers: Headers, context: CallContext) -> tuple[Handler, Call]:
    """:raises RefusedRequestError: the request cannot be answered"""
    values = dict(headers)
    if values.get(":method") != "POST":
        raise RefusedRequestError.http(405, f"gRPC calls are POST requests, this is {values.get(':method')}")
    if not is_grpc_content_type(values.get("content-type")):
        raise RefusedRequestError.http(
            415, f"content-type must be application/grpc, got {values.get('content-type')!r}"
        )
    if values.get("te") != "trailers":
        raise RefusedRequestError.http(400, "the header te: trailers is missing")
    path = values.get(":path", "")
    handler = context.mapping.get(path)
    if handler is None:
        raise RefusedRequestError.grpc(Status.UNIMPLEMENTED, f"unknown method {path}")
    return handler, _describe_call(path, headers, values, context)


def _describe_call(path: str, headers: Headers, values: dict[str, str], context: CallContext) -> Call:
    encoding = values.get("grpc-encoding", IDENTITY)
    if not is_supported(encoding):
        raise RefusedRequestError.encoding(encoding)
    try:
        metadata = decode_metadata(headers)
        timeout = values.get("grpc-timeout")
        seconds = None if timeout is None else decode_timeout(timeout)
    except ValueError as error:
        raise RefusedRequestError.grpc(Status.INTERNAL, str(error)) from error
    if seconds == 0:
        raise RefusedRequestError.grpc(Status.DEADLINE_EXCEEDED, "the deadline had passed when the request arrived")
    return Call(
        path,
        metadata,
        deadline=None if seconds is None else Deadline.from_timeout(seconds),
        peer=context.peer_name,
        user_agent=values.get("user-agent"),
        request_encoding=encoding,
        accepted_encodings=accepted_encodings(values.get("grpc-accept-encoding")),
    )


class ServerCall:
    """A call that was admitted; `run` answers it."""

    __slots__ = ("_call", "_cause", "_context", "_handler", "_scope", "_server_stream", "_stream")

    def __init__(self, stream: Stream, handler: Handler, call: Call, context: CallContext) -> None:
        self._stream = stream
        self._handler = handler
        self._call = call
        self._context = context
        self._cause: CancelCause | None = None
        deadline = call.deadline
        self._scope = anyio.CancelScope(deadline=math.inf if deadline is None else deadline.at)
        self._server_stream: ServerStream[Any, Any] = ServerStream(
            stream,
            call,
            handler,
            codec=context.codec,
            status_details_codec=context.status_details_codec,
            dispatch=context.dispatch,
            peer=context.peer,
            max_message_size=context.options.max_receive_message_size,
            decoding=context.decoding,
        )

    def client_is_gone(self) -> None:
        """Cancel the servicer; nobody is left to be told."""
        self.cancel(CancelCause.CLIENT)

    def cancel(self, cause: CancelCause) -> None:
        """Cancel the servicer; unless the client is gone, it is told why."""
        if self._cause is None:
            self._cause = cause
            self._scope.cancel()

    async def run(self) -> None:
        """Answer the call. Cancelled from outside, the client is told nothing: its connection is ending."""
        token = set_current_call(self._call)
        try:
            outcome = await self._outcome()
            await self._finish(outcome)
        finally:
            reset_current_call(token)
            self._stream.on_terminated = None
            self._stream.release()

    async def _outcome(self) -> Outcome:
        outcome = None
        try:
            with self._scope:
                outcome = await self._invoke()
        except BaseException as error:
            # a group of which the scope took only the cancellation, or what a servicer made of one from outside
            if is_cancelled_from_outside() and _is_cancellation(error):
                raise
            outcome = self._raised(error)
        if self._scope.cancel_called and (outcome is None or outcome.status is not Status.OK):
            return self._cancelled()
        return outcome if outcome is not None else self._cancelled()

    async def _invoke(self) -> Outcome:
        stream, call, context = self._server_stream, self._call, self._context
        try:
            method = self._handler.func
            if stream.has_listeners:
                stream.metadata, method = await context.dispatch.recv_request(
                    call.metadata,
                    method,
                    method_name=call.method,
                    deadline=call.deadline,
                    content_type=CONTENT_TYPE,
                    user_agent=call.user_agent,
                    peer=stream.peer,
                )
            await method(stream)
        except GRPCError as error:
            return self._refused(error)
        except BaseException as error:
            if is_cancelled_from_outside():
                raise
            return self._raised(error)
        if stream.is_cut and not stream.is_finished:
            log.error("the servicer returned in the middle of a message", method=call.method)
            return Outcome(Status.INTERNAL, "the servicer returned in the middle of a message")
        if stream.lacks_response and not stream.is_finished:
            log.error("the servicer returned without a response", method=call.method)
            return Outcome(Status.UNKNOWN, "the servicer returned without sending the response")
        return Outcome(Status.OK)

    def _refused(self, error: GRPCError) -> Outcome:
        status: object = error.status  # servicers have been seen to put numbers here, and exceptions into the message
        if not isinstance(status, Status):
            return self._raised(error)
        return Outcome(status, None if error.message is None else str(error.message), error.details)

    def _raised(self, error: BaseException) -> Outcome:
        """Anything a servicer raises, SystemExit included: it ends this call, never the server."""
        if isinstance(error, StreamTerminatedError):
            return Outcome(Status.CANCELLED, str(error))
        log.error("the servicer raised", method=self._call.method, exc_info=error)
        return Outcome(Status.UNKNOWN, f"the servicer raised {type(error).__name__}")

    def _cancelled(self) -> Outcome:
        if self._cause is CancelCause.CLIENT:
            return Outcome(Status.CANCELLED, "the client is gone")
        if self._cause is CancelCause.SHUTDOWN:
            return Outcome(Status.UNAVAILABLE, "the server is shutting down")
        return Outcome(Status.DEADLINE_EXCEEDED, "the deadline passed before the call was done")

    async def _finish(self, outcome: Outcome) -> None:
        stream = self._server_stream
        if self._stream.termination is not None or stream.is_finished:
            return
        try:
            await stream.send_trailing_metadata(
                status=outcome.status, status_message=outcome.message, status_details=outcome.details
            )
        except Exception as error:
            # any: metadata, listeners and the details' codec are the application's; a bare status can still be sent
            log.exception("the trailers cannot be sent", method=self._call.method)
            reason = error if isinstance(error, ProtocolError | ValueError | TypeError) else type(error).__name__
            stream.send_bare_status(Status.INTERNAL, f"the trailers cannot be sent: {reason}")


def is_cancelled_from_outside() -> bool:
    """Whether a scope around the current task is cancelled, so that the exception at hand may be that cancellation.

    A servicer can raise `asyncio.CancelledError` of its own; nobody outside waits for that one to pass through.
    """
    return anyio.current_effective_deadline() == -math.inf


def _is_cancellation(error: BaseException) -> bool:
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return error.split(cancelled)[1] is None
    return isinstance(error, cancelled)
