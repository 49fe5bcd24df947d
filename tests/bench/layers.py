"""Where the time of a call goes on our server: what each layer costs when nothing but that layer runs.

    uv run just layers                       # processor time, the least of several batches
    uv run just layers create --instructions # what callgrind counts: does not wobble, and takes minutes

Everything but the last row runs in this process, without a socket. The connection's synchronous core is driven with
the bytes of a client, with no event loop at all; the service's coroutines never wait, so that the event loop is only
asked for cancel scopes; the whole server runs over a connection in memory. What that costs beyond its parts is the
call machinery: tasks, scopes, streams, and the turns of the event loop. The last row is a server process under the
load of 64 calls at once, less all of the above: its sockets and its part of the event loop.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import h2.config
import h2.connection
import h2.settings
import work as works
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from hpack import Decoder, Encoder
from instructions import instructions_per_call
from load import REQUEST_HEADERS, Shape, measure
from peers import BACKENDS, SERVERS, end_servers_at_sigterm, ours, running

from connectrio import ConnectorRegistry
from connectrio.host.settings import Backend, anyio_backend
from connectrio.logs import configure_logging
from connectrio.rpc import Server
from connectrio.rpc._grpc import frame_message
from connectrio.rpc._http2.server_side import ServerConnection
from connectrio.rpc.codec import MessageCodec
from connectrio.rpc.options import ServerOptions
from connectrio.service.async_connector import AsyncConnectorService

_CALLS, _WARM_UP, _BATCHES = 1280, 256, 5
_AT_ONCE = 64
_RESPONSE = [
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-accept-encoding", "identity,deflate,gzip"),
]
_TRAILERS = [("grpc-status", "0")]


class Case:
    """A method of the service: its handler, its messages, and the connector's part."""

    def __init__(self, kind: works.Work) -> None:
        self.path = kind.path
        self.service = AsyncConnectorService(ConnectorRegistry.default)
        self.handler = self.service.__mapping__()[kind.path]
        self.raw_request = kind.request.SerializeToString()
        self.codec = MessageCodec()
        self.request = self.codec.decode(self.raw_request, self.handler.request_type)
        self.method = self.service.get_task if kind is works.GET else self.service.create_task
        self.connector = ConnectorRegistry.default.get_connector("bench", 0)
        self.is_get = kind is works.GET

    async def connector_call(self) -> Any:
        """What the connector itself does, in `Work`."""
        if self.is_get:
            return await self.connector.get(self.connector.metadata_type("0123456789abcdef"))
        inputs = dict.fromkeys(("count", "ratio", "text", "flag")) | {
            "items": [0] * 10,
            "table": dict.fromkeys("0123456789"),
        }
        return await self.connector.create(None, "", inputs)


@dataclass(frozen=True)
class Layer:
    """Something that can run alone.

    :ivar prepare: makes what so many calls need
    :ivar run: makes them
    """

    name: str
    prepare: Callable[[int], Any]
    run: Callable[[Any], Awaitable[None]]


def layers(case: Case) -> Iterator[Layer]:
    """What is measured alone, from the inside to the outside."""

    async def connector(calls: int) -> None:
        for _ in range(calls):
            await case.connector_call()

    async def service(calls: int) -> None:
        # copies, because the service takes the inputs out of a request
        for _ in range(calls):
            await case.method(copy(case.request))

    async def codec(arguments: tuple[int, Any]) -> None:
        calls, response = arguments
        for _ in range(calls):
            case.codec.decode(case.raw_request, case.handler.request_type)
            case.codec.encode(response, case.handler.reply_type)

    yield Layer("connector", lambda calls: calls, connector)
    yield Layer("service", lambda calls: calls, service)
    yield Layer("codec", lambda calls: (calls, _answer(case)), codec)
    yield Layer("hpack", lambda calls: (_core(case)[0], _header_blocks(case, calls)), _run_hpack)
    yield Layer("connection", lambda calls: (*_core(case), _client_bytes(case, calls)), _run_core)
    yield Layer("in memory", lambda calls: (case, _client_bytes(case, calls)), _run_server)


