"""TLS for servers and channels: HTTP/2 by ALPN, TLS 1.2 or later, certificates that may be replaced at any time."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import anyio
from anyio.abc import AnyByteStream, Listener, TaskGroup
from anyio.streams.stapled import MultiListener

from connectrio.diagnostics import SafeLogger
from connectrio.rpc._tls_stream import HandshakeAbandonedError, TLSByteStream, TLSHandshakeError
from connectrio.rpc.peer import Peer

__all__ = ["ChannelTLS", "ServerTLS", "TLSByteStream", "TLSFilesError", "TLSHandshakeError", "TLSListener", "secure"]

log = SafeLogger("connectrio.rpc")

AnyPath: TypeAlias = str | PathLike[str]
_Signature: TypeAlias = tuple[tuple[int, ...] | None, ...]

_REFUSED = "a connection from %(peer)s was refused: %(reason)s"

# RFC 9113 §9.2.2 and its appendix A: of TLS 1.2's ciphers only those with ephemeral keys and authenticated encryption.
# Those of TLS 1.3 are all allowed, and not named here.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_HTTP2 = ("h2",)

# tags of DER (X.690), and the bit of a length that is more than one byte
_UTC_TIME, _VERSION = 0x17, 0xA0
_LONG_FORM = 0x80

_AUTHORITY = re.compile(r"\[?(?P<host>.*?)(%[^\]]*)?\]?(:[0-9]+)?")


class TLSFilesError(ValueError):
    """The files for TLS cannot be used; the message says which, why, and what to do."""


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
    :param protocols: those that clients may choose from, by ALPN; HTTP/2 alone for `Server`
    :ivar certfile: the same
    :ivar expires_at: when the certificate that is in use expires, in seconds since 1970; None if it does not tell
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
        protocols: Sequence[str] = _HTTP2,
    ) -> None:
        self.handshake_timeout = handshake_timeout
        self.certfile, self._keyfile, self._client_ca = Path(certfile), _path(keyfile), _path(client_ca)
        self._protocols = protocols
        self.expires_at: float | None = None
        self._minimum_version = minimum_version
        self._context = _ReloadingContext([self.certfile, self._keyfile, self._client_ca], self._make_context)

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

    def _make_context(self) -> ssl.SSLContext:
        context = _context(ssl.PROTOCOL_TLS_SERVER, self._minimum_version, self._protocols)
        _load_certificate(context, self.certfile, self._keyfile)
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            _load_authorities(context, self._client_ca)
        self.expires_at = _expiry(self.certfile)
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
        self._context = _ReloadingContext([self._ca, self._certfile, self._keyfile], self._make_context)

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
            _load_authorities(context, self._ca)
        if self._certfile is not None:
            _load_certificate(context, self._certfile, self._keyfile)
        return context


# contexts, and the files that they are made from


class _ReloadingContext:
    """Keeps the TLS context of some files up to date: certificates are short-lived, and renewed by replacing files.

    :param files: what the context is made from; None stands for no file
    :param make: makes it; raises TLSFilesError
    :raises TLSFilesError: the files cannot be used
    """

    def __init__(self, files: Iterable[Path | None], make: Callable[[], ssl.SSLContext]) -> None:
        self._files = [file for file in files if file is not None]
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


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)


def _load_certificate(context: ssl.SSLContext, certfile: Path, keyfile: Path | None) -> None:
    """Let `context` show a certificate.

    :param certfile: PEM: the certificate, then the authorities between it and the root
    :param keyfile: PEM: its private key; None when that is in `certfile`
    :raises TLSFilesError: the files cannot be used
    """
    keyfile = keyfile or certfile

    def refuse_password() -> NoReturn:
        # without this, OpenSSL would ask for the password on the terminal
        raise TLSFilesError(f"the private key in {keyfile} is encrypted: decrypt it (openssl pkey -in … -out …)")

    for file in (certfile, keyfile):
        _check_readable(file)
    try:
        context.load_cert_chain(certfile, keyfile, refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TLSFilesError(f"the private key in {keyfile} is not that of the certificate in {certfile}") from error
        raise TLSFilesError(
            f"cannot use {certfile} with {keyfile}: expected a certificate and a private key, in PEM ({error})"
        ) from error


def _expiry(certfile: Path) -> float | None:
    """Return when the first certificate of a file expires, in seconds since 1970; None if that cannot be found.

    Python's ssl decodes only the certificates of peers, so this reads the DER of ours (RFC 5280 §4.1).
    """
    with suppress(OSError, ValueError, IndexError):
        text = certfile.read_text("latin-1")
        begin = text.index(ssl.PEM_HEADER)
        pem = text[begin : text.index(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)]
        certificate = _der_values(ssl.PEM_cert_to_DER_cert(pem))[0][1]
        signed_part = _der_values(certificate)[0][1]
        # serialNumber, signature, issuer, validity: notBefore and notAfter
        validity = [content for tag, content in _der_values(signed_part) if tag != _VERSION][3]
        tag, not_after = _der_values(validity)[1]
        form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
        return datetime.strptime(not_after.decode(), form).replace(tzinfo=UTC).timestamp()
    return None


def _der_values(data: bytes) -> list[tuple[int, bytes]]:
    """Return the tag and the content of each value in `data` (X.690 §8.1)."""
    values: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length >= _LONG_FORM:
            size = length - _LONG_FORM
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        values.append((tag, data[at : at + length]))
        at += length
    return values


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    """Let `context` trust the certificates in `file`, and what they sign.

    :raises TLSFilesError: the file cannot be used
    """
    _check_readable(file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise TLSFilesError(f"cannot use {file}: expected certificates of authorities, in PEM ({error})") from error


def _check_readable(file: Path) -> None:
    """Raise an error that names the file; OpenSSL's own errors do not."""
    try:
        file.open("rb").close()
    except OSError as error:
        raise TLSFilesError(f"cannot read {file}: {error.strerror}") from error
