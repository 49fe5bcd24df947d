"""The bytes of a client's connection to the exporter, with or without TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint

__all__ = ["Transport"]

_CHUNK = 64 * 1024
# bytes that TLS may hold back while nothing is sent, see `connectrio.rpc.tls`
_MAX_PENDING_OUTPUT = 4096


class Transport:
    """A client's connection. One task may read while another one writes. What is lost raises OSError.

    :param accepted: closed by `close`
    :param context: of TLS; await `handshake` then, before anything else
    :ivar waits_since: since when the client is waited for, to send or to receive; None while it is not
    """

    def __init__(self, accepted: socket.socket, context: ssl.SSLContext | None = None) -> None:
        accepted.setblocking(False)
        self._socket = accepted
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._engine = None if context is None else context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.waits_since: float | None = None

    @property
    def scheme(self) -> str:
        """The scheme of the URLs of this port."""
        return "http" if self._engine is None else "https"

    @property
    def client(self) -> tuple[str, int]:
        """The (host, port) of the client."""
        host, port = self._socket.getpeername()[:2]
        return host, port

    async def handshake(self) -> None:
        """Agree with the client on keys, if this is with TLS.

        :raises ssl.SSLError: they do not agree
        :raises ConnectionError: the client has gone
        """
        if self._engine is None:
            return
        while True:
            try:
                self._engine.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                received = await self._receive()
                if not received:
                    raise ConnectionResetError("the client closed the connection during the TLS handshake") from None
                self._incoming.write(received)
            except ssl.SSLError:
                with suppress(OSError):
                    await self._flush()  # the alert
                raise
            else:
                await self._flush()
                return

    async def read(self) -> bytes:
        """Return what the client has sent; nothing at its end."""
        if self._engine is None:
            return await self._receive()
        while True:
            try:
                return self._engine.read(_CHUNK)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                if self._outgoing.pending > _MAX_PENDING_OUTPUT:
                    raise ConnectionResetError("the client updates its keys without end") from None
                received = await self._receive()
                if not received:
                    return b""
                self._incoming.write(received)

    async def write(self, data: bytes | bytearray) -> None:
        """Send all of `data`. If this is cancelled, nothing more can be sent."""
        if self._engine is None:
            await self._send(data)
        else:
            self._engine.write(data)
            await self._flush()

    async def write_plain(self, data: bytes) -> None:
        """Send `data` without TLS: to a client that does not speak it."""
        await self._send(data)

    async def wait_until_gone(self) -> None:
        """Drop what the client sends, until it sends nothing more. It does not count as waited for."""
        with suppress(OSError):
            while True:
                await anyio.wait_readable(self._socket)
                with suppress(BlockingIOError):
                    received = self._socket.recv(_CHUNK)
                    if not received or self._is_last(received):
                        return
                await checkpoint()

    async def linger(self, seconds: float) -> None:
        """Take what the client still sends: closed with unread bytes, the connection could lose the response."""
        self._socket.shutdown(socket.SHUT_WR)
        with anyio.move_on_after(seconds):
            while await self._receive():
                await checkpoint()

    def close(self) -> None:
        """Close the socket, and say so in TLS if that can be sent at once."""
        if self._engine is not None:
            with suppress(OSError):
                with suppress(ssl.SSLWantReadError):
                    self._engine.unwrap()
                self._socket.send(self._outgoing.read())
        self._socket.close()

    def _is_last(self, received: bytes) -> bool:
        """Drop what was received, and return whether TLS says that nothing follows."""
        if self._engine is None:
            return False
        self._incoming.write(received)
        try:
            while self._engine.read(_CHUNK):
                pass
        except ssl.SSLWantReadError:
            return self._outgoing.pending > _MAX_PENDING_OUTPUT
        return True

    async def _flush(self) -> None:
        await self._send(self._outgoing.read())

    async def _send(self, data: bytes | bytearray) -> None:
        unsent = memoryview(data)
        while unsent:
            try:
                unsent = unsent[self._socket.send(unsent) :]
            except BlockingIOError:
                await self._wait(anyio.wait_writable)

    async def _receive(self) -> bytes:
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
