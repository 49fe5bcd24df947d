"""The program of the process that runs one task's SQL.

    standard input    a pickle of the request (`Request`), then nothing; it is closed when the host ends
    standard output   reports (`Report`), each a line of JSON; the last one has the state in which the job ends

A process of its own costs a sixth of a second. In return, whatever SQL does to DuckDB (a crash, a wait without end,
more memory than it may have) ends this one job, and killing the process always frees its place. It ends with its host,
and has nothing of it: no environment but what Python and DuckDB need, no sockets, no files.

Only the standard library is imported, and DuckDB: `connectrio` takes half a second to load.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import resource
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation, Statement

__all__ = ["Report", "Request", "select_parameters", "shorten", "state_after"]

PROGRESS_SECONDS = 0.25

# DuckDB quotes the offending value in some errors, whatever its size
MAX_MESSAGE_LENGTH = 4096

# what memory the process may have beside DuckDB's: DuckDB's limit knows nothing of a single huge text, for example
SPARE_MEMORY = 2**30
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

_PR_SET_PDEATHSIG = 1

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


class Request(TypedDict):
    """What the process is to do.

    :ivar inputs: the values that parameters may be bound to, as DuckDB can bind them
    :ivar refused: why the other inputs have no SQL type, by their names
    :ivar database: the path of a database file, or ":memory:"
    :ivar spill: a directory for temporary files; None for DuckDB's own choice, beside the database file
    :ivar memory_limit: as DuckDB writes it: "4000B" or "40%" of the machine's memory
    :ivar allowed: the directories whose files SQL may read and write, and nothing else; None for all
    :ivar file: the path to write the last statement's result to, as Parquet
    :ivar wanted: whether to write it even if it is only DuckDB's answer to a statement without a result set
    """

    statement: str
    inputs: dict[str, Any]
    refused: dict[str, str]
    database: str
    spill: str | None
    memory_limit: str
    allowed: list[str] | None
    file: str
    wanted: bool


class Report(TypedDict, total=False):
    """What the process has done.

    :ivar progress: the progress of all statements in percent
    :ivar usage: the fields of `connectrio.connectors.duckdb._store.Usage`, of the statements that have completed
    :ivar state: the final state of the job; only in the last report, as the rest
    :ivar message: for the user, if the state is not SUCCEEDED
    :ivar bug: the traceback of an error that nobody expected
    :ivar rows: the number of rows in the result, or of changed rows; None where DuckDB does not say
    :ivar columns: name and type of each column of the result; None without a result set
    :ivar written: whether the file was written
    """

    progress: float | None
    usage: dict[str, float] | None
    state: str
    message: str
    bug: str
    rows: int | None
    columns: list[dict[str, str]] | None
    written: bool


class StatementError(Exception):
    """The SQL cannot run with this task's inputs; a retry would fail as well."""


