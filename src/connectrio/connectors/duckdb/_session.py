"""One task's connection to DuckDB: SQL in, a Parquet file and numbers out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from connectrio.connectors.duckdb._records import Column, Usage
from connectrio.connectors.duckdb._task import IN_MEMORY, QueryTask, TaskError, select_parameters

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation, Statement

__all__ = ["Answer", "InterruptedSession", "Session"]

_SETTINGS = (
    "SET TimeZone = 'UTC'",  # results must not depend on where the host stands
    "SET enable_progress_bar = true",  # without it, DuckDB estimates nothing
    "SET enable_progress_bar_print = false",
    "SET profiling_coverage = 'ALL'",  # COPY too, not only SELECT
    "PRAGMA enable_profiling = 'no_output'",
)


class InterruptedSession(Exception):  # noqa: N818 - no error: somebody asked for it
    """`Session.interrupt` was called between two statements."""


@dataclass(frozen=True)
class Answer:
    """What the last statement came to.

    :ivar rows: how many rows its result has, or how many it changed; None where DuckDB does not say
    :ivar columns: those of its result; None without a result set
    :ivar written: whether there is a file
    """

    rows: int | None
    columns: list[Column] | None
    written: bool


class Session:
    """A connection that one thread uses; `interrupt` and `progress` may be called from any.

    :param database: a database file's path, or `IN_MEMORY`
    :param spill: a directory for what does not fit in memory, for a database that has none of its own
    :param memory_share: how much of the memory that DuckDB would take this session may, from 0 to 1
    :ivar usage: what the statements took so far that ran to their end; None before the first has
    """

    def __init__(self, database: str, spill: Path, memory_share: float) -> None:
        self._database = database
        self._config: dict[str, Any] = {
            # Python variables of this process are no tables
            "python_enable_replacements": False,
            # DuckDB 2.0.0 writes in threads of its own unless told not to, and an interrupted COPY and one of them can
            # wait for each other for ever (AsyncWriteQueue::AbortWrites; about one interrupt in fifty)
            "async_threads": 0,
            "memory_limit": f"{80 * memory_share:.2f}%",
        }
        if database == IN_MEMORY:
            self._config["temp_directory"] = str(spill)
        self._connection: DuckDBPyConnection | None = None
        self._closing = Lock()  # no other thread uses a connection that is being closed
        self._interrupted = False
        self._statements = 1
        self._done = 0
        self.usage: Usage | None = None

    def run(self, task: QueryTask, file: Path) -> Answer:
        """Run the task's statements, and write the result of the last one to `file`, as Parquet.

        :raises TaskError: there is no statement, or a parameter has no input
        :raises InterruptedSession: `interrupt` was called
        :raises duckdb.Error: DuckDB refused or failed, or was interrupted
        """
        with self._connected() as connection:
            statements = connection.extract_statements(task.statement)
            if not statements:
                raise TaskError("the task's SQL holds no statement")
            values = [select_parameters(statement.named_parameters, task.inputs) for statement in statements]
            self._statements = len(statements)
            for statement, parameters in zip(statements[:-1], values, strict=False):
                self._check()
                connection.execute(statement, parameters or None)
                connection.complete()
                self._account(connection)
                self._done += 1
            self._check()
            return self._answer(connection, statements[-1], values[-1], file, task.output is not None)

    def interrupt(self) -> None:
        """Make `run` end soon.

        DuckDB drops an interrupt that comes while no statement runs, so repeat this until `run` has ended.
        """
        with self._closing:
            self._interrupted = True
            if self._connection is not None:
                self._connection.interrupt()

    def progress(self) -> float | None:
        """How far `run` is, in percent: each statement counts the same, and DuckDB estimates how far one is.

        None where nothing is known, which is until DuckDB has an estimate of the first statement.
        """
        with self._closing:
            percent = -1.0 if self._connection is None else self._connection.query_progress()
        if percent < 0 and not self._done:
            return None
        return (100.0 * self._done + max(percent, 0.0)) / self._statements

    def _answer(
        self,
        connection: DuckDBPyConnection,
        statement: Statement,
        parameters: dict[str, Any],
        file: Path,
        wanted: bool,
    ) -> Answer:
        relation = connection.sql(statement, params=parameters or None)
        # a statement that only reads runs when it is read; any other has run by now, and DuckDB holds its rows
        has_run = relation.type == "MATERIALIZED_RELATION"
        if has_run:
            self._account(connection)
        if has_run and not _is_result_set(relation, statement):
            if wanted:
                self._write(connection, relation, None, file)
            return Answer(_changed_rows(relation), None, written=wanted)
        rows = self._write(connection, relation, None if has_run else parameters or None, file)
        columns = [Column(name, str(type_)) for name, type_ in zip(relation.columns, relation.types, strict=True)]
        return Answer(rows, columns, written=True)

    def _write(
        self, connection: DuckDBPyConnection, relation: DuckDBPyRelation, parameters: dict[str, Any] | None, file: Path
    ) -> int:
        self._check()
        file.parent.mkdir(parents=True, exist_ok=True)
        target = str(file).replace("'", "''")
        copy = f"COPY ({relation.sql_query()}\n) TO '{target}' (FORMAT parquet, USE_TMP_FILE false)"
        [(rows,)] = connection.execute(copy, parameters).fetchall()
        self._account(connection)
        return int(rows)

    @contextmanager
    def _connected(self) -> Iterator[DuckDBPyConnection]:
        import duckdb  # here, because it takes half a second and 20 MB, and a host may never run a query

        connection = duckdb.connect(self._database, config=self._config)
        try:
            for setting in _SETTINGS:
                connection.execute(setting)
            with self._closing:
                self._connection = connection
            yield connection
        finally:
            with self._closing:
                self._connection = None
            connection.close()  # not in the block: it may write a checkpoint, and an interrupt is not to wait for that

    def _check(self) -> None:
        if self._interrupted:
            raise InterruptedSession

    def _account(self, connection: DuckDBPyConnection) -> None:
        """Add what the last statement took, unless the SQL itself has turned profiling off."""
        with suppress(msgspec.DecodeError):
            profile = msgspec.json.decode(connection.get_profiling_information(), type=_Profile)
            self.usage = profile.added_to(self.usage or Usage())


def _is_result_set(relation: DuckDBPyRelation, statement: Statement) -> bool:
    """Whether these are rows that were asked for, and not DuckDB's acknowledgement of a statement that has none."""
    match relation.columns, [str(type_) for type_ in relation.types]:
        case ["Success"], ["BOOLEAN"]:
            return False
        case ["Count"], ["BIGINT"]:
            return "returning" in statement.query.casefold()
    return True


def _changed_rows(relation: DuckDBPyRelation) -> int | None:
    rows = relation.limit(1).fetchall()
    return rows[0][0] if rows and relation.columns == ["Count"] else None


class _QueryProfile(msgspec.Struct):
    total_rows_scanned: int = 0
    cpu_time: float = 0.0


class _SystemProfile(msgspec.Struct):
    peak_buffer_memory: int = 0
    peak_temp_dir_size: int = 0


class _Profile(msgspec.Struct):
    """What is of use here in DuckDB's profile of a statement."""

    query: _QueryProfile = msgspec.field(default_factory=_QueryProfile)
    system: _SystemProfile = msgspec.field(default_factory=_SystemProfile)

    def added_to(self, usage: Usage) -> Usage:
        return Usage(
            rows_read=usage.rows_read + self.query.total_rows_scanned,
            cpu_seconds=usage.cpu_seconds + self.query.cpu_time,
            peak_memory_bytes=max(usage.peak_memory_bytes, self.system.peak_buffer_memory),
            peak_spilled_bytes=max(usage.peak_spilled_bytes, self.system.peak_temp_dir_size),
        )
