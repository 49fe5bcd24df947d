"""Listening on a Unix socket: for peers on the same machine, let in by the file's permissions."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from anyio.abc import Listener, SocketListener, SocketStream, TaskGroup

__all__ = ["UnixListener", "UnixSocketError", "listen_unix"]


class UnixSocketError(OSError):
    """The socket cannot be had; the message says which, why, and what to do."""


async def listen_unix(path: str | os.PathLike[str], *, mode: int = 0o600) -> UnixListener:
    """Listen on the Unix socket `path`. What a process that has died left there is replaced.

    :param mode: the file's permissions; to connect, a process needs to write it. By default only this user's may
    :returns: for `Server.serve`; whoever closes it removes the file
    :raises UnixSocketError: another process listens there, it is no socket, or the directory does not allow it
    """
    file = Path(path)
    try:
        bound = _bind(file, mode)
    except UnixSocketError:
        raise
    except OSError as error:
        raise UnixSocketError(f"cannot listen on the Unix socket {file}: {error.strerror or error}") from error
    return UnixListener(await SocketListener.from_socket(bound), file)


def _bind(file: Path, mode: int) -> socket.socket:
    _remove_if_abandoned(file)
    with ExitStack() as undo:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        undo.callback(bound.close)
        bound.setblocking(False)
        bound.bind(str(file))
        undo.callback(file.unlink)
        file.chmod(mode)
        bound.listen(socket.SOMAXCONN)  # after chmod: before, nobody can connect
        undo.pop_all()
    return bound


def _remove_if_abandoned(file: Path) -> None:
    """Remove the socket of a process that no longer listens on it.

    :raises UnixSocketError: a process does, or it is no socket
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(file.lstat().st_mode):
            raise UnixSocketError(f"cannot listen on the Unix socket {file}: a file that is no socket has that name")
        if _is_alive(file):
            raise UnixSocketError(
                f"cannot listen on the Unix socket {file}: another process does; stop it, or choose another path"
            )
        file.unlink()


def _is_alive(file: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(file)) != errno.ECONNREFUSED


class UnixListener(Listener[SocketStream]):
    """What `listen_unix` returns."""

    def __init__(self, listener: SocketListener, file: Path) -> None:
        self._listener = listener
        self._file = file
        self._identity = _identity(file)

    async def accept(self) -> SocketStream:
        """The next connection."""
        return await self._listener.accept()

    async def serve(self, handler: Callable[[SocketStream], Any], task_group: TaskGroup | None = None) -> None:
        """See `Listener.serve`."""
        await self._listener.serve(handler, task_group)

    async def aclose(self) -> None:
        """Close the listener, and remove its file, unless that is another's by now. Connections go on."""
        try:
            await self._listener.aclose()
        finally:
            with suppress(FileNotFoundError):
                if _identity(self._file) == self._identity:
                    self._file.unlink()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket's."""
        return self._listener.extra_attributes


def _identity(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_dev, found.st_ino
