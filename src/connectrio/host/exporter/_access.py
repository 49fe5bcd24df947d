"""Who may see the status page and /api: everyone who can reach the port, or who has a token.

Both tell more than /metrics does: names of executions, messages of connectors, and errors. What is secret in these is
masked where it is known to be. A token goes into `Authorization: Bearer TOKEN`, or is the password of HTTP Basic, for
which browsers ask; the user's name does not matter.

Where no token is asked for, a web page in an operator's browser could read all that, if the name of its own server led
to this host (DNS rebinding). So the page then answers only at an address, and at names that no public name server has.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from connectrio.host.exporter._messages import Request
from connectrio.logs import get_logger

__all__ = ["PRIVATE", "Access", "Refusal"]

logger = get_logger("connectrio.host.exporter")

PRIVATE = (
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
)
"""Headers of what the exporter does not tell everyone."""

_CHALLENGE = ("www-authenticate", "Bearer"), ("www-authenticate", 'Basic realm="connectrio", charset="UTF-8"')
# bytes
_MAX_FILE_SIZE = 1024 * 1024
# the last parts of names that no public name server has: RFC 6761, RFC 6762, ICANN's resolution 2024.07.29.06, and
# Kubernetes' names of services
_PRIVATE_NAMES = {"localhost", "local", "internal", "test", "svc"}


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused."""

    status: int
    text: str
    headers: Sequence[tuple[str, str]] = ()


class Access:
    """Who may see the status page and /api.

    :param page: whether there are such
    :param token_file: has a token in each line, and is read again when it changes; None asks for no token
    """

    def __init__(self, *, page: bool = True, token_file: Path | None = None) -> None:
        self.page = page
        self._file = token_file
        self._signature: tuple[int, ...] | None = None
        self._hashes: list[bytes] = []
        self._problem = ""
        if page and token_file is not None:
            self._read_tokens(token_file)

    def refusal(self, request: Request) -> Refusal | None:
        """Return why a request for the status page or /api is refused; None if it is not."""
        if not self.page:
            return Refusal(
                404, "there are /metrics, /healthz and /readyz; the status page and /api are off (--no-page)"
            )
        if self._file is None:
            host = request.header(b"host")
            if is_private(host):
                return None
            return Refusal(
                403,
                f"the page does not answer at the public name {host!r} without a token: give the host a"
                " --page-token-file, or use an address in place of the name",
            )
        self._read_tokens(self._file)
        if self._problem:
            return Refusal(403, "no token is accepted, because the host cannot use its file of tokens; see its log")
        given = _token(request.header(b"authorization"))
        if given is None:
            return Refusal(401, "this needs a token of --page-token-file", _CHALLENGE)
        found = hashlib.sha256(given).digest()
        if not sum(hmac.compare_digest(found, known) for known in self._hashes):  # it compares with all of them
            return Refusal(401, "the token is none of --page-token-file", _CHALLENGE)
        return None

    def _read_tokens(self, file: Path) -> None:
        """Read the tokens, if the file has changed. If it cannot be used, no token is accepted."""
        problem = ""
        try:
            found = file.stat()
            signature = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if signature == self._signature:
                return
            self._hashes = []
            self._hashes = [hashlib.sha256(token).digest() for token in _read(file, found)]
            self._signature = signature
            problem = "" if self._hashes else "it has no token; write one on a line of its own"
        except OSError as error:  # it is tried again at the next request
            self._hashes, self._signature = [], None
            problem = error.strerror or str(error)
        if problem and problem != self._problem:
            logger.error("the status page accepts no token: its file cannot be used", file=str(file), error=problem)
        elif self._problem and not problem:
            logger.info("the status page accepts tokens again", file=str(file), tokens=len(self._hashes))
        self._problem = problem


def _read(file: Path, found: os.stat_result) -> list[bytes]:
    if not stat.S_ISREG(found.st_mode):  # to read from a pipe could take for ever
        raise OSError(errno.EINVAL, "it is no regular file")
    with file.open("rb") as opened:
        lines = opened.read(_MAX_FILE_SIZE).splitlines()
    return [line.strip() for line in lines if line.strip()]


def is_private(host: str) -> bool:
    """Return whether a web page on the internet cannot have this Host header: an address, or a name of a network."""
    name = host.removesuffix("]") if host.endswith("]") else host.rpartition(":")[0] or host
    name = name.strip("[]").removesuffix(".").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.rpartition(".")[2] in _PRIVATE_NAMES
    return True


def _token(authorization: str) -> bytes | None:
    scheme, _, value = authorization.strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value.encode("latin-1")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return None
    return None
