"""betterproto2's servicers on our server: a method's generator ends with its call.

`_betterproto.py` says what is replaced, and why.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import cache
from typing import Any

from betterproto2.grpclib import ServiceBase

from connectrio.rpc._betterproto import replace
from connectrio.rpc._server.stream import ServerStream


@cache
def adopt_servicers() -> None:
    """Let betterproto2's servicers close their generators on our server. Every call after the first does nothing."""
    original = ServiceBase._call_rpc_handler_server_stream  # noqa: SLF001 - what generated servicers call

    async def call(servicer: ServiceBase, handler: Callable[..., Any], stream: Any, request: Any) -> None:
        responses = handler(request)
        if isinstance(responses, AsyncGenerator):
            async with aclosing(responses):
                async for message in responses:
                    await stream.send_message(message)
        else:
            await original(servicer, lambda _: responses, stream, request)

    name = "_call_rpc_handler_server_stream"
    replace(ServiceBase, name, call, lambda *args: isinstance(args[2], ServerStream))
