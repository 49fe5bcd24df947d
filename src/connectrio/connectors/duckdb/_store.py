"""Jobs on disk: their records and logs, and which of the hosts that share them are alive.

    <home>/jobs/<job id>/record.json   the job, replaced as a whole at each change
                         log.jsonl     its log, one entry per line, only appended to
                         abort         exists once another host was asked to abort the job
                         spill/        DuckDB's temporary files, while the job runs
    <home>/hosts/<host id>             the lock file of a host
    <home>/data/                       files of the tasks, which are the users'

What is damaged, or is not a job or a host, is left where it is, reported in the log once, and the rest is served. A
damaged job is removed like one that has ended.

Only the host that owns a job writes its record and log, until that host is dead and another one settles its jobs.

Each host has a file under its name and holds an exclusive `flock` on it as long as it lives; the kernel releases the
lock when the process ends in any way. So whoever can lock a host's file knows that the host is dead, and nobody else
acts on that while it holds the lock.

All functions block; none may be called on an event loop.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from connectrio.connector.failures import UnknownJobError
from connectrio.logs import get_logger

__all__ = [
    "JOB_ID",
    "Column",
    "HostLock",
    "JobRecord",
    "JobState",
    "JobStore",
    "LogEntry",
    "Usage",
    "if_dead",
    "now",
    "sync",
]

log = get_logger("connectrio.connectors.duckdb")

# bytes; beyond that, a record or log is damaged. Each column of a result takes some fifty
MAX_FILE_SIZE = 16 * 2**20

# names of directories
JOB_ID = re.compile(r"[0-9a-f]{32}")

_HOST_ID = r"[A-Za-z0-9-][A-Za-z0-9.-]{0,127}"
_Time = Annotated[datetime, msgspec.Meta(tz=True)]

HOST_DIED = (
    "the host that had this query ({owner}) died before the query ended; nothing of its result was kept, so it has to"
    " run again"
)


def now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


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
    owner: Annotated[str, msgspec.Meta(pattern=rf"^{_HOST_ID}$")]
    database: str
    statement: str
    output: str | None
    result_path: str
    result_uri: str
    state: JobState = JobState.QUEUED
    message: str = ""
    queued_at: _Time = field(default_factory=now)
    started_at: _Time | None = None
    finished_at: _Time | None = None
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
        machine = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).lstrip(".")[:64]
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

    A host without a file has closed its lock, or another host has removed the file after settling all its jobs. One
    whose file cannot be opened may be alive.
    """
    try:
        file = os.open(directory / host_id, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        yield isinstance(error, FileNotFoundError | IsADirectoryError)
        return
    is_dead = False
    try:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_dead = True
        yield is_dead
    finally:
        os.close(file)


def _open_regular(path: Path, flags: int) -> int:
    """Open a regular file. Never wait, as for a FIFO that nobody writes.

    :raises OSError: it cannot be opened, or is no regular file
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return descriptor


def _read_regular(path: Path) -> bytes:
    """Return the content of a small regular file.

    :raises OSError: it cannot be read, is no regular file, or is too large
    """
    with open(_open_regular(path, os.O_RDONLY), "rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    if len(data) > MAX_FILE_SIZE:
        raise OSError(errno.EFBIG, "too large", str(path))
    return data


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
        self._reported: set[str] = set()
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

        :raises UnknownJobError: there is no such job, or its record is damaged
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
        descriptor = _open_regular(self._directory(job_id) / "log.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with open(descriptor, "ab") as file:  # noqa: PTH123 - it is open already
            file.write(data)

    def read_log(self, job_id: str) -> list[LogEntry]:
        """Return all entries of a job's log.

        :raises UnknownJobError: there is no such job, or its log is damaged
        """
        try:
            data = _read_regular(self._directory(job_id) / "log.jsonl")
        except FileNotFoundError:
            raise self._unknown(job_id) from None
        except OSError as error:
            raise self._damaged(job_id, "log", error) from error
        return [entry for line in data.splitlines() if (entry := _decode_entry(line))]

    def request_abort(self, job_id: str) -> None:
        """Ask the host that owns a job to abort it. Do nothing if the job has ended or is unknown."""
        with suppress(UnknownJobError, FileNotFoundError):  # it may be removed at this moment, or damaged
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
        orphans: dict[str, list[str]] = {}
        for host in self._hosts.iterdir():
            if re.fullmatch(_HOST_ID, host.name) and stat.S_ISREG(host.lstat().st_mode):
                orphans[host.name] = []
            elif host.name[0] != ".":
                self._report(host, "no host")
        for entry in self._jobs.iterdir():
            job_id = entry.name
            if not JOB_ID.fullmatch(job_id):
                self._report(entry, "no job")
                continue
            record = self._read_if_whole(job_id)
            if record is not None and not record.state.final:
                orphans.setdefault(record.owner, []).append(job_id)
            elif self._ended_at(job_id, record) < now() - keep:
                shutil.rmtree(self._directory(job_id), ignore_errors=True)
        for owner, job_ids in orphans.items():
            if self._settle_orphans(owner, job_ids):
                with suppress(OSError):
                    (self._hosts / owner).unlink()

    def _settle_orphans(self, owner: str, job_ids: list[str]) -> bool:
        """Settle the jobs if their host is dead. Return whether all are settled."""
        if owner == self.host_id:
            return False
        with if_dead(self._hosts, owner) as dead:
            settled = [self._settle_orphan(job_id) for job_id in job_ids] if dead else []
            return dead and all(settled)

    def _settle_orphan(self, job_id: str) -> bool:
        """Settle a job whose host is dead, unless another host was faster. Return whether it is settled."""
        record = self._read_if_whole(job_id)
        if record is None or record.state.final:
            return True
        message = HOST_DIED.format(owner=record.owner)
        try:
            self.save(replace(record, state=JobState.RETRYABLE_FAILED, message=message, finished_at=now()))
            self.append_log(job_id, message)
        except OSError as error:  # a full disk, or one that is read-only: to be tried again
            self._report(self._directory(job_id), "it cannot be written", error)
            return False
        with suppress(OSError, ValueError):  # the directory may be missing or read-only; nobody needs the partial file
            record.temporary_path.unlink(missing_ok=True)
        shutil.rmtree(self.spill_directory(job_id), ignore_errors=True)
        return True

    def _read(self, job_id: str) -> JobRecord:
        try:
            record = msgspec.json.decode(_read_regular(self._directory(job_id) / "record.json"), type=JobRecord)
        except (FileNotFoundError, NotADirectoryError):
            raise self._unknown(job_id) from None
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(job_id, "record", error) from error
        if record.job_id != job_id:
            raise self._damaged(job_id, "record", ValueError(f"it is that of job {record.job_id}"))
        return record

    def _read_if_whole(self, job_id: str) -> JobRecord | None:
        """Return the record; None if a host died before it wrote the record, or if the record is damaged."""
        try:
            return self._read(job_id)
        except UnknownJobError:
            return None

    def _report(self, path: Path, what: str, error: Exception | None = None) -> None:
        """Warn of something in the store that is left alone, once."""
        if str(path) not in self._reported:
            self._reported.add(str(path))
            log.warning(
                "the DuckDB connector leaves something in its job store alone",
                path=str(path),
                reason=what,
                error=str(error or ""),
            )

    def _damaged(self, job_id: str, what: str, error: Exception) -> UnknownJobError:
        self._report(self._directory(job_id), f"its {what} is damaged", error)
        return UnknownJobError(f"the {what} of DuckDB job {job_id} under {self._home} is damaged: {error}")

    def _ended_at(self, job_id: str, record: JobRecord | None) -> datetime:
        if record is not None and record.finished_at is not None:
            return record.finished_at
        try:
            return datetime.fromtimestamp(self._directory(job_id).stat().st_mtime, UTC)
        except OSError:
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
