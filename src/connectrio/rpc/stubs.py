"""Bidirectional betterproto stubs without asyncio.

betterproto2's `ServiceStub._stream_stream` sends with `asyncio.ensure_future`: a task that nobody owns, and on trio an
error. Calls on our channel send in the channel's task group instead; stubs on other channels are not touched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import wraps
from typing import Any

import anyio
from betterproto2.grpclib import ServiceStub
from grpclib.const import Cardinality


async def _stream_stream(
    stub: ServiceStub,
    route: str,
    messages: Any,
    request_type: type[Any],
    response_type: type[Any],
    *,
    timeout: float | None,  # noqa: ASYNC109 - betterproto's signature
    deadline: Any,
    metadata: Any,
) -> AsyncIterator[Any]:
    async with stub.channel.request(
        route,
        Cardinality.STREAM_STREAM,
        request_type,
        response_type,
        timeout=stub.timeout if timeout is None else timeout,
        deadline=stub.deadline if deadline is None else deadline,
        metadata=stub.metadata if metadata is None else metadata,
    ) as stream:
        sender = _Sender(stream, messages)
        await stream.send_request()
        stub.channel.start_soon(sender.run)  # type: ignore[attr-defined]  # it is our channel
        try:
            async for message in stream:
                yield message
        finally:
            sender.scope.cancel()
            if sender.error is not None:
                raise sender.error


class _Sender:
    """Sends a call's messages while somebody else receives; what the messages' source raises reaches the receiver."""

    def __init__(self, stream: Any, messages: Any) -> None:
        self.scope = anyio.CancelScope()
        self.error: Exception | None = None
        self._stream = stream
        self._messages = messages

    async def run(self) -> None:
        """Send until the messages or the call are at their end."""
        with self.scope:
            try:
                await self._stream.send_all(self._messages)
            except Exception as error:  # noqa: BLE001 - it is the caller's iterator, and the caller's error
                self.error = error
                await self._stream.cancel()


def serve_bidirectional_stubs() -> None:
    """Make `ServiceStub._stream_stream` work on our channels; calling it again changes nothing."""
    original: Callable[..., AsyncIterator[Any]] = ServiceStub._stream_stream  # noqa: SLF001 - see above
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def stream_stream(stub: ServiceStub, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        from connectrio.rpc.channel import Channel, WhenReady

        channel: object = stub.channel
        chosen = _stream_stream if isinstance(channel, Channel | WhenReady) else original
        return chosen(stub, *args, **kwargs)

    ServiceStub._stream_stream = stream_stream  # type: ignore[method-assign,assignment]  # noqa: SLF001 - see above
