"""Servers and clients with TLS over loopback, for the length of a block."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import Listener

from connectrio.rpc import Channel, ChannelOptions, Server, ServerOptions
from connectrio.rpc.tls import ChannelTLS, ServerTLS
from rpc.kit.certificates import Pki
from rpc.kit.script import Note, Script, ScriptStub
from rpc.kit.serving import captured_logs

# seconds; nothing here takes long, but machines may be slow
PATIENCE = 30.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Give other tasks turns until `condition` is true."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what tests wait for has no event
            await anyio.sleep(0.001)


@dataclass
class Served:
    """A server that listens on a free port of the loopback interface.

    :ivar log: what it has logged so far
    :ivar ends: why connections have ended so far
    """

    server: Server
    port: int
    log: list[Any] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    @property
    def target(self) -> str:
        return f"localhost:{self.port}"

    def refusals(self) -> list[str]:
        """Why connections were refused."""
        return [str(entry["reason"]) for entry in self.log if "was refused" in entry["event"]]

    async def refusal(self) -> str:
        """Why a connection was refused, once one was."""
        await eventually(lambda: bool(self.refusals()))
        return self.refusals()[-1]


@asynccontextmanager
async def serving(
    tls: ServerTLS | None,
    *more: Listener[Any],
    script: Script | None = None,
    options: ServerOptions | None = None,
) -> AsyncIterator[Served]:
    """Serve a script with TLS, or without, and on further listeners."""
    ends: list[str] = []
    server = Server([script or Script()], options=options, on_connection_end=ends.append)
    listener: Listener[Any] = await anyio.create_tcp_listener(local_host="127.0.0.1")
    if tls is not None:
        listener = tls.listen(listener)
    with captured_logs() as log, anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(server.serve, [listener, *more])
            yield Served(server, addresses[0][1], log, ends)
            tasks.cancel_scope.cancel()
    assert not [entry for entry in log if entry["log_level"] == "error"], log


@asynccontextmanager
async def calling(target: str, tls: ChannelTLS | None, **options: Any) -> AsyncIterator[ScriptStub]:
    """The script's stub on a channel of its own."""
    async with Channel(target, tls=tls, options=ChannelOptions(**options)) as channel:
        yield ScriptStub(channel)


async def answers(target: str, tls: ChannelTLS | None) -> bool:
    """Whether a new channel gets an answer."""
    async with calling(target, tls) as stub:
        return await stub.unary(Note("hello")) == Note("hello")


def client_context(pki: Pki, *, alpn: list[str] | None = None, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's context that none of our code has made.

    :param versions: `minimum` and `maximum`
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pki.ca)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TLS 1.0 and 1.1
        if "minimum" in versions:
            context.minimum_version = versions["minimum"]
        if "maximum" in versions:
            context.maximum_version = versions["maximum"]
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    return context
