"""grpcio's client at its busiest against our server: many streams at once, large messages both ways."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio import to_thread

from connectrio.rpc import Server, ServerOptions
from connectrio.rpc.options import MIB
from rpc.kit.script import BIDI, UNARY, Script

grpc = pytest.importorskip("grpc", reason="needs the package grpcio")

STREAMS = 100
TIMEOUT = 60
UNLIMITED = [("grpc.max_receive_message_length", -1)]


def hold_open(channel: Any) -> None:
    """A hundred streams that are all open at once before any of them may end."""
    everyone_is_here = threading.Event()

    def words(number: int) -> Iterator[bytes]:
        yield b"%d" % number
        everyone_is_here.wait(TIMEOUT)
        yield b"bye %d" % number

    calls = [channel.stream_stream(BIDI)(words(number), timeout=TIMEOUT) for number in range(STREAMS)]
    assert [next(call) for call in calls] == [b"%d" % number for number in range(STREAMS)]
    everyone_is_here.set()
    assert [list(call) for call in calls] == [[b"bye %d" % number] for number in range(STREAMS)]


def exchange_large_messages(channel: Any) -> None:
    """Larger than any window: 20 MB each way in one message, and in ten messages of a stream."""
    large = b"x" * (20 * MIB)
    assert channel.unary_unary(UNARY)(large, timeout=TIMEOUT) == large
    part = b"y" * (2 * MIB)
    assert list(channel.stream_stream(BIDI)(iter([part] * 10), timeout=TIMEOUT)) == [part] * 10


@pytest.mark.parametrize("play", [hold_open, exchange_large_messages])
async def test_grpcio(play):
    def connected(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
            play(channel)

    async with anyio.create_task_group() as tasks:
        server = Server([Script()], options=ServerOptions(max_receive_message_size=32 * MIB))
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        [(_, port)] = await tasks.start(server.serve, listener)
        await to_thread.run_sync(connected, port)
        await server.shutdown(grace=5)
        assert server.active_calls == 0
