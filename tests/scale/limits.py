"""What one host can do on this machine: processor time and memory, measured beside flyte-sdk's own host.

Processor time, not rates: other programs may use the machine too. A ratio to c0 comes from the same rounds.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import socket
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio

sys.path.append(str(Path(__file__).parent.parent / "bench"))

import environments
import figures
import work
from accounting import resident_bytes, used
from load import Shape, make, measure
from peers import REFERENCE, Peer, Running, ours, running

from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub, CreateTaskRequest
from connectrio.rpc import Channel
from rpc.kit.virtual_time import JumpingEventLoop
from scale.cases import Case, Design
from scale.real import World
from service.harness import Job, Service, attempt
from service.job_store.servers import postgres_server, why_not

ROUNDS = 5
SECONDS = 2.0
CREATES, AT_ONCE = 3000, 32
# fewer jobs than `create_memory_size`, or some would be forgotten while they are counted
CONNECTIONS, THREADS, JOBS = 500, 200, 3900
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
_STORED = (*environments.OURS[:-1], environments.OURS[-1].replace("uvloop]", "uvloop,postgres]"))

HOST = ours("uvloop")


def calls(kind: work.Work) -> dict[str, Any]:
    """Processor time of a call, of our host and of c0, 64 at once."""
    seen: dict[str, list[float]] = {peer.name: [] for peer in (REFERENCE, HOST)}
    with ExitStack() as stack:
        hosts = [stack.enter_context(running(peer)) for peer in (REFERENCE, HOST)]
        for number in range(ROUNDS):
            for host in hosts if number % 2 == 0 else reversed(hosts):
                seen[host.peer.name].append(measure(host, kind, Shape(64), SECONDS).cpu)
    reference, our_own = seen[REFERENCE.name], seen[HOST.name]
    ratios = [one / other for one, other in zip(our_own, reference, strict=True)]
    return {
        "cpu_us": round(statistics.median(our_own) * 1e6),
        "cpu_us_least": round(min(our_own) * 1e6),
        "cpu_us_most": round(max(our_own) * 1e6),
        "c0_cpu_us": round(statistics.median(reference) * 1e6),
        "ratio_to_c0": round(statistics.median(ratios), 2),
    }


def creates() -> dict[str, Any]:
    """Processor time of creates, each of a job of its own, without and with PostgreSQL.

    It does not wait for the disk: with `-F`, as in all tests.
    """
    without = _created(HOST, None)
    if reason := why_not():
        return {"memory": without, "postgres": None, "skipped": reason}
    with postgres_server() as server:
        os.environ["PGPASSWORD"] = server.password
        options = ("--job-store", server.plain_url)
        peer = ours("uvloop", *options)
        stored = Peer("connectrio with PostgreSQL", peer.arguments, _STORED)
        return {"memory": without, "postgres": _created(stored, server._process.pid), "creates": CREATES}


def _created(peer: Peer, database: int | None) -> dict[str, Any]:
    with running(peer) as host:
        _create_many(host, "warm", CREATES // 10)
        before = used(host.pid).ran, used(database).ran if database else 0.0
        began = time.perf_counter()
        _create_many(host, "run", CREATES)
        seconds = time.perf_counter() - began
        after = used(host.pid).ran, used(database).ran if database else 0.0
    return {
        "cpu_us": round((after[0] - before[0]) / CREATES * 1e6),
        "database_cpu_us": round((after[1] - before[1]) / CREATES * 1e6),
        "per_s_seen": round(CREATES / seconds),
    }


def _create_many(host: Running, name: str, count: int) -> None:
    requests = iter(range(count))
    template = CreateTaskRequest.parse(work.CREATE.request.SerializeToString())

    async def create_some(stub: AsyncConnectorServiceStub) -> None:
        for number in requests:
            metadata = attempt(execution=f"{name}-{number}")
            request = CreateTaskRequest(
                inputs=template.inputs,
                template=template.template,
                output_prefix=f"s3://bucket/{name}/{number}",
                task_execution_metadata=metadata,
            )
            await stub.create_task(request, timeout=60)

    async def run() -> None:
        async with Channel(f"ipv4:127.0.0.1:{host.port}") as channel, anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(create_some, AsyncConnectorServiceStub(channel))

    anyio.run(run, backend_options={"use_uvloop": True})


def memory() -> dict[str, Any]:
    """Memory of a host: at start, of a connection, of a thread; of jobs by what Python has allocated."""
    with running(HOST) as host:
        time.sleep(1)
        start = resident_bytes(host.pid)
        connection = _of_connections(host)
    with running(REFERENCE) as host:
        time.sleep(1)
        reference = resident_bytes(host.pid)
    threads = ours("uvloop", "--worker", str(THREADS))
    with running(threads) as host:
        make(host.port, work.GET, Shape(THREADS), 5000)
        before = resident_bytes(host.pid)
        make(host.port, work.BLOCKING, Shape(THREADS), 4 * THREADS)
        thread = (resident_bytes(host.pid) - before) / THREADS
    return {
        "start_mib": round(start / 2**20, 1),
        "c0_start_mib": round(reference / 2**20, 1),
        "connection_kib": round(connection / 1024, 1),
        "thread_kib": round(thread / 1024, 1),
        "polled_job_bytes": _of_jobs(Design.GET),
        "known_job_bytes": _of_jobs(Design.MANY),
        "created_job_bytes": _of_jobs(None),
    }


def _of_connections(host: Running) -> float:
    make(host.port, work.GET, Shape(64), 5000)
    before = resident_bytes(host.pid)
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", host.port)))
            connection.sendall(_PREFACE)
            connection.recv(9)
        return (resident_bytes(host.pid) - before) / CONNECTIONS


def _of_jobs(design: Design | None) -> int:
    """Return the bytes that a job takes: polled, known to `get_many` as well, or only created. In virtual time."""

    async def run() -> int:
        world = World(Case(1, design or Design.GET))
        service = world.services[0]
        world.add(100 + JOBS)
        async with anyio.create_task_group() as tasks:
            await tasks.start(service.servicer.known_jobs.run)
            await _touch(service, design, range(100))
            with _allocating() as allocated:
                await _touch(service, design, range(100, 100 + JOBS))
            tasks.cancel_scope.cancel()
        return round(allocated() / JOBS)

    return anyio.run(run, backend_options={"loop_factory": JumpingEventLoop})


async def _touch(service: Service, design: Design | None, jobs: range) -> None:
    for job in jobs:
        if design is None:
            await service.create(task_execution_metadata=attempt(execution=f"e{job}"), output_prefix=f"s3://b/{job}")
        else:
            await service.get(resource_meta=Job(f"{job:016}").encode())


@contextmanager
def _allocating() -> Iterator[Callable[[], int]]:
    """Count the bytes that the block allocates, and that are still there."""
    gc.collect()
    tracemalloc.start()
    count: list[int] = []
    try:
        yield lambda: count[0]
    finally:
        gc.collect()
        count.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()


def background() -> dict[str, Any]:
    """Processor time of a job in a `get_many`, in which the connector does nothing; in virtual time."""
    jobs, seconds = 2000, 300

    async def run() -> float:
        world = World(Case(1, Design.MANY, latency=0.0))
        service = world.services[0]
        async with anyio.create_task_group() as tasks:
            await tasks.start(service.servicer.known_jobs.run)
            world.add(jobs)
            await _touch(service, Design.MANY, range(jobs))
            began, before = time.process_time(), world.told
            await anyio.sleep(seconds - 20)
            used_up = (time.process_time() - began) / (world.told - before)
            tasks.cancel_scope.cancel()
        return used_up

    seen = [anyio.run(run, backend_options={"loop_factory": JumpingEventLoop}) * 1e6 for _ in range(3)]
    return {"cpu_us": round(statistics.median(seen), 1)}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    load = os.getloadavg()[0]
    return {
        "python": platform.python_version(),
        "processor": figures._processor(),
        "cores": os.cpu_count(),
        "load": round(load, 1),
    }


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "machine": machine,
    "get": lambda: calls(work.GET),
    "create": lambda: calls(work.CREATE),
    "creates": creates,
    "memory": memory,
    "background": background,
}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        print(part, json.dumps(PARTS[part]()), flush=True)
