"""A call with interceptors, from the client's side."""

from __future__ import annotations

from typing import TypeVar

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.diagnostics import type_name
from connectrio.rpc._client.attempts import ChannelContext
from connectrio.rpc._client.call import ClientStream
from connectrio.rpc.call import Call
from connectrio.rpc.interceptors import Intercepted, intercepted

_Send = TypeVar("_Send")
_Recv = TypeVar("_Recv")


def intercepted_call(
    context: ChannelContext,
    call: Call,
    send_type: type[_Send],
    recv_type: type[_Recv],
    *,
    wait_for_ready: bool,
) -> Intercepted:
    """Return the interceptors of a channel around a call; each `proceed()` of the innermost makes an attempt of it."""

    def attempt() -> ClientStream[_Send, _Recv]:
        return ClientStream(
            context,
            call.method,
            call.cardinality,
            send_type,
            recv_type,
            deadline=call.deadline,
            metadata=call.metadata.copy(),
            wait_for_ready=wait_for_ready,
            call=call,
        )

    known: BaseException | None = None

    def note(interceptor: str, error: BaseException) -> BaseException:
        nonlocal known
        if error is known:  # of an inner interceptor
            return error
        known = error
        if isinstance(error, GRPCError):
            call.status, call.status_message = error.status, error.message
        elif isinstance(error, Exception):
            error.add_note(f"This comes from the interceptor {interceptor}, around a call of {call.method}")
            call.status, call.status_message = (
                Status.UNKNOWN,
                f"the interceptor {interceptor} raised {type_name(error)}",
            )
        else:
            call.status, call.status_message = Status.CANCELLED, "the client left the call"
        return error

    return intercepted(context.interceptors, call, attempt, note)
