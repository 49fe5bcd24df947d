"""TLS over a byte stream: the standard library's TLS engine between two buffers, and the tasks that move its bytes.

anyio's own TLS stream sends from whichever task happens to read or write, so that a connection's reader and its writer
can collide; and it cannot close one side.

Rules:
1. One task may receive while another sends. Only the sender writes to the transport: what TLS wants to say while
   receiving (the answer to a key update) goes out with the next message, as RFC 8446 §4.6.3 allows.
2. A transport that ends without close_notify has ended: HTTP/2 has its own marks for what is complete.
3. After `send_eof` what arrives is dropped.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import AnyByteStream, ByteStream
from anyio.streams.tls import TLSAttribute

from connectrio.rpc._read_ahead import prepare
from connectrio.rpc._tls.errors import HandshakeAbandonedError, TLSHandshakeError, explain

# seconds that a peer has to read why the handshake failed; closing at once could destroy the alert
_ALERT_LINGER = 1.0

# bytes that TLS may want to say while nothing is sent. The answer to a key update takes 27, and honest peers update
# their keys once in millions of records; without a bound, one that does nothing else would fill our memory
_MAX_UNASKED = 4096

_LOST = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class TLSByteStream(ByteStream):
    """A byte stream inside TLS; await `handshake` before anything else.

    :param transport: owned by this stream, and closed with it
    :param hostname: whom the server's certificate must name; None on the server's side
    :param timeout: seconds for the handshake
    """

    def __init__(
        self,
        transport: AnyByteStream,
        context: ssl.SSLContext,
        *,
        hostname: str | None = None,
        timeout: float = math.inf,
    ) -> None:
        prepare(transport)
        self._transport = transport
        self._timeout = timeout
        self._peer = "the client" if hostname is None else "the server"
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._engine = context.wrap_bio(
            self._incoming, self._outgoing, server_side=hostname is None, server_hostname=hostname
        )
        self._eof_sent = False
        self._is_torn = False  # a send was cancelled: the peer can make nothing of what would follow

    async def handshake(self) -> None:
        """Agree with the peer on keys, and to speak HTTP/2 (ALPN, RFC 7301). If that fails, the transport is closed.

        :raises TLSHandshakeError: it failed; the message says why
        """
        try:
            with anyio.fail_after(self._timeout):
                await self._shake_hands()
        except TLSHandshakeError:
            await self._take_leave()
            raise
        except TimeoutError as error:
            await anyio.aclose_forcefully(self._transport)
            reason = f"{self._peer} did not finish the TLS handshake within {self._timeout:g} seconds"
            raise TLSHandshakeError(reason) from error
        except BaseException:
            await anyio.aclose_forcefully(self._transport)
            raise

    async def _shake_hands(self) -> None:
        try:
            while not self._try_handshake():
                await self._flush()
                if not await self._fill():
                    raise HandshakeAbandonedError(f"{self._peer} closed the connection during the TLS handshake")
            await self._flush()
        except ssl.SSLError as error:
            raise TLSHandshakeError(explain(error, self._peer)) from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            reason = error.__cause__ or repr(error)
            raise TLSHandshakeError(f"the connection was lost during the TLS handshake: {reason}") from error
        if self._engine.selected_alpn_protocol() != "h2":
            raise TLSHandshakeError(f"{self._peer} did not agree to speak HTTP/2 (h2, by ALPN)")

    def _try_handshake(self) -> bool:
        try:
            self._engine.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def _take_leave(self) -> None:
        """Let the peer read the alert that says what TLS can say of a failure, and close."""
        try:
            # a peer that has gone is a RuntimeError on uvloop
            with suppress(*_LOST, RuntimeError), anyio.move_on_after(_ALERT_LINGER):
                await self.send_eof()
                await self._drop_the_rest()
        finally:
            await anyio.aclose_forcefully(self._transport)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """See `ByteStream.receive`. Cancelled while it waits, nothing is lost."""
        while not self._eof_sent:
            if self._outgoing.pending > _MAX_UNASKED:
                raise anyio.BrokenResourceError from ConnectionError(f"{self._peer} updates its keys without end")
            try:
                data = self._engine.read(max_bytes)
            except ssl.SSLWantReadError:
                if not await self._fill():
                    raise anyio.EndOfStream from None
            except ssl.SSLZeroReturnError:
                raise anyio.EndOfStream from None
            except ssl.SSLError as error:
                raise anyio.BrokenResourceError from ConnectionError(explain(error, self._peer))
            else:
                if not data:  # close_notify, as long as we have not said it
                    raise anyio.EndOfStream
                return data
        await self._drop_the_rest()
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        """See `ByteStream.send`. Cancelled while it waits, a part of a record may be missing: sending is over then."""
        if self._is_torn:
            raise anyio.BrokenResourceError
        try:
            self._engine.write(item)
        except ssl.SSLError as error:
            raise anyio.BrokenResourceError from ConnectionError(explain(error, self._peer))
        await self._flush()

    async def send_eof(self) -> None:
        """Say close_notify, and close our side of the transport. What arrives afterwards is dropped."""
        if self._eof_sent:
            return
        self._eof_sent = True
        with suppress(ssl.SSLError):  # it goes on to look for the peer's close_notify, which need not be here
            self._engine.unwrap()
        if not self._is_torn:
            await self._flush()
        await self._transport.send_eof()

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            self._is_torn = True
            await self._transport.send(self._outgoing.read())
            self._is_torn = False

    async def _fill(self) -> bool:
        """Wait for bytes from the peer; False when there will be none."""
        try:
            self._incoming.write(await self._transport.receive())
        except anyio.EndOfStream:
            return False
        return True

    async def _drop_the_rest(self) -> None:
        while await self._fill():
            self._incoming.read()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The transport's, and what `TLSAttribute` names."""
        engine = self._engine
        return {
            **self._transport.extra_attributes,
            TLSAttribute.alpn_protocol: engine.selected_alpn_protocol,
            TLSAttribute.cipher: engine.cipher,
            TLSAttribute.peer_certificate: lambda: engine.getpeercert(False),
            TLSAttribute.peer_certificate_binary: lambda: engine.getpeercert(True),
            TLSAttribute.server_side: lambda: engine.server_side,
            TLSAttribute.ssl_object: lambda: engine,
            TLSAttribute.tls_version: engine.version,
        }
