"""`connectrio demo`: a host, an analytical query and its result, in one process and over real gRPC.

The query makes up millions of orders, and finds out which region sold best in each month.
"""

from __future__ import annotations

import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from anyio import to_thread
from cyclopts import Parameter

from connectrio.cli import event_loop
from connectrio.cli.errors import INTERRUPTED, CommandError, UsageError, explained
from connectrio.cli.options.client import Client
from connectrio.cli.options.task import TaskOptions
from connectrio.cli.output import Follower, job_view, outputs_of, phase_name, print_metrics
from connectrio.client.jobs import Jobs, category_of
from connectrio.host.settings import Backend, HostSettings, default_backend
from connectrio.idl.flyteidl2.connector import Resource
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.literals import DataFrame
from connectrio.logs import configure_logging
from connectrio.terminal import print_code, print_heading, print_line, print_table

if TYPE_CHECKING:
    from connectrio.host.lifecycle import Addresses

__all__ = ["demo"]

_TASK_TYPE = "duckdb"
_ORDERS = 6_000_000
# seconds; longer than a call takes on a busy machine
_TIMEOUT = 30.0
_WHAT_NEXT = """\
connectrio serve                              # a host, with its metrics and probes
connectrio ls                                 # what it serves
connectrio run duckdb --sql 'select $n * 2 as twice' --input n=21 --output result
connectrio serve --modules my_connector.py    # a connector of your own"""

_WHILE_IT_RUNS = """\
connectrio run duckdb --target {target} --sql 'select $n * 2 as twice' --input n=21 --output result
connectrio create duckdb --target {target} --sql 'select count(*) from range(3000000000)'
connectrio ls --target {target}
connectrio top --url {url}"""

_OUTPUT = "best_regions"
_SQL = """\
CREATE TEMP TABLE orders AS
WITH drawn AS (
    SELECT
        id,
        (hash(id, 1) % 527040)::BIGINT AS minute,
        (1 + hash(id, 2) % 4)::INTEGER AS region,
        hash(id, 3) % 250000 AS customer,
        (hash(id, 4) % 1000000) / 1e6 AS luck
    FROM range($orders) AS ids(id)
)
SELECT
    id, region, customer,
    make_timestamp(1704067200000000 + minute * 60000000) AS placed_at,
    (5 + 495 * pow(luck, 3)) * (1 + 0.2 * sin(minute / 80000 + 2 * region)) AS amount
FROM drawn;

WITH monthly AS (
    SELECT
        region,
        date_trunc('month', placed_at) AS month,
        count(*) AS orders,
        count(DISTINCT customer) AS customers,
        sum(amount) AS revenue,
        quantile_cont(amount, 0.95) AS p95_amount
    FROM orders
    WHERE placed_at >= $since AND amount >= $smallest_amount
    GROUP BY ALL
), growing AS (
    SELECT
        *,
        100 * (revenue / lag(revenue) OVER (PARTITION BY region ORDER BY month) - 1) AS growth_percent
    FROM monthly
)
SELECT
    strftime(month, '%Y-%m') AS month,
    $regions[region] AS best_region,
    orders,
    customers,
    round(revenue, 2) AS revenue,
    round(growth_percent, 1) AS growth_percent,
    round(p95_amount, 2) AS p95_amount
FROM growing
QUALIFY row_number() OVER (PARTITION BY growing.month ORDER BY revenue DESC) = 1
ORDER BY month
"""


def demo(
    *,
    backend: Backend | None = None,
    orders: int = _ORDERS,
    keep: Annotated[bool, Parameter(negative=())] = False,
    directory: Path | None = None,
) -> None:
    """Start a host, send it an analytical query over gRPC, and show progress, log, result and metrics.

    It listens on free ports of 127.0.0.1. Unless --directory is given, it leaves no files behind.

    :param backend: the event loop to run on; by default uvloop where it is installed, else asyncio
    :param orders: how many orders the query makes up and analyses
    :param keep: keep the host running afterwards, until Ctrl-C: for a look at its page, and for jobs of your own
    :param directory: where to write the result and the job store, and to leave them
    """
    if orders < 1:
        raise UsageError(f"--orders must be at least 1, got {orders}")
    if find_spec("duckdb") is None:
        raise CommandError(
            "the demo's query needs DuckDB, which is not installed", hint="pip install 'connectrio[duckdb]'"
        )
    configure_logging("error")
    with _workspace(directory) as workspace:
        interrupts = event_loop.Interrupts(graceful=True)
        event_loop.run(
            lambda: _host_and_query(workspace, backend or default_backend(), orders, interrupts, keep=keep),
            backend,
            interrupts,
        )
    if directory is not None:
        print_line(f"kept in {directory}: result/{_OUTPUT}.parquet, and the job store in jobs/")
    if not keep:
        print_heading("Try next")
        print_code(_WHAT_NEXT, "console")