def _answer(case: Case) -> Any:
    coroutine = case.method(copy(case.request))
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("the service waits")


def _headers(case: Case) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "127.0.0.1:8000"),
        (":path", case.path),
        *REQUEST_HEADERS,
    ]


def _header_blocks(case: Case, calls: int) -> list[bytes]:
    encoder = Encoder()
    return [encoder.encode(_headers(case)) for _ in range(calls)]


async def _run_hpack(arguments: tuple[ServerConnection, list[bytes]]) -> None:
    core, blocks = arguments
    decoder: Decoder = core.h2.decoder
    encoder: Encoder = core.h2.encoder
    for block in blocks:
        decoder.decode(block)
        encoder.encode(_RESPONSE)
        encoder.encode(_TRAILERS)


def _core(case: Case) -> tuple[ServerConnection]:
    return (ServerConnection(ServerOptions()),)


async def _run_core(arguments: tuple[ServerConnection, list[bytes]]) -> None:
    core, chunks = arguments
    response = memoryview(frame_message(bytes(60)))
    for chunk in chunks:
        core.feed(chunk)
        while core.process(64):
            pass
        for event in core.take_events():
            stream = event.stream
            stream.take()
            stream.send_headers(_RESPONSE)
            stream.send_some(response)
            stream.send_headers(_TRAILERS, end_stream=True)
            stream.release()
        core.take_output()


def _client_bytes(case: Case, calls: int) -> list[bytes]:
    """What a client sends for so many calls, with so many in one read as are at once."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    client.initiate_connection()
    client.remote_settings[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] = 2**31 - 1
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    client.increment_flow_control_window(2**31 - 1 - 65535)
    client.outbound_flow_control_window = 2**31 - 1
    chunks = []
    for number in range(calls):
        stream_id = 2 * number + 1
        client.send_headers(stream_id, _headers(case))
        client.streams[stream_id].outbound_flow_control_window = 2**31 - 1
        client.send_data(stream_id, works.frame(case.raw_request), end_stream=True)
        client.streams.pop(stream_id)
        if (number + 1) % _AT_ONCE == 0:
            chunks.append(client.data_to_send())
    return chunks


class _Client(ByteStream):
    """A client in memory: sends its next calls when those before are answered."""

    def __init__(self, server: Server, chunks: list[bytes]) -> None:
        self._server = server
        self._chunks = iter(chunks)
        self.received = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while self._server.active_calls:
            await checkpoint()
        await checkpoint()
        chunk = next(self._chunks, None)
        if chunk is None:
            raise anyio.EndOfStream
        return chunk

    async def send(self, item: bytes) -> None:
        self.received += len(item)
        await checkpoint()

    async def send_eof(self) -> None:
        """Nothing follows."""

    async def aclose(self) -> None:
        """Nothing to close."""


async def _run_server(arguments: tuple[Case, list[bytes]]) -> None:
    case, chunks = arguments
    server = Server([case.service], options=ServerOptions(linger=0.001))
    client = _Client(server, chunks)
    await server.serve_connection(client)
    if client.received < 50 * len(chunks) * _AT_ONCE:
        raise RuntimeError("not all calls were answered")


async def time_layers(kind: works.Work) -> dict[str, float]:
    """Processor seconds for each call: the least of several batches."""
    costs = {}
    for layer in layers(Case(kind)):
        await layer.run(layer.prepare(_WARM_UP))
        _forget_garbage()
        batches = []
        for _ in range(_BATCHES):
            prepared = layer.prepare(_CALLS)
            started = time.thread_time()
            await layer.run(prepared)
            batches.append((time.thread_time() - started) / _CALLS)
        costs[layer.name] = min(batches)
    return costs


def _forget_garbage() -> None:
    """Let the collector's next runs see what the calls leave, and not all that this process has loaded."""
    gc.collect()
    gc.freeze()


