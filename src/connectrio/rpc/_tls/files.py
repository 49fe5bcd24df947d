"""TLS contexts that are made from files, and made again when the files change."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import NoReturn, TypeAlias

log = logging.getLogger("connectrio.rpc")

AnyPath: TypeAlias = str | PathLike[str]
_Signature: TypeAlias = tuple[tuple[int, ...] | None, ...]


class TLSFilesError(ValueError):
    """The files for TLS cannot be used; the message says which, why, and what to do."""


class ReloadingContext:
    """Keeps the TLS context of some files up to date: certificates are short-lived, and renewed by replacing files.

    :param files: what the context is made from
    :param make: makes it; raises TLSFilesError
    :raises TLSFilesError: the files cannot be used
    """

    def __init__(self, files: Sequence[Path], make: Callable[[], ssl.SSLContext]) -> None:
        self._files = files
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


def load_certificate(context: ssl.SSLContext, certfile: Path, keyfile: Path | None) -> None:
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


def load_authorities(context: ssl.SSLContext, file: Path) -> None:
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