@contextmanager
def _workspace(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot keep anything in {directory}: {error.strerror}") from error
        yield directory.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="connectrio-demo-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


async def _host_and_query(
    directory: Path, backend: Backend, orders: int, interrupts: event_loop.Interrupts, *, keep: bool
) -> None:
    from connectrio.connector.registry import Registry
    from connectrio.connectors.duckdb import DuckDBConnector, DuckDBSettings
    from connectrio.host.host import Host

    registry = Registry()
    with registry.loading("connectrio demo"):
        settings = DuckDBSettings(home=directory / "jobs", allow=(directory / "result",))
        registry.register(DuckDBConnector(settings))
    host = Host(HostSettings(host="127.0.0.1", port=0, prometheus_port=0), registry=registry)
    with event_loop.unwrapped():
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(host.serve)
            print_heading("Host")
            print_line(f"gRPC on {addresses.target}, metrics on {addresses.url}/metrics, running on {backend}")
            is_answered = False
            with interrupts.cancellable():
                await _query(addresses, directory, orders)
                is_answered = True
                if keep:
                    print_heading("The host keeps running, until Ctrl-C")
                    print_line(f"its page, for a browser: {addresses.url}/status")
                    print_line("jobs of your own, from another terminal:")
                    print_code(_WHILE_IT_RUNS.format(target=addresses.target, url=addresses.url), "console")
                    await anyio.sleep_forever()
            if is_answered:
                print_heading("Drain")
                await host.shutdown()
                print_line("the host has finished its calls and stopped")
                return
            await host.shutdown(grace=0)
    raise CommandError("interrupted; the host has stopped", code=INTERRUPTED)


async def _query(addresses: Addresses, directory: Path, orders: int) -> None:
    """Run the query as any client would, and show job, result and metrics."""
    inputs = [
        f"orders={orders}",
        'regions=["north", "south", "east", "west"]',
        "since:datetime=2024-03-01T00:00:00Z",
        "smallest_amount=20.0",
    ]
    task = TaskOptions(sql=_SQL, input=inputs, output=[_OUTPUT], output_prefix=str(directory / "result"))
    request = task.request(_TASK_TYPE)
    client = Client(target=addresses.target, timeout=_TIMEOUT)
    print_heading("Query")
    print_code(_SQL, "sql")
    for given in inputs:
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
    result = outputs_of(resource.outputs).get(_OUTPUT)
    if not isinstance(result, DataFrame):
        raise CommandError(f"the job's output {_OUTPUT!r} is {result!r}, and no dataframe")
    uri = result.uri

    def read() -> tuple[list[str], list[tuple[Any, ...]]]:
        import duckdb

        with duckdb.connect() as connection:
            relation = connection.execute("FROM read_parquet($uri)", {"uri": uri})
            return [column[0] for column in relation.description or ()], relation.fetchall()

    columns, rows = await to_thread.run_sync(read)
    print_heading("Result")
    numbers = [column for column, cell in zip(columns, rows[-1], strict=True) if not isinstance(cell, str)]
    print_table("", columns, [[_cell(cell) for cell in row] for row in rows], right=numbers)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


async def _show_metrics(jobs: Jobs, meta: bytes, addresses: Addresses) -> None:
    def scrape() -> str:
        directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with directly.open(f"{addresses.url}/metrics", timeout=_TIMEOUT) as response:
            return str(response.read().decode())

    print_heading("Metrics of the job: GetTaskMetrics")
    with explained():
        print_metrics(await jobs.metrics(meta))
    print_heading(f"Metrics of the host: {addresses.url}/metrics")
    for line in (await to_thread.run_sync(scrape)).splitlines():
        if line.startswith("flyte_connector_") and "_created" not in line:
            print_line(line)
