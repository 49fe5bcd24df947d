"""Contexts for TLS made of files, and made anew when the files change."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import NoReturn, TypeAlias

from connectrio.logs import get_logger
from connectrio.rpc._tls.errors import TLSFilesError

log = get_logger("connectrio.rpc")

AnyPath: TypeAlias = str | PathLike[str]
_Signature: TypeAlias = tuple[tuple[int, ...] | None, ...]


class ReloadingContext:
    """The context that some files make. Certificates are short-lived: what renews them replaces the files.

    :param files: what the context is made of
    :param make: makes it; raises TLSFilesError
    :raises TLSFilesError: the files cannot be used
    """

    def __init__(self, files: Sequence[Path], make: Callable[[], ssl.SSLContext]) -> None:
        self._files = files
        self._make = make
        # looked at before they are read, here and below: what changes in between is then read once more
        self._signature = self._look()
        self._context = make()

    def current(self) -> ssl.SSLContext:
        """The context for a new connection: the files are read again if they have changed.

        While they do not fit together, because only some of them are written yet, the context before stays in use.
        """
        signature = self._look()
        if signature != self._signature:
            self._signature = signature
            try:
                self._context = self._make()
            except TLSFilesError as error:
                log.warning("the files for TLS have changed and cannot be used; the ones before still are", error=error)
            else:
                log.info(
                    "the files for TLS have changed and were read again", files=[str(file) for file in self._files]
                )
        return self._context

    def _look(self) -> _Signature:
        return tuple(_signature(file) for file in self._files)


def _signature(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def load_certificate(context: ssl.SSLContext, certfile: Path, keyfile: Path | None) -> None:
    """Let `context` show a certificate.

    :param certfile: PEM, the authorities between it and the root after it
    :param keyfile: its private key; None when that is in `certfile`
    :raises TLSFilesError: they cannot be used
    """
    keyfile = keyfile or certfile

    def refuse_to_ask() -> NoReturn:
        # without this, OpenSSL would ask on the terminal
        raise TLSFilesError(f"the private key in {keyfile} is encrypted: decrypt it (openssl pkey -in … -out …)")

    for file in (certfile, keyfile):
        _check_readable(file)
    try:
        context.load_cert_chain(certfile, keyfile, refuse_to_ask)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TLSFilesError(f"the private key in {keyfile} is not that of the certificate in {certfile}") from error
        raise TLSFilesError(
            f"cannot use {certfile} with {keyfile}: expected a certificate and a private key, in PEM ({error})"
        ) from error


def load_authorities(context: ssl.SSLContext, file: Path) -> None:
    """Let `context` trust the certificates in `file`, and what they sign.

    :raises TLSFilesError: they cannot be used
    """
    _check_readable(file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise TLSFilesError(f"cannot use {file}: expected certificates of authorities, in PEM ({error})") from error


def _check_readable(file: Path) -> None:
    """OpenSSL's own errors do not say which file it was."""
    try:
        file.open("rb").close()
    except OSError as error:
        raise TLSFilesError(f"cannot read {file}: {error.strerror}") from error
