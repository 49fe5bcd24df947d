"""Unix sockets: whose they are, who may connect, and what is left of them; and who goes on listening."""
# ruff: noqa: ASYNC240 - tests may look at files: nothing waits for them meanwhile

from __future__ import annotations

import os
import socket
import stat
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import Listener, SocketAttribute, SocketListener, SocketStream, UNIXSocketStream
from anyio.streams.stapled import MultiListener

from connectrio.rpc import Server
from connectrio.rpc.sockets import (
    UnixSocketError,
    close_in_children,
    listen_unix,
    prepare,
    share,
    stop_listening,
    unix_target,
)
from connectrio.rpc.tls import TLSListener
from rpc.kit.script import Note, Script
from rpc.kit.serving import turns
from rpc.kit.tls_serving import answers, calling, serving


@pytest.fixture
def path(tmp_path):
    return tmp_path / "grpc.sock"


def abandoned(path: Path) -> None:
    """What a process that was killed leaves."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


async def test_calls(path: Path):
    async with serving(None, await listen_unix(path)), calling(f"unix:{path}", None) as stub:
        assert await stub.unary(Note("a")) == Note("a")
        assert [note async for note in stub.bidi([Note("x" * 100_000)] * 20)] == [Note("x" * 100_000)] * 20


@pytest.mark.parametrize("form", ["{}", "unix:{}", "unix://{}", "unix-abstract:{}"])
async def test_a_target_says_where_to_listen(path: Path, form: str):
    listener = await listen_unix(form.format(path))
    target = form.format(path) if ":" in form else f"unix:{path}"
    assert unix_target(form.format(path)) == target
    async with serving(None, listener), calling(target, None) as stub:
        assert path.exists() == (not form.startswith("unix-abstract:"))
        assert await stub.unary(Note("a")) == Note("a")
        with pytest.raises(UnixSocketError, match=r"another process does; stop it, or choose another (path|name)"):
            await listen_unix(form.format(path))
    assert not path.exists()


async def test_the_servicer_knows_that_it_is_a_unix_socket(path: Path):
    async def tell_peer(stream) -> None:
        await stream.recv_message()
        await stream.send_message(Note(str(stream.peer)))

    async with serving(None, await listen_unix(path), script=Script(tell_peer)), calling(f"unix:{path}", None) as stub:
        assert await stub.unary(Note()) == Note("unix:")


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_the_files_permissions_are_those_asked_for(path: Path, mode: int):
    before = os.umask(0o777)
    try:
        listener = await listen_unix(path, mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    await listener.aclose()


async def test_only_this_user_may_connect_by_default(path: Path):
    listener = await listen_unix(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await listener.aclose()


async def test_the_file_is_gone_when_the_listener_is_closed(path: Path):
    listener = await listen_unix(path)
    assert listener.extra(SocketAttribute.local_address) == str(path)
    await listener.aclose()
    assert not path.exists()
    await listener.aclose()


async def test_the_file_is_gone_when_closing_is_cancelled(path: Path):
    listener = await listen_unix(path)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await listener.aclose()
    assert not path.exists()
    await listener.aclose()


async def test_connections_outlive_the_listener(path: Path):
    async with serving(None, await listen_unix(path)) as served, calling(f"unix:{path}", None) as stub:
        assert await stub.unary(Note("a")) == Note("a")
        served.server.stop_accepting()
        while path.exists():  # noqa: ASYNC110 - nothing tells when a file goes
            await anyio.sleep(0.001)
        assert await stub.unary(Note("b")) == Note("b")


async def test_what_a_dead_process_has_left_is_replaced(path: Path):
    abandoned(path)
    async with serving(None, await listen_unix(path)):
        assert await answers(f"unix:{path}", None)


async def test_a_socket_that_is_in_use_is_left_alone(path: Path):
    async with serving(None, await listen_unix(path)):
        with pytest.raises(UnixSocketError, match=r"grpc\.sock: another process does; stop it, or choose another path"):
            await listen_unix(path)
        assert await answers(f"unix:{path}", None)


async def test_a_socket_whose_queue_is_full_is_in_use(path: Path):
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))
        with pytest.raises(UnixSocketError, match="another process does"):
            await listen_unix(path)


async def test_a_file_that_is_no_socket_is_left_alone(path: Path):
    path.write_text("precious")
    with pytest.raises(UnixSocketError, match=r"grpc\.sock: a file that is no socket has that name"):
        await listen_unix(path)
    assert path.read_text() == "precious"


async def test_a_directory_that_is_not_there(tmp_path: Path):
    with pytest.raises(
        UnixSocketError, match=r"cannot listen on the Unix socket .*/no/grpc\.sock: No such file or dir"
    ):
        await listen_unix(tmp_path / "no" / "grpc.sock")


async def test_a_path_that_is_too_long(tmp_path: Path):
    with pytest.raises(UnixSocketError, match="path too long"):
        await listen_unix(tmp_path / ("long" * 50))


async def test_nothing_is_left_when_listening_fails_half_way(path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(UnixSocketError, match=r"grpc\.sock: Permission denied"):
        await listen_unix(path)
    assert not path.exists()


async def test_a_file_that_another_process_has_put_there_meanwhile_is_left_alone(path: Path):
    listener = await listen_unix(path)
    path.unlink()
    other = await listen_unix(path)
    await listener.aclose()
    assert path.exists()
    await other.aclose()
    assert not path.exists()


def tcp(reuse_port: bool = False, port: int = 0) -> socket.socket:
    bound = socket.socket()
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    bound.listen()
    return bound


async def test_a_closed_unix_listener_refuses_connections_whoever_else_has_its_socket(path: Path):
    listener = await listen_unix(path)
    with listener.extra(SocketAttribute.raw_socket).dup():  # as a child has it
        kept_path = path.with_name("kept")
        os.link(path, kept_path)
        await listener.aclose()
        with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(kept_path))


class Foreign(Listener[SocketStream]):
    """A listener of a kind that we do not know, over anyio's."""

    def __init__(self, listener: SocketListener) -> None:
        self._listener = listener

    async def serve(self, handler, task_group=None) -> None:
        await self._listener.serve(handler, task_group)

    async def aclose(self) -> None:
        await self._listener.aclose()

    @property
    def extra_attributes(self):
        return self._listener.extra_attributes


