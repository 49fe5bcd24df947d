"""A job of this host, from the queue to its end."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from connectrio.connectors.duckdb._failures import state_after
from connectrio.connectors.duckdb._records import JobRecord, JobState, now
from connectrio.connectors.duckdb._session import Answer, Session
from connectrio.connectors.duckdb._store import JobStore
from connectrio.connectors.duckdb._task import QueryTask
from connectrio.logs import get_logger

__all__ = ["Job"]

log = get_logger("connectrio.connectors.duckdb")

DELETED = "the query was deleted before it had ended"
HOST_STOPPED = "the host was stopped before the query had ended; nothing of its result was kept, so it has to run again"

# a log line for each; DuckDB's own bar is no finer in a log
PROGRESS_STEP_PERCENT = 10


class Job:
    """A query that waits or runs in a thread of this host.

    `run` is for that thread; everything else may be called from any other. Whichever settles the job first decides how
    it has ended: an aborted job is ABORTED at once, even while DuckDB is still on its way out.

    :ivar running: whether a thread is in `run`
    :ivar saved: whether the store has what `record` says
    """

    def __init__(self, record: JobRecord, task: QueryTask, store: JobStore, memory_share: float) -> None:
        self._record = record
        self._task = task
        self._store = store
        self._spill = store.spill_directory(record.job_id)
        self._session = Session(task.database, self._spill, memory_share)
        self._changing = Lock()
        self._percent_logged = 0
        self._discarded = False
        self.running = False
        self.saved = True

    @property
    def record(self) -> JobRecord:
        """The job as it is now."""
        return self._record

    def progress(self) -> float | None:
        """How far the query is, in percent; None where that is not known."""
        return self._session.progress()

    def run(self) -> None:
        """Run the query, unless the job has been settled in the queue. Raises nothing: the record says how it went."""
        self.running = True
        try:
            if self._discarded:
                self.abort()
            if self._start():
                self._succeed(self._session.run(self._task, self._record.temporary_path))
        except Exception as error:  # noqa: BLE001 - recorded, and logged where it is a bug
            self._fail(error)
        finally:
            with suppress(OSError):  # it is there only after a failure, whose cause has been recorded
                self._record.temporary_path.unlink(missing_ok=True)
            shutil.rmtree(self._spill, ignore_errors=True)
            self.running = False

    def abort(self) -> None:
        """End the job as ABORTED, for good. One that has ended is left as it is."""
        self._settle(JobState.ABORTED, DELETED)

    def discard(self) -> None:
        """Have `run` or `watch` abort the job, which nobody knows of. Unlike `abort`, this does not block."""
        self._discarded = True

    def stop(self) -> None:
        """End the job because its host ends."""
        self._settle(JobState.RETRYABLE_FAILED, HOST_STOPPED)

    def watch(self) -> None:
        """To be called a few times a second until `run` has ended: repeats interrupts, notes progress."""
        if self._record.state.final:
            self._session.interrupt()
        elif self._discarded or self._store.abort_requested(self._record.job_id):
            self.abort()
        elif self._record.state is JobState.RUNNING:
            self._log_progress()

    def _start(self) -> bool:
        with self._changing:
            if self._record.state.final:
                return False
            started = now()
            waited = (started - self._record.queued_at).total_seconds()
            message = f"started after {waited:.1f} s in the queue: statement {self._record.statement}"
            self._change(message, state=JobState.RUNNING, started_at=started)
            return True

    def _succeed(self, answer: Answer) -> None:
        size = _sync(self._record.temporary_path) if answer.written else None
        with self._changing:
            if self._record.state.final:
                return
            if answer.written:
                self._record.temporary_path.replace(self._record.result_path)
            self._end(
                JobState.SUCCEEDED,
                _summary(answer, size, self._record.result_uri),
                rows=answer.rows,
                columns=answer.columns,
                result_bytes=size,
            )

    def _fail(self, error: Exception) -> None:
        if self._record.state.final:
            return  # it fails because it was interrupted
        self._settle(*state_after(error))

    def _settle(self, state: JobState, message: str) -> None:
        with self._changing:
            if not self._record.state.final:
                self._end(state, message)
        self._session.interrupt()

    def _end(self, state: JobState, message: str, **result: Any) -> None:
        finished = now()
        seconds = (finished - (self._record.started_at or finished)).total_seconds()
        entry = f"{_ENDINGS[state]} after {seconds:.3f} s: {message}"
        self._change(entry, state=state, message=message, finished_at=finished, usage=self._session.usage, **result)

    def _change(self, entry: str, **changes: Any) -> None:
        """Log first and show the new state last: whoever sees it finds the rest."""
        record = replace(self._record, **changes)
        self._append_log(entry)
        self._save(record)
        self._record = record

    def _save(self, record: JobRecord) -> None:
        try:
            self._store.save(record)
        except OSError as error:
            # the query is no worse for it, and this host still knows; after a restart it would count as lost
            log.warning("a DuckDB job cannot be recorded", job=record.job_id, error=str(error))
            self.saved = False
        else:
            self.saved = True

    def _append_log(self, entry: str) -> None:
        try:
            self._store.append_log(self._record.job_id, entry)
        except OSError as error:
            log.warning("a DuckDB job's log cannot be written", job=self._record.job_id, error=str(error))

    def _log_progress(self) -> None:
        percent = self._session.progress() or 0.0
        if percent >= self._percent_logged + PROGRESS_STEP_PERCENT:
            self._percent_logged = int(percent) // PROGRESS_STEP_PERCENT * PROGRESS_STEP_PERCENT
            self._append_log(f"progress: {percent:.0f} %")


_ENDINGS = {
    JobState.SUCCEEDED: "finished",
    JobState.FAILED: "failed",
    JobState.ABORTED: "aborted",
    JobState.RETRYABLE_FAILED: "failed, to be tried again,",
}


def _summary(answer: Answer, size: int | None, uri: str) -> str:
    rows = "done" if answer.rows is None else f"{answer.rows} {'row' if answer.rows == 1 else 'rows'}"
    if answer.columns is None and answer.rows is not None:
        rows += " changed"
    return rows if size is None else f"{rows}, {size} bytes in {uri}"


def _sync(file: Path) -> int:
    """Have the file on disk before a record says so.

    :returns: its size in bytes
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
