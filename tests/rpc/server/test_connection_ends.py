"""Why a connection ended: told once, and logged once, at the level that it deserves."""

from __future__ import annotations

import anyio
import pytest

from connectrio.rpc import Server, ServerOptions
from rpc.kit.frames import SettingsAck
from rpc.kit.raw import RawPeer, raw_client
from rpc.kit.script import UNARY, Script
from rpc.kit.serving import captured_logs, eventually, leaving_nothing


async def say(client: RawPeer, *data: bytes) -> None:
    await client.send(*data)
    await client.until_closed()


async def hang_up(client: RawPeer, server: Server) -> None:
    await client.until(lambda frame: isinstance(frame, SettingsAck))
    await client.transport.aclose()


async def drain(client: RawPeer, server: Server) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.shutdown, 1)
        await client.until_closed()


async def hang_up_when_drained(client: RawPeer, server: Server) -> None:
    """A call is left, so that the server cannot be first."""
    await client.send(client.make.request(1, UNARY))
    await eventually(lambda: server.active_calls == 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.shutdown, 60)
        await eventually(lambda: server._draining)
        await client.transport.aclose()


async def break_the_protocol(client: RawPeer, server: Server) -> None:
    await say(client, client.make.raw(0x0, 0, 0, b"data on stream 0"))


async def flood(client: RawPeer, server: Server) -> None:
    await say(client, client.make.ping() * 100)


async def never_end_a_header_block(client: RawPeer, server: Server) -> None:
    await say(client, client.make.raw(0x1, 0, 1, b""))


@pytest.mark.parametrize(
    ("end", "cause", "level"),
    [
        (hang_up, "closed_by_peer", "debug"),
        (drain, "drained", "debug"),
        (hang_up_when_drained, "drained", "debug"),
        (break_the_protocol, "protocol_error", "info"),
        (flood, "abuse", "info"),
        (never_end_a_header_block, "timeout", "info"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_the_reason_is_told_and_logged_once(end, cause: str, level: str):
    told: list[str] = []
    options = ServerOptions(header_block_timeout=0.05, linger=0.05)
    async with leaving_nothing() as log:
        server = Server([Script()], options=options, on_connection_end=told.append)
        async with raw_client(server) as client:
            await end(client, server)
    assert told == [cause]
    [line] = [line for line in log if "cause" in line]
    assert (line["cause"], line["log_level"]) == (cause, level)
    assert line["reason"]
    assert "peer" in line


async def test_a_connection_that_the_program_cancels():
    told: list[str] = []
    async with leaving_nothing():
        server = Server([Script()], on_connection_end=told.append)
        async with anyio.create_task_group() as tasks, raw_client(server) as client:
            await client.send(client.make.request(1, UNARY))
            await eventually(lambda: server.active_calls == 1)
            [connection] = server._connections
            tasks.cancel_scope.cancel()
        assert connection.core.end_reason
    assert told == ["stopped"]


@pytest.mark.parametrize(
    ("first", "words"),
    [(b"\x16\x03\x01\x02\x00\x01", "speaks TLS"), (b"GET / HTTP/1.1\r\n\r\n", "not HTTP/2")],
    ids=["TLS", "HTTP/1"],
)
async def test_a_client_that_speaks_something_else(first: bytes, words: str):
    async with leaving_nothing(), await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        told: list[str] = []
        server = Server([Script()], options=ServerOptions(linger=0.05), on_connection_end=told.append)
        async with anyio.create_task_group() as tasks:
            [(host, port)] = await tasks.start(server.serve, listener)
            with captured_logs() as log:
                async with await anyio.connect_tcp(host, port) as client:
                    ours = client.extra(anyio.abc.SocketAttribute.local_port)
                    await client.send(first)
                    await eventually(lambda: bool(told))
            await server.shutdown()
    assert told == ["protocol_error"]
    [line] = [line for line in log if "cause" in line]
    assert words in line["reason"]
    assert line["peer"] == f"127.0.0.1:{ours}"