KINDS = {
    "anyio's": lambda listener: listener,
    "several": lambda listener: MultiListener([listener]),
    "TLS": lambda listener: TLSListener(listener, lambda transport: transport),
    "foreign": Foreign,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_server_stops_listening_whoever_else_has_its_sockets(kind):
    bound = tcp()
    address = bound.getsockname()
    server = Server([])
    with bound.dup():  # as a child has it that was forked without Python's knowledge
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.serve, kind(await SocketListener.from_socket(bound)))
            assert in_a_child(lambda: bound.fileno() == -1)
            await server.shutdown()
        with pytest.raises(ConnectionRefusedError), socket.socket() as client:
            client.connect(address)
        tcp(port=address[1]).close()


async def test_a_port_that_processes_share_stays_with_the_others():
    first = tcp(reuse_port=True)
    with tcp(reuse_port=True, port=first.getsockname()[1]) as second:
        server = Server([])
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.serve, await SocketListener.from_socket(first))
            await server.shutdown()
        for _ in range(20):
            with socket.create_connection(second.getsockname()), second.accept()[0]:
                pass


def in_a_child(condition: Callable[[], bool]) -> bool:
    """Return whether the condition holds in a child that is forked now."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking while there are threads
        child = os.fork()
    if child == 0:
        os._exit(0 if condition() else 1)
    return os.waitpid(child, 0)[1] == 0


def test_a_child_that_is_forked_has_none_of_the_sockets():
    with tcp() as own, tcp() as other:
        close_in_children(own)
        assert in_a_child(lambda: own.fileno() == -1 and other.fileno() != -1)
        assert own.fileno() != -1


@asynccontextmanager
async def prepared_pair() -> AsyncIterator[tuple[UNIXSocketStream, socket.socket]]:
    """A stream as a connection uses it, and the other end, which never blocks."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    async with await UNIXSocketStream.from_socket(ours) as stream:
        prepare(stream)
        with theirs:
            yield stream, theirs


@pytest.mark.parametrize("turns_before", range(4))
async def test_a_receive_that_is_cancelled_as_bytes_come(turns_before: int):
    """Nothing is lost, and the event loop has nothing to report, which would fail this test."""
    for _ in range(5):
        async with prepared_pair() as (stream, theirs):
            received = []

            async def keep(stream=stream, received=received) -> None:
                received.append(await stream.receive())

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep)
                await turns(10)
                theirs.send(b"x")
                await turns(turns_before)
                tasks.cancel_scope.cancel()
            theirs.send(b"y")
            while b"".join(received) != b"xy":
                await keep()


@pytest.mark.parametrize("turns_before", range(4))
async def test_a_send_that_is_cancelled_as_the_peer_reads(turns_before: int):
    for _ in range(5):
        async with prepared_pair() as (stream, theirs), anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, bytes(10_000_000))
            await turns(10)
            with suppress(BlockingIOError):
                while theirs.recv(1_000_000):
                    pass
            await turns(turns_before)
            tasks.cancel_scope.cancel()


async def test_whoever_waits_for_a_stream_that_is_closed_hears_of_it():
    async with prepared_pair() as (stream, _), anyio.create_task_group() as tasks:

        async def receive() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await stream.receive()

        tasks.start_soon(receive)
        await turns(10)
        await stream.aclose()


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_copy_of_a_socket_goes_on_listening_only_if_it_is_shared(is_shared: bool):
    listening = socket.create_server(("127.0.0.1", 0))
    with listening.dup() as copy, socket.socket() as client:
        if is_shared:
            share(listening)
        stop_listening(listening)
        assert listening.fileno() == -1
        assert (client.connect_ex(copy.getsockname()) == 0) is is_shared
