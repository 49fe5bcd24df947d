"""Unix sockets: whose they are, who may connect, and what is left of them."""
# ruff: noqa: ASYNC240 - tests may look at files: nothing waits for them meanwhile

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, UNIXSocketStream

from connectrio.rpc.sockets import UnixSocketError, listen_unix, prepare
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
