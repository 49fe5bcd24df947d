"""One call on the server: the servicer, and the status.

Rules:
1. A call always ends: with a status, or because nobody is left to tell.
2. Whatever the servicer raises or leaves open ends this call and nothing else. Only a cancellation from outside passes
   through.
3. The stream is released when the call has ended here, not when the client has gone; until then it is winding up.
4. After the servicer has returned nothing waits but grpclib's listeners, and those no longer than the servicer might
   have. So the status cannot be cancelled half-way.
"""

from __future__ import annotations

import enum
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import anyio
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError, ProtocolError

from connectrio.diagnostics import SafeLogger, text_of, type_name
from connectrio.rpc._grpc import MetadataError
from connectrio.rpc._http2.connection import HeadersTooLargeError
from connectrio.rpc._http2.stream import Stream, StreamTerminatedError
from connectrio.rpc._server.requests import CallContext
from connectrio.rpc._server.stream import CallState, ServerStream
from connectrio.rpc.call import Call, OnCallEnd, call_begins, call_ended, reset_current_call, set_current_call
from connectrio.rpc.exceptions import is_cancellation, is_cancelled_from_outside, leaves
from connectrio.rpc.left_open import LeftOpenError, close_left_open, trio_has_closed

log = SafeLogger("connectrio.rpc")


@dataclass(frozen=True)
class CallResult:
    """How the servicer's part of a call ended."""

    status: Status
    message: str | None = None
    details: Any = None


class CancelCause(enum.Enum):
    """Why a call's scope was cancelled."""

    CLIENT = CallResult(Status.CANCELLED, "the client is gone")
    SHUTDOWN = CallResult(Status.UNAVAILABLE, "the server is shutting down")
    DEADLINE = CallResult(Status.DEADLINE_EXCEEDED, "the deadline passed before the call was done")


_OK = CallResult(Status.OK)


