"""Certificates and private keys in PEM, from files or from memory: loading them, and what is wrong with them."""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import NoReturn, TypeAlias

PemSource: TypeAlias = str | PathLike[str] | bytes
"""The path of a file in PEM; or the PEM itself, as bytes."""

_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")

# tags of DER (X.690), and the bit of a length that is more than one byte
_UTC_TIME, _VERSION = 0x17, 0xA0
_LONG_FORM = 0x80


class TLSFilesError(ValueError):
    """Certificates or keys for TLS cannot be used; the message says which, why, and what to do."""


class Pem:
    """Certificates or a private key, in a file or in memory.

    :param source: where it is
    :param what: what it should be, for people: "certificate"
    :ivar file: the file; None for what is in memory
    :raises TLSFilesError: the source is PEM as `str`
    """

    def __init__(self, source: PemSource, what: str) -> None:
        if isinstance(source, str) and "-----BEGIN " in source:
            raise TLSFilesError(f"a {what} is a path, or PEM as bytes; this one is PEM as str: .encode() it")
        self.file = None if isinstance(source, bytes) else Path(source)
        self._content = source if isinstance(source, bytes) else b""
        self._name = str(self.file) if self.file is not None else f"the bytes given as {what}"

    def __str__(self) -> str:
        return self._name

    def read(self) -> bytes:
        """Return the content.

        :raises TLSFilesError: the file cannot be read
        """
        if self.file is None:
            return self._content
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise TLSFilesError(f"cannot read {self.file}: {error.strerror}") from error

    def check(self, label: str, meaning: str) -> None:
        """Check that there is a block of PEM with this label, or one that ends with it.

        :raises TLSFilesError: there is none, or the file cannot be read
        """
        labels = [found.decode() for found in _LABEL.findall(self.read())]
        if not any(found.endswith(label) for found in labels):
            holds = f"it holds: {', '.join(labels)}" if labels else f"expected PEM, with a line -----BEGIN {label}-----"
            raise TLSFilesError(f"there is no {meaning} in {self}; {holds}")

    @contextmanager
    def path(self) -> Iterator[str | Path]:
        """Give the content a path while the block runs, because Python's ssl reads keys from files only.

        What is in memory stays there on Linux, in a file that has no name (memfd_create(2)). Elsewhere it is in a
        temporary file of which the name is removed before anything is written to it.
        """
        if self.file is not None:
            yield self.file
            return
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("connectrio-pem")
            opened = open(descriptor, "w+b", buffering=0)  # noqa: PTH123, SIM115 - closed below
        else:
            opened = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed below
        with opened:
            opened.write(self._content)
            opened.seek(0)  # on some systems, whoever opens the path continues at our position
            yield f"/dev/fd/{opened.fileno()}"


def load_certificate(context: ssl.SSLContext, certificate: Pem, key: Pem) -> None:
    """Let `context` show a certificate.

    :param certificate: the certificate, then the authorities between it and the root
    :param key: its private key; may be the same as `certificate`
    :raises TLSFilesError: they cannot be used
    """

    def refuse_password() -> NoReturn:
        # without this, OpenSSL would ask for the password on the terminal
        raise TLSFilesError(f"the private key in {key} is encrypted: decrypt it (openssl pkey -in … -out …)")

    certificate.check("CERTIFICATE", "certificate")
    key.check("PRIVATE KEY", "private key")
    try:
        with certificate.path() as certfile, key.path() as keyfile:
            context.load_cert_chain(certfile, keyfile, refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TLSFilesError(f"the private key in {key} is not that of the certificate in {certificate}") from error
        raise TLSFilesError(_damage(certificate, key, error)) from error


def _damage(certificate: Pem, key: Pem, error: ssl.SSLError) -> str:
    try:
        with certificate.path() as path:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return f"a certificate in {certificate} is damaged or cut short ({error})"
    return f"the private key in {key} is damaged, cut short or of an unknown kind ({error})"


def load_authorities(context: ssl.SSLContext, authorities: Pem) -> None:
    """Let `context` trust these certificates, and what they sign.

    :raises TLSFilesError: they cannot be used
    """
    authorities.check("CERTIFICATE", "certificate of an authority")
    try:
        with authorities.path() as path:
            context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise TLSFilesError(f"a certificate in {authorities} is damaged or cut short ({error})") from error


def expiry(pem: bytes) -> float | None:
    """Return when the first certificate expires, in seconds since 1970; None if that cannot be found.

    Python's ssl decodes only the certificates of peers, so this reads the DER of ours (RFC 5280 §4.1).
    """
    with suppress(ValueError, IndexError):
        text = pem.decode("latin-1")
        begin = text.index(ssl.PEM_HEADER)
        certificate = _der_values(
            ssl.PEM_cert_to_DER_cert(text[begin : text.index(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)])
        )[0][1]
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
