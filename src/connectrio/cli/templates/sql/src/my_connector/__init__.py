"""Runs queries of an SQL database as Flyte tasks of type `my_task`.

Python's drivers for databases (DB-API) block, so the methods are plain `def`: the host calls them in worker threads.
"""

import json
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import anyio
from connectrio import (
    AsyncConnector,
    ConnectorRegistry,
    PermanentFailure,
    Phase,
    Resource,
    ResourceMeta,
    TaskTemplate,
    UnknownJobError,
    current_call,
)

# seconds; a host that has not said for so long that it lives has lost its queries
LOST_AFTER = 60.0
TABLE = """CREATE TABLE IF NOT EXISTS flyte_jobs
    (id TEXT PRIMARY KEY, host TEXT, phase TEXT, message TEXT, outputs TEXT, alive REAL)"""


def connect() -> sqlite3.Connection:
    """Connect to the database. Replace this by the `connect` of your database's driver."""
    path = os.environ.get("MY_CONNECTOR_DATABASE", "my_connector.db")
    return sqlite3.connect(path, timeout=30, check_same_thread=False)


@dataclass
class Query(ResourceMeta):
    """What finds a query again: its row in the table `flyte_jobs`. Flyte writes it to its log."""

    id: str


class MyConnector(AsyncConnector[Query]):
    """Runs SQL. The first row of the result is the task's outputs."""

    name = "My Connector"
    task_type_name = "my_task"
    create_is_idempotent = True  # the key is the primary key of the table

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Make the table, and let queries run while the host serves. Flyte makes another attempt at those it stops."""
        self._host = str(uuid4())
        self._running: dict[str, sqlite3.Connection] = {}
        self._threads = ThreadPoolExecutor(thread_name_prefix="my_connector")
        with _database() as database:
            database.execute(TABLE)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._stay_alive)
                yield
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._stop)

    def create(self, task_template: TaskTemplate, output_prefix: str, inputs: dict[str, Any], **kwargs: Any) -> Query:
        """Start the query in a thread, once for each key."""
        if task_template.sql is None:
            raise PermanentFailure("the task has no SQL statement")
        query = Query(current_call().key or str(uuid4()))
        values = (query.id, self._host, Phase.RUNNING.name, "", "{}", time.time())
        with _database() as database:
            is_new = database.execute("INSERT OR IGNORE INTO flyte_jobs VALUES (?, ?, ?, ?, ?, ?)", values).rowcount
        if is_new:
            self._threads.submit(self._run, query.id, task_template.sql.statement, inputs)
        return query

    def get(self, resource_meta: Query, **kwargs: Any) -> Resource:
        """Report what the table says of the query."""
        with _database() as database:
            columns = "phase, message, outputs, alive"
            row = database.execute(f"SELECT {columns} FROM flyte_jobs WHERE id = ?", (resource_meta.id,)).fetchone()
        if row is None:
            raise UnknownJobError(f"there is no query {resource_meta.id!r}")
        phase, message, outputs, alive = row
        if phase == Phase.RUNNING.name and alive < time.time() - LOST_AFTER:
            return Resource(Phase.RETRYABLE_FAILED, "the host of the query does not live any more")
        return Resource(Phase[phase], message, outputs=json.loads(outputs))

    def delete(self, resource_meta: Query, **kwargs: Any) -> None:
        """Cancel the query. If another host runs it, that one finds out in a second."""
        with _database() as database:
            _end(database, "id", resource_meta.id, Phase.ABORTED, "cancelled")
        if (running := self._running.get(resource_meta.id)) is not None:
            running.interrupt()

    def _run(self, name: str, sql: str, inputs: dict[str, Any]) -> None:
        with closing(connect()) as connection:
            self._running[name] = connection
            try:
                cursor = connection.execute(sql, inputs)
                columns = [column[0] for column in cursor.description or ()]
                outputs = json.dumps(dict(zip(columns, cursor.fetchone() or (), strict=False)))
                connection.commit()
            except Exception as error:
                phase, message, outputs = Phase.FAILED, str(error), "{}"
            else:
                phase, message = Phase.SUCCEEDED, ""
            finally:
                del self._running[name]
        with _database() as database:
            _end(database, "id", name, phase, message, outputs)

    async def _stay_alive(self) -> None:
        while True:
            with suppress(sqlite3.Error):  # it is tried again
                await anyio.to_thread.run_sync(self._renew)
            await anyio.sleep(1)

    def _renew(self) -> None:
        with _database() as database:
            database.execute("UPDATE flyte_jobs SET alive = ? WHERE host = ?", (time.time(), self._host))
            ended = database.execute("SELECT id FROM flyte_jobs WHERE host = ? AND phase = 'ABORTED'", (self._host,))
            for (name,) in ended.fetchall():
                if name in self._running:
                    self._running[name].interrupt()

    def _stop(self) -> None:
        with _database() as database:
            _end(database, "host", self._host, Phase.RETRYABLE_FAILED, "the host of the query was stopped")
        self._threads.shutdown(wait=False, cancel_futures=True)
        while self._running:
            for connection in list(self._running.values()):
                connection.interrupt()
            time.sleep(0.01)
        self._threads.shutdown()


@contextmanager
def _database() -> Generator[sqlite3.Connection]:
    with closing(connect()) as connection, connection:
        yield connection


def _end(
    database: sqlite3.Connection, column: str, value: str, phase: Phase, message: str, outputs: str = "{}"
) -> None:
    sql = f"UPDATE flyte_jobs SET phase = ?, message = ?, outputs = ? WHERE phase = 'RUNNING' AND {column} = ?"
    database.execute(sql, (phase.name, message, outputs, value))


ConnectorRegistry.register(MyConnector())
