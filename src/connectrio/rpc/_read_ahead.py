"""Keeping a socket from being read faster than somebody takes what was read."""

from __future__ import annotations

from anyio.abc import AnyByteStream


def stop_reading_ahead(transport: AnyByteStream) -> None:
    """Let a stream that was accepted read only while somebody waits in `receive`, as streams that connected do.

    On asyncio and uvloop, the socket of an accepted stream (anyio 4.16) is read from the start, and paused only after
    the first `receive` that had to wait. A peer that sends without pause never lets it come to that: all it sends piles
    up in memory, hundreds of megabytes a second.
    """
    pause = getattr(getattr(transport, "_transport", None), "pause_reading", None)
    if pause is not None:
        pause()
