"""Task templates and waits for the tests of the DuckDB connector."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from connectrio import Phase, Resource
from connectrio.connectors.duckdb import DuckDBConnector, DuckDBJob, DuckDBSettings
from connectrio.idl.flyteidl2.core import (
    LiteralType,
    Sql,
    StructuredDatasetType,
    TaskTemplate,
    TypedInterface,
    Variable,
    VariableEntry,
    VariableMap,
)
from connectrio.idl.google.protobuf import Struct

# 10¹² rows: many minutes on any machine
ENDLESS = "SELECT count(*) FROM range(1000000) a, range(1000000) b"

# the same number of rows, written while they are computed
STREAM = "SELECT a.range AS a, b.range AS b FROM range(1000000) a, range(1000000) b"

FINAL = {Phase.SUCCEEDED, Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED}


def task(sql: str, custom: Mapping[str, Any] | None = None, outputs: Iterable[str] = ("result",)) -> TaskTemplate:
    """Return a template of type `duckdb` whose outputs are structured datasets."""
    dataset = LiteralType(structured_dataset_type=StructuredDatasetType())
    variables = [VariableEntry(key=name, value=Variable(type=dataset)) for name in outputs]
    return TaskTemplate(
        type="duckdb",
        sql=Sql(statement=sql),
        interface=TypedInterface(outputs=VariableMap(variables=variables)),
        custom=None if custom is None else Struct.from_dict(dict(custom)),
    )


def home_of(tmp_path: Path) -> Path:
    """Return a place for the job store, beside the test's directory: SQL may use that, but not the store."""
    return tmp_path.with_name(f"{tmp_path.name}-home")


@asynccontextmanager
async def opened(home: Path, **settings) -> AsyncIterator[DuckDBConnector]:
    """Yield an open connector whose jobs are in `home`, the `home_of` the directory that its tasks may use."""
    settings = {"allow": (home.with_name(home.name.removesuffix("-home")),), **settings}
    connector = DuckDBConnector(DuckDBSettings(home=home, **settings))
    async with connector.lifespan():
        yield connector


async def state(connector: DuckDBConnector, job: DuckDBJob) -> Resource:
    """Return the result of `get`, called in a worker thread as by a host."""
    return await to_thread.run_sync(connector.get, job)


async def eventually(condition: Callable[[], Awaitable[Any]], seconds: float = 30) -> None:
    """Wait until the condition holds.

    :raises TimeoutError: it still does not after so many seconds
    """
    with anyio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110 - it happens in other threads and processes, and on disk
            await anyio.sleep(0.005)


async def wait_for(connector: DuckDBConnector, job: DuckDBJob, condition: Callable[[Resource], bool]) -> Resource:
    """Return the first state that meets the condition."""

    async def met() -> bool:
        nonlocal resource
        resource = await state(connector, job)
        return condition(resource)

    resource = Resource(Phase.UNDEFINED)
    await eventually(met)
    return resource


async def thread_freed(connector: DuckDBConnector, seconds: float = 30) -> None:
    """Wait until no thread runs a query any more."""

    async def free() -> bool:
        return not connector._open.slots.borrowed_tokens

    await eventually(free, seconds)


async def until(connector: DuckDBConnector, job: DuckDBJob, phase: Phase) -> Resource:
    """Wait until the job is in `phase`. Return its state."""
    return await wait_for(connector, job, lambda resource: resource.phase is phase)


async def end(connector: DuckDBConnector, job: DuckDBJob) -> Resource:
    """Wait until the job has ended. Return its state."""
    return await wait_for(connector, job, lambda resource: resource.phase in FINAL)


async def create(connector: DuckDBConnector, prefix, sql: str, inputs=None, **options) -> DuckDBJob:
    """Create a job; `options` are those of `task`."""
    return await connector.create(task(sql, **options), str(prefix), inputs)


async def run(connector: DuckDBConnector, prefix, sql: str, inputs=None, **options) -> Resource:
    """Create a job. Return its last state."""
    return await end(connector, await create(connector, prefix, sql, inputs, **options))


async def delete(connector: DuckDBConnector, job: DuckDBJob) -> None:
    """Call `delete` in a worker thread."""
    await to_thread.run_sync(connector.delete, job)


async def log_pages(connector: DuckDBConnector, job: DuckDBJob, token: str = "", lines: int = 0):
    """Return the lines of a page of the log, and its header's token."""
    responses = [response async for response in connector.get_logs(job, token=token, lines=lines)]
    *bodies, last = responses
    assert all(body.body is not None for body in bodies)
    assert last.header is not None
    return [line for body in bodies for line in body.body.lines], last.header.token


async def log_text(connector: DuckDBConnector, job: DuckDBJob) -> list[str]:
    """Return the messages of the whole log."""
    lines, _ = await log_pages(connector, job)
    return [line.message for line in lines]


@asynccontextmanager
async def doomed_host(backend, home, prefix, sql):
    """Start a host process that runs `sql`, to be killed. Yield the process and its job."""
    name, options = backend
    script = Path(__file__).with_name("duckdb_host.py")
    command = [sys.executable, str(script), name, str("use_uvloop" in options), str(home), str(prefix), sql]
    tests = str(script.parents[1])
    process = subprocess.Popen(  # noqa: ASYNC220 - a test may wait for that
        command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": tests, "HOME": str(home), "PATH": ""}
    )
    with process:
        try:
            line = await to_thread.run_sync(process.stdout.readline)
            assert line, "the host has failed; its errors are above"
            yield process, DuckDBJob(line.strip())
        finally:
            process.kill()
