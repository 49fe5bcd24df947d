"""TLS over any byte stream: the standard library's TLS engine between two buffers.

anyio's own TLS stream sends from whichever task reads or writes, so that a connection's reader and its writer can
collide; and it cannot close one side.

Rules:
1. One task may receive while another sends. Only the sender writes to the transport: what the engine has to send while
   receiving (the answer to a key update) goes out with the next message, as RFC 8446 §4.6.3 allows.
2. A transport that ends without close_notify counts as ended: HTTP/2 marks itself what is complete.
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

from connectrio.rpc.sockets import prepare

# seconds that a peer gets to read why the handshake failed; closing at once could destroy the alert
_ALERT_LINGER = 1.0

# bytes that TLS may hold back while nothing is sent. The answer to a key update takes 27, and honest peers update their
# keys once in millions of records; without a bound, a peer that does nothing else would fill our memory
_MAX_PENDING_OUTPUT = 4096

_LOST = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class TLSHandshakeError(ConnectionError):
    """The TLS handshake failed; the message says why."""


class HandshakeAbandonedError(TLSHandshakeError):
    """The peer closed the connection during the handshake, as probes do that only check whether a server listens."""


class TLSByteStream(ByteStream):
    """A byte stream inside TLS; await `handshake` before anything else.

    :param transport: owned by this stream, and closed with it
    :param hostname: the name that the server's certificate must have; None on the server's side
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
        self._is_send_broken = False  # a send was cancelled: the peer could not decrypt what would follow

    async def handshake(self) -> None:
        """Agree with the peer on keys and on HTTP/2 (ALPN, RFC 7301). If that fails, the transport is closed.

        :raises TLSHandshakeError: the message says why
        """
        try:
            with anyio.fail_after(self._timeout):
                await self._do_handshake()
        except TLSHandshakeError:
            await self._close_after_alert()
            raise
        except TimeoutError as error:
            await anyio.aclose_forcefully(self._transport)
            reason = f"{self._peer} did not finish the TLS handshake within {self._timeout:g} seconds"
            raise TLSHandshakeError(reason) from error
        except BaseException:
            await anyio.aclose_forcefully(self._transport)
            raise

    async def _do_handshake(self) -> None:
        try:
            while not self._try_handshake():
                await self._flush()
                if not await self._fill_incoming():
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
        """Continue the handshake as far as the received bytes allow; return whether it is done."""
        try:
            self._engine.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def _close_after_alert(self) -> None:
        """Give the peer time to read the alert about the failure, and close."""
        try:
            # a peer that has gone is a RuntimeError on uvloop
            with suppress(*_LOST, RuntimeError), anyio.move_on_after(_ALERT_LINGER):
                await self.send_eof()
                await self._discard_until_eof()
        finally:
            await anyio.aclose_forcefully(self._transport)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes, at most `max_bytes`. Cancelled while it waits, nothing is lost.

        :raises EndOfStream: the peer sends nothing more
        :raises BrokenResourceError: the connection is lost, or the peer broke the TLS protocol
        """
        while not self._eof_sent:
            if self._outgoing.pending > _MAX_PENDING_OUTPUT:
                raise anyio.BrokenResourceError from ConnectionError(f"{self._peer} updates its keys without end")
            try:
                data = self._engine.read(max_bytes)
            except ssl.SSLWantReadError:
                if not await self._fill_incoming():
                    raise anyio.EndOfStream from None
            except ssl.SSLZeroReturnError:
                raise anyio.EndOfStream from None
            except ssl.SSLError as error:
                raise anyio.BrokenResourceError from ConnectionError(explain(error, self._peer))
            else:
                if not data:  # the peer's close_notify, while ours is not sent
                    raise anyio.EndOfStream
                return data
        await self._discard_until_eof()
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        """Send all of `item`. Cancelled while it waits, a record may be cut off, so that nothing can be sent any more.

        :raises BrokenResourceError: the connection is lost, or an earlier send was cancelled
        """
        if self._is_send_broken:
            raise anyio.BrokenResourceError
        try:
            self._engine.write(item)
        except ssl.SSLError as error:
            raise anyio.BrokenResourceError from ConnectionError(explain(error, self._peer))
        await self._flush()

    async def send_eof(self) -> None:
        """Send close_notify, and close our side of the transport. What arrives afterwards is dropped."""
        if self._eof_sent:
            return
        self._eof_sent = True
        with suppress(ssl.SSLError):  # it also looks for the peer's close_notify, which need not be here
            self._engine.unwrap()
        if not self._is_send_broken:
            await self._flush()
        await self._transport.send_eof()

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            self._is_send_broken = True
            await self._transport.send(self._outgoing.read())
            self._is_send_broken = False

    async def _fill_incoming(self) -> bool:
        """Wait for bytes from the peer; return whether any came before the end."""
        try:
            self._incoming.write(await self._transport.receive())
        except anyio.EndOfStream:
            return False
        return True

    async def _discard_until_eof(self) -> None:
        while await self._fill_incoming():
            self._incoming.read()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The transport's attributes, and those of `TLSAttribute`."""
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


# X.509 verification codes, as OpenSSL numbers them: self-signed, or signed by an unknown authority
_UNTRUSTED = {18, 19, 20, 21}

_NO_TLS = "{peer} does not speak TLS"
_NO_COMMON_VERSION = "{peer} speaks no version of TLS that is allowed here"

_REASONS = {
    "BAD_RECORD_TYPE": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "NO_PROTOCOLS_AVAILABLE": _NO_COMMON_VERSION,
    "UNSUPPORTED_PROTOCOL": _NO_COMMON_VERSION,
    "NO_SHARED_CIPHER": "{peer} offers no cipher that is allowed here",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "{peer} showed no certificate, and one is required",
}

# RFC 8446 §6.2: the alerts that the other side may send before it gives up
_ALERTS = {
    "BAD_CERTIFICATE": "{peer} does not accept our certificate",
    "CERTIFICATE_EXPIRED": "{peer} does not accept our certificate: it has expired, or is not valid yet",
    "CERTIFICATE_REQUIRED": "{peer} requires a certificate of ours",
    "CERTIFICATE_REVOKED": "{peer} does not accept our certificate: it was revoked",
    "CERTIFICATE_UNKNOWN": "{peer} does not accept our certificate",
    "HANDSHAKE_FAILURE": "{peer} refused: there is no cipher in common, or it requires a certificate of ours",
    "NO_APPLICATION_PROTOCOL": "{peer} does not speak HTTP/2",
    "PROTOCOL_VERSION": _NO_COMMON_VERSION,
    "UNKNOWN_CA": "{peer} does not accept our certificate: it does not trust the authority that signed it",
    "UNSUPPORTED_CERTIFICATE": "{peer} does not accept our certificate: it may not be used for this",
}


def explain(error: ssl.SSLError, peer: str) -> str:
    """Return what `error` means, in words that say which side has to act.

    :param peer: the other side: "the client" or "the server"
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        if error.verify_code in _UNTRUSTED:
            reason = f"the authority that signed it is not trusted here ({reason})"
        return f"{peer}'s certificate is not accepted: {reason}"
    name = error.reason or ""
    text = _REASONS.get(name) or _ALERTS.get(name.partition("_ALERT_")[2])
    return f"TLS failed: {error}" if text is None else text.format(peer=peer)
