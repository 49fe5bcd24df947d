"""`connectrio demo`: a host, a query, its result, in one process and over real gRPC."""

from __future__ import annotations

import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from connectrio.cli import event_loop
from connectrio.cli.commands.demo_query import OUTPUT, SQL, inputs
from connectrio.cli.commands.metrics import print_metrics
from connectrio.cli.errors import INTERRUPTED, CommandError, UsageError, explained
from connectrio.cli.options.client import Client
from connectrio.cli.options.task import Task
from connectrio.cli.output.follow import Follower
from connectrio.cli.output.progress import job_view
from connectrio.cli.output.render import outputs_of, phase_name
from connectrio.client.jobs import Jobs
from connectrio.client.requests import category_of
from connectrio.host.settings import Backend, HostSettings, default_backend
from connectrio.idl.flyteidl2.connector import Resource
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.literals import DataFrame
from connectrio.logs import configure_logging
from connectrio.terminal import print_code, print_heading, print_line, print_table

if TYPE_CHECKING:
    from connectrio.host.host import Addresses, Host

__all__ = ["demo"]

_TASK_TYPE = "duckdb"
_ORDERS = 6_000_000
# seconds; more than a call takes on a busy machine
_TIMEOUT = 30.0
_WHAT_NEXT = """\
connectrio serve                              # a host, with its metrics and probes
connectrio ls                                 # what it serves
connectrio run duckdb --sql 'select $n * 2 as twice' --input n=21 --output result
connectrio serve --modules my_connector.py    # a connector of your own"""


def demo(*, backend: Backend | None = None, orders: int = _ORDERS, keep: Path | None = None) -> None:
    """Start a host, send it an analytical query over gRPC, and show progress, log, result and metrics.

    It listens on free ports of 127.0.0.1 and leaves nothing behind.

    :param backend: the event loop to run on; uvloop where it is installed, else asyncio
    :param orders: how many orders the query makes up and analyses
    :param keep: a directory for the result and the job store, which are kept
    """
    if orders < 1:
        raise UsageError(f"--orders must be at least 1, got {orders}")
    if find_spec("duckdb") is None:
        raise CommandError(
            "the demo's query needs DuckDB, which is not installed", hint="pip install 'connectrio[duckdb]'"
        )
    configure_logging("warning")
    with _workspace(keep) as directory:
        interrupts = event_loop.Interrupts(graceful=True)
        event_loop.run(
            lambda: _host_and_query(directory, backend or default_backend(), orders, interrupts), backend, interrupts
        )
    if keep is not None:
        print_line(f"kept in {keep}: result/{OUTPUT}.parquet, and the job store in jobs/")
    print_heading("Try next")
    print_code(_WHAT_NEXT, "console")


@contextmanager
def _workspace(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot keep anything in {keep}: {error.strerror}") from error
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="connectrio-demo-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


async def _host_and_query(directory: Path, backend: Backend, orders: int, interrupts: event_loop.Interrupts) -> None:
    host = _make_host(directory)
    with event_loop.unwrapped():
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(host.serve)
            print_heading("Host")
            print_line(f"gRPC on {addresses.target}, metrics on {addresses.url}/metrics, running on {backend}")
            with interrupts.cancellable():
                await _query(addresses, directory, orders)
                print_heading("Drain")
                await host.shutdown()
                print_line("the host has finished its calls and stopped")
                return
            await host.shutdown(grace=0)
    raise CommandError("interrupted; the host has stopped", code=INTERRUPTED)


def _make_host(directory: Path) -> Host:
    from connectrio.connector.registry import Registry
    from connectrio.connectors.duckdb import DuckDBConnector, DuckDBSettings
    from connectrio.host.host import Host

    registry = Registry()
    with registry.loading("connectrio demo"):
        registry.register(DuckDBConnector(DuckDBSettings(home=directory / "jobs")))
    return Host(HostSettings(host="127.0.0.1", port=0, prometheus_port=0), registry=registry)


async def _query(addresses: Addresses, directory: Path, orders: int) -> None:
    """Run the query as any client would, and show all there is to see."""
    task = Task(sql=SQL, input=inputs(orders), output=[OUTPUT], output_prefix=str(directory / "result"))
    request = task.request(_TASK_TYPE)
    client = Client(target=addresses.target, timeout=_TIMEOUT)
    print_heading("Query")
    print_code(SQL, "sql")
    for given in task.input or ():
        print_line(f"  --input {given}", "dim")
    async with client.connect() as channel:
        jobs = client.jobs(channel, category_of(request), output_prefix=request.output_prefix)
        print_heading("Job")
        with explained():
            meta = await jobs.create(request)
        print_line(f"created {meta.decode()}")
        with job_view(sys.stdout) as view:
            resource = await Follower(jobs, meta, view).follow()
        await _show_result(resource)
        await _show_metrics(jobs, meta, addresses)


async def _show_result(resource: Resource) -> None:
    summary = f"{phase_name(resource.phase)}: {resource.message}"
    if resource.phase is not Phase.SUCCEEDED:
        raise CommandError(f"the query ended as {summary}")
    print_line(summary, "green")
    result = outputs_of(resource.outputs).get(OUTPUT)
    if not isinstance(result, DataFrame):
        raise CommandError(f"the job has no output {OUTPUT!r}, but {result!r}")
    print_heading("Result")
    columns, rows = await to_thread.run_sync(_read_parquet, result.uri)
    numbers = [column for column, cell in zip(columns, rows[-1], strict=True) if not isinstance(cell, str)]
    print_table("", columns, [[_cell(cell) for cell in row] for row in rows], right=numbers)


def _read_parquet(uri: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    import duckdb

    with duckdb.connect() as connection:
        relation = connection.execute("FROM read_parquet($uri)", {"uri": uri})
        return [column[0] for column in relation.description or ()], relation.fetchall()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


async def _show_metrics(jobs: Jobs, meta: bytes, addresses: Addresses) -> None:
    print_heading("Metrics of the job: GetTaskMetrics")
    with explained():
        print_metrics(await jobs.metrics(meta))
    print_heading(f"Metrics of the host: {addresses.url}/metrics")
    for line in (await to_thread.run_sync(_scrape, addresses.url)).splitlines():
        if line.startswith("flyte_connector_") and "_created" not in line:
            print_line(line)


def _scrape(url: str) -> str:
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with directly.open(f"{url}/metrics", timeout=_TIMEOUT) as response:
        return str(response.read().decode())
