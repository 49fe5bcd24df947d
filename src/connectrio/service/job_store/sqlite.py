"""Sessions with an SQLite file, which the processes of one machine share."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

__all__ = ["SqliteSession"]

# seconds that a statement waits for those of other processes; they take a millisecond
_BUSY = 1.5
# seconds between attempts at what SQLite refuses at once, rather than wait
_PAUSE = 0.005


class SqliteSession:
    """A connection to an SQLite file.

    :param url: `sqlite://` and the file's absolute path
    :param clock: returns seconds since 1970; all who share the file share the machine's clock
    :raises sqlite3.Error: the file cannot be opened
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        path = Path(unquote(url.partition("://")[2]))
        self._connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            self._connection.create_function("now", 0, clock)
            self._use_wal()
            self._connection.execute("PRAGMA synchronous = NORMAL").fetchall()
        except BaseException:
            self._connection.close()
            raise

    def _use_wal(self) -> None:
        """Keep a write-ahead log. Of many that make the file at once, SQLite lets one do so and refuses the others."""
        last_try = time.monotonic() + _BUSY
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL").fetchall()
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > last_try:
                    raise
            else:
                return
            time.sleep(_PAUSE)

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of one statement."""
        statement = statement.replace("{now}", "now()").replace("{bytes}", "BLOB")
        return self._connection.execute(statement, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the block as a whole. It has the only write lock from the start."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def lock_schema(self) -> None:
        """Do nothing: a transaction has the only write lock."""

    def abort(self) -> None:
        """End the statement that runs."""
        with suppress(sqlite3.Error):
            self._connection.interrupt()

    def close(self) -> None:
        """Close it."""
        with suppress(sqlite3.Error):
            self._connection.close()
