"""TLS for servers and channels: HTTP/2 by ALPN, TLS 1.2 or later, certificates that may be replaced at any time."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import AnyByteStream, Listener, TaskGroup
from anyio.streams.stapled import MultiListener

from connectrio.rpc._tls.files import AnyPath, ReloadingContext, TLSFilesError, load_authorities, load_certificate
from connectrio.rpc._tls.stream import HandshakeAbandonedError, TLSByteStream, TLSHandshakeError
from connectrio.rpc.peer import Peer

__all__ = ["ChannelTLS", "ServerTLS", "TLSFilesError", "TLSHandshakeError", "TLSListener", "secure"]

log = logging.getLogger("connectrio.rpc")

_REFUSED = "a connection from %(peer)s was refused: %(reason)s"

# RFC 9113 §9.2.2 and its appendix A: of TLS 1.2's ciphers only those with ephemeral keys and authenticated encryption.
# Those of TLS 1.3 are all allowed, and not named here.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

_AUTHORITY = re.compile(r"\[?(?P<host>.*?)(%[^\]]*)?\]?(:[0-9]+)?")


class ServerTLS:
    """The certificate that a server shows, and which clients it accepts.

        tls = ServerTLS("server.pem", "server.key", client_ca="clients.pem")
        await server.serve(tls.listen(await anyio.create_tcp_listener(local_port=443)))

    When one of the files changes, new connections use the new contents. While the files do not fit together, the old
    contents stay in use, with a warning in the log.

    :param certfile: PEM: the server's certificate, then the authorities between it and the root
    :param keyfile: PEM: its private key, not encrypted; None when that is in `certfile`
    :param client_ca: PEM: every client must show a certificate of one of these authorities; None asks clients for none
    :param minimum_version: TLS 1.2 by default, the least that HTTP/2 allows (RFC 9113 §9.2)
    :param handshake_timeout: seconds that a client may take. It needs two round trips; 10, as in many servers, is
        enough for the slowest links, and bounds what silent clients can hold
    :raises TLSFilesError: the files cannot be used
    """

    def __init__(
        self,
        certfile: AnyPath,
        keyfile: AnyPath | None = None,
        *,
        client_ca: AnyPath | None = None,
        minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        handshake_timeout: float = 10.0,
    ) -> None:
        self.handshake_timeout = handshake_timeout
        self._certfile, self._keyfile, self._client_ca = Path(certfile), _path(keyfile), _path(client_ca)
        self._minimum_version = minimum_version
        self._context = ReloadingContext(_given(self._certfile, self._keyfile, self._client_ca), self._make_context)

    def listen(self, listener: Listener[Any]) -> Listener[Any]:
        """Return a listener with TLS on the connections that `listener` accepts; for `Server.serve`.

        :param listener: one of anyio's, or another with a method `accept`; closed with the listener that this returns
        """
        if isinstance(listener, MultiListener):
            return MultiListener([self.listen(each) for each in listener.listeners])
        return TLSListener(listener, self.wrap)

    def wrap(self, transport: AnyByteStream) -> TLSByteStream:
        """Return TLS on a connection that was accepted by other means; for `Server.serve_connection`."""
        return TLSByteStream(transport, self._context.current(), timeout=self.handshake_timeout)

    def _make_context(self) -> ssl.SSLContext:
        context = _context(ssl.PROTOCOL_TLS_SERVER, self._minimum_version)
        load_certificate(context, self._certfile, self._keyfile)
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            load_authorities(context, self._client_ca)
        return context


class TLSListener(Listener[TLSByteStream]):
    """Puts TLS on the connections that a listener accepts; made by `ServerTLS.listen`.

    :ivar listener: accepts the connections
    :ivar wrap: puts TLS on a connection, which `secure` must then do the handshake for
    """

    def __init__(self, listener: Listener[Any], wrap: Callable[[AnyByteStream], TLSByteStream]) -> None:
        self.listener = listener
        self.wrap = wrap

    async def accept(self) -> TLSByteStream:
        """Wait for the next connection. Pass it to `secure` in a task of its own: clients may be slow there."""
        transport: AnyByteStream = await self.listener.accept()  # type: ignore[attr-defined]  # see ServerTLS.listen
        return self.wrap(transport)

    async def serve(self, handler: Callable[[TLSByteStream], Any], task_group: TaskGroup | None = None) -> None:
        """Accept connections until cancelled, and run `handler` for each whose handshake succeeds."""

        async def secured(transport: AnyByteStream) -> None:
            stream = self.wrap(transport)
            if await secure(stream):
                await handler(stream)

        await self.listener.serve(secured, task_group)

    async def aclose(self) -> None:
        """Close the listener. Connections stay open."""
        await self.listener.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The listener's attributes."""
        return self.listener.extra_attributes


