"""Run an ASGI application (version 3) for one request of the exporter's HTTP server.

An application sends either a response of a known length, whole or in parts, or a stream without one, as server-sent
events are. A stream lasts until its client leaves or takes nothing for a while, or the exporter stops.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote

import anyio

from connectrio.host.exporter._failed import FailedRequests
from connectrio.host.exporter._messages import Request, Response, plain
from connectrio.logs import get_logger

__all__ = ["Application", "Exchange", "Hosted", "Streams"]

logger = get_logger("connectrio.host.exporter")

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
Headers = list[tuple[bytes, bytes]]

# of the connections that the server may have: the others stay for probes and scrapes
_MAX_STREAMS = 16
# the server sets these itself
_OF_THE_CONNECTION = {b"connection", b"keep-alive", b"transfer-encoding", b"date"}


@dataclass(frozen=True)
class Hosted:
    """The answer to a request: what `application` sends.

    :ivar headers: added to the response, unless the application sets them
    """

    application: Application
    headers: Sequence[tuple[str, str]] = ()


@dataclass
class Streams:
    """What the responses of applications have in common.

    :ivar open: how many streams are open
    :ivar failed: logs the requests that fail
    """

    open: int = 0
    failed: FailedRequests = field(default_factory=FailedRequests)


class Sender(Protocol):
    """The connection that a response goes to."""

    async def send_head(self, status: int, headers: Headers, *, close: bool) -> None:
        """Send the status and the headers."""

    async def send_data(self, data: bytes, *, last: bool) -> None:
        """Send a part of the body."""

    def becomes_stream(self) -> None:
        """Let the response last; only the time for each part is limited from here on."""

    async def wait_until_gone(self) -> None:
        """Return when the client has gone."""


class Exchange:
    """A request, and the response of an application to it.

    :ivar error: the response in place of the application's, if that has failed before it sent anything
    :ivar is_whole: whether the whole response was sent
    """

    def __init__(self, request: Request, hosted: Hosted, sender: Sender, streams: Streams) -> None:
        self._request = request
        self._hosted = hosted
        self._sender = sender
        self._streams = streams
        self._head: tuple[int, Headers] | None = None
        self._is_started = False
        self._is_stream = False
        self._is_lost = False
        self._was_asked = False
        self._tasks = anyio.create_task_group()
        self.error: Response | None = None
        self.is_whole = False

    async def run(self) -> None:
        """Run the application until it has answered, or the client has left. What it raises is logged."""
        try:
            async with self._tasks:
                await self._call()
                self._tasks.cancel_scope.cancel()
        finally:
            self._streams.open -= self._is_stream
        if not self._is_started and self.error is None and not self._is_lost:
            logger.error("the exporter's application sent no response", path=self._request.path)
            self.error = plain(500, "the request failed; see the host's log")

    async def _call(self) -> None:
        try:
            await self._hosted.application(self._scope(), self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - it is the application's, and is logged
            if self._is_lost or self.error is not None:
                return
            self._streams.failed.log(self._request.path, error)
            if not self._is_started:
                self.error = plain(500, "the request failed; see the host's log")

    def _scope(self) -> MutableMapping[str, Any]:
        request = self._request
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version,
            "method": request.method,
            "scheme": request.scheme,
            "path": unquote(request.path),
            "raw_path": request.path.encode("latin-1"),
            "query_string": request.query.encode("latin-1"),
            "root_path": "",
            "headers": list(request.headers),
            "client": request.client,
            "server": None,
        }

    async def _receive(self) -> Message:
        """Return an empty body, whatever the request has. An application is cancelled when its client leaves."""
        if self._was_asked:
            await anyio.sleep_forever()
        self._was_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._head is not None:
                raise RuntimeError("the application has started its response already")
            headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
            self._head = message["status"], [each for each in headers if each[0] not in _OF_THE_CONNECTION]
        elif message["type"] == "http.response.body":
            await self._send_body(bytes(message.get("body", b"")), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"the application sent {message['type']!r}; only HTTP responses can be sent")

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._head is None or self.is_whole:
            raise RuntimeError("the application sent a body before its response, or after the end")
        try:
            if not self._is_started and not await self._start(*self._head, body, more=more):
                return
            await self._sender.send_data(b"" if self._request.method == "HEAD" else body, last=not more)
            self.is_whole = not more
        except OSError:
            self._is_lost = True
            raise

    async def _start(self, status: int, headers: Headers, body: bytes, *, more: bool) -> bool:
        """Send the head. Return False if the response ends with it."""
        names = {name for name, _ in headers}
        if b"content-length" not in names:
            if not more:
                headers.append((b"content-length", str(len(body)).encode()))
            elif self._request.method != "HEAD" and not self._may_stream():
                self._tasks.cancel_scope.cancel()
                return False
        added = [(name.encode(), value.encode()) for name, value in self._hosted.headers]
        headers += [(name, value) for name, value in added if name not in names]
        await self._sender.send_head(status, headers, close=self._is_stream)
        self._is_started = True
        if self._request.method == "HEAD" and more:
            await self._sender.send_data(b"", last=True)
            self.is_whole = True
            self._tasks.cancel_scope.cancel()
        return not self.is_whole

    def _may_stream(self) -> bool:
        if self._streams.open >= _MAX_STREAMS:
            self.error = plain(503, f"{_MAX_STREAMS} streams are open already", ("retry-after", "10"))
            return False
        self._streams.open += 1
        self._is_stream = True
        self._sender.becomes_stream()
        self._tasks.start_soon(self._end_with_client)
        return True

    async def _end_with_client(self) -> None:
        await self._sender.wait_until_gone()
        self._is_lost = True
        self._tasks.cancel_scope.cancel()
