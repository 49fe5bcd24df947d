"""Connections that come while the server stops accepting."""

from __future__ import annotations

import errno
import gc
import socket
import struct
import sys
import time

import anyio
import pytest
from anyio.abc import Listener, SocketAttribute, SocketListener, SocketStream
from anyio.lowlevel import checkpoint
from anyio.streams.stapled import MultiListener

from connectrio.diagnostics import Repeats
from connectrio.rpc import Channel, Server
from connectrio.rpc._server import accepting
from rpc.kit.script import Note, Script, ScriptStub
from rpc.kit.serving import captured_logs, eventually, leaving_nothing


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
async def test_a_connection_that_comes_as_the_server_stops(before: int, after: int, monkeypatch: pytest.MonkeyPatch):
    """Whichever is first, no socket is lost: asyncio's `sock_accept`, cancelled too late, drops what it accepted."""
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: lost.append(raised.exc_value))
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(SocketAttribute.local_port)
        server = Server([])
        await tasks.start(server.serve, listener)
        with socket.socket() as client:
            for _ in range(before):
                await checkpoint()
            client.connect(("127.0.0.1", port))
            for _ in range(after):
                await checkpoint()
        await server.shutdown(grace=0)
    gc.collect()
    assert lost == []


async def test_many_that_connect_at_once_are_served_together():
    """However long the turns of the event loop are: accepting one after the other, each would take some of them."""
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        server = Server([])
        [address] = await tasks.start(server.serve, listener)
        clients = [socket.create_connection(address) for _ in range(60)]
        while waiting_to_be_accepted(listener) < len(clients):
            time.sleep(0.001)  # no turn for the server before they are all there
        turns_taken = 0
        while len(server._connections) < len(clients):
            await checkpoint()
            turns_taken += 1
        assert turns_taken < len(clients)
        for client in clients:
            client.close()
        await server.shutdown(grace=0)


def waiting_to_be_accepted(listener: MultiListener[SocketStream]) -> int:
    """How many connections the kernel has for the listener: in a listening socket's `tcp_info`, `tcpi_unacked`."""
    raw_socket = listener.extra(SocketAttribute.raw_socket)
    tcp_info = raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return struct.unpack_from("I", tcp_info, 24)[0]


async def test_small_frames_are_not_held_back():
    """Nagle's algorithm would wait for the client's acknowledgement of what was sent before."""
    async with leaving_nothing(), anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        server = Server([])
        [address] = await tasks.start(server.serve, listener)
        with socket.create_connection(address):
            await eventually(lambda: len(server._connections) == 1)
            [connection] = server._connections
            raw_socket = connection._transport.extra(SocketAttribute.raw_socket)
            assert raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await server.shutdown(grace=0)


async def test_clients_that_have_gone_again_before_they_are_accepted():
    reset_at_close = struct.pack("ii", 1, 0)
    async with leaving_nothing() as log, anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        [port] = [listener.extra(SocketAttribute.local_port)]
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_at_close)
        server = Server([Script()])
        await tasks.start(server.serve, listener)
        async with Channel(f"127.0.0.1:{port}") as channel:
            assert await ScriptStub(channel).unary(Note("still served")) == Note("still served")
        await server.shutdown()
    assert [line for line in log if line["log_level"] == "error"] == []


async def test_the_line_of_a_connection_that_failed_names_its_client():
    async def fails(transport):
        await transport.aclose()
        raise ValueError("a bug")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    with captured_logs() as lines:
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(accepting.accept_connections, listener, fails, tasks)
            async with await anyio.connect_tcp("127.0.0.1", port) as client:
                address = client.extra(SocketAttribute.local_address)
                await eventually(lambda: lines)
            tasks.cancel_scope.cancel()
    [line] = lines
    assert (line["event"], line["peer"]) == ("a connection from %(peer)s failed", f"127.0.0.1:{address[1]}")


class NoFileIsLeft(Listener):
    """Fails to accept again and again, then stops."""

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self.ended = anyio.Event()

    async def accept(self):
        if self._failures:
            self._failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        self.ended.set()
        await anyio.sleep_forever()

    async def serve(self, handler, task_group=None):
        raise AssertionError("it can accept")

    async def aclose(self):
        pass


async def test_when_no_file_is_left_the_log_says_so_once_a_second(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(accepting, "_RETRY_DELAY", 0)
    monkeypatch.setattr(accepting.log, "_repeats", Repeats(1.0, lambda: now[0]))
    with captured_logs() as lines:
        for _ in range(2):
            async with anyio.create_task_group() as tasks:
                listener = NoFileIsLeft(20)
                tasks.start_soon(accepting.accept_connections, listener, None, tasks)
                await listener.ended.wait()
                tasks.cancel_scope.cancel()
            now[0] += 1
    assert [str(line["error"]) for line in lines] == 2 * ["[Errno 24] Too many open files"]
    assert [line.get("left_out") for line in lines] == [None, 19]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a listening socket cannot be shut down")
async def test_new_connections_go_to_another_process_as_soon_as_the_server_stops_accepting():
    """At once, and not some turns later: a client that is told to go elsewhere would come back, and be reset."""
    with socket.socket() as other, socket.socket() as own:
        for each in (other, own):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.setblocking(False)
        other.bind(("127.0.0.1", 0))
        own.bind(other.getsockname())
        for each in (other, own):
            each.listen()
        async with anyio.create_task_group() as tasks:
            server = Server([])
            await tasks.start(server.serve, await SocketListener.from_socket(own))
            server.stop_accepting()
            clients = [socket.create_connection(other.getsockname()) for _ in range(20)]
            accepted = [other.accept()[0] for _ in clients]
            with pytest.raises(BlockingIOError):
                other.accept()
            for each in (*clients, *accepted):
                each.close()
            await server.shutdown()


async def test_errors_of_a_socket_that_was_shut_down_mean_nothing():
    several = await anyio.create_tcp_listener(local_host="127.0.0.1")
    [listener] = several.listeners
    async with several, anyio.create_task_group() as tasks:
        listener.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_RDWR)
        await accepting.accept_connections(listener, None, tasks, lambda: True)
        with pytest.raises(OSError, match="Invalid argument"):
            await accepting.accept_connections(listener, None, tasks, lambda: False)
