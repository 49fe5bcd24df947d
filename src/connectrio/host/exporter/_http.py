"""An HTTP/1.1 server for small pages, on h11: GET and HEAD, with limits for what its clients can hold.

1. At most `_MAX_CONNECTIONS` connections are open. One more closes the one that has waited longest for its client.
2. A client has `_REQUEST_TIMEOUT` to send a request, and `_RESPONSE_TIMEOUT` to take the response.
3. A few file descriptors are held in reserve. When the process has no other left, the exporter uses those.
4. What goes wrong with a request is logged, and answered with 500; other requests are answered as usual.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate

import anyio
import h11
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from connectrio.host.exporter._pages import Pages, Request, Response, plain
from connectrio.logs import get_logger
from connectrio.rpc.backoff import Backoff

__all__ = ["Pages", "serve_http"]

logger = get_logger("connectrio.host.exporter")

Answer = Callable[[Request], Awaitable[Response]]

# probes and scrapes need a handful
_MAX_CONNECTIONS = 64
# held in reserve: for a liveness probe, a readiness probe and a scrape at once, and the files that a scrape reads
_RESERVED_DESCRIPTORS = 4
# bytes of a request's line and headers
_MAX_HEAD_SIZE = 16 * 1024
_CHUNK = 64 * 1024
# seconds; also for a connection that is kept open between two requests
_REQUEST_TIMEOUT = 10.0
_RESPONSE_TIMEOUT = 10.0
# seconds for a client that still sends to see the response
_LINGER = 1.0
# seconds for requests in flight to be answered when the exporter stops; a scrape takes milliseconds
_GRACE = 1.0
# seconds
_ACCEPT_RETRY_DELAY = 0.1
_WARNING_INTERVAL = 60.0

# accept() errors that pass when connections or files are closed
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


async def serve_http(sockets: Sequence[socket.socket], answer: Answer) -> None:
    """Serve until cancelled. Requests in flight are then answered, within a second; idle connections close at once.

    :param sockets: bound, listening, non-blocking; closed by the caller
    :param answer: returns the response to a request; what it raises becomes 500
    """
    server = _Server(answer)
    async with anyio.create_task_group() as tasks:
        for each in sockets:
            tasks.start_soon(server.accept, each, tasks)
        try:
            await anyio.sleep_forever()
        finally:
            server.stop()


class _NoRoomError(Exception):
    """A connection can be accepted when another one is closed."""


class _Server:
    """The open connections, and the file descriptors in reserve for more."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._connections: dict[_Connection, None] = {}  # in the order of their beginning
        self._ended = anyio.Event()
        self._reserve: list[int] = []
        self._reserve_size = _RESERVED_DESCRIPTORS
        self._warned_at = -math.inf
        self._fill_reserve()

    async def accept(self, listening: socket.socket, tasks: TaskGroup) -> None:
        """Accept connections until cancelled, and serve each in a task of `tasks`."""
        backoff = Backoff(_ACCEPT_RETRY_DELAY, factor=2, maximum=60)
        while True:
            try:
                await anyio.wait_readable(listening)
                accepted = self._accept(listening)
            except BlockingIOError:
                continue  # the watchdog's thread has taken it
            except _NoRoomError:
                await self._make_room()
                continue
            except Exception:
                delay = backoff.next()
                logger.exception("the exporter cannot accept connections; it tries again", delay_seconds=delay)
                await anyio.sleep(delay)
                continue
            backoff.reset()
            connection = _Connection(accepted, self._answer)
            self._connections[connection] = None
            tasks.start_soon(self._serve, connection)

    def _accept(self, listening: socket.socket) -> socket.socket:
        """Accept a connection, with a file descriptor of the reserve if there is no other.

        Nothing is awaited between giving it back and using it, or a connection to the gRPC server would get it.

        :raises BlockingIOError: none waits
        :raises _NoRoomError: there are as many connections as may be, or the reserve is used up
        """
        if len(self._connections) >= _MAX_CONNECTIONS:
            raise _NoRoomError
        while True:
            try:
                return listening.accept()[0]
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                if anyio.current_time() - self._warned_at > _WARNING_INTERVAL:
                    self._warned_at = anyio.current_time()
                    logger.warning(
                        "no file descriptor is left; the exporter uses those that it has in reserve",
                        error=str(error),
                        reserve=len(self._reserve),
                    )
                if not self._reserve:
                    raise _NoRoomError from error
                os.close(self._reserve.pop())

    async def _make_room(self) -> None:
        """Close the connection that has waited longest for its client, and wait until a connection has ended.

        One that has just been accepted does not count as waiting until it has been read from.
        """
        waiting = [each for each in self._connections if each.waits_since is not None]
        if waiting:
            min(waiting, key=lambda each: each.waits_since or 0.0).cancel()
        with anyio.move_on_after(_ACCEPT_RETRY_DELAY):
            await self._ended.wait()
        self._fill_reserve()  # other threads may have taken what was given back

    async def _serve(self, connection: _Connection) -> None:
        try:
            await connection.serve()
        finally:
            # with no await in between, so that no one else gets the file descriptor
            connection.close()
            self._fill_reserve()
            del self._connections[connection]
            self._ended.set()
            self._ended = anyio.Event()

    def _fill_reserve(self) -> None:
        while len(self._reserve) < self._reserve_size:
            try:
                self._reserve.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                return

    def stop(self) -> None:
        """Limit the time of the responses that are being sent, and give the reserve back."""
        for each in self._connections:
            each.end_by(anyio.current_time() + _GRACE)
        self._reserve_size = 0
        for descriptor in self._reserve:
            os.close(descriptor)
        self._reserve.clear()


