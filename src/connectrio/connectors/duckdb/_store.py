"""Jobs on disk.

    <home>/jobs/<job id>/record.json   the job, replaced as a whole at each change
                         log.jsonl     its log, a line per entry, only appended to
                         abort         exists once somebody has asked another host to abort it
                         spill/        DuckDB's temporary files, while it runs
    <home>/hosts/<host id>             see `_hosts`

Only the host that owns a job writes its record and log, until that host is dead and another settles what it left.
All functions block; none may be called on an event loop.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from connectrio.connector.failures import UnknownJobError
from connectrio.connectors.duckdb._hosts import HostLock, forget, if_dead
from connectrio.connectors.duckdb._records import JobRecord, JobState, LogEntry, now
from connectrio.logs import get_logger

__all__ = ["JobStore"]

log = get_logger("connectrio.connectors.duckdb")

HOST_DIED = (
    "the host that had this query ({owner}) died before the query ended; nothing of its result was kept, so it has to"
    " run again"
)


class JobStore:
    """The jobs under a directory, and this host's place among those that share it. Its owner must `close` it.

    :param home: made if need be, for this user alone: errors in records and logs may quote data
    :raises OSError: `home` cannot be made or written
    """

    def __init__(self, home: Path) -> None:
        self._home = home.expanduser().absolute()
        self._jobs = self._home / "jobs"
        self._hosts = self._home / "hosts"
        for directory in (self._home, self._jobs, self._hosts):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = HostLock(self._hosts)
        self.host_id = self._lock.host_id

    def close(self) -> None:
        """Leave the store. Jobs of this host that have not ended count as orphans from here on."""
        self._lock.close()

    def add(self, record: JobRecord, entry: str) -> None:
        """Remember a new job and the first entry of its log. On an error, nothing of it is left."""
        directory = self._directory(record.job_id)
        directory.mkdir(mode=0o700)
        try:
            self.append_log(record.job_id, entry)
            self.save(record)  # last: a directory without a record is no job
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def save(self, record: JobRecord) -> None:
        """Replace the record on disk; a reader sees the old one or the new one, even after a crash."""
        directory = self._directory(record.job_id)
        temporary = directory / "record.json.tmp"
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(directory / "record.json")
        _sync_directory(directory)

    def load(self, job_id: str) -> JobRecord:
        """The record of a job. One whose host has died is settled first.

        :raises UnknownJobError: there is none
        """
        record = self._read(job_id)
        if not record.state.final and record.owner != self.host_id:
            self._settle_orphans(record.owner, [job_id])
            record = self._read(job_id)
        return record

    def is_open(self, job_id: str) -> bool:
        """Whether there is such a job, and it has not ended."""
        try:
            return not self.load(job_id).state.final
        except UnknownJobError:
            return False

    def append_log(self, job_id: str, message: str) -> None:
        """Add to a job's log, an entry for each line of the message."""
        at = now()
        entries = [LogEntry(at, line) for line in message.splitlines() if line.strip()]
        data = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        with (self._directory(job_id) / "log.jsonl").open("ab") as file:
            file.write(data)

    def read_log(self, job_id: str) -> list[LogEntry]:
        """All entries of a job's log.

        :raises UnknownJobError: there is no such job
        """
        try:
            data = (self._directory(job_id) / "log.jsonl").read_bytes()
        except FileNotFoundError:
            raise self._unknown(job_id) from None
        return [entry for line in data.splitlines() if (entry := _decode_entry(line))]

    def request_abort(self, job_id: str) -> None:
        """Ask the host that owns a job to abort it."""
        with suppress(FileNotFoundError):  # pruned in this moment, so it has ended
            (self._directory(job_id) / "abort").touch()

    def abort_requested(self, job_id: str) -> bool:
        """Whether some host has been asked to abort the job."""
        return (self._directory(job_id) / "abort").exists()

    def spill_directory(self, job_id: str) -> Path:
        """Where DuckDB may put what does not fit in memory; DuckDB makes the directory, the job removes it."""
        return self._directory(job_id) / "spill"

    def tidy(self, keep: timedelta) -> None:
        """Settle the jobs of dead hosts and forget jobs that ended more than `keep` ago."""
        orphans: dict[str, list[str]] = {host.name: [] for host in self._hosts.iterdir() if host.name[0] != "."}
        for job_id in self._job_ids():
            record = self._read_if_whole(job_id)
            if record is not None and not record.state.final:
                orphans.setdefault(record.owner, []).append(job_id)
            elif self._ended_at(job_id, record) < now() - keep:
                shutil.rmtree(self._directory(job_id), ignore_errors=True)
        for owner, job_ids in orphans.items():
            if self._settle_orphans(owner, job_ids):
                forget(self._hosts, owner)

    def _settle_orphans(self, owner: str, job_ids: list[str]) -> bool:
        """Whether the host was dead, and its jobs are settled."""
        if owner == self.host_id:
            return False
        with if_dead(self._hosts, owner) as dead:
            for job_id in job_ids if dead else ():
                self._settle_orphan(job_id)
        return dead

    def _settle_orphan(self, job_id: str) -> None:
        record = self._read_if_whole(job_id)
        if record is None or record.state.final:
            return  # another host was faster
        message = HOST_DIED.format(owner=record.owner)
        self.save(replace(record, state=JobState.RETRYABLE_FAILED, message=message, finished_at=now()))
        self.append_log(job_id, message)
        with suppress(OSError):  # the place may be gone, or not ours; the file is not the user's to miss
            record.temporary_path.unlink(missing_ok=True)
        shutil.rmtree(self.spill_directory(job_id), ignore_errors=True)

    def _job_ids(self) -> Iterator[str]:
        return (entry.name for entry in self._jobs.iterdir())

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
        """None where a host died between making the directory and writing the record, or somebody spoilt it."""
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
            return now()  # another host has just forgotten it

    def _directory(self, job_id: str) -> Path:
        return self._jobs / job_id

    def _unknown(self, job_id: str) -> UnknownJobError:
        return UnknownJobError(
            f"there is no DuckDB job {job_id} under {self._home}: it was forgotten, some time after it had ended,"
            " or another host with another CONNECTRIO_DUCKDB_HOME has it"
        )


def _decode_entry(line: bytes) -> LogEntry | None:
    """None for half a line, as a machine that lost power may leave."""
    try:
        return msgspec.json.decode(line, type=LogEntry)
    except ValueError:
        return None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
