"""The jobs of a host, and those of other hosts in the same store. Synchronous; every function blocks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

from connectrio.connector.context import process_count
from connectrio.connectors.duckdb._program import Request, shorten
from connectrio.connectors.duckdb._session import Report, Session
from connectrio.connectors.duckdb._settings import DuckDBSettings
from connectrio.connectors.duckdb._store import JobRecord, JobState, JobStore, LogEntry, now, sync
from connectrio.connectors.duckdb._task import IN_MEMORY, QueryTask, QueueFullError
from connectrio.logs import get_logger

__all__ = ["Jobs", "LiveJob", "Snapshot"]

log = get_logger("connectrio.connectors.duckdb")

# a process that is killed ends within milliseconds, unless a disk or a network file system does not answer
STOP_SECONDS = 5.0
# bytes of the requests of all queries that wait, unless there is only one
MAX_QUEUED_BYTES = 64 * 2**20
# percent from one log line to the next
PROGRESS_STEP = 10

DELETED = "the query was deleted before it had ended"
HOST_STOPPED = "the host was stopped before the query had ended; nothing of its result was kept, so it has to run again"
TOO_LONG = (
    "the query was ended because it ran for more than {limit:g} s: see `timeout` in the task's custom, and the host's"
    " CONNECTRIO_DUCKDB_TIME_LIMIT"
)
ABORT_REQUESTED = "deleted; the host that runs it has been asked to stop it"
_ENDINGS = {
    JobState.SUCCEEDED: "finished",
    JobState.FAILED: "failed",
    JobState.ABORTED: "aborted",
    JobState.RETRYABLE_FAILED: "failed, to be tried again,",
}


class LiveJob:
    """A query that waits or runs in a thread of this host.

    `run` is for that thread, which waits for the process that runs the SQL; everything else may be called from any
    thread. The first to settle the job decides its final state, and the process is killed.

    :ivar size: the bytes that the job holds while it waits
    :ivar running: whether a thread is in `run`
    :ivar saved: whether the store has the present `record`
    """

    def __init__(
        self,
        record: JobRecord,
        task: QueryTask,
        store: JobStore,
        memory_limit: str,
        allowed: Sequence[Path] | None,
        time_limit: float,
    ) -> None:
        self._record = record
        self._store = store
        self._spill = store.spill_directory(record.job_id)
        self._time_limit = time_limit
        self._ends_at: float | None = None  # of `time.monotonic`
        self._session = Session(
            Request(
                statement=task.statement,
                inputs=task.inputs,
                refused=task.refused,
                database=task.database,
                spill=str(self._spill) if task.database == IN_MEMORY else None,
                memory_limit=memory_limit,
                allowed=None if allowed is None else [str(place) for place in allowed],
                file=str(record.temporary_path),
                wanted=task.output is not None,
            )
        )
        self.size = self._session.size
        self._changing = Lock()
        self._percent_logged = 0
        self._discarded = False
        self.running = False
        self.saved = True

    @property
    def record(self) -> JobRecord:
        """The present record of the job."""
        return self._record

    def progress(self) -> float | None:
        """Return the progress of the query in percent; None if it is not known."""
        return self._session.report.progress

    def run(self) -> None:
        """Run the query, unless the job was settled in the queue. Errors are recorded, never raised."""
        self.running = True
        try:
            if self._discarded:
                self.abort()
            if self._start():
                self._finish(self._session.run())
        except OSError as error:
            self._settle(JobState.RETRYABLE_FAILED, shorten(str(error)), is_cut_short=True)
        except Exception as error:
            log.exception("the DuckDB connector has a bug", job=self._record.job_id)
            message = f"error in the DuckDB connector: {type(error).__name__}: {error}"
            self._settle(JobState.RETRYABLE_FAILED, shorten(message))
        finally:
            with suppress(OSError):  # the file exists only after a failure, whose cause has been recorded
                self._record.temporary_path.unlink(missing_ok=True)
            shutil.rmtree(self._spill, ignore_errors=True)
            self.running = False

    def abort(self) -> None:
        """End the job as ABORTED. Do nothing if it has ended."""
        self._settle(JobState.ABORTED, DELETED)

    def discard(self) -> None:
        """Let `run` or `watch` abort the job, whose id nobody has got. Unlike `abort`, this does not block."""
        self._discarded = True

    def stop(self) -> None:
        """End the job because its host stops."""
        self._settle(JobState.RETRYABLE_FAILED, HOST_STOPPED, is_cut_short=True)

    def watch(self) -> None:
        """Keep the time limit and log progress; to be called a few times a second until `run` has ended."""
        if self._record.state.final:
            return
        if self._discarded or self._store.abort_requested(self._record.job_id):
            self.abort()
        elif self._ends_at is not None and time.monotonic() > self._ends_at:
            self._settle(JobState.FAILED, TOO_LONG.format(limit=self._time_limit), is_cut_short=True)
        elif self._record.state is JobState.RUNNING:
            percent = self.progress() or 0.0
            if percent >= self._percent_logged + PROGRESS_STEP:
                self._percent_logged = int(percent) // PROGRESS_STEP * PROGRESS_STEP
                self._append_log(f"progress: {percent:.0f} %")

    def _start(self) -> bool:
        with self._changing:
            if self._record.state.final:
                return False
            started = now()
            waited = (started - self._record.queued_at).total_seconds()
            message = f"started after {waited:.1f} s in the queue: statement {self._record.statement}"
            self._change(message, state=JobState.RUNNING, started_at=started)
            self._ends_at = time.monotonic() + self._time_limit
            return True

    def _finish(self, report: Report) -> None:
        if report.bug is not None:
            log.error("the DuckDB connector has a bug", job=self._record.job_id, exception=report.bug)
        if report.state is not JobState.SUCCEEDED:
            is_cut_short = report.state is JobState.RETRYABLE_FAILED and report.bug is None
            self._settle(report.state, report.message, is_cut_short=is_cut_short)
            return
        size = sync(self._record.temporary_path) if report.written else None
        with self._changing:
            if self._record.state.final:
                return
            if report.written:
                self._record.temporary_path.replace(self._record.result_path)
            self._end(
                JobState.SUCCEEDED,
                _summary(report, size, self._record.result_uri),
                rows=report.rows,
                columns=report.columns,
                result_bytes=size,
            )

    def _settle(self, state: JobState, message: str, *, is_cut_short: bool = False) -> None:
        """End the job, and its process.

        :param is_cut_short: whether it ends for another reason than its SQL, so that the log tells of it
        """
        with self._changing:
            if is_new := not self._record.state.final:
                self._end(state, message)
        self._session.kill()
        record = self._record
        if is_new and is_cut_short and record.started_at is not None:
            log.warning(
                "a DuckDB query was cut short",
                job=record.job_id,
                error=message,
                seconds=round(((record.finished_at or now()) - record.started_at).total_seconds(), 3),
                pid=self._session.pid,
                signal=self._session.signal,
            )

    def _end(self, state: JobState, message: str, **result: Any) -> None:
        finished = now()
        seconds = (finished - (self._record.started_at or finished)).total_seconds()
        entry = f"{_ENDINGS[state]} after {seconds:.3f} s: {message}"
        self._change(
            entry, state=state, message=message, finished_at=finished, usage=self._session.report.usage, **result
        )

    def _change(self, entry: str, **changes: Any) -> None:
        """Write the log, then the record, then show the new state: whoever sees the state finds the rest."""
        record = replace(self._record, **changes)
        self._append_log(entry)
        try:
            self._store.save(record)
            self.saved = True
        except OSError as error:
            # the query goes on, and this host knows its state; after a restart the job would count as lost
            log.warning("a DuckDB job cannot be recorded", job=record.job_id, error=str(error))
            self.saved = False
        self._record = record

    def _append_log(self, entry: str) -> None:
        try:
            self._store.append_log(self._record.job_id, entry)
        except OSError as error:
            log.warning("a DuckDB job's log cannot be written", job=self._record.job_id, error=str(error))


def _summary(report: Report, size: int | None, uri: str) -> str:
    rows = "done" if report.rows is None else f"{report.rows} {'row' if report.rows == 1 else 'rows'}"
    if report.columns is None and report.rows is not None:
        rows += " changed"
    return rows if size is None else f"{rows}, {size} bytes in {uri}"


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment.

    :ivar message: the message for a person: that of the record, or a newer one
    :ivar progress: the progress of the query in percent; None if it is not known
    """

    record: JobRecord
    message: str
    progress: float | None = None


