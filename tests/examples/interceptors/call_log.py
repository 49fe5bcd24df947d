"""A line in the log for each call of a server or of a channel, with the number of its messages."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from connectrio.rpc import Call, MessageStream, Proceed, StreamWrapper

log = logging.getLogger("calls")


class Counted(StreamWrapper):
    """Counts the messages that pass."""

    def __init__(self, inner: MessageStream) -> None:
        super().__init__(inner)
        self.sent = self.received = 0

    async def send_message(self, message: Any, **options: Any) -> None:
        await super().send_message(message, **options)
        self.sent += 1

    async def recv_message(self) -> Any:
        message = await super().recv_message()
        if message is not None:
            self.received += 1
        return message


@asynccontextmanager
async def log_calls(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    """Log each call at its end, however it ends."""
    began = time.perf_counter()
    counted = None
    try:
        async with proceed() as stream:
            counted = Counted(stream)
            yield counted
    finally:
        sent, received = (counted.sent, counted.received) if counted else (0, 0)
        log.info(
            "%s: %s after %.3f s, %d sent, %d received%s",
            call.method,
            call.status.name,
            time.perf_counter() - began,
            sent,
            received,
            f" ({call.status_message})" if call.status_message else "",
        )
