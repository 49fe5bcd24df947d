"""Listening so that it ends for good, also on Unix sockets; and what a connection needs of anyio's socket streams.

A connector may fork a child that outlives the host. The child has the host's sockets too: closed by the host alone,
a port would stay taken, and connections would go to a child that never answers. So sockets are closed in children,
and a listening socket is shut down before it is closed: a child may have been forked without Python's knowledge.
Only a socket on which another process goes on listening (`share`) must not be shut down.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

from anyio.abc import AnyByteStream, Listener, SocketAttribute, SocketListener, SocketStream, TaskGroup
from anyio.streams.stapled import MultiListener

__all__ = [
    "UnixListener", "UnixSocketError", "close_in_children", "listen_unix", "own_sockets", "prepare", "share",
    "shut_down", "stop_listening", "unix_target",
]  # fmt: skip


class UnixSocketError(OSError):
    """The process cannot listen on the Unix socket; the message says which, why, and what to do."""


_closed_in_children: WeakSet[socket.socket] = WeakSet()
_shared: WeakSet[socket.socket] = WeakSet()


def close_in_children(own: socket.socket) -> None:
    """Let each child that this process forks from now on close its copy of the socket."""
    _closed_in_children.add(own)


def _close_all() -> None:
    for own in _closed_in_children:
        own.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)


def own_sockets(listener: Listener[Any]) -> list[socket.socket]:
    """Return the sockets on which `listener` accepts; each child that is forked from now on closes its copies."""
    parts = listener.listeners if isinstance(listener, MultiListener) else [listener]
    found = [part.extra(SocketAttribute.raw_socket, None) for part in parts]
    own = [each for each in found if isinstance(each, socket.socket)]
    for each in own:
        close_in_children(each)
    return own


def share(listening: socket.socket) -> None:
    """Note that another process listens on the socket too, and goes on when this one ends: it is not shut down."""
    _shared.add(listening)


def stop_listening(listening: socket.socket) -> None:
    """Close a listening socket, and refuse connections from now on, unless the socket is shared."""
    shut_down(listening)
    listening.close()


def shut_down(listening: socket.socket) -> None:
    """Refuse connections from now on, also if a child has the socket. Do nothing if it is shared or closed."""
    if listening in _shared:
        return
    with suppress(OSError):  # it is closed, or this system only shuts down connections
        listening.shutdown(socket.SHUT_RDWR)


async def listen_unix(path: str | os.PathLike[str], *, mode: int = 0o600) -> UnixListener:
    """Listen on the Unix socket `path`. A socket left there by a process that has died is replaced.

    :param path: of the file, also as "unix:/path"; or "unix-abstract:name" for a name in Linux' abstract namespace,
        which has no file and no permissions: any process of the machine, or of its network namespace, may connect
    :param mode: the file's permissions; to connect, a process needs to write it. By default only this user's may
    :returns: for `Server.serve`; whoever closes it removes the file
    :raises UnixSocketError: another process listens there, it is no socket, or the directory does not allow it
    """
    target = unix_target(path)
    scheme, _, name = target.replace("unix://", "unix:", 1).partition(":")
    file = None if scheme == "unix-abstract" else Path(name)
    try:
        if file is None:
            bound = _bind_abstract(name)
        else:
            _remove_if_abandoned(file)
            bound = _bind(file, mode)
    except UnixSocketError:
        raise
    except OSError as error:
        reason = error.strerror or error
        if error.errno == errno.EADDRINUSE:
            reason = "another process does; stop it, or choose another name"
        raise UnixSocketError(f"cannot listen on the Unix socket {file or target}: {reason}") from error
    return UnixListener(await SocketListener.from_socket(bound), file)


def unix_target(path: str | os.PathLike[str]) -> str:
    """Return the target with which a channel connects to a Unix socket that `listen_unix` was given."""
    text = os.fspath(path)
    return text if text.startswith(("unix:", "unix-abstract:")) else f"unix:{text}"


def _bind_abstract(name: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.bind(f"\0{name}")
        bound.listen(socket.SOMAXCONN)
    except BaseException:
        bound.close()
        raise
    return bound


def _bind(file: Path, mode: int) -> socket.socket:
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

    :raises UnixSocketError: a process still listens, or the file is no socket
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(file.lstat().st_mode):
            raise UnixSocketError(f"cannot listen on the Unix socket {file}: a file that is no socket has that name")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            is_alive = probe.connect_ex(str(file)) != errno.ECONNREFUSED
        if is_alive:
            raise UnixSocketError(
                f"cannot listen on the Unix socket {file}: another process does; stop it, or choose another path"
            )
        file.unlink()


class UnixListener(Listener[SocketStream]):
    """Accepts connections on a Unix socket; made by `listen_unix`.

    :param listener: of anyio; owned by this one from here on
    """

    def __init__(self, listener: SocketListener, file: Path | None) -> None:
        self._listener = listener
        self._sockets = own_sockets(listener)
        self._file = file
        self._identity = None if file is None else _identity(file)

    async def accept(self) -> SocketStream:
        """Wait for the next connection."""
        return await self._listener.accept()

    async def serve(self, handler: Callable[[SocketStream], Any], task_group: TaskGroup | None = None) -> None:
        """Accept connections until cancelled; run `handler` for each, in a task of `task_group`."""
        await self._listener.serve(handler, task_group)

    async def aclose(self) -> None:
        """Stop listening, and remove the file, unless another process has replaced it. Connections stay open."""
        for each in self._sockets:
            shut_down(each)
        try:
            await self._listener.aclose()  # closes the socket when nobody waits for it any more
        finally:
            with suppress(FileNotFoundError):
                if self._file is not None and _identity(self._file) == self._identity:
                    self._file.unlink()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket's attributes."""
        return self._listener.extra_attributes


def _identity(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_dev, found.st_ino


def prepare(transport: AnyByteStream) -> None:
    """Let a socket stream read only what is asked for, and let it be cancelled at any moment.

    It corrects two things in anyio 4.16 on asyncio and uvloop:

    - A stream that was accepted reads from the start, and pauses only after the first `receive` that had to wait. When
      a peer sends without pause, no `receive` ever waits, and all that arrives is kept in memory: hundreds of megabytes
      a second.
    - `receive` and `send` of Unix sockets wait for a future that the event loop settles when the socket is ready. When
      they are cancelled in that very turn, the future is cancelled already, and the event loop reports an
      `InvalidStateError`.
    """
    pause = getattr(getattr(transport, "_transport", None), "pause_reading", None)
    if pause is not None:
        pause()
    for direction, future, add, remove in (
        ("readable", "_receive_future", "add_reader", "remove_reader"),
        ("writable", "_send_future", "add_writer", "remove_writer"),
    ):
        name = f"_wait_until_{direction}"
        if hasattr(transport, name):
            setattr(transport, name, partial(_when_ready, transport, future, add, remove))


def _when_ready(transport: AnyByteStream, future: str, add: str, remove: str, loop: Any) -> Any:
    """Return a future that is done when the socket is ready. `aclose` of the stream knows it as attribute `future`."""
    raw_socket = transport.extra(SocketAttribute.raw_socket)
    ready = loop.create_future()

    def settle() -> None:
        if not ready.done():  # it may have been cancelled in this turn
            ready.set_result(None)

    def stop(_: object) -> None:
        delattr(transport, future)
        getattr(loop, remove)(raw_socket)

    setattr(transport, future, ready)
    getattr(loop, add)(raw_socket, settle)
    ready.add_done_callback(stop)
    return ready
