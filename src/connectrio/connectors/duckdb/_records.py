"""What is remembered of a job. One record per job is on disk, as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

__all__ = ["Column", "JobRecord", "JobState", "LogEntry", "Usage", "now", "shorten"]

# DuckDB quotes the offending value in some errors, whatever its size
MAX_MESSAGE_LENGTH = 4096


def now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


def shorten(message: str) -> str:
    """`message`, cut where it is far longer than a person reads."""
    if len(message) <= MAX_MESSAGE_LENGTH:
        return message
    return f"{message[:MAX_MESSAGE_LENGTH]}… ({len(message)} characters in all)"


class JobState(StrEnum):
    """Where a job stands, under the name Flyte has for it."""

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
    """A column of a result: its name, and its type as DuckDB writes it."""

    name: str
    type: str


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the statements took that ran to their end: sums, and the peaks of the one that took most."""

    rows_read: int = 0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_spilled_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job, as its store knows it. A final one never changes again.

    :ivar owner: the host that runs it
    :ivar statement: a digest of the SQL, to tell jobs apart; the SQL itself may hold what a store should not
    :ivar output: the name of the declared output
    :ivar result_path: where the result is, or will be
    :ivar result_uri: the same, in the form in which `output_prefix` was given
    :ivar message: what a person should know about `state`
    :ivar rows: how many rows the result has, or how many were changed
    :ivar columns: those of the result; None without a result set
    :ivar result_bytes: the size of the result's file; None without one
    :ivar usage: None until it has ended, and where no statement ran to its end
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
        """Where the result is while it is written: beside its place, so that a rename puts it there at once."""
        return Path(self.result_path).with_name(f".{self.job_id}.parquet.tmp")

    @property
    def seconds(self) -> float | None:
        """How long it ran, or has been running; None before it starts."""
        if self.started_at is None:
            return None
        return ((self.finished_at or now()) - self.started_at).total_seconds()


@dataclass(frozen=True)
class LogEntry:
    """A line of a job's log."""

    at: datetime
    message: str