async def secure(transport: AnyByteStream) -> bool:
    """Do the TLS handshake, if this is a connection with TLS.

    :returns: whether the connection can be used; if not, it is closed and the reason is logged
    """
    if not isinstance(transport, TLSByteStream):
        return True
    peer = str(Peer(transport))
    try:
        await transport.handshake()
    except HandshakeAbandonedError as error:
        log.debug(_REFUSED, {"peer": peer, "reason": error})
        return False
    except TLSHandshakeError as error:
        log.info(_REFUSED, {"peer": peer, "reason": error})
        return False
    return True


class ChannelTLS:
    """Which servers a channel trusts, and the certificate that it shows them.

        Channel("connectors.example.com:443", tls=ChannelTLS())

    Files that change are read again, as with `ServerTLS`.

    :param ca: PEM: the authorities that servers' certificates must come from; None for those of the system
    :param certfile: PEM: the channel's certificate, then the authorities between it and the root; None for none
    :param keyfile: PEM: its private key, not encrypted; None when that is in `certfile`
    :param server_hostname: the name that the server's certificate must have, instead of the host in the channel's
        target; it is the `:authority` of the requests as well
    :param minimum_version: TLS 1.2 by default, the least that HTTP/2 allows (RFC 9113 §9.2)
    :raises TLSFilesError: the files cannot be used
    :raises ValueError: a `keyfile` without a `certfile`
    """

    def __init__(
        self,
        ca: AnyPath | None = None,
        certfile: AnyPath | None = None,
        keyfile: AnyPath | None = None,
        *,
        server_hostname: str | None = None,
        minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    ) -> None:
        if keyfile is not None and certfile is None:
            raise ValueError(f"the private key {keyfile} is of no use without its certificate: give certfile as well")
        self.server_hostname = server_hostname
        self._ca, self._certfile, self._keyfile = _path(ca), _path(certfile), _path(keyfile)
        self._minimum_version = minimum_version
        self._context = ReloadingContext(_given(self._ca, self._certfile, self._keyfile), self._make_context)

    async def secure(self, transport: AnyByteStream, authority: str) -> TLSByteStream:
        """Return TLS on `transport`, after the handshake; if that fails, `transport` is closed.

        :param authority: "host:port"; the certificate must name the host
        :raises TLSHandshakeError: the message says why
        """
        hostname = self.server_hostname or _hostname(authority)
        try:
            stream = TLSByteStream(transport, self._context.current(), hostname=hostname)
        except ValueError as error:
            await anyio.aclose_forcefully(transport)
            raise TLSHandshakeError(f"{hostname!r} is no name that a certificate can have: {error}") from error
        await stream.handshake()
        return stream

    def _make_context(self) -> ssl.SSLContext:
        context = _context(ssl.PROTOCOL_TLS_CLIENT, self._minimum_version)
        if self._ca is None:
            context.load_default_certs()
        else:
            load_authorities(context, self._ca)
        if self._certfile is not None:
            load_certificate(context, self._certfile, self._keyfile)
        return context


def _context(protocol: int, minimum_version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = minimum_version
    # RFC 9113 §9.2.1
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2"])
    return context


def _hostname(authority: str) -> str:
    match = _AUTHORITY.fullmatch(authority)
    return authority if match is None else match["host"].removesuffix(".")


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


def _given(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path is not None]
