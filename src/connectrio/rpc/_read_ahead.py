"""Reading from sockets: what anyio's streams do differently from what a connection needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from anyio.abc import AnyByteStream, SocketAttribute, UNIXSocketStream

Receive = Callable[..., Awaitable[bytes]]


def stop_reading_ahead(transport: AnyByteStream) -> None:
    """Let a stream that was accepted read only while somebody waits in `receive`, as streams that connected do.

    On asyncio and uvloop, the socket of an accepted stream (anyio 4.16) is read from the start, and paused only after
    the first `receive` that had to wait. A peer that sends without pause never lets it come to that: all it sends piles
    up in memory, hundreds of megabytes a second.
    """
    pause = getattr(getattr(transport, "_transport", None), "pause_reading", None)
    if pause is not None:
        pause()


def receiver(stream: AnyByteStream) -> Receive:
    """Return the function that receives from `stream`, and that may be cancelled at any moment.

    A `receive` of a Unix socket on asyncio and uvloop (anyio 4.16) that is cancelled in the turn in which bytes come
    makes the event loop report an `InvalidStateError`. `anyio.wait_readable` does not, so the waiting is done there.
    """
    if not isinstance(stream, UNIXSocketStream):
        return stream.receive
    raw_socket = stream.extra(SocketAttribute.raw_socket)

    async def receive(max_bytes: int = 65536) -> bytes:
        with suppress(ValueError):  # the socket is closed, as `receive` says
            await anyio.wait_readable(raw_socket)
        return await stream.receive(max_bytes)

    return receive
