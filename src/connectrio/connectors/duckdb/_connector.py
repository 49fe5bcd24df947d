"""The connector: an async shell around `Jobs`, and its answers as Flyte's messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from connectrio.connector.base import AsyncConnector, Phase, Resource, ResourceMeta
from connectrio.connector.context import unsafe_sql
from connectrio.connector.failures import InvalidRequestError
from connectrio.connectors.duckdb._jobs import Jobs, LiveJob, Snapshot
from connectrio.connectors.duckdb._settings import DuckDBSettings
from connectrio.connectors.duckdb._store import JOB_ID, JobRecord, JobState, LogEntry
from connectrio.connectors.duckdb._task import IN_MEMORY, QueryTask, read_task
from connectrio.idl.flyteidl2.connector import (
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    GetTaskMetricsResponse,
    TaskExecutionMetadata,
)
from connectrio.idl.flyteidl2.core import ExecutionMetricResult, TaskTemplate
from connectrio.idl.flyteidl2.logs.dataplane import LogLine, LogLineOriginator
from connectrio.idl.google.protobuf import Struct, Timestamp
from connectrio.literals import DataFrame
from connectrio.logs import get_logger

__all__ = ["DuckDBConnector", "DuckDBJob"]

log = get_logger("connectrio.connectors.duckdb")

# a `delete` on another host and a time limit take effect within a second
WATCH_SECONDS = 0.25

TIDY_SECONDS = 3600.0

# lines of at most 4 KiB each: a message stays far below the 4 MiB that gRPC clients accept
LINES_PER_MESSAGE = 100

T = TypeVar("T")


@dataclass
class DuckDBJob(ResourceMeta):
    """The id of a job.

    :raises ValueError: `job_id` does not have the form of an id
    """

    job_id: str

    def __post_init__(self) -> None:
        if not JOB_ID.fullmatch(self.job_id):
            raise ValueError(f"{self.job_id!r} is not the id of a DuckDB job, which has 32 hexadecimal digits")


class _Submission:
    """A job to be created: passed from the call to the connector's task that records and runs it."""

    def __init__(self, task: QueryTask) -> None:
        self.task = task
        self.wanted = True
        self.recorded = anyio.Event()
        self.job: LiveJob | None = None
        self.error: Exception = RuntimeError("the DuckDB connector was closed while it recorded the job")


