"""The hosts under test, and running them as processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import environments
from call import call, is_serving
from work import GET

SERVERS = Path(__file__).parent / "servers"
SERVER_CORE, CLIENT_CORE = 0, 1
BACKENDS = ("uvloop", "asyncio", "trio")
_START_TIMEOUT = 60.0


@dataclass(frozen=True)
class Peer:
    """A host under test.

    :ivar name: on the command line and in tables
    :ivar arguments: what follows the interpreter; `{port}` and `{metrics_port}` are filled in
    :ivar requirements: of its environment
    :ivar is_whole: it hosts the benchmark's connectors and has a health service; else it is a bare servicer, which
        knows GetTask and CreateTask only
    """

    name: str
    arguments: tuple[str, ...]
    requirements: tuple[str, ...]
    is_whole: bool = True

    def command(self, port: int, metrics_port: int) -> list[str]:
        """What starts it; its environment is made if it is not there."""
        python = str(environments.python_of(self.requirements))
        return [python, *(part.format(port=port, metrics_port=metrics_port) for part in self.arguments)]


_OPTIONS = ("--port", "{port}", "--prometheus_port", "{metrics_port}", "--modules", "bench_connector")
_C0 = ("-c", "from flyte._bin.connect import main; main()")
# room for a call that checks the answers while a thousand connections of the client are still being closed
_ROOM = ("--max-connections", "2000")
_OURS = ("-m", "connectrio", "serve", "--no-entry-points", "--log-level", "warning", "--host", "127.0.0.1", *_ROOM)

REFERENCE = Peer("c0", (*_C0, *_OPTIONS), environments.FLYTE)


def ours(backend: str, *options: str) -> Peer:
    """Our host on a backend."""
    name = " ".join(["connectrio", backend, *options])
    return Peer(name, (*_OURS, *_OPTIONS, "--backend", backend, *options), environments.OURS)


def hosted(backend: str) -> Peer:
    """Our host on a backend, with flyte-sdk's connectors instead of ours."""
    return Peer(f"hosted {backend}", ours(backend).arguments, environments.HOSTED)


def _bare(name: str, program: str, requirements: tuple[str, ...], *options: str) -> Peer:
    return Peer(name, (str(SERVERS / program), "{port}", *options), requirements, is_whole=False)


ALL = (
    REFERENCE,
    _bare("grpc.aio", "grpcio_server.py", environments.GRPCIO),
    _bare("grpclib asyncio", "grpclib_server.py", environments.GRPCLIB, "asyncio"),
    _bare("grpclib uvloop", "grpclib_server.py", environments.GRPCLIB, "uvloop"),
    _bare("purerpc asyncio", "purerpc_server.py", environments.PURERPC, "asyncio"),
    _bare("purerpc uvloop", "purerpc_server.py", environments.PURERPC, "uvloop"),
    _bare("purerpc trio", "purerpc_server.py", environments.PURERPC, "trio"),
    *(ours(backend) for backend in BACKENDS),
    *(hosted(backend) for backend in BACKENDS),
    *(_bare(f"connectrio.rpc {backend}", "rpc_server.py", environments.OURS, backend) for backend in BACKENDS),
)


def chosen(names: Sequence[str]) -> list[Peer]:
    """The peers whose names begin so.

    :raises SystemExit: a name fits none
    """
    found: dict[str, Peer] = {}
    for name in names:
        fitting = {peer.name: peer for peer in ALL if peer.name == name or peer.name.startswith(f"{name} ")}
        if not fitting:
            raise SystemExit(f"no peer is named {name!r}; there are: {', '.join(peer.name for peer in ALL)}")
        found.update(fitting)
    return list(found.values())


@dataclass(frozen=True)
class Running:
    """A peer as a process.

    :ivar cold_start: seconds from its start until it was first seen to serve
    """

    peer: Peer
    port: int
    pid: int
    cold_start: float


def end_servers_at_sigterm() -> None:
    """Let SIGTERM end this program as Ctrl-C does: with the servers that it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextlib.contextmanager
def running(peer: Peer, *, core: int | None = SERVER_CORE, wrapper: Sequence[str] = ()) -> Iterator[Running]:
    """`peer` as a process on one core, from when it serves until the block is left.

    :param core: None lets it have them all
    :param wrapper: a command that runs it
    :raises SystemExit: it ended, or does not serve; with what it wrote
    """
    port, metrics_port = free_ports(2)
    command = [*wrapper, *peer.command(port, metrics_port)]
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*pinned(core), *command], cwd=SERVERS, env=_environment(), stdout=output, stderr=output
        )
        try:
            _wait_until_serving(peer, port, process, output, slow=bool(wrapper))
            yield Running(peer, port, process.pid, time.perf_counter() - started)
        finally:
            process.terminate()
            try:
                process.wait(10 * (6 if wrapper else 1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(SERVERS), "PYTHONHASHSEED": "0"}


def pinned(core: int | None) -> list[str]:
    """What to put before a command to keep it on a core; nothing for None."""
    # taskset becomes the program, so that the process is on its core from its first instruction
    return [] if core is None else ["taskset", "-c", str(core % (os.cpu_count() or 1))]


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait_until_serving(peer: Peer, port: int, process: subprocess.Popen[bytes], output: object, *, slow: bool) -> None:
    deadline = time.monotonic() + _START_TIMEOUT * (10 if slow else 1)
    while time.monotonic() < deadline and process.poll() is None:
        if _serves(peer, port):
            return
        time.sleep(0.002)
    output.seek(0)
    said = output.read().decode(errors="replace")[-3000:]
    raise SystemExit(f"{peer.name} does not serve (exit code {process.poll()}); it wrote:\n{said}")


def _serves(peer: Peer, port: int) -> bool:
    if peer.is_whole:
        return is_serving(port)
    try:
        return call(port, GET.path, GET.request.SerializeToString())[0] == "0"
    except OSError:
        return False
