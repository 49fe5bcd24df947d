"""What anyio's socket streams do differently from what a connection needs."""

from __future__ import annotations

from functools import partial
from typing import Any

from anyio.abc import AnyByteStream, SocketAttribute


def prepare(transport: AnyByteStream) -> None:
    """Let a socket stream read only what is asked for, and be cancelled at any moment."""
    _stop_reading_ahead(transport)
    _settle_once(transport)


def _stop_reading_ahead(transport: AnyByteStream) -> None:
    """Let a stream that was accepted read only while somebody waits in `receive`, as streams that connected do.

    On asyncio and uvloop, the socket of an accepted stream (anyio 4.16) is read from the start, and paused only after
    the first `receive` that had to wait. A peer that sends without pause never lets it come to that: all it sends piles
    up in memory, hundreds of megabytes a second.
    """
    pause = getattr(getattr(transport, "_transport", None), "pause_reading", None)
    if pause is not None:
        pause()


def _settle_once(transport: AnyByteStream) -> None:
    """Let a Unix socket that becomes ready settle a future only if nothing else has.

    On asyncio and uvloop, `receive` and `send` of Unix sockets (anyio 4.16) wait for a future whose `set_result` the
    event loop calls when the socket is ready. Where they are cancelled in that very turn, the future is cancelled
    already, and the event loop reports an `InvalidStateError`.
    """
    for direction, future, add, remove in (
        ("readable", "_receive_future", "add_reader", "remove_reader"),
        ("writable", "_send_future", "add_writer", "remove_writer"),
    ):
        name = f"_wait_until_{direction}"
        if hasattr(transport, name):
            setattr(transport, name, partial(_wait, transport, future, add, remove))


def _wait(transport: AnyByteStream, future: str, add: str, remove: str, loop: Any) -> Any:
    """Return a future that is done when the socket is ready. `aclose` of the stream knows it as attribute `future`."""
    raw_socket = transport.extra(SocketAttribute.raw_socket)
    ready = loop.create_future()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    def stop(_: object) -> None:
        delattr(transport, future)
        getattr(loop, remove)(raw_socket)

    setattr(transport, future, ready)
    getattr(loop, add)(raw_socket, settle)
    ready.add_done_callback(stop)
    return ready
