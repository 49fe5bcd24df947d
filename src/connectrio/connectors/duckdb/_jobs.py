"""The jobs of a host, and those that other hosts have in the same store. Synchronous; every function blocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from uuid import uuid4

from connectrio.connector.context import process_count
from connectrio.connectors.duckdb._job import Job
from connectrio.connectors.duckdb._records import JobRecord, JobState, LogEntry
from connectrio.connectors.duckdb._settings import DuckDBSettings
from connectrio.connectors.duckdb._store import JobStore
from connectrio.connectors.duckdb._task import QueryTask

__all__ = ["Jobs", "Snapshot"]

# DuckDB notices an interrupt within milliseconds, unless it is deep in one call of one function
STOP_SECONDS = 5.0

ABORT_REQUESTED = "deleted; the host that runs it has been asked to stop it"


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment.

    :ivar message: what a person should know now; that of the record unless there is something newer
    :ivar progress: how far the query is, in percent; None where that is not known
    """

    record: JobRecord
    message: str
    progress: float | None = None


class Jobs:
    """A host's jobs. Whoever makes this object must `stop` and then `close` it.

    When it has been made, what dead hosts have left is settled.

    :raises OSError: the store cannot be opened
    """

    def __init__(self, settings: DuckDBSettings) -> None:
        self._settings = settings
        self._memory_share = 1 / (settings.max_running * process_count.get())
        self._store = JobStore(settings.home)
        try:
            self._store.tidy(settings.keep)
        except BaseException:
            self._store.close()
            raise
        self._live: dict[str, Job] = {}
        self._changing = Lock()
        self._stopping = False

    def add(self, task: QueryTask) -> Job:
        """Record a new job, QUEUED. The caller must see to it that its `run` is called, and then `retire` it."""
        record = JobRecord(
            job_id=uuid4().hex,
            owner=self._store.host_id,
            database=task.database,
            statement=task.digest,
            output=task.output,
            result_path=str(task.result_path),
            result_uri=task.result_uri,
        )
        self._store.add(record, f"queued: statement {record.statement} on {record.database}")
        job = Job(record, task, self._store, self._memory_share)
        with self._changing:
            self._live[record.job_id] = job
            stopping = self._stopping
        if stopping:
            job.stop()
        return job

    def retire(self, job: Job) -> None:
        """Leave a job that has ended to the store, if that knows how it ended."""
        if job.saved:
            with self._changing:
                self._live.pop(job.record.job_id, None)

    def snapshot(self, job_id: str) -> Snapshot:
        """How a job stands, whichever host has it.

        :raises UnknownJobError: there is no such job
        """
        live = self._jobs()
        job = live.get(job_id)
        if job is None:
            record = self._store.load(job_id)
            asked = not record.state.final and self._store.abort_requested(job_id)
            return Snapshot(record, ABORT_REQUESTED if asked else record.message)
        record = job.record
        match record.state:
            case JobState.QUEUED:
                return Snapshot(record, self._queue_message(job, list(live.values())))
            case JobState.RUNNING:
                return Snapshot(record, record.message, job.progress())
        return Snapshot(record, record.message)

    def log(self, job_id: str) -> tuple[bool, list[LogEntry]]:
        """Whether a job has ended, and its log, which is complete if so.

        :raises UnknownJobError: there is no such job
        """
        ended = self.snapshot(job_id).record.state.final
        return ended, self._store.read_log(job_id)

    def abort(self, job_id: str) -> None:
        """End a job as ABORTED, whichever host has it; one that has ended, or that nobody knows, is left alone."""
        job = self._jobs().get(job_id)
        if job is not None:
            job.abort()
        elif self._store.is_open(job_id):
            self._store.request_abort(job_id)

    @property
    def any_live(self) -> bool:
        """Whether there are jobs to `watch`."""
        return bool(self._live)

    def watch(self) -> None:
        """See to the jobs of this host; to be called a few times a second."""
        self._each(Job.watch)

    def tidy(self) -> None:
        """Settle what dead hosts have left and forget what is old; to be called now and then."""
        self._store.tidy(self._settings.keep)

    def stop(self) -> None:
        """Interrupt what runs, and settle every job that has not ended, and any that is still added.

        A query that DuckDB does not let go of within five seconds is left to itself.
        """
        with self._changing:
            self._stopping = True
        self._each(Job.stop)
        deadline = time.monotonic() + STOP_SECONDS
        while any(job.running for job in self._jobs().values()) and time.monotonic() < deadline:
            self._each(Job.watch)
            time.sleep(0.02)

    def close(self) -> None:
        """Leave the store, once nothing runs any more. Jobs that have not ended count as lost from here on."""
        self._store.close()

    def _each(self, act: Callable[[Job], None]) -> None:
        for job in self._jobs().values():
            act(job)

    def _jobs(self) -> dict[str, Job]:
        with self._changing:
            return dict(self._live)

    def _queue_message(self, job: Job, live: list[Job]) -> str:
        ahead = sum(other.record.state is JobState.QUEUED for other in live[: live.index(job)])
        return (
            f"queued, behind {ahead} more: this host runs at most {self._settings.max_running} at once"
            " (CONNECTRIO_DUCKDB_MAX_RUNNING)"
        )
