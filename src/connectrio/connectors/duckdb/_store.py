"""Jobs on disk: their records and logs, and which of the hosts that share them are alive.

    <home>/jobs/<job id>/record.json   the job, replaced as a whole at each change
                         log.jsonl     its log, one entry per line, only appended to
                         abort         exists once another host was asked to abort the job
                         spill/        DuckDB's temporary files, while the job runs
    <home>/hosts/<host id>             the lock file of a host
    <home>/data/                       files of the tasks, which are the users'

Only the host that owns a job writes its record and log, until that host is dead and another one settles its jobs.

Each host has a file under its name and holds an exclusive `flock` on it as long as it lives; the kernel releases the
lock when the process ends in any way. So whoever can lock a host's file knows that the host is dead, and nobody else
acts on that while it holds the lock.

All functions block; none may be called on an event loop.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import msgspec

from connectrio.connector.failures import UnknownJobError
from connectrio.logs import get_logger

__all__ = [
    "Column",
    "HostLock",
    "JobRecord",
    "JobState",
    "JobStore",
    "LogEntry",
    "Usage",
    "if_dead",
    "now",
    "shorten",
    "sync",
]

log = get_logger("connectrio.connectors.duckdb")

# DuckDB quotes the offending value in some errors, whatever its size
MAX_MESSAGE_LENGTH = 4096

HOST_DIED = (
    "the host that had this query ({owner}) died before the query ended; nothing of its result was kept, so it has to"
    " run again"
)


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


class HostLock:
    """The lock that shows that a host is alive, in a directory that all hosts share. Its owner must `close` it.

    :ivar host_id: a unique name; it begins with the name of the machine and the process id, for people
    """

    def __init__(self, directory: Path) -> None:
        machine = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64]
        self.host_id = f"{machine}-{os.getpid()}-{secrets.token_hex(4)}"
        self._path = directory / self.host_id
        # renamed to the host's name only once it is locked: an unlocked file under that name means a dead host
        unlocked = directory / f".{self.host_id}"
        self._file = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unlocked.rename(self._path)

    def close(self) -> None:
        """Release the lock. Jobs of this host that have not ended count as orphans from here on."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


