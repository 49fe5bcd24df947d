"""Sessions with PostgreSQL, which replicas share. Needs the extra `postgres`, and is imported where a host uses it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

__all__ = ["PostgresSession"]

_NOW = "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"
# of an advisory lock, which only hosts of connectrio take: "connectr" in ASCII
_SCHEMA_LOCK = 0x636F6E6E65637472
_CONNECT_TIMEOUT = 2
# of the server, so that it holds no lock for a client that has given up; a URL with `options` says its own
_OPTIONS = "-c statement_timeout=2000 -c lock_timeout=1500 -c idle_in_transaction_session_timeout=10000"


class PostgresSession:
    """A connection to PostgreSQL.

    :param url: as libpq takes it, with its variables, password file and service file
    :raises psycopg.Error: the server cannot be reached, or refuses
    """

    def __init__(self, url: str) -> None:
        given = conninfo_to_dict(url)
        defaults: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT, "application_name": "connectrio"}
        if "PGOPTIONS" not in os.environ and "service" not in given:
            defaults["options"] = _OPTIONS
        self._connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(
            **{**defaults, **given},
            autocommit=True,
            # a pooler in front of the server may give each statement to another connection
            prepare_threshold=None,
        )
        # kept for `abort`, which must not ask a connection that another thread uses
        self._socket = os.dup(self._connection.fileno())
        self._lock = threading.Lock()
        self._is_closed = False

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of one statement."""
        statement = statement.replace("{now}", _NOW).replace("{bytes}", "BYTEA").replace("?", "%s")
        cursor = self._connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description is not None else []

    def transaction(self) -> AbstractContextManager[object]:
        """Commit the block as a whole."""
        return self._connection.transaction()

    def lock_schema(self) -> None:
        """Wait until no other host makes the tables; two that do so at once would fail."""
        self.execute("SELECT pg_advisory_xact_lock(?)", [_SCHEMA_LOCK])

    def abort(self) -> None:
        """End what the session waits for, also if the server does not answer: shut the socket down."""
        with self._lock, suppress(OSError):
            if not self._is_closed:
                with socket.socket(fileno=os.dup(self._socket)) as ours:
                    ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        with suppress(psycopg.Error):
            self._connection.close()
        with self._lock, suppress(OSError):
            if not self._is_closed:
                self._is_closed = True
                os.close(self._socket)
