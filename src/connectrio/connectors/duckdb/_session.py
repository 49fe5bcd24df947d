"""One task's connection to DuckDB: run SQL, write the result as Parquet, classify errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from connectrio.connectors.duckdb._store import Column, JobState, Usage, shorten
from connectrio.connectors.duckdb._task import IN_MEMORY, QueryTask, TaskError, select_parameters
from connectrio.logs import get_logger

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation, Statement

__all__ = ["Answer", "InterruptedSession", "Session", "state_after"]

log = get_logger("connectrio.connectors.duckdb")

_SETTINGS = (
    "SET TimeZone = 'UTC'",  # results must not depend on the host's time zone
    "SET enable_progress_bar = true",  # without it, DuckDB estimates no progress
    "SET enable_progress_bar_print = false",
    "SET profiling_coverage = 'ALL'",  # COPY too, not only SELECT
    "PRAGMA enable_profiling = 'no_output'",
)

# what SQL may set when DuckDB is confined: how results look, nothing that the host must decide
_OPEN_SETTINGS = (
    "TimeZone",
    "Calendar",
    "default_null_order",
    "default_order",
    "preserve_insertion_order",
    "progress_bar_time",
)
_EXTENSIONS_AND_SECRETS = (
    "autoinstall_known_extensions",
    "autoload_known_extensions",
    "allow_community_extensions",
    "allow_persistent_secrets",
)
_CONFINED = (
    "disabled by configuration",
    "disabled through configuration",
    "configuration has been locked",
    "requires the extension",
)

# DuckDB has one class for all I/O errors; only the text tells which of them a retry would meet again
_LASTING_IO_ERRORS = (
    "No files found that match",
    "No such file or directory",
    "Permission denied",
    "Is a directory",
    "do not support",
)


class InterruptedSession(Exception):  # noqa: N818 - not an error: it was asked for
    """`Session.interrupt` was called between two statements."""


@dataclass(frozen=True)
class Answer:
    """The result of the last statement.

    :ivar rows: the number of rows in the result, or of changed rows; None where DuckDB does not say
    :ivar columns: the columns of the result; None without a result set
    :ivar written: whether a file was written
    """

    rows: int | None
    columns: list[Column] | None
    written: bool


class Session:
    """A connection for one thread; `interrupt` and `progress` may be called from any thread.

    :param database: the path of a database file, or `IN_MEMORY`
    :param spill: a directory for temporary files, used by a database in memory
    :param memory_limit: as DuckDB writes it: "4000B" or "40%" of the machine's memory
    :param allowed: the directories whose files SQL may read and write, and nothing else; None for all that the host can
    :ivar usage: the resources used by the statements that have completed; None before the first has
    """

    def __init__(self, database: str, spill: Path, memory_limit: str, allowed: Sequence[Path] | None) -> None:
        self._database = database
        self._allowed = allowed
        self._config: dict[str, Any] = {
            # SQL must not read Python variables of this process as tables
            "python_enable_replacements": False,
            # by default DuckDB 2.0.0 writes in other threads, and an interrupted COPY and one of them can wait for each
            # other for ever (AsyncWriteQueue::AbortWrites; about one interrupt in fifty)
            "async_threads": 0,
            "memory_limit": memory_limit,
        }
        if database == IN_MEMORY:
            self._config["temp_directory"] = str(spill)
        if allowed is not None:  # not only by `_confine`: these matter while a database file is opened
            self._config |= dict.fromkeys(_EXTENSIONS_AND_SECRETS, False)
        self._connection: DuckDBPyConnection | None = None
        self._closing = Lock()  # no other thread uses a connection that is being closed
        self._interrupted = False
        self._statements = 1
        self._done = 0
        self.usage: Usage | None = None

    def run(self, task: QueryTask, file: Path) -> Answer:
        """Run the task's statements, and write the result of the last one to `file` as Parquet.

        :raises TaskError: there is no statement, or a parameter has no input
        :raises InterruptedSession: `interrupt` was called
        :raises duckdb.Error: DuckDB rejected a statement, failed, or was interrupted
        """
        with self._connected() as connection:
            if self._allowed is not None:
                _confine(connection, self._allowed, file)
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
        """Return the progress of `run` in percent. Each statement counts the same; DuckDB estimates the current one.

        None until DuckDB has an estimate of the first statement.
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
        # a statement that only reads runs when its rows are read; any other has run by now, and DuckDB holds its rows
        has_run = relation.type == "MATERIALIZED_RELATION"
        if has_run:
            self._account(connection)
        if has_run and not _is_result_set(relation, statement):
            if wanted:
                self._write(connection, relation, None, file)
            changed = relation.limit(1).fetchall() if relation.columns == ["Count"] else []
            return Answer(changed[0][0] if changed else None, None, written=wanted)
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
        import duckdb  # takes half a second and 20 MB, and a host may never run a query

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
            connection.close()  # without the lock: it may write a checkpoint, and an interrupt must not wait for that

    def _check(self) -> None:
        if self._interrupted:
            raise InterruptedSession

    def _account(self, connection: DuckDBPyConnection) -> None:
        """Add the last statement to `usage`, unless the SQL has turned profiling off."""
        with suppress(msgspec.DecodeError):
            profile = msgspec.json.decode(connection.get_profiling_information(), type=_Profile)
            self.usage = profile.added_to(self.usage or Usage())