@contextmanager
def if_dead(directory: Path, host_id: str) -> Iterator[bool]:
    """Yield whether that host is dead. While the block runs, no other host gets True for the same one.

    A host without a file has closed its lock, or another host has removed the file after settling all its jobs.
    """
    try:
        file = os.open(directory / host_id, os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    is_dead = False
    try:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_dead = True
        yield is_dead
    finally:
        os.close(file)


def sync(path: Path) -> int:
    """Write a file or directory to disk (fsync). Return its size in bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


class JobStore:
    """The jobs under a directory, which several hosts may share. Its owner must `close` it.

    :param home: created if it is missing, for this user alone: errors in records and logs may quote data
    :raises OSError: `home` cannot be created or written
    """

    def __init__(self, home: Path) -> None:
        self._home = home.expanduser().absolute()
        self._jobs = self._home / "jobs"
        self._hosts = self._home / "hosts"
        for directory in (self._home, self._jobs, self._hosts, self._home / "data"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = HostLock(self._hosts)
        self.host_id = self._lock.host_id

    def close(self) -> None:
        """Leave the store. Jobs of this host that have not ended count as orphans from here on."""
        self._lock.close()

    def add(self, record: JobRecord, entry: str) -> None:
        """Store a new job and the first entry of its log. On an error, nothing of it is left."""
        directory = self._directory(record.job_id)
        directory.mkdir(mode=0o700)
        try:
            self.append_log(record.job_id, entry)
            self.save(record)  # last: a directory without a record is not a job
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def save(self, record: JobRecord) -> None:
        """Replace the record on disk. A reader sees the old one or the new one, even after a crash."""
        directory = self._directory(record.job_id)
        temporary = directory / "record.json.tmp"
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(directory / "record.json")
        sync(directory)

    def load(self, job_id: str) -> JobRecord:
        """Return the record of a job. If the job's host has died, settle the job first.

        :raises UnknownJobError: there is no such job
        """
        record = self._read(job_id)
        if not record.state.final and record.owner != self.host_id:
            self._settle_orphans(record.owner, [job_id])
            record = self._read(job_id)
        return record

    def append_log(self, job_id: str, message: str) -> None:
        """Add an entry to a job's log for each line of the message."""
        at = now()
        entries = [LogEntry(at, line) for line in message.splitlines() if line.strip()]
        data = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        with (self._directory(job_id) / "log.jsonl").open("ab") as file:
            file.write(data)

    def read_log(self, job_id: str) -> list[LogEntry]:
        """Return all entries of a job's log.

        :raises UnknownJobError: there is no such job
        """
        try:
            data = (self._directory(job_id) / "log.jsonl").read_bytes()
        except FileNotFoundError:
            raise self._unknown(job_id) from None
        return [entry for line in data.splitlines() if (entry := _decode_entry(line))]

    def request_abort(self, job_id: str) -> None:
        """Ask the host that owns a job to abort it. Do nothing if the job has ended or is unknown."""
        with suppress(UnknownJobError, FileNotFoundError):  # it may be removed at this moment
            if not self.load(job_id).state.final:
                (self._directory(job_id) / "abort").touch()

    def abort_requested(self, job_id: str) -> bool:
        """Return whether any host was asked to abort the job."""
        return (self._directory(job_id) / "abort").exists()

    def spill_directory(self, job_id: str) -> Path:
        """Return the directory for DuckDB's temporary files. DuckDB creates it, the job removes it."""
        return self._directory(job_id) / "spill"

    def tidy(self, keep: timedelta) -> None:
        """Settle the jobs of dead hosts, and remove jobs that ended more than `keep` ago."""
        orphans: dict[str, list[str]] = {host.name: [] for host in self._hosts.iterdir() if host.name[0] != "."}
        for job_id in (entry.name for entry in self._jobs.iterdir()):
            record = self._read_if_whole(job_id)
            if record is not None and not record.state.final:
                orphans.setdefault(record.owner, []).append(job_id)
            elif self._ended_at(job_id, record) < now() - keep:
                shutil.rmtree(self._directory(job_id), ignore_errors=True)
        for owner, job_ids in orphans.items():
            if self._settle_orphans(owner, job_ids):
                (self._hosts / owner).unlink(missing_ok=True)

    def _settle_orphans(self, owner: str, job_ids: list[str]) -> bool:
        """Settle the jobs if their host is dead. Return whether it is."""
        if owner == self.host_id:
            return False
        with if_dead(self._hosts, owner) as dead:
            for job_id in job_ids if dead else ():
                record = self._read_if_whole(job_id)
                if record is None or record.state.final:
                    continue  # another host was faster
                message = HOST_DIED.format(owner=record.owner)
                self.save(replace(record, state=JobState.RETRYABLE_FAILED, message=message, finished_at=now()))
                self.append_log(job_id, message)
                with suppress(OSError):  # the directory may be missing or read-only; nobody needs the partial file
                    record.temporary_path.unlink(missing_ok=True)
                shutil.rmtree(self.spill_directory(job_id), ignore_errors=True)
        return dead

    def _read(self, job_id: str) -> JobRecord:
        try:
            data = (self._directory(job_id) / "record.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise self._unknown(job_id) from None
        try:
            return msgspec.json.decode(data, type=JobRecord)
        except msgspec.DecodeError as error:
            raise ValueError(f"the record of DuckDB job {job_id} under {self._home} is damaged: {error}") from error

    def _read_if_whole(self, job_id: str) -> JobRecord | None:
        """Return the record; None if a host died before it wrote the record, or if the record is damaged."""
        try:
            return self._read(job_id)
        except UnknownJobError:
            return None
        except (OSError, ValueError) as error:
            log.warning("a DuckDB job cannot be read", job=job_id, error=str(error))
            return None

    def _ended_at(self, job_id: str, record: JobRecord | None) -> datetime:
        if record is not None and record.finished_at is not None:
            return record.finished_at
        try:
            return datetime.fromtimestamp(self._directory(job_id).stat().st_mtime, UTC)
        except FileNotFoundError:
            return now()  # another host has just removed it

    def _directory(self, job_id: str) -> Path:
        return self._jobs / job_id

    def _unknown(self, job_id: str) -> UnknownJobError:
        return UnknownJobError(
            f"there is no DuckDB job {job_id} under {self._home}: it ended long ago and was removed,"
            " or it is on a host with another CONNECTRIO_DUCKDB_HOME"
        )


def _decode_entry(line: bytes) -> LogEntry | None:
    """Return the entry; None for an incomplete line, which a loss of power may leave."""
    try:
        return msgspec.json.decode(line, type=LogEntry)
    except ValueError:
        return None