class ServerCall:
    """A call that was admitted; `run` answers it.

    :ivar stream: what the servicer sees; its `state` says where the call is
    """

    __slots__ = ("_call", "_cause", "_context", "_handler", "_http2_stream", "_scope", "stream")

    def __init__(self, http2_stream: Stream, handler: Handler, call: Call, context: CallContext) -> None:
        self.stream: ServerStream[Any, Any] = ServerStream(http2_stream, handler, call, context)
        self._http2_stream = http2_stream
        self._handler = handler
        self._call = call
        self._context = context
        self._cause = CancelCause.DEADLINE  # unless somebody calls `cancel`
        deadline = call.deadline
        self._scope = anyio.CancelScope(deadline=math.inf if deadline is None else deadline.at)

    def cancel(self, cause: CancelCause) -> None:
        """Cancel the servicer; unless the client is gone, it is told why. Only the first cause counts."""
        if self._cause is CancelCause.DEADLINE:
            self._cause = cause
            self._scope.cancel()

    async def run(self) -> None:
        """Answer the call. Cancelled from outside, the client is told nothing: its connection is ending."""
        token = set_current_call(self._call)
        on_call, on_end = self._context.on_call, None
        if on_call is not None:
            on_end = call_begins(on_call, self._call)
        result = _OK
        try:
            result = await self._run_servicer()
            if self._http2_stream.termination is None and not self.stream.is_finished:
                await self._send_status(result)
        finally:
            if on_end is not None:
                self._tell_end(on_end, result)
            reset_current_call(token)
            self._http2_stream.release()

    def _tell_end(self, on_end: OnCallEnd, result: CallResult) -> None:
        """Tell `on_end` the status that was sent. If none was, the client has gone, or the connection has ended.

        :param result: of the servicer; OK if it was cancelled from outside
        """
        if self.stream.sent_status is not None:
            call_ended(on_end, *self.stream.sent_status)
        else:
            if result.status is Status.OK:
                result = CancelCause.CLIENT.value
            call_ended(on_end, result.status, result.message)

    async def _run_servicer(self) -> CallResult:
        """Run the servicer in the call's scope."""
        result = None
        try:
            with self._scope:
                result = await self._call_servicer()
        except BaseException as error:
            if close_left_open(self._scope, error):
                return self._result_of_left_open()
            # a group of which the scope took only the cancellation, or what a servicer made of one from outside
            if _is_only_cancellation(error):
                raise
            result = self._result_of_error(error)
        if result is None or (self._scope.cancel_called and result.status is not Status.OK):
            return self._cause.value
        deadline = self._call.deadline
        if result.status is Status.CANCELLED and deadline is not None and deadline.has_passed:
            return CancelCause.DEADLINE.value  # a servicer that passes on how a call of its own ended
        return result

    async def _call_servicer(self) -> CallResult:
        stream, call = self.stream, self._call
        try:
            method = self._handler.func
            if stream.listeners:
                stream.metadata, method = await self._context.grpclib_events.recv_request(
                    cast("Any", call.metadata),
                    method,
                    method_name=call.method,
                    deadline=call.deadline,
                    content_type=call.content_type,
                    user_agent=call.user_agent,
                    peer=cast("Any", stream.peer),
                )
            await method(cast("Any", stream))
        except GRPCError as error:
            status: object = error.status  # servicers have been seen to put numbers here, and exceptions into messages
            if not isinstance(status, Status):
                return self._result_of_error(error)
            return CallResult(status, None if error.message is None else text_of(error.message), error.details)
        except (MetadataError, HeadersTooLargeError) as error:
            fields = {"rpc": call.method, "peer": call.peer, "error": error}
            log.error("the metadata of the servicer of %(rpc)s is refused: %(error)s", fields)  # noqa: TRY400 - enough
            return CallResult(Status.INTERNAL, str(error))
        except BaseException as error:
            if is_cancellation(error):
                raise
            return self._result_of_error(error)
        if stream.state is CallState.HALF_SENT:
            log.error(
                "the servicer of %(rpc)s returned in the middle of a message", {"rpc": call.method, "peer": call.peer}
            )
            return CallResult(Status.INTERNAL, "the servicer returned in the middle of a message")
        if stream.lacks_response:
            log.error("the servicer of %(rpc)s returned without a response", {"rpc": call.method, "peer": call.peer})
            return CallResult(Status.UNKNOWN, "the servicer returned without sending the response")
        return _OK

    def _result_of_error(self, error: BaseException) -> CallResult:
        """Return the result of a servicer that raised: SystemExit or not, it ends this call, never the server."""
        if type(error) is StreamTerminatedError:
            return CallResult(Status.CANCELLED, str(error))
        if trio_has_closed(error):
            return self._result_of_left_open()
        fields = {"rpc": self._call.method, "peer": self._call.peer}
        log.error("the servicer of %(rpc)s raised", fields, exc_info=error)
        if error is self.stream.encoding_error:
            return CallResult(Status.INTERNAL, f"the response cannot be encoded: {error}")
        return CallResult(Status.UNKNOWN, f"the servicer raised {type_name(error)}")

    def _result_of_left_open(self) -> CallResult:
        error = LeftOpenError()
        log.error(
            "the servicer of %(rpc)s: %(error)s", {"rpc": self._call.method, "peer": self._call.peer, "error": error}
        )
        return CallResult(Status.INTERNAL, str(error))

    async def _send_status(self, result: CallResult) -> None:
        scope: AbstractContextManager[object] = nullcontext()
        was_cancelled = self._scope.cancel_called
        if self.stream.listeners:
            scope = self._scope = anyio.CancelScope(deadline=self._scope.deadline)
            if was_cancelled:
                self._scope.cancel()
        try:
            with scope:
                await self.stream.send_trailing_metadata(
                    status=result.status, status_message=result.message, status_details=result.details
                )
        except BaseException as error:
            # any: metadata, listeners and the details' codec are the application's; a bare status can still be sent
            if _is_only_cancellation(error):
                raise
            fields = {"rpc": self._call.method, "peer": self._call.peer}
            log.exception("the trailers of %(rpc)s cannot be sent", fields)
            is_clear = issubclass(type(error), ProtocolError | ValueError | TypeError)
            reason = text_of(error) if is_clear else type_name(error)
            trailers = "the trailers" if result.status is Status.OK else f"the trailers of {result.status.name}"
            result = CallResult(Status.INTERNAL, f"{trailers} cannot be sent: {reason}")
        else:
            if not was_cancelled:
                result = self._cause.value  # if a listener was cut short
        if not self.stream.is_finished and self._http2_stream.termination is None:
            self.stream.send_bare_status(result.status, result.message or "")


def _is_only_cancellation(error: BaseException) -> bool:
    """Return whether `error` is a cancellation from outside, or a group of nothing else."""
    cancelled = anyio.get_cancelled_exc_class()
    return is_cancelled_from_outside() and all(issubclass(type(leaf), cancelled) for leaf in leaves(error))