class Query:
    """A connection to DuckDB that runs the statements of one request."""

    def __init__(self, request: Request, reports: IO[bytes]) -> None:
        self._request = request
        self._reports = reports
        self._statements = 1
        self._done = 0
        self._usage: dict[str, float] | None = None

    def run(self) -> None:
        """Run the request, and report until its end. Errors are reported, never raised."""
        try:
            with self._connected() as connection, self._reporting(connection):
                end = self._run(connection)
        except Exception as error:  # noqa: BLE001 - reported, with its traceback where it is a bug
            end = state_after(error)
        self._report(usage=self._usage, **end)

    def _report(self, **report: Any) -> None:
        self._reports.write(json.dumps(report).encode() + b"\n")
        self._reports.flush()

    @contextmanager
    def _connected(self) -> Iterator[DuckDBPyConnection]:
        import duckdb

        request = self._request
        config: dict[str, Any] = {
            "python_enable_replacements": False,  # SQL must not read Python variables as tables
            # by default DuckDB 2.0.0 writes in other threads, and an error in COPY and one of them can wait for each
            # other for ever (AsyncWriteQueue::AbortWrites)
            "async_threads": 0,
            "memory_limit": request["memory_limit"],
        }
        if request["spill"] is not None:
            config["temp_directory"] = request["spill"]
        if request["allowed"] is not None:  # not only in `_confine`: these matter while a database file is opened
            config |= dict.fromkeys(_EXTENSIONS_AND_SECRETS, False)
        with duckdb.connect(request["database"], config=config) as connection:
            _limit_memory(connection)
            for setting in _SETTINGS:
                connection.execute(setting)
            if request["allowed"] is not None:
                _confine(connection, request["allowed"], request["file"])
            yield connection

    @contextmanager
    def _reporting(self, connection: DuckDBPyConnection) -> Iterator[None]:
        """Report progress and usage from a thread while the block runs."""
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(PROGRESS_SECONDS):
                self._report(progress=self._progress(connection), usage=self._usage)

        thread = threading.Thread(target=report)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _progress(self, connection: DuckDBPyConnection) -> float | None:
        """Return the progress in percent: each statement counts the same, and DuckDB estimates the current one.

        None until DuckDB has an estimate of the first statement.
        """
        percent = connection.query_progress()
        if percent < 0 and not self._done:
            return None
        return (100.0 * self._done + max(percent, 0.0)) / self._statements

    def _run(self, connection: DuckDBPyConnection) -> Report:
        request = self._request
        statements = connection.extract_statements(request["statement"])
        if not statements:
            raise StatementError("the task's SQL holds no statement")
        values = [
            select_parameters(each.named_parameters, request["inputs"], request["refused"]) for each in statements
        ]
        self._statements = len(statements)
        for statement, parameters in zip(statements[:-1], values, strict=False):
            connection.execute(statement, parameters or None)
            connection.complete()
            self._account(connection)
            self._done += 1
        return self._answer(connection, statements[-1], values[-1])

    def _answer(self, connection: DuckDBPyConnection, statement: Statement, parameters: dict[str, Any]) -> Report:
        relation = connection.sql(statement, params=parameters or None)
        # a statement that only reads runs when its rows are read; any other has run by now, and DuckDB holds its rows
        has_run = relation.type == "MATERIALIZED_RELATION"
        if has_run:
            self._account(connection)
        wanted = self._request["wanted"]
        if has_run and not _is_result_set(relation, statement):
            if wanted:
                self._write(connection, relation, None)
            changed = relation.limit(1).fetchall() if relation.columns == ["Count"] else []
            return Report(state="SUCCEEDED", rows=changed[0][0] if changed else None, columns=None, written=wanted)
        rows = self._write(connection, relation, None if has_run else parameters or None)
        columns = [
            {"name": name, "type": str(type_)} for name, type_ in zip(relation.columns, relation.types, strict=True)
        ]
        return Report(state="SUCCEEDED", rows=rows, columns=columns, written=True)

    def _write(
        self, connection: DuckDBPyConnection, relation: DuckDBPyRelation, parameters: dict[str, Any] | None
    ) -> int:
        file = Path(self._request["file"])
        file.parent.mkdir(parents=True, exist_ok=True)
        copy = f"COPY ({relation.sql_query()}\n) TO {_sql_text(file)} (FORMAT parquet, USE_TMP_FILE false)"
        [(rows,)] = connection.execute(copy, parameters).fetchall()
        self._account(connection)
        return int(rows)

    def _account(self, connection: DuckDBPyConnection) -> None:
        """Add the last statement to the usage, unless the SQL has turned profiling off."""
        with suppress(ValueError, AttributeError):
            profile = json.loads(connection.get_profiling_information())
            query, system, before = profile.get("query", {}), profile.get("system", {}), self._usage or {}
            self._usage = {
                "rows_read": before.get("rows_read", 0) + query.get("total_rows_scanned", 0),
                "cpu_seconds": before.get("cpu_seconds", 0.0) + query.get("cpu_time", 0.0),
                "peak_memory_bytes": max(before.get("peak_memory_bytes", 0), system.get("peak_buffer_memory", 0)),
                "peak_spilled_bytes": max(before.get("peak_spilled_bytes", 0), system.get("peak_temp_dir_size", 0)),
            }


def select_parameters(names: set[str], inputs: dict[str, Any], refused: dict[str, str]) -> dict[str, Any]:
    """Return the values for a statement's parameters.

    SQL ignores the case of names, so the input's name may differ in it.

    :raises StatementError: a parameter has no input, or its value has no SQL type
    """
    known = {**inputs, **refused}
    folded = {name.casefold(): name for name in known}
    chosen = {name: name if name in known else folded.get(name.casefold()) for name in sorted(names)}
    missing = [f"${name}" for name, source in chosen.items() if source is None]
    if missing:
        listed = ", ".join(sorted(known)) or "none"
        raise StatementError(
            f"the statement uses {', '.join(missing)}, but the task has no such input; its inputs: {listed}"
        )
    for source in chosen.values():
        if source in refused:
            raise StatementError(refused[source])
    return {name: inputs[source] for name, source in chosen.items() if source is not None}


