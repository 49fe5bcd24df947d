"""The record of a job, which is stored on disk as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

__all__ = ["Column", "JobRecord", "JobState", "LogEntry", "Usage", "now", "shorten"]

# DuckDB quotes the offending value in some errors, whatever its size
MAX_MESSAGE_LENGTH = 4096


def now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


def shorten(message: str) -> str:
    """Return `message`, cut to a length that a person can read."""
    if len(message) <= MAX_MESSAGE_LENGTH:
        return message
    return f"{message[:MAX_MESSAGE_LENGTH]}… ({len(message)} characters in all)"


class JobState(StrEnum):
    """The state of a job, with the name of Flyte's phase."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"
    RETRYABLE_FAILED = "RETRYABLE_FAILED"

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class Column:
    """A column of a result, and its type in SQL."""

    name: str
    type: str


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The resources used by the statements that completed: sums, and the highest peak of any of them."""

    rows_read: int = 0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_spilled_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job in the store. It never changes once its state is final.

    :ivar owner: the host that runs it
    :ivar statement: a digest of the SQL, to distinguish jobs; the SQL itself may hold secrets
    :ivar output: the name of the declared output
    :ivar result_path: the path of the result, also before it exists
    :ivar result_uri: the same, as a path or URL as `output_prefix` was
    :ivar message: for a person, about `state`
    :ivar rows: the number of rows in the result, or of changed rows
    :ivar columns: the columns of the result; None without a result set
    :ivar result_bytes: the size of the result's file; None without one
    :ivar usage: None until the job has ended, and if no statement completed
    """

    job_id: str
    owner: str
    database: str
    statement: str
    output: str | None
    result_path: str
    result_uri: str
    state: JobState = JobState.QUEUED
    message: str = ""
    queued_at: datetime = field(default_factory=now)
    started_at: datetime | None = None
    finished_at: datetime | None = None
    rows: int | None = None
    columns: list[Column] | None = None
    result_bytes: int | None = None
    usage: Usage | None = None

    @property
    def temporary_path(self) -> Path:
        """The path of the result while it is written: in the same directory, so that a rename is atomic."""
        return Path(self.result_path).with_name(f".{self.job_id}.parquet.tmp")

    @property
    def seconds(self) -> float | None:
        """The seconds that it ran, or has been running; None before it starts."""
        if self.started_at is None:
            return None
        return ((self.finished_at or now()) - self.started_at).total_seconds()


@dataclass(frozen=True)
class LogEntry:
    """A line of a job's log."""

    at: datetime
    message: str
