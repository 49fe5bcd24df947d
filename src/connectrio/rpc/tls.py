"""TLS for servers and channels: HTTP/2 by ALPN, TLS 1.2 or later, certificates that may be replaced at any time."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anyio
from anyio.abc import AnyByteStream, Listener, TaskGroup
from anyio.streams.stapled import MultiListener

from connectrio.diagnostics import SafeLogger
from connectrio.rpc._certificates import (
    Pem,
    PemSource,
    TLSFilesError,
    expiry,
    load_authorities,
    load_certificate,
)
from connectrio.rpc._tls_stream import HandshakeAbandonedError, TLSByteStream, TLSHandshakeError
from connectrio.rpc.peer import Peer

__all__ = ["ChannelTLS", "ServerTLS", "TLSByteStream", "TLSFilesError", "TLSHandshakeError", "TLSListener", "secure"]

log = SafeLogger("connectrio.rpc")

_Signature: TypeAlias = tuple[tuple[int, ...] | None, ...]

_REFUSED = "a connection from %(peer)s was refused: %(reason)s"

# RFC 9113 §9.2.2 and its appendix A: of TLS 1.2's ciphers only those with ephemeral keys and authenticated encryption.
# Those of TLS 1.3 are all allowed, and not named here.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_HTTP2 = ("h2",)

_AUTHORITY = re.compile(r"\[?(?P<host>.*?)(%[^\]]*)?\]?(:[0-9]+)?")


class ServerTLS:
    """The certificate that a server shows, and which clients it accepts.

        tls = ServerTLS("server.pem", "server.key", client_ca="clients.pem")
        await server.serve(tls.listen(await anyio.create_tcp_listener(local_port=443)))

    Each certificate and key is the path of a file, or PEM as `bytes`, as a store of secrets gives it. Bytes are not
    written to a disk: where Python's ssl wants a file, it gets one in memory (on other systems than Linux, a temporary
    file that has no name any more).

    When one of the files changes, new connections use the new contents. While the files do not fit together, the old
    contents stay in use, with a warning in the log. Bytes are replaced with `replace`.

    :param certfile: PEM: the server's certificate, then the authorities between it and the root
    :param keyfile: PEM: its private key, not encrypted; None when that is with `certfile`
    :param client_ca: PEM: every client must show a certificate of one of these authorities; None asks clients for none
    :param minimum_version: TLS 1.2 by default, the least that HTTP/2 allows (RFC 9113 §9.2)
    :param handshake_timeout: seconds that a client may take. It needs two round trips; 10, as in many servers, is
        enough for the slowest links, and bounds what silent clients can hold
    :param protocols: those that clients may choose from, by ALPN; HTTP/2 alone for `Server`
    :ivar certfile: the path, or a text that says that it was given as bytes
    :ivar expires_at: when the certificate that is in use expires, in seconds since 1970; None if it does not tell
    :raises TLSFilesError: a certificate or key cannot be used
    """

    def __init__(
        self,
        certfile: PemSource,
        keyfile: PemSource | None = None,
        *,
        client_ca: PemSource | None = None,
        minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        handshake_timeout: float = 10.0,
        protocols: Sequence[str] = _HTTP2,
    ) -> None:
        self.handshake_timeout = handshake_timeout
        self.expires_at: float | None = None
        self._protocols = protocols
        self._minimum_version = minimum_version
        self._client_ca = _optional(client_ca, "certificate of an authority")
        self.replace(certfile, keyfile)

    def replace(
        self, certfile: PemSource, keyfile: PemSource | None = None, *, client_ca: PemSource | None = None
    ) -> None:
        """Use another certificate for connections from now on; those that are open go on.

        :param client_ca: other authorities for clients; None leaves them as they are
        :raises TLSFilesError: a certificate or key cannot be used; nothing has changed then
        """
        certificate = Pem(certfile, "certificate")
        key = _optional(keyfile, "private key") or certificate
        authorities = _optional(client_ca, "certificate of an authority") or self._client_ca
        self._context = _ReloadingContext(
            [certificate, key, authorities], partial(self._make_context, certificate, key, authorities)
        )
        self.certfile: Path | str = certificate.file or str(certificate)
        self._client_ca = authorities

    def refresh(self) -> None:
        """Read the files again if they have changed, as each new connection does."""
        self._context.current()

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

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection; for servers other than `Server`."""
        return self._context.current()

    def _make_context(self, certificate: Pem, key: Pem, authorities: Pem | None) -> ssl.SSLContext:
        context = _context(ssl.PROTOCOL_TLS_SERVER, self._minimum_version, self._protocols)
        load_certificate(context, certificate, key)
        if authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            load_authorities(context, authorities)
        self.expires_at = expiry(certificate.read())
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

    Certificates and keys are paths or bytes, and files that change are read again, as with `ServerTLS`.

    :param ca: PEM: the authorities that servers' certificates must come from; None for those of the system
    :param certfile: PEM: the channel's certificate, then the authorities between it and the root; None for none
    :param keyfile: PEM: its private key, not encrypted; None when that is with `certfile`
    :param server_hostname: the name that the server's certificate must have, instead of the host in the channel's
        target; it is the `:authority` of the requests as well
    :param minimum_version: TLS 1.2 by default, the least that HTTP/2 allows (RFC 9113 §9.2)
    :raises TLSFilesError: a certificate or key cannot be used
    :raises ValueError: a `keyfile` without a `certfile`
    """

    def __init__(
        self,
        ca: PemSource | None = None,
        certfile: PemSource | None = None,
        keyfile: PemSource | None = None,
        *,
        server_hostname: str | None = None,
        minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    ) -> None:
        self.server_hostname = server_hostname
        self._minimum_version = minimum_version
        self._ca: Pem | None = None
        self._certificate: Pem | None = None
        self._key: Pem | None = None
        self.replace(certfile, keyfile, ca=ca)

    def replace(
        self, certfile: PemSource | None = None, keyfile: PemSource | None = None, *, ca: PemSource | None = None
    ) -> None:
        """Use other certificates for connections from now on; those that are open go on.

        :param certfile: another certificate, with the `keyfile` that belongs to it; None leaves both as they are
        :param ca: other authorities; None leaves them as they are
        :raises TLSFilesError: a certificate or key cannot be used; nothing has changed then
        :raises ValueError: a `keyfile` without a `certfile`
        """
        new_key = _optional(keyfile, "private key")
        if certfile is None and new_key is not None:
            raise ValueError(f"{new_key} is of no use without its certificate: give certfile as well")
        authorities = _optional(ca, "certificate of an authority") or self._ca
        certificate, key = self._certificate, self._key
        if certfile is not None:
            certificate = Pem(certfile, "certificate")
            key = new_key or certificate
        self._context = _ReloadingContext(
            [authorities, certificate, key], partial(self._make_context, authorities, certificate, key)
        )
        self._ca, self._certificate, self._key = authorities, certificate, key

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

    def _make_context(self, authorities: Pem | None, certificate: Pem | None, key: Pem | None) -> ssl.SSLContext:
        context = _context(ssl.PROTOCOL_TLS_CLIENT, self._minimum_version)
        if authorities is None:
            context.load_default_certs()
        else:
            load_authorities(context, authorities)
        if certificate is not None and key is not None:
            load_certificate(context, certificate, key)
        return context


# contexts, and what they are made from


class _ReloadingContext:
    """Keeps the TLS context of some files up to date: certificates are short-lived, and renewed by replacing files.

    :param sources: what the context is made from
    :param make: makes it; raises TLSFilesError
    :raises TLSFilesError: the sources cannot be used
    """

    def __init__(self, sources: Iterable[Pem | None], make: Callable[[], ssl.SSLContext]) -> None:
        self._files = [source.file for source in sources if source is not None and source.file is not None]
        self._make = make
        # looked at before they are read, here and below: a change in between is then noticed the next time
        self._signature = self._stat_files()
        self._context = make()

    def current(self) -> ssl.SSLContext:
        """Return the context for a new connection, made again if the files have changed.

        While the files do not fit together, because only some of them are written yet, the old context stays in use.
        """
        signature = self._stat_files()
        if signature != self._signature:
            self._signature = signature
            try:
                self._context = self._make()
            except TLSFilesError as error:
                log.warning(
                    "the files for TLS have changed and cannot be used; the ones before still are: %(error)s",
                    {"error": error},
                )
            else:
                log.info(
                    "the files for TLS have changed and were read again: %(files)s",
                    {"files": [str(file) for file in self._files]},
                )
        return self._context

    def _stat_files(self) -> _Signature:
        signature: list[tuple[int, ...] | None] = []
        for file in self._files:
            try:
                found = file.stat()
            except OSError:
                signature.append(None)
            else:
                signature.append((found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        return tuple(signature)


def _context(protocol: int, minimum_version: ssl.TLSVersion, protocols: Sequence[str] = _HTTP2) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = minimum_version
    # RFC 9113 §9.2.1
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(protocols)
    return context


def _hostname(authority: str) -> str:
    match = _AUTHORITY.fullmatch(authority)
    return authority if match is None else match["host"].removesuffix(".")


def _optional(source: PemSource | None, what: str) -> Pem | None:
    return None if source is None else Pem(source, what)
