"""The table of jobs, and what hosts read and write in it. One form of SQL serves SQLite and PostgreSQL.

1. A row is a job, by its key. Until the job is created, the row is a *claim*: one host, its `owner`, may create it.
2. A claim has a *lease*, which its owner renews. Only the database's clock counts. When the lease has passed, another
   host may take the claim over; then `fence` grows, and what the earlier owner still writes changes nothing.
3. `begun` is written before the connector's code begins, and only by the owner, within its lease. It is the key under
   which the other system is asked. A claim that is begun, without an answer, and whose lease has passed, is *in doubt*:
   nobody knows whether its job exists.
4. `meta`, the job's `resource_meta`, is written once and never changed.
5. `asked` says that a client has polled or deleted the job, so it is no lost job that another attempt may take over.
"""

# ruff: noqa: S608 - statements are made of constants; what varies are parameters

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

__all__ = [
    "Answered", "Claim", "Earlier", "Held", "InDoubt", "JobStoreSchemaError", "Session", "abandon", "adopt", "begin",
    "claim", "clean", "create_schema", "earlier_attempts", "finish", "mark_asked", "meta_hash", "record", "release",
    "renew", "try_writing", "withdraw",
]  # fmt: skip

VERSION = 1
"""Of the schema."""

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS connectrio_schema (version BIGINT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS connectrio_jobs (
        key TEXT PRIMARY KEY,
        task TEXT NOT NULL,
        attempt BIGINT NOT NULL,
        owner TEXT NOT NULL,
        fence BIGINT NOT NULL,
        lease DOUBLE PRECISION NOT NULL,
        begun TEXT,
        meta {bytes},
        meta_hash TEXT,
        asked BIGINT NOT NULL,
        origin TEXT,
        created DOUBLE PRECISION NOT NULL,
        expires DOUBLE PRECISION NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS connectrio_jobs_task ON connectrio_jobs (task, attempt)",
    "CREATE INDEX IF NOT EXISTS connectrio_jobs_meta ON connectrio_jobs (meta_hash)",
    "CREATE INDEX IF NOT EXISTS connectrio_jobs_expires ON connectrio_jobs (expires)",
)
"""The statements that make it. `{bytes}` is the database's type of bytes."""

# attempts that one task has, of which the last ones are looked at
_MOST_EARLIER = 20
# values in one statement
_MOST_VALUES = 200
# rows that one cleaning removes beyond the limit
_MOST_REMOVED = 1000


class JobStoreSchemaError(Exception):
    """The tables are of another version of connectrio."""


class _NotTakenError(Exception):
    """The job of an earlier attempt must not be taken over."""


class Session(Protocol):
    """A connection to the database, for one thread at a time.

    In statements, `?` is a parameter, `{now}` the database's time in seconds since 1970, `{bytes}` the type of bytes.
    """

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, which is committed unless `transaction` is open."""

    def transaction(self) -> AbstractContextManager[object]:
        """Return a block that is committed as a whole, or not at all if it raises."""

    def lock_schema(self) -> None:
        """Wait, inside of a transaction, until no other host makes the tables."""

    def abort(self) -> None:
        """End what the session waits for, from any thread; it cannot be used any more."""

    def close(self) -> None:
        """Close it. Raises nothing."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to create a job.

    :ivar begun: the key under which a host before has begun to create it; None if none has
    """

    key: str
    fence: int
    begun: str | None


@dataclass(frozen=True, slots=True)
class Answered:
    """The job exists."""

    meta: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """Another host creates the job.

    :ivar seconds: what is left of its lease
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class InDoubt:
    """A host has begun to create the job and has ended without an answer. It is not known whether the job exists."""

    begun: str


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier attempt at a task.

    :ivar seconds: what is left of its lease; negative if that has passed
    """

    key: str
    begun: str | None
    meta: bytes | None
    asked: bool
    seconds: float


def meta_hash(meta: bytes) -> str:
    """Return what a `resource_meta` is looked up by."""
    return hashlib.sha256(meta).hexdigest()


def create_schema(session: Session) -> None:
    """Make the tables unless they are there. Hosts may do so at the same time.

    :raises JobStoreSchemaError: they are of another version
    """
    try:
        versions = session.execute("SELECT version FROM connectrio_schema")
    except Exception:  # noqa: BLE001 - each database has its own error for a table that is not there
        versions = []
    if not versions:
        with session.transaction():
            session.lock_schema()
            for statement in SCHEMA:
                session.execute(statement)
            insert = "INSERT INTO connectrio_schema SELECT CAST(? AS BIGINT)"
            session.execute(f"{insert} WHERE NOT EXISTS (SELECT 1 FROM connectrio_schema)", [VERSION])
        versions = session.execute("SELECT version FROM connectrio_schema")
    if versions != [(VERSION,)]:
        raise JobStoreSchemaError(
            "its tables connectrio_jobs and connectrio_schema are of version"
            f" {', '.join(str(row[0]) for row in versions)}, and this host needs version {VERSION}; give hosts of"
            " different versions different databases or schemas"
        )


def claim(
    session: Session, *, key: str, task: str, attempt: int, owner: str, lease: float, memory: float, retakes: bool
) -> Claim | Answered | Held | InDoubt:
    """Claim the job `key`, or return why that cannot be done now.

    :param retakes: whether a claim in doubt is taken over
    """
    while True:
        granted = session.execute(
            """INSERT INTO connectrio_jobs (key, task, attempt, owner, fence, lease, asked, created, expires)
            VALUES (?, ?, ?, ?, CAST({now} * 1000000 AS BIGINT), {now} + ?, 0, {now}, {now} + ?)
            ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, lease = excluded.lease, expires = excluded.expires,
                fence = CASE WHEN excluded.fence > connectrio_jobs.fence THEN excluded.fence
                    ELSE connectrio_jobs.fence + 1 END
            WHERE connectrio_jobs.meta IS NULL AND (
                connectrio_jobs.begun IS NULL AND connectrio_jobs.owner = excluded.owner
                OR connectrio_jobs.lease <= {now} AND (connectrio_jobs.begun IS NULL OR ? = 1))
            RETURNING fence, begun""",
            [key, task, attempt, owner, lease, memory, int(retakes)],
        )
        if granted:
            return Claim(key, *granted[0])
        found = session.execute("SELECT meta, begun, lease - {now} FROM connectrio_jobs WHERE key = ?", [key])
        if found:
            meta, begun, seconds = found[0]
            if meta is not None:
                return Answered(bytes(meta))
            if seconds > 0:
                return Held(seconds)
            if begun is not None and not retakes:
                return InDoubt(begun)
        # its owner has given it up in between


def earlier_attempts(session: Session, task: str, attempt: int) -> list[Earlier]:
    """Return the attempts at a task before `attempt`, the last one first."""
    rows = session.execute(
        "SELECT key, begun, meta, asked, lease - {now} FROM connectrio_jobs WHERE task = ? AND attempt < ?"
        f" ORDER BY attempt DESC, created DESC LIMIT {_MOST_EARLIER}",
        [task, attempt],
    )
    return [
        Earlier(key, begun, None if meta is None else bytes(meta), bool(asked), seconds)
        for key, begun, meta, asked, seconds in rows
    ]


_OWN = "key = ? AND owner = ? AND fence = ? AND meta IS NULL"


def begin(session: Session, mine: Claim, owner: str, lease: float, under: str) -> bool:
    """Write down that the connector's code is about to begin. Return False if the lease has passed: it must not.

    :param under: the key that the other system is given
    """
    return bool(
        session.execute(
            f"UPDATE connectrio_jobs SET begun = ?, lease = {{now}} + ? WHERE {_OWN} AND lease > {{now}} RETURNING key",
            [under, lease, mine.key, owner, mine.fence],
        )
    )


def finish(session: Session, mine: Claim, owner: str, meta: bytes, memory: float, origin: str) -> bytes | None:
    """Write down the job. Return its `resource_meta`; that of another host that has created it in the meantime; or None
    if another host has taken the claim over and has no answer yet.
    """
    if session.execute(
        f"UPDATE connectrio_jobs SET meta = ?, meta_hash = ?, origin = ?, lease = 0, expires = {{now}} + ? WHERE {_OWN}"
        " RETURNING key",
        [meta, meta_hash(meta), origin, memory, mine.key, owner, mine.fence],
    ):
        return meta
    found = session.execute("SELECT meta FROM connectrio_jobs WHERE key = ?", [mine.key])
    if not found:  # it was forgotten, or removed by hand
        return meta
    return None if found[0][0] is None else bytes(found[0][0])


def adopt(session: Session, mine: Claim, owner: str, earlier: str, memory: float) -> bytes | None:
    """Answer a claim with the job of an earlier attempt. Return its `resource_meta`; None if it must not be taken over:
    a client knows it by now, or the claim is lost.
    """
    with suppress(_NotTakenError), session.transaction():
        taken = session.execute(
            "UPDATE connectrio_jobs SET asked = 1 WHERE key = ? AND asked = 0 AND meta IS NOT NULL RETURNING meta",
            [earlier],
        )
        if not taken or finish(session, mine, owner, bytes(taken[0][0]), memory, "adopted") != bytes(taken[0][0]):
            raise _NotTakenError  # and nothing is changed
        return bytes(taken[0][0])
    # done before, by a call whose connection was lost before it had the answer
    mine_now = session.execute("SELECT meta FROM connectrio_jobs WHERE key = ? AND fence = ?", [mine.key, mine.fence])
    return bytes(mine_now[0][0]) if mine_now and mine_now[0][0] is not None else None


def release(session: Session, mine: Claim, owner: str) -> None:
    """Give a claim up: there is no job."""
    session.execute(f"DELETE FROM connectrio_jobs WHERE {_OWN}", [mine.key, owner, mine.fence])


def abandon(session: Session, mine: Claim, owner: str) -> None:
    """End the lease of a claim that was begun and will have no answer: it is in doubt."""
    session.execute(f"UPDATE connectrio_jobs SET lease = 0 WHERE {_OWN}", [mine.key, owner, mine.fence])


def withdraw(session: Session, key: str) -> bool:
    """Remove a claim whose lease has passed before it was begun, so that it never begins; return whether it is gone."""
    session.execute(
        "DELETE FROM connectrio_jobs WHERE key = ? AND meta IS NULL AND begun IS NULL AND lease <= {now}", [key]
    )
    return not session.execute("SELECT 1 FROM connectrio_jobs WHERE key = ?", [key])


def record(session: Session, key: str, task: str, attempt: int, owner: str, meta: bytes, memory: float) -> None:
    """Write down a job that was created without a claim, while the database was away.

    The owner may have a claim nevertheless, if only the answer to it was lost; and those of others may have passed.
    """
    session.execute(
        """INSERT INTO connectrio_jobs
        (key, task, attempt, owner, fence, lease, meta, meta_hash, asked, origin, created, expires)
        VALUES (?, ?, ?, ?, CAST({now} * 1000000 AS BIGINT), 0, ?, ?, 0, 'fresh', {now}, {now} + ?)
        ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, fence = connectrio_jobs.fence + 1, lease = 0,
            meta = excluded.meta, meta_hash = excluded.meta_hash, origin = excluded.origin, expires = excluded.expires
        WHERE connectrio_jobs.meta IS NULL
            AND (connectrio_jobs.owner = excluded.owner OR connectrio_jobs.lease <= {now})""",
        [key, task, attempt, owner, meta, meta_hash(meta), memory],
    )


def try_writing(session: Session) -> None:
    """Write something that changes nothing. A database that is read-only or full raises its error."""
    any_job = "SELECT key FROM connectrio_jobs LIMIT 1"
    session.execute(f"UPDATE connectrio_jobs SET asked = asked WHERE key IN ({any_job})")


def renew(session: Session, owner: str, keys: Iterable[str], lease: float) -> None:
    """Renew the leases of an owner's claims, except those that others have taken over."""
    for some in _batches(keys):
        session.execute(
            "UPDATE connectrio_jobs SET lease = {now} + ? WHERE owner = ? AND meta IS NULL"
            f" AND key IN ({_marks(some)})",
            [lease, owner, *some],
        )


def mark_asked(session: Session, hashes: Iterable[str]) -> None:
    """Write down that clients know the jobs with these hashes of their `resource_meta`."""
    for some in _batches(hashes):
        session.execute(f"UPDATE connectrio_jobs SET asked = 1 WHERE asked = 0 AND meta_hash IN ({_marks(some)})", some)


def clean(session: Session, most: int) -> None:
    """Forget jobs that are too old, and the oldest beyond `most`. Claims within their lease stay."""
    session.execute("DELETE FROM connectrio_jobs WHERE expires <= {now} AND lease <= {now}")
    session.execute(
        "DELETE FROM connectrio_jobs WHERE meta IS NOT NULL AND key IN (SELECT key FROM connectrio_jobs"
        f" WHERE meta IS NOT NULL ORDER BY expires DESC LIMIT {_MOST_REMOVED} OFFSET ?)",
        [most],
    )


def _batches(values: Iterable[str]) -> Iterator[list[str]]:
    # sorted, so that hosts lock rows in one order
    each = iter(sorted(values))
    while some := list(islice(each, _MOST_VALUES)):
        yield some


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
