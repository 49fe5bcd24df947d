"""A client's connection to the exporter: HTTP/1.1 on h11, one request after the other.

1. A client has `_REQUEST_TIMEOUT` to send a request, and `_RESPONSE_TIMEOUT` to take the response; of a stream, to take
   each part.
2. A request's body is not read: the connection is closed behind the response.
3. What goes wrong with a request is logged, and answered with 500; other requests are answered as usual.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate

import anyio
import h11
from anyio.lowlevel import checkpoint

from connectrio.host.exporter._asgi import Exchange, Headers, Hosted, Streams
from connectrio.host.exporter._messages import Request, Response, plain
from connectrio.host.exporter._transport import Transport
from connectrio.logs import get_logger

__all__ = ["Answer", "Connection"]

logger = get_logger("connectrio.host.exporter")

Answer = Callable[[Request], Awaitable[Response | Hosted]]

# bytes of a request's line and headers
_MAX_HEAD_SIZE = 16 * 1024
# seconds; also for a connection that is kept open between two requests, and for the TLS handshake
_REQUEST_TIMEOUT = 10.0
_RESPONSE_TIMEOUT = 10.0
# seconds for a client that still sends to see the response
_LINGER = 1.0
_NEEDS_TLS = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n"
    b"400 Bad Request: this port is with TLS; use https://\n"
)


class Connection:
    """A client's connection."""

    def __init__(self, transport: Transport, answer: Answer, streams: Streams) -> None:
        self._transport = transport
        self._answer = answer
        self._streams = streams
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_SIZE)
        self._scope = anyio.CancelScope()
        # what is being answered goes on for a moment when the exporter stops
        self._response_scope = anyio.CancelScope()
        self._ends_at = math.inf
        self._is_stream = False
        self._closes = False

    @property
    def waits_since(self) -> float | None:
        """Since when the client is waited for, to send or to receive; None while it is not."""
        return self._transport.waits_since

    async def serve(self) -> None:
        """Answer requests until the client leaves or is too slow."""
        with self._scope:
            try:
                if not await self._secure():
                    return
                while await self._serve_request():
                    await checkpoint()
            except OSError:
                return  # the client has gone
            except Exception:
                logger.exception("a connection to the exporter failed")

    def cancel(self) -> None:
        """End this connection at once."""
        self._scope.cancel()
        self._response_scope.cancel()

    def end_by(self, deadline: float) -> None:
        """Stop sending at `deadline`, a time of the event loop's clock. A stream ends at once."""
        self._ends_at = deadline
        self._response_scope.deadline = min(self._response_scope.deadline, deadline)
        if self._is_stream:
            self._response_scope.cancel()

    def close(self) -> None:
        """Close the socket."""
        self._transport.close()

    async def _secure(self) -> bool:
        """Do the TLS handshake, where the port is with TLS. Return whether that was possible."""
        done = False
        with anyio.move_on_after(_REQUEST_TIMEOUT):
            try:
                await self._transport.handshake()
                done = True
            except ssl.SSLError as error:
                logger.debug("a connection to the exporter failed in the TLS handshake", error=str(error))
                if error.reason == "HTTP_REQUEST":
                    await self._transport.write_plain(_NEEDS_TLS)
                with suppress(OSError):
                    await self._transport.linger(_LINGER)
        return done

    async def _serve_request(self) -> bool:
        """Receive a request and answer it. Return whether another one may follow."""
        received: Request | Response | None = None
        is_whole = False
        with anyio.move_on_after(_REQUEST_TIMEOUT):
            received, is_whole = await self._receive()
        if received is None:
            return False
        deadline = min(anyio.current_time() + _RESPONSE_TIMEOUT, self._ends_at)
        with anyio.CancelScope(shield=True, deadline=deadline) as self._response_scope:
            answer = received if isinstance(received, Response) else await self._respond(received, close=not is_whole)
            if answer is not None:
                has_body = isinstance(received, Response) or received.method != "HEAD"
                await self._send(answer, has_body=has_body, close=not is_whole)
            if self._protocol.our_state is h11.DONE:
                self._protocol.start_next_cycle()
                return True
        if not is_whole and not self._response_scope.cancelled_caught:
            await self._transport.linger(_LINGER)
        return False

    async def _receive(self) -> tuple[Request | Response | None, bool]:
        """Return the next request, or the response to what is none, or None if the client has closed the connection.

        Also return whether this was the whole request. A body is not read.
        """
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._transport.read())
            if isinstance(event, h11.Request):
                return self._request(event), isinstance(self._protocol.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError as error:
            return plain(error.error_status_hint, str(error)), False
        return None, False

    def _request(self, event: h11.Request) -> Request:
        path, _, query = event.target.decode("latin-1").partition("?")
        return Request(
            event.method.decode("latin-1"),
            path,
            query,
            tuple(event.headers),
            http_version=event.http_version.decode("latin-1"),
            scheme=self._transport.scheme,
            client=self._transport.client,
        )

    async def _respond(self, request: Request, *, close: bool) -> Response | None:
        """Return the response to a request; None if an application has sent it."""
        try:
            answer = await self._answer(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged
            self._streams.failed.log(request.path, error)
            return plain(500, "the request failed; see the host's log")
        if isinstance(answer, Response):
            return answer
        self._closes = close
        exchange = Exchange(request, answer, self, self._streams)
        await exchange.run()
        return exchange.error

    async def _send(self, response: Response, *, has_body: bool, close: bool) -> None:
        headers = [
            ("date", formatdate(usegmt=True)),
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            *response.headers,
            *([("connection", "close")] if close else []),
        ]
        message = bytearray(self._protocol.send(h11.Response(status_code=response.status, headers=headers)) or b"")
        if has_body:
            message += self._protocol.send(h11.Data(response.body)) or b""
        message += self._protocol.send(h11.EndOfMessage()) or b""
        await self._transport.write(message)

    # what an application sends

    async def send_head(self, status: int, headers: Headers, *, close: bool) -> None:
        """Send the status and the headers of a response."""
        sent = [(b"date", formatdate(usegmt=True).encode()), *headers]
        if close or self._closes:
            sent.append((b"connection", b"close"))
        await self._transport.write(self._protocol.send(h11.Response(status_code=status, headers=sent)) or b"")

    async def send_data(self, data: bytes, *, last: bool) -> None:
        """Send a part of the body. A stream whose client does not take it in time ends."""
        message = bytearray(self._protocol.send(h11.Data(data)) or b"") if data else bytearray()
        if last:
            message += self._protocol.send(h11.EndOfMessage()) or b""
        with anyio.move_on_after(_RESPONSE_TIMEOUT) as taking:
            await self._transport.write(message)
        if taking.cancelled_caught:
            raise ConnectionAbortedError("the client does not take the response")

    def becomes_stream(self) -> None:
        """Let the response last; only the time for each part is limited from here on."""
        self._is_stream = True
        self._response_scope.deadline = self._ends_at
        if self._ends_at < math.inf:
            self._response_scope.cancel()

    async def wait_until_gone(self) -> None:
        """Return when the client has gone."""
        await self._transport.wait_until_gone()
