"""Real proxies between clients and our server: what one call does wrong costs none of the others."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.rpc import Channel, Server
from rpc.kit.script import CLIENT_STREAMING, Note, Script, ScriptStub
from rpc.kit.serving import eventually, held_port

grpc = pytest.importorskip("grpc", reason="needs the package grpcio")

PATIENCE = 60.0
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def nginx(folder: Path, port: int, server: int) -> list[str]:
    paths = "".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""
        daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;
        events {{}}
        http {{
            access_log off; client_max_body_size 0; {paths}
            upstream ours {{ server 127.0.0.1:{server} max_fails=0; keepalive 8; }}
            server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://ours; }} }}
        }}
        """
    )
    return ["-e", f"{folder}/log", "-c", str(configuration)]


def nghttpx(folder: Path, port: int, server: int) -> list[str]:
    return [
        "--conf=/dev/null",
        f"--frontend=127.0.0.1,{port};no-tls",
        f"--backend=127.0.0.1,{server};;proto=h2",
        "--workers=1",
        "--single-process",
        f"--errorlog-file={folder}/log",
    ]


PACKAGES = {nginx: "nginx", nghttpx: "nghttp2-proxy"}
Command = Callable[[Path, int, int], list[str]]

proxies = pytest.mark.parametrize("proxy", PACKAGES, ids=lambda proxy: proxy.__name__)


@asynccontextmanager
async def through(proxy: Command, folder: Path, servicer: Script) -> AsyncIterator[tuple[int, Server]]:
    """The port of a proxy in front of a server with `servicer`, and the server."""
    name = proxy.__name__
    program = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if program is None:
        pytest.skip(f"{name} is not installed; get it with: apt-get install {PACKAGES[proxy]}")
    with held_port() as port:
        async with anyio.create_task_group() as tasks:
            server = Server([servicer])
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            [(_, behind)] = await tasks.start(server.serve, listener)
            command = [program, *proxy(folder, port, behind)]
            with (folder / "output").open("wb") as output:
                async with await anyio.open_process(command, stdout=output, stderr=output) as process:
                    try:
                        with anyio.fail_after(PATIENCE):
                            await until_it_listens(port)
                            yield port, server
                    finally:
                        process.terminate()
            await server.shutdown(grace=5)


async def until_it_listens(port: int) -> None:
    while True:
        try:
            stream = await anyio.connect_tcp("127.0.0.1", port)
        except OSError:
            await anyio.sleep(0.02)
        else:
            await stream.aclose()
            return


@proxies
async def test_answers_before_the_end_of_the_request(proxy: Command, tmp_path: Path):
    """What the proxy has still to send on is ignored, and not answered with a second RST_STREAM."""

    async def answer_early(stream) -> None:
        await stream.recv_message()
        await stream.send_message(Note("enough"))

    def call(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=OWN_CONNECTION) as channel:
            for _ in range(20):
                notes = (b"x" * 3000 for _ in range(300))
                assert channel.stream_unary(CLIENT_STREAMING)(notes, timeout=PATIENCE) == b"enough"

    async with (
        through(proxy, tmp_path, Script(client_streaming=answer_early)) as (port, _),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(8):
            tasks.start_soon(to_thread.run_sync, call, port)


@proxies
async def test_metadata_that_is_too_large(proxy: Command, tmp_path: Path):
    """nghttpx sends the calls of all clients over one connection."""
    large = {f"x-{number}": "v" * 2000 for number in range(10)}
    everyone_is_here = anyio.Event()

    async def unary(stream) -> None:
        note = await stream.recv_message()
        await everyone_is_here.wait()
        await stream.send_message(note)

    async def call(stub: ScriptStub) -> None:
        assert await stub.unary(Note("innocent")) == Note("innocent")

    async with (
        through(proxy, tmp_path, Script(unary)) as (port, server),
        Channel(f"127.0.0.1:{port}") as channel,
        Channel(f"127.0.0.1:{port}") as other,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(20):
            tasks.start_soon(call, ScriptStub(channel))
        await eventually(lambda: server.active_calls == 20)
        for _ in range(5):
            with pytest.raises(GRPCError, match="but this server takes at most 16384") as raised:
                await ScriptStub(other).unary(Note("too much"), metadata=large)
            assert raised.value.status is Status.RESOURCE_EXHAUSTED
        everyone_is_here.set()
