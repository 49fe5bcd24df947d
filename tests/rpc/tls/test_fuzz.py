"""Bytes that a broken or hostile peer sends instead of TLS: only declared errors come of them."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from connectrio.rpc._tls_stream import TLSByteStream
from connectrio.rpc.testing import memory_transport_pair
from connectrio.rpc.tls import ChannelTLS, ServerTLS, TLSHandshakeError
from rpc.kit.certificates import Pki

# seconds; what is sent is followed by the end, so that nothing here waits for more
PATIENCE = 30.0


@cache
def sides() -> tuple[ServerTLS, ChannelTLS]:
    """Read once: the certificates do not matter here."""
    with tempfile.TemporaryDirectory() as directory:
        pki = Pki(Path(directory))
        return ServerTLS(pki.server.cert, pki.server.key), ChannelTLS(pki.ca)


# what happens to the bytes on their way: at a position (a share of the length), something is put in place of some bytes
changes = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4)


def changed(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for position, removed, inserted in edits:
        at = int(position * len(data))
        data = data[:at] + inserted + data[at + removed :]
    return data


async def handshake_survives(stream: TLSByteStream) -> None:
    """It may succeed or fail with a declared error; nothing else."""
    with anyio.fail_after(PATIENCE), suppress(TLSHandshakeError):
        await stream.handshake()


@settings(max_examples=60, deadline=None)
@given(edits=changes)
async def test_a_changed_hello_to_a_server(edits: list[tuple[float, int, bytes]]):
    server_tls, channel_tls = sides()
    ours, theirs = memory_transport_pair()
    client = TLSByteStream(ours, channel_tls._context._context, hostname="localhost")
    async with ours, theirs:
        client._try_handshake()
        await ours.send(changed(client._outgoing.read(), edits))
        await ours.send_eof()
        await handshake_survives(server_tls.wrap(theirs))


@settings(max_examples=60, deadline=None)
@given(edits=changes)
async def test_a_changed_hello_to_a_client(edits: list[tuple[float, int, bytes]]):
    server_tls, channel_tls = sides()
    ours, theirs = memory_transport_pair()
    client = TLSByteStream(ours, channel_tls._context._context, hostname="localhost")
    server = TLSByteStream(theirs, server_tls._context._context)
    async with ours, theirs:
        client._try_handshake()
        server._incoming.write(client._outgoing.read())
        server._try_handshake()
        await theirs.send(changed(server._outgoing.read(), edits))
        await theirs.send_eof()
        await handshake_survives(client)


@settings(max_examples=60, deadline=None)
@given(edits=changes, messages=st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=4))
async def test_changed_records_of_a_connection(edits: list[tuple[float, int, bytes]], messages: list[bytes]):
    """The receiver gets a beginning of what was sent, and then an end or a declared error."""
    server_tls, channel_tls = sides()
    ours, theirs = memory_transport_pair()
    client = TLSByteStream(ours, channel_tls._context._context, hostname="localhost")
    server = TLSByteStream(theirs, server_tls._context._context)
    async with ours, theirs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.handshake)
            tasks.start_soon(server.handshake)
        for message in messages:
            client._engine.write(message)
        await ours.send(changed(client._outgoing.read(), edits))
        await ours.send_eof()
        received = b""
        try:
            with anyio.fail_after(PATIENCE):
                while True:
                    received += await server.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            assert b"".join(messages).startswith(received)
