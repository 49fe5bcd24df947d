"""An HTTP/1.1 server for small pages, on h11: GET and HEAD, with limits for what its clients can hold.

1. At most `_MAX_CONNECTIONS` connections are open. One more closes the one that has waited longest for its client.
2. A few file descriptors are held in reserve. When the process has no other left, the exporter uses those.
3. What a client may take of one connection is limited in `_connection.py`.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Callable, Sequence
from ssl import SSLContext

import anyio
from anyio.abc import TaskGroup

from connectrio.host.exporter._access import Access
from connectrio.host.exporter._asgi import Streams
from connectrio.host.exporter._connection import Answer, Connection
from connectrio.host.exporter._pages import Pages
from connectrio.host.exporter._transport import Transport
from connectrio.logs import get_logger
from connectrio.rpc.backoff import Backoff

__all__ = ["Access", "Pages", "serve_http"]

logger = get_logger("connectrio.host.exporter")

# probes and scrapes need a handful
_MAX_CONNECTIONS = 64
# held in reserve: for a liveness probe, a readiness probe and a scrape at once, and the files that a scrape reads
_RESERVED_DESCRIPTORS = 4
# seconds for requests in flight to be answered when the exporter stops; a scrape takes milliseconds
_GRACE = 1.0
# seconds
_ACCEPT_RETRY_DELAY = 0.1
_WARNING_INTERVAL = 60.0

# accept() errors that pass when connections or files are closed
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


async def serve_http(
    sockets: Sequence[socket.socket], answer: Answer, context: Callable[[], SSLContext] | None = None
) -> None:
    """Serve until cancelled. Requests in flight are then answered, within a second; idle connections and streams end
    at once.

    :param sockets: bound, listening, non-blocking; closed by the caller
    :param answer: returns the response to a request; what it raises becomes 500
    :param context: returns the TLS context for a new connection; None for a port without TLS
    """
    server = _Server(answer, context)
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

    def __init__(self, answer: Answer, context: Callable[[], SSLContext] | None) -> None:
        self._answer = answer
        self._context = context
        self._streams = Streams()
        self._connections: dict[Connection, None] = {}  # in the order of their beginning
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
            transport = Transport(accepted, None if self._context is None else self._context())
            connection = Connection(transport, self._answer, self._streams)
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

    async def _serve(self, connection: Connection) -> None:
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
        """Limit the time of the responses that are being sent, end the streams, and give the reserve back."""
        for each in self._connections:
            each.end_by(anyio.current_time() + _GRACE)
        self._reserve_size = 0
        for descriptor in self._reserve:
            os.close(descriptor)
        self._reserve.clear()
