"""One call on the server: the servicer, and the status.

Rules:
1. A call always ends: with a status, or because nobody is left to tell.
2. Whatever the servicer raises or leaves open ends this call and nothing else. Only a cancellation from outside passes
   through.
3. The stream is released when the call has ended here, not when the client has gone; until then it is winding up.
4. Interceptors run in the call's scope, around the servicer. Where its part ends, its error becomes the call's status,
   as a `GRPCError`; the status is sent after the last of them.
5. After the servicer has returned nothing waits but grpclib's listeners, and those no longer than the servicer might
   have. So the status cannot be cancelled half-way.
"""

from __future__ import annotations

import enum
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, cast

import anyio
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError, ProtocolError

from connectrio.diagnostics import SafeLogger, text_of, type_name
from connectrio.rpc._grpc import MetadataError
from connectrio.rpc._http2.connection import HeadersTooLargeError
from connectrio.rpc._http2.stream import Stream, StreamTerminatedError
from connectrio.rpc._server.requests import CallContext
from connectrio.rpc._server.stream import FINISHED, CallState, ServerStream
from connectrio.rpc.call import Call, OnCallEnd, call_begins, call_ended, reset_current_call, set_current_call
from connectrio.rpc.exceptions import is_cancellation, is_cancelled_from_outside, leaves, only_leaf
from connectrio.rpc.interceptors import intercepted
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

    __slots__ = ("_call", "_cause", "_context", "_handler", "_http2_stream", "_is_servicer_called", "_scope", "stream")

    def __init__(self, http2_stream: Stream, handler: Handler, call: Call, context: CallContext) -> None:
        self.stream: ServerStream[Any, Any] = ServerStream(http2_stream, handler, call, context)
        self._http2_stream = http2_stream
        self._handler = handler
        self._call = call
        self._context = context
        self._cause = CancelCause.DEADLINE  # unless somebody calls `cancel`
        self._is_servicer_called = False  # only interceptors ask
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
        self._call._stream = self.stream  # noqa: SLF001 - until the call has ended: they refer to each other
        on_call, on_end = self._context.on_call, None
        if on_call is not None:
            on_end = call_begins(on_call, self._call)
        result = _OK
        try:
            result = await self._run_servicer()
            if self._http2_stream.termination is None and self.stream.state not in FINISHED:
                await self._send_status(result)
        finally:
            self._call._stream = None  # noqa: SLF001
            if on_end is not None:
                self._tell_end(on_end, result)
            reset_current_call(token)
            self._http2_stream.release()

    def _tell_end(self, on_end: OnCallEnd, result: CallResult) -> None:
        """Tell `on_end` the status that was sent. If none was, the client has gone, or the connection has ended.

        :param result: of the servicer; OK if it was cancelled from outside
        """
        if self.stream.state is CallState.ENDED:
            call_ended(on_end, self._call.status, self._call.status_message)
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
        return self._final(result)

    def _final(self, result: CallResult | None) -> CallResult:
        """Return how the call ends, given what the servicer has made of it; None if it was cancelled."""
        if result is None or (result.status is not Status.OK and self._scope.cancel_called):
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
            if not self._context.interceptors:
                await method(cast("Any", stream))
            else:
                part = partial(_ServicersPart, self)
                async with intercepted(self._context.interceptors, call, part, self._interceptor_failed) as outermost:
                    self._is_servicer_called = True
                    await method(cast("Any", outermost))
        except BaseException as error:
            if is_cancellation(error):
                raise
            return self._result_of_error(error)
        return self._result_of_return()

    def _result_of_return(self) -> CallResult:
        """Return the result of a servicer that has returned."""
        stream, call = self.stream, self._call
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
        fields = {"rpc": self._call.method, "peer": self._call.peer, "error": error}
        single = only_leaf(error)  # a task group of the servicer's own puts the error of its task into a group
        if isinstance(single, GRPCError):
            status: object = single.status  # servicers have been seen to put numbers here, and exceptions into messages
            if isinstance(status, Status):
                return CallResult(status, None if single.message is None else text_of(single.message), single.details)
        if isinstance(error, MetadataError | HeadersTooLargeError):
            log.error("the metadata of the servicer of %(rpc)s is refused: %(error)s", fields)
            return CallResult(Status.INTERNAL, str(error))
        if type(error) is StreamTerminatedError:
            return CallResult(Status.CANCELLED, str(error))
        if trio_has_closed(error):
            return self._result_of_left_open()
        del fields["error"]
        log.error("the servicer of %(rpc)s raised", fields, exc_info=error)
        if error is self.stream.encoding_error:
            return CallResult(Status.INTERNAL, f"the response cannot be encoded: {error}")
        return CallResult(Status.UNKNOWN, f"the servicer raised {type_name(error)}")

    # what interceptors see

    def servicer_ended(self, error: BaseException | None) -> BaseException | None:
        """Note in the call how the servicer's part has ended; return the error that interceptors see of it, if any."""
        if error is not None and is_cancellation(error):
            return self._noted(self._cause_of_cancellation(), error)
        if not self._is_servicer_called:
            return error  # the innermost interceptor has not yielded: the error is its own
        result = self._final(self._result_of_return() if error is None else self._result_of_error(error))
        if self.stream.state is CallState.ENDED:
            result = CallResult(self._call.status, self._call.status_message)
        elif result.status is Status.OK and self._http2_stream.termination is not None:
            result = CancelCause.CLIENT.value
        return self._noted(result, error)

    def _interceptor_failed(self, interceptor: str, error: BaseException) -> BaseException:
        """Note in the call what an interceptor ends it with; return the error that those around it see."""
        if is_cancellation(error):
            return self._noted(self._cause_of_cancellation(), error) or error
        if isinstance(error, GRPCError) and isinstance(cast("object", error.status), Status):
            result = CallResult(error.status, error.message, error.details)
        elif type(error) is StreamTerminatedError:  # it has sent something of its own
            result = CallResult(Status.CANCELLED, str(error))
        else:
            fields = {"interceptor": interceptor, "rpc": self._call.method, "peer": self._call.peer}
            log.error("the interceptor %(interceptor)s of %(rpc)s raised", fields, exc_info=error)
            result = CallResult(Status.INTERNAL, f"the interceptor {interceptor} raised {type_name(error)}")
        return self._noted(self._final(result), error) or error

    def _noted(self, result: CallResult, error: BaseException | None) -> BaseException | None:
        """Note `result` in the call; return `error` if it says the same, or is a cancellation, else another one."""
        self._call.status, self._call.status_message = result.status, result.message
        says_it = isinstance(error, GRPCError) and error.status is result.status
        if says_it or result.status is Status.OK or (error is not None and is_cancellation(error)):
            return error
        return GRPCError(result.status, result.message, result.details)

    def _cause_of_cancellation(self) -> CallResult:
        return (self._cause if self._scope.cancel_called else CancelCause.CLIENT).value

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
        if self.stream.state not in FINISHED and self._http2_stream.termination is None:
            self.stream.send_bare_status(result.status, result.message or "")


class _ServicersPart:
    """What the innermost interceptor is around: the servicer. Errors leave it as `GRPCError`, or are cancellations."""

    __slots__ = ("_call",)

    def __init__(self, call: ServerCall) -> None:
        self._call = call

    async def __aenter__(self) -> ServerStream[Any, Any]:
        return self._call.stream

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        error = self._call.servicer_ended(exc_value)
        if error is not None and error is not exc_value:
            raise error from exc_value


def _is_only_cancellation(error: BaseException) -> bool:
    """Return whether `error` is a cancellation from outside, or a group of nothing else."""
    cancelled = anyio.get_cancelled_exc_class()
    return is_cancelled_from_outside() and all(issubclass(type(leaf), cancelled) for leaf in leaves(error))
