"""betterproto2's servicers on our server: a method's generator ends with its call.

A method that streams its responses is an async generator. When sending is cancelled or fails, betterproto2 does not
close it: its `finally` blocks run when the garbage collector finds it, on asyncio in a task that nobody owns, and trio
warns. For calls on our server it is closed before the call ends; other servers are not touched.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

from betterproto2.grpclib import ServiceBase

from connectrio.rpc._server.stream import ServerStream


def adopt_servicers() -> None:
    """Make betterproto2's servicers close their generators on our server. A second call changes nothing."""
    original = ServiceBase._call_rpc_handler_server_stream  # noqa: SLF001 - what generated servicers call
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    async def call(servicer: ServiceBase, handler: Callable[..., Any], stream: Any, request: Any) -> None:
        if not isinstance(stream, ServerStream):
            await original(servicer, handler, stream, request)
            return
        responses = handler(request)
        if isinstance(responses, AsyncGenerator):
            async with aclosing(responses):
                async for message in responses:
                    await stream.send_message(message)
        else:
            await original(servicer, lambda _: responses, stream, request)  # type: ignore[arg-type]  # as grpclib's

    ServiceBase._call_rpc_handler_server_stream = call  # type: ignore[method-assign,assignment]  # noqa: SLF001 - see above