def _confine(connection: DuckDBPyConnection, directories: Iterable[str], file: str) -> None:
    """Let SQL reach nothing but the files in `directories`, and `file`; for the rest of the connection's life.

    DuckDB resolves "..", symbolic links and patterns before it compares paths. It has no `getenv`.
    """
    for setting in (
        f"SET allowed_directories = [{', '.join(map(_sql_text, directories))}]",
        f"SET allowed_paths = [{_sql_text(file)}]",
        "SET enable_external_access = false",
        f"SET allowed_configs = [{', '.join(map(_sql_text, _OPEN_SETTINGS))}]",
        "SET lock_configuration = true",
    ):
        connection.execute(setting)


def _sql_text(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _is_result_set(relation: DuckDBPyRelation, statement: Statement) -> bool:
    """Return whether these are rows of a query, and not DuckDB's answer to a statement without a result set."""
    match relation.columns, [str(type_) for type_ in relation.types]:
        case ["Success"], ["BOOLEAN"]:
            return False
        case ["Count"], ["BIGINT"]:
            return "returning" in statement.query.casefold()
    return True


def state_after(error: Exception) -> Report:
    """Return the last report for a job that ended with `error`.

    The table of errors and states is in the package's docstring.
    """
    if isinstance(error, ImportError):
        return Report(state="RETRYABLE_FAILED", message=shorten(f"DuckDB cannot be loaded on this host: {error}"))

    import duckdb

    message = str(error)
    if any(words in message for words in _CONFINED):
        message += (
            "\nOn this host, SQL reaches only the data directory and those in CONNECTRIO_DUCKDB_ALLOW, and sets only"
            f" {', '.join(_OPEN_SETTINGS)}; connectrio serve --unsafe-sql lifts this"
        )
        return Report(state="FAILED", message=shorten(message))
    match error:
        case StatementError():
            state = "FAILED"
        case duckdb.IOException():
            state = "FAILED" if any(text in message for text in _LASTING_IO_ERRORS) else "RETRYABLE_FAILED"
        case (
            duckdb.OutOfMemoryException()
            | duckdb.TransactionException()
            | duckdb.InterruptException()
            | duckdb.InternalException()
            | duckdb.FatalException()
        ):
            state = "RETRYABLE_FAILED"
        case duckdb.Error():
            # the base class itself: an extension could not be downloaded
            state = "RETRYABLE_FAILED" if type(error) is duckdb.Error else "FAILED"
        case PermissionError() | NotADirectoryError() | FileExistsError():
            state = "FAILED"
        case OSError() | MemoryError():
            state = "RETRYABLE_FAILED"
        case _:
            message = shorten(f"error in the DuckDB connector: {type(error).__name__}: {error}")
            bug = shorten("".join(traceback.format_exception(error)))
            return Report(state="RETRYABLE_FAILED", message=message, bug=bug)
    return Report(state=state, message=shorten(message or type(error).__name__))


def shorten(message: str) -> str:
    """Return `message`, cut to a length that a person can read."""
    if len(message) <= MAX_MESSAGE_LENGTH:
        return message
    return f"{message[:MAX_MESSAGE_LENGTH]}… ({len(message)} characters in all)"


def _limit_memory(connection: DuckDBPyConnection) -> None:
    """Limit the memory of the process to twice DuckDB's own limit, and something more; an allocation beyond fails.

    DuckDB keeps its limit, but not to the byte, and functions allocate memory that it does not count.
    """
    [(limit,)] = connection.execute("SELECT current_setting('memory_limit')").fetchall()
    number, unit = limit.split()
    with suppress(OSError, ValueError):  # a system without such a limit, or without /proc
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        most = pages * resource.getpagesize() + 2 * int(float(number) * _UNITS[unit]) + SPARE_MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _end_with_host() -> None:
    """Wait until the host closes standard input or ends, and then end this process."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the request on standard input."""
    reports = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # what DuckDB prints is no report
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, AttributeError):  # Linux: it ends with the host even while DuckDB holds Python's lock
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):  # if memory is short, the kernel is to kill this process and not the host
        Path("/proc/self/oom_score_adj").write_text("1000")
    with os.fdopen(0, "rb", closefd=False) as requests:
        request = pickle.load(requests)  # noqa: S301 - the host has written it
    threading.Thread(target=_end_with_host, daemon=True).start()
    Query(request, reports).run()
    os._exit(0)  # without waiting for the thread above


if __name__ == "__main__":
    main()