@dataclass(frozen=True)
class _Open:
    """The state of a connector while its lifespan is open.

    :ivar tasks: one for each job, which waits for a slot and then for its thread
    :ivar slots: the limit of threads that wait for queries, and so of queries that run
    :ivar databases: a lock for each database file that jobs of this host use; only one of them can have it open
    :ivar files: the limit of threads that access small files; they wait neither for queries nor for the host's threads
    """

    jobs: Jobs
    tasks: TaskGroup
    slots: anyio.CapacityLimiter
    files: anyio.CapacityLimiter
    databases: WeakValueDictionary[str, anyio.Lock] = field(default_factory=WeakValueDictionary)
    scopes: dict[LiveJob, anyio.CancelScope] = field(default_factory=dict)

    async def submit(self, task: QueryTask) -> LiveJob:
        """Record a job and start it. If this is cancelled, nobody gets the job's id, and it ends as ABORTED."""
        submission = _Submission(task)
        self.tasks.start_soon(self._carry_out, submission)
        try:
            await submission.recorded.wait()
        except BaseException:
            submission.wanted = False
            if submission.job is not None:
                submission.job.discard()
            raise
        if submission.job is None:
            raise submission.error
        return submission.job

    async def _carry_out(self, submission: _Submission) -> None:
        """Record and run a job in a task of the connector, which the cancellation of the call does not interrupt."""
        try:
            submission.job = job = await self.in_thread(partial(self.jobs.add, submission.task))
        except Exception as error:  # noqa: BLE001 - raised in `submit`
            submission.error = error
            return
        finally:
            del submission.task  # it may be large, and the job may wait for hours
            submission.recorded.set()
        if not submission.wanted:
            job.discard()
        database = job.record.database
        turn = nullcontext() if database == IN_MEMORY else self.databases.setdefault(database, anyio.Lock())
        with anyio.CancelScope() as self.scopes[job]:
            async with turn:
                # abandoned when the host stops, after `Jobs.stop`, or when `run` has nothing to do
                await to_thread.run_sync(job.run, limiter=self.slots, abandon_on_cancel=True)
        del self.scopes[job]
        await self.in_thread(partial(self.jobs.retire, job))

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work`, which accesses only small files, in a thread. Return its result."""
        return await to_thread.run_sync(work, limiter=self.files)

    async def watch(self) -> None:
        """Call `Jobs.watch` while there are jobs; let those that ended in the queue leave it."""
        while True:
            await anyio.sleep(WATCH_SECONDS)
            if self.jobs.any_live:
                await self._housekeeping(self.jobs.watch)
            for job, scope in self.scopes.items():
                if job.record.state.final and not job.running:
                    scope.cancel()

    async def tidy(self) -> None:
        """Call `Jobs.tidy` from time to time."""
        while True:
            await anyio.sleep(TIDY_SECONDS)
            await self._housekeeping(self.jobs.tidy)

    async def _housekeeping(self, work: Callable[[], None]) -> None:
        try:
            await self.in_thread(work)
        except Exception:
            # a full disk, say, must not end the host
            log.warning("the DuckDB connector's housekeeping failed, and will be tried again", exc_info=True)


class DuckDBConnector(AsyncConnector[DuckDBJob]):
    """Runs SQL on the host's own machine, each job in a process. The package's docstring describes the tasks.

    :param settings: by default those of the environment when the lifespan opens
    """

    name = "DuckDB Connector"
    task_type_name = "duckdb"
    metadata_type = DuckDBJob

    def __init__(self, settings: DuckDBSettings | None = None) -> None:
        self._settings = settings
        self._open: _Open | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Keep the job store and the threads that wait for the queries open.

        At the end, queries that have not ended are killed and recorded as RETRYABLE_FAILED.

        :raises OSError: the job store cannot be opened
        :raises RuntimeError: the lifespan is open already; a second host needs a connector of its own
        :raises ValueError: an environment variable has an invalid value
        """
        if self._open is not None:
            raise RuntimeError("this DuckDB connector is open already: register another instance with the other host")
        settings = self._settings or DuckDBSettings.from_environment()
        settings = replace(settings, unsafe_sql=settings.unsafe_sql or unsafe_sql.get())
        files = anyio.CapacityLimiter(4)
        jobs = await to_thread.run_sync(_open_jobs, settings, limiter=files)
        try:
            async with anyio.create_task_group() as tasks:
                self._open = _Open(jobs, tasks, anyio.CapacityLimiter(settings.max_running), files)
                tasks.start_soon(self._open.watch)
                tasks.start_soon(self._open.tidy)
                try:
                    yield
                finally:
                    self._open = None
                    with anyio.CancelScope(shield=True):
                        await to_thread.run_sync(jobs.stop, limiter=files)
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(jobs.close, limiter=files)

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: dict[str, Any] | None = None,
        task_execution_metadata: TaskExecutionMetadata | None = None,  # noqa: ARG002 - part of the signature
        **kwargs: Any,  # noqa: ARG002 - a connection's secrets; DuckDB needs none
    ) -> DuckDBJob:
        """Record the query and start it; it runs on after this call.

        :raises TaskError: the template or `output_prefix` is not valid
        :raises QueueFullError: too many queries wait
        :raises OSError: the job cannot be recorded
        """
        opened = self._opened()
        task = await opened.in_thread(partial(read_task, task_template, output_prefix, inputs, opened.jobs.allowed))
        job = await opened.submit(task)
        return DuckDBJob(job.record.job_id)

    def get(self, resource_meta: DuckDBJob, **kwargs: Any) -> Resource:  # noqa: ARG002 - part of the signature
        """Return the state of the query.

        `custom_info` has, if they are known: `job_id`, `database`, `statement_digest`, `queued_at`, `started_at` and
        `finished_at` (ISO 8601), `seconds` of running, `progress` in percent while it runs, `rows`, `columns` (name and
        type of each) and `result` (its path or URL).

        :raises UnknownJobError: there is no such job
        """
        return _resource(self._opened().jobs.snapshot(resource_meta.job_id))

    def delete(self, resource_meta: DuckDBJob, **kwargs: Any) -> None:  # noqa: ARG002 - part of the signature
        """Kill the query, or remove it from the queue. Do nothing if it has ended or is unknown."""
        self._opened().jobs.abort(resource_meta.job_id)

    def get_metrics(
        self,
        resource_meta: DuckDBJob,
        queries: Sequence[str] = (),
        **kwargs: Any,  # noqa: ARG002 - part of the signature
    ) -> GetTaskMetricsResponse:
        """Return what the query has read, produced and used.

        :param queries: names of metrics; all metrics if it is empty
        :raises UnknownJobError: there is no such job
        :raises InvalidRequestError: there is no metric of such a name
        """
        return _metrics(self._opened().jobs.snapshot(resource_meta.job_id).record, queries)

    async def get_logs(
        self,
        resource_meta: DuckDBJob,
        token: str = "",
        lines: int = 0,
        **kwargs: Any,  # noqa: ARG002 - part of the signature
    ) -> AsyncIterator[GetTaskLogsResponse]:
        """Yield the log lines that exist now, then a header with the token of the next page.

        The token is "" once the query has ended and its whole log has been read.

        :param token: from the header of the page before
        :param lines: the most lines to return; 0 for all
        :raises UnknownJobError: there is no such job
        :raises InvalidRequestError: `token` is not from a DuckDB job
        """
        opened = self._opened()
        ended, entries = await opened.in_thread(partial(opened.jobs.log, resource_meta.job_id))
        for response in _log_page(entries, ended, token, lines):
            yield response

    def _opened(self) -> _Open:
        if self._open is None:
            raise RuntimeError(
                "the DuckDB connector is not open: a connectrio host opens it before it serves;"
                " any other program has to open it: `async with connector.lifespan(): …`"
            )
        return self._open


def _open_jobs(settings: DuckDBSettings) -> Jobs:
    try:
        return Jobs(settings)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        raise OSError(
            f"the DuckDB connector cannot keep its jobs in {settings.home}: {error};"
            " set CONNECTRIO_DUCKDB_HOME to a directory that it may write"
        ) from error


def _resource(snapshot: Snapshot) -> Resource:
    """Return the state of a job, with its output once it has SUCCEEDED."""
    record = snapshot.record
    outputs = None
    if record.state is JobState.SUCCEEDED and record.output is not None and record.result_bytes is not None:
        outputs = {record.output: DataFrame(record.result_uri, format="parquet")}
    return Resource(
        phase=Phase[record.state.name], message=snapshot.message, outputs=outputs, custom_info=_custom_info(snapshot)
    )


def _custom_info(snapshot: Snapshot) -> dict[str, Any]:
    """Return all known facts; times as ISO 8601 in UTC, `progress` in percent, `seconds` of running."""
    record = snapshot.record
    info = {
        "job_id": record.job_id,
        "database": record.database,
        "statement_digest": record.statement,
        "queued_at": record.queued_at.isoformat(),
        "started_at": record.started_at and record.started_at.isoformat(),
        "finished_at": record.finished_at and record.finished_at.isoformat(),
        "seconds": record.seconds,
        "progress": snapshot.progress,
        "rows": record.rows,
        "columns": None if record.columns is None else [asdict(column) for column in record.columns],
        "result": record.result_uri if record.result_bytes is not None else None,
    }
    return {key: value for key, value in info.items() if value is not None}


def _of_usage(name: str) -> Callable[[JobRecord], float | None]:
    return lambda record: None if record.usage is None else getattr(record.usage, name)


# name → unit, value; the names are what `queries` selects by
_METRICS: dict[str, tuple[str, Callable[[JobRecord], float | None]]] = {
    "rows_read": ("rows", _of_usage("rows_read")),
    "rows_produced": ("rows", lambda record: record.rows),
    "result_bytes": ("bytes", lambda record: record.result_bytes),
    "elapsed_seconds": ("seconds", lambda record: record.seconds),
    "cpu_seconds": ("seconds", _of_usage("cpu_seconds")),
    "peak_memory_bytes": ("bytes", _of_usage("peak_memory_bytes")),
    "peak_spilled_bytes": ("bytes", _of_usage("peak_spilled_bytes")),
}


def _metrics(record: JobRecord, queries: Iterable[str]) -> GetTaskMetricsResponse:
    """Return the metrics of a job, each as `{"value": number, "unit": text}`; the value is null while it is not known.

    :param queries: names of metrics; all metrics if it is empty
    :raises InvalidRequestError: there is no metric of such a name; the text lists the names
    """
    names = list(queries) or list(_METRICS)
    unknown = [name for name in names if name not in _METRICS]
    if unknown:
        raise InvalidRequestError(
            f"DuckDB jobs have no metric {', '.join(map(repr, unknown))}; there are: {', '.join(_METRICS)}"
        )
    results = []
    for name in names:
        unit, value = _METRICS[name]
        data = Struct.from_dict({"value": value(record), "unit": unit})
        results.append(ExecutionMetricResult(metric=name, data=data))
    return GetTaskMetricsResponse(results=results)


def _log_page(entries: list[LogEntry], ended: bool, token: str, lines: int) -> list[GetTaskLogsResponse]:
    """Return the log lines from `token` on, and a header with the token of the next page.

    :param ended: whether the log is complete; then the token after its last line is ""
    :param token: "" for the beginning, or the token of a header
    :param lines: the most lines to return; 0 for all
    :raises InvalidRequestError: `token` is not from this connector
    """
    if token and not (token.isascii() and token.isdigit()):
        raise InvalidRequestError(
            f"{token!r} is not a token of a DuckDB job's log; take it from a header, or leave it empty"
        )
    start = min(int(token or 0), len(entries))
    end = min(start + lines, len(entries)) if lines else len(entries)
    page = [
        LogLine(timestamp=Timestamp.from_datetime(entry.at), message=entry.message, originator=LogLineOriginator.SYSTEM)
        for entry in entries[start:end]
    ]
    messages = [
        GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=page[first : first + LINES_PER_MESSAGE]))
        for first in range(0, len(page), LINES_PER_MESSAGE)
    ]
    following = "" if ended and end == len(entries) else str(end)
    return [*messages, GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token=following))]