class Jobs:
    """A host's jobs. Its owner must `stop` and then `close` it.

    The constructor settles the jobs of dead hosts.

    :ivar allowed: the directories that tasks may use; None for all
    :raises OSError: the store cannot be opened
    :raises ValueError: `settings.allow` has a directory that must not be there
    """

    def __init__(self, settings: DuckDBSettings) -> None:
        self._settings = settings
        self.allowed = None if settings.unsafe_sql else settings.allowed()
        share = 80 / (settings.max_running * process_count.get())
        self._memory_limit = f"{share:.2f}%" if settings.memory_limit is None else f"{settings.memory_limit}B"
        self._store = JobStore(settings.home)
        try:
            self._store.tidy(settings.keep)
        except BaseException:
            self._store.close()
            raise
        self._live: dict[str, LiveJob] = {}
        self._changing = Lock()
        self._stopping = False

    def add(self, task: QueryTask) -> LiveJob:
        """Record a new job as QUEUED. The caller must call its `run`, and then `retire` it.

        :raises QueueFullError: too many jobs wait
        """
        record = JobRecord(
            job_id=uuid4().hex,
            owner=self._store.host_id,
            database=task.database,
            statement=task.digest,
            output=task.output,
            result_path=str(task.result_path),
            result_uri=task.result_uri,
        )
        limit = min(task.timeout or self._settings.time_limit, self._settings.time_limit)
        job = LiveJob(record, task, self._store, self._memory_limit, self.allowed, limit)
        self._check_queue(job)
        self._store.add(record, f"queued: statement {record.statement} on {record.database}")
        with self._changing:
            self._live[record.job_id] = job
            stopping = self._stopping
        if stopping:
            job.stop()
        return job

    def _check_queue(self, job: LiveJob) -> None:
        """Check that one more job may wait. Those of calls that are made at this moment are not seen.

        :raises QueueFullError: it may not
        """
        sizes = [other.size for other in self._jobs().values() if other.record.state is JobState.QUEUED]
        if len(sizes) >= self._settings.max_queued or (sizes and sum(sizes) + job.size > MAX_QUEUED_BYTES):
            raise QueueFullError(
                f"{len(sizes)} DuckDB queries with {sum(sizes)} bytes wait on this host, and this one has {job.size}."
                f" At most {self._settings.max_queued} (CONNECTRIO_DUCKDB_MAX_QUEUED) may wait, with {MAX_QUEUED_BYTES}"
                " bytes; try again later"
            )

    def retire(self, job: LiveJob) -> None:
        """Drop a job that has ended, if the store has its last record."""
        if job.saved:
            with self._changing:
                self._live.pop(job.record.job_id, None)

    def snapshot(self, job_id: str) -> Snapshot:
        """Return the present state of a job of any host.

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
                others = list(live.values())
                ahead = sum(other.record.state is JobState.QUEUED for other in others[: others.index(job)])
                place = f"behind {ahead} more" if ahead else "next in line"
                return Snapshot(
                    record,
                    f"queued, {place}: this host runs at most {self._settings.max_running} at once"
                    " (CONNECTRIO_DUCKDB_MAX_RUNNING), and one for each database file",
                )
            case JobState.RUNNING:
                return Snapshot(record, record.message, job.progress())
        return Snapshot(record, record.message)

    def log(self, job_id: str) -> tuple[bool, list[LogEntry]]:
        """Return whether a job has ended, and its log, which is complete if it has.

        :raises UnknownJobError: there is no such job
        """
        ended = self.snapshot(job_id).record.state.final
        return ended, self._store.read_log(job_id)

    def abort(self, job_id: str) -> None:
        """End a job of any host as ABORTED. Do nothing if it has ended or is unknown."""
        job = self._jobs().get(job_id)
        if job is not None:
            job.abort()
        else:
            self._store.request_abort(job_id)

    @property
    def any_live(self) -> bool:
        """Whether there are jobs to `watch`."""
        return bool(self._live)

    def watch(self) -> None:
        """Call `LiveJob.watch` of all jobs of this host; to be called a few times a second."""
        for job in self._jobs().values():
            job.watch()

    def tidy(self) -> None:
        """Settle the jobs of dead hosts and remove old jobs; to be called from time to time."""
        self._store.tidy(self._settings.keep)

    def stop(self) -> None:
        """Kill running queries, and settle every job that has not ended or is added later."""
        with self._changing:
            self._stopping = True
        for job in self._jobs().values():
            job.stop()
        deadline = time.monotonic() + STOP_SECONDS
        while any(job.running for job in self._jobs().values()) and time.monotonic() < deadline:
            time.sleep(0.02)

    def close(self) -> None:
        """Close the store. Jobs that have not ended count as lost from here on."""
        self._store.close()

    def _jobs(self) -> dict[str, LiveJob]:
        with self._changing:
            return dict(self._live)
