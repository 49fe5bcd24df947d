"""Which of the hosts that share a job store are alive.

Each host has a file under its name and holds an exclusive `flock` on it for as long as it lives; the kernel lets go of
the lock when the process ends, however it ends. So whoever can lock a host's file knows that the host is dead, and
while it holds that lock nobody else acts on the knowledge.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["HostLock", "if_dead"]


class HostLock:
    """A host's sign of life, in a directory that all hosts share. The owner of this object must `close` it.

    :ivar host_id: a name no other host has had; it begins with the machine's and the process id, for people
    """

    def __init__(self, directory: Path) -> None:
        machine = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64]
        self.host_id = f"{machine}-{os.getpid()}-{secrets.token_hex(4)}"
        self._path = directory / self.host_id
        # under its name only once it is locked: an unlocked file of that name means a dead host
        unlocked = directory / f".{self.host_id}"
        self._file = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unlocked.rename(self._path)

    def close(self) -> None:
        """Go. Jobs that still belong to this host count as orphans from here on."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


@contextmanager
def if_dead(directory: Path, host_id: str) -> Iterator[bool]:
    """Whether that host is dead. While the block runs, no other host gets True for the same one.

    A host whose file is gone has left in order, or was tidied away by `forget`.
    """
    try:
        file = os.open(directory / host_id, os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _lock(file)
    finally:
        os.close(file)


def forget(directory: Path, host_id: str) -> None:
    """Remove the file of a dead host, all of whose jobs have been seen to."""
    with suppress(FileNotFoundError):
        (directory / host_id).unlink()


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