async def mark_layers(kind: works.Work) -> None:
    """Run each layer between two calls of getppid, at which callgrind writes down what it has counted so far."""
    for layer in layers(Case(kind)):
        await layer.run(layer.prepare(_WARM_UP))
        prepared = layer.prepare(_CALLS)
        _forget_garbage()
        os.getppid()
        await layer.run(prepared)
        os.getppid()


def count_layers(kind: works.Work, backend: str) -> dict[str, float]:
    """Instructions for each call, in a process of its own under callgrind."""
    with tempfile.TemporaryDirectory() as directory:
        command = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={directory}/out"]
        command += [sys.executable, __file__, kind.name, "--backend", backend, "--marked"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "0"})
        names = [layer.name for layer in layers(Case(kind))]
        totals = [_total(Path(directory, f"out.{2 * number}")) for number in range(1, len(names) + 1)]
    return dict(zip(names, (total / _CALLS for total in totals), strict=True))


def _total(dump: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"callgrind has counted nothing in {dump}")
    return int(found.group(1))


def server_cost(kind: works.Work, backend: str, *, instructions: bool) -> float:
    """What a server process needs for each call under load, over a socket."""
    if instructions:
        return instructions_per_call(ours(backend), kind)
    with running(ours(backend)) as host:
        return min(measure(host, kind, Shape(_AT_ONCE), 1).cpu for _ in range(3))


def parts(costs: dict[str, float], server: float) -> dict[str, float]:
    """Each layer's own cost, from what the layers cost that contain others."""
    service = costs["service"] - costs["connector"]
    inside = costs["connection"] + costs["codec"] + costs["service"]
    return {
        "socket and event loop": server - costs["in memory"],
        "call machinery: tasks, scopes, streams": costs["in memory"] - inside,
        "h2 and our connection": costs["connection"] - costs["hpack"],
        "hpack": costs["hpack"],
        "codec: one message in, one out": costs["codec"],
        "service: find, convert, account": service,
        "connector": costs["connector"],
        "whole": server,
    }


def to_markdown(title: str, columns: dict[str, dict[str, float]], scale: float) -> str:
    """A table: a row for each layer, a column for each backend with its part of the whole."""
    names = list(columns)
    lines = [f"| {title} | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for layer in next(iter(columns.values())):
        cells = [
            f"{columns[name][layer] * scale:,.0f} ({columns[name][layer] / columns[name]['whole']:.0%})"
            for name in names
        ]
        lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print a table for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", help="get, create; by default both")
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--instructions", action="store_true", help="count them instead of measuring time")
    parser.add_argument("--marked", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    configure_logging("warning")
    end_servers_at_sigterm()
    sys.path.insert(0, str(SERVERS))
    import bench_connector  # noqa: F401 - registers its connectors

    for kind in (works.GET, works.CREATE):
        if not options.work or kind.name in options.work:
            _report(kind, options)


def _report(kind: works.Work, options: argparse.Namespace) -> None:
    if options.marked:
        _run(mark_layers, kind, options.backend[0])
        return
    columns = {}
    for backend in options.backend:
        costs = count_layers(kind, backend) if options.instructions else _run(time_layers, kind, backend)
        columns[backend] = parts(costs, server_cost(kind, backend, instructions=options.instructions))
    unit, scale = ("instructions", 1) if options.instructions else ("µs", 1e6)
    print(to_markdown(f"{kind.title}: {unit} for each call", columns, scale), flush=True)


def _run(function: Callable[[works.Work], Awaitable[Any]], kind: works.Work, backend: Backend) -> Any:
    name, backend_options = anyio_backend(backend)
    return anyio.run(function, kind, backend=name, backend_options=backend_options)


if __name__ == "__main__":
    main()