def _confine(connection: DuckDBPyConnection, directories: Sequence[Path], file: Path) -> None:
    """Let SQL reach nothing but the files in `directories`, and `file`; for the rest of the connection's life.

    DuckDB resolves "..", symbolic links and patterns before it compares paths. It has no `getenv`.
    """
    for setting in (
        f"SET allowed_directories = {_sql_list(directories)}",
        f"SET allowed_paths = {_sql_list([file])}",
        "SET enable_external_access = false",
        f"SET allowed_configs = {_sql_list(_OPEN_SETTINGS)}",
        "SET lock_configuration = true",
    ):
        connection.execute(setting)


def _sql_list(values: Iterable[object]) -> str:
    return "[" + ", ".join("'" + str(value).replace("'", "''") + "'" for value in values) + "]"


def _is_result_set(relation: DuckDBPyRelation, statement: Statement) -> bool:
    """Return whether these are rows of a query, and not DuckDB's answer to a statement without a result set."""
    match relation.columns, [str(type_) for type_ in relation.types]:
        case ["Success"], ["BOOLEAN"]:
            return False
        case ["Count"], ["BIGINT"]:
            return "returning" in statement.query.casefold()
    return True


class _QueryProfile(msgspec.Struct):
    total_rows_scanned: int = 0
    cpu_time: float = 0.0


class _SystemProfile(msgspec.Struct):
    peak_buffer_memory: int = 0
    peak_temp_dir_size: int = 0


class _Profile(msgspec.Struct):
    """The fields of DuckDB's profile of a statement that are used here."""

    query: _QueryProfile = msgspec.field(default_factory=_QueryProfile)
    system: _SystemProfile = msgspec.field(default_factory=_SystemProfile)

    def added_to(self, usage: Usage) -> Usage:
        return Usage(
            rows_read=usage.rows_read + self.query.total_rows_scanned,
            cpu_seconds=usage.cpu_seconds + self.query.cpu_time,
            peak_memory_bytes=max(usage.peak_memory_bytes, self.system.peak_buffer_memory),
            peak_spilled_bytes=max(usage.peak_spilled_bytes, self.system.peak_temp_dir_size),
        )


def state_after(error: Exception) -> tuple[JobState, str]:
    """Return the final state of a job that ended with `error`, and the message for the user.

    The table of errors and phases is in the package's docstring.
    """
    if isinstance(error, ImportError):
        return JobState.RETRYABLE_FAILED, shorten(f"DuckDB cannot be loaded on this host: {error}")

    import duckdb

    match error:
        case TaskError():
            state = JobState.FAILED
        case duckdb.IOException():
            lasting = any(text in str(error) for text in _LASTING_IO_ERRORS)
            state = JobState.FAILED if lasting else JobState.RETRYABLE_FAILED
        case (
            duckdb.OutOfMemoryException()
            | duckdb.TransactionException()
            | duckdb.InterruptException()
            | duckdb.InternalException()
            | duckdb.FatalException()
        ):
            state = JobState.RETRYABLE_FAILED
        case duckdb.Error():
            # the base class itself: an extension could not be downloaded
            state = JobState.RETRYABLE_FAILED if type(error) is duckdb.Error else JobState.FAILED
        case PermissionError() | NotADirectoryError() | FileExistsError():
            state = JobState.FAILED
        case OSError() | MemoryError():
            state = JobState.RETRYABLE_FAILED
        case _:
            log.error("the DuckDB connector has a bug", exc_info=error)
            return JobState.RETRYABLE_FAILED, shorten(f"error in the DuckDB connector: {type(error).__name__}: {error}")
    message = str(error)
    if any(words in message for words in _CONFINED):
        state = JobState.FAILED
        message += (
            "\nOn this host, SQL reaches only the data directory and those in CONNECTRIO_DUCKDB_ALLOW, and sets only"
            f" {', '.join(_OPEN_SETTINGS)}; connectrio serve --unsafe-sql lifts this"
        )
    return state, shorten(message)