class _Connection:
    """A client's connection.

    :ivar waits_since: since when the client is waited for, to send or to receive; None while it is not
    """

    def __init__(self, accepted: socket.socket, answer: Answer) -> None:
        accepted.setblocking(False)
        self._socket = accepted
        self._answer = answer
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_SIZE)
        self._scope = anyio.CancelScope()
        # what is being answered goes on for a moment when the exporter stops
        self._response_scope = anyio.CancelScope()
        self.waits_since: float | None = None

    async def serve(self) -> None:
        """Answer requests until the client leaves or is too slow."""
        with self._scope:
            try:
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
        """Stop sending at `deadline`, a time of the event loop's clock."""
        self._response_scope.deadline = min(self._response_scope.deadline, deadline)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def _serve_request(self) -> bool:
        """Receive a request and answer it. Return whether another one may follow."""
        received: h11.Request | Response | None = None
        is_whole = False
        with anyio.move_on_after(_REQUEST_TIMEOUT):
            received, is_whole = await self._receive()
        if received is None:
            return False
        deadline = anyio.current_time() + _RESPONSE_TIMEOUT
        with anyio.CancelScope(shield=True, deadline=deadline) as self._response_scope:
            response = received if isinstance(received, Response) else await self._respond(received)
            has_body = isinstance(received, Response) or received.method != b"HEAD"
            await self._send(response, has_body=has_body, close=not is_whole)
            if self._protocol.our_state is h11.DONE:
                self._protocol.start_next_cycle()
                return True
        if not is_whole:
            await self._linger()
        return False

    async def _receive(self) -> tuple[h11.Request | Response | None, bool]:
        """Return the next request, or the response to what is none, or None if the client has closed the connection.

        Also return whether this was the whole request. A body is not read.
        """
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._read())
            if isinstance(event, h11.Request):
                return event, isinstance(self._protocol.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError as error:
            return plain(error.error_status_hint, str(error)), False
        return None, False

    async def _respond(self, request: h11.Request) -> Response:
        path, _, query = request.target.decode("latin-1").partition("?")
        accept = b",".join(value for name, value in request.headers if name == b"accept")
        try:
            return await self._answer(Request(request.method.decode("latin-1"), path, query, accept.decode("latin-1")))
        except Exception:
            logger.exception("a request to the exporter failed", path=path)
            return plain(500, "the request failed; see the host's log")

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
        unsent = memoryview(message)
        while unsent:
            try:
                unsent = unsent[self._socket.send(unsent) :]
            except BlockingIOError:
                await self._wait(anyio.wait_writable)

    async def _read(self) -> bytes:
        """Return what the client has sent; nothing at its end."""
        while True:
            try:
                return self._socket.recv(_CHUNK)
            except BlockingIOError:
                await self._wait(anyio.wait_readable)

    async def _wait(self, until: Callable[[socket.socket], Awaitable[None]]) -> None:
        self.waits_since = anyio.current_time()
        try:
            await until(self._socket)
        finally:
            self.waits_since = None

    async def _linger(self) -> None:
        """Take what the client still sends: closed with unread bytes, the connection could lose the response."""
        self._socket.shutdown(socket.SHUT_WR)
        with anyio.move_on_after(_LINGER):
            while await self._read():
                await checkpoint()
