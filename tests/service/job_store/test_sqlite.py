"""What is peculiar to SQLite: it refuses some statements at once, where it should wait."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from connectrio.service.job_store import sqlite
from connectrio.service.job_store.sqlite import SqliteSession


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


@pytest.fixture
def other(path):
    """Another process that writes into a file that has no write-ahead log yet."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE made (by_another INTEGER)")
        yield other


def test_a_new_file_that_another_writes_is_waited_for(path, other, monkeypatch):
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            other.execute("COMMIT")

    monkeypatch.setattr(sqlite.time, "sleep", pause)
    with closing(SqliteSession(f"sqlite://{path}")) as session:
        assert session.execute("PRAGMA journal_mode") == [("wal",)]
        assert session.execute("SELECT * FROM made") == []
    assert len(pauses) == 2


@pytest.mark.usefixtures("other")
def test_a_file_that_stays_locked_is_an_error(path, monkeypatch):
    monkeypatch.setattr(sqlite, "_BUSY", 0.01)
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        SqliteSession(f"sqlite://{path}")


def test_what_is_no_database_is_an_error_at_once(path, monkeypatch):
    path.write_text("no database " * 100)
    monkeypatch.setattr(sqlite.time, "sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        SqliteSession(f"sqlite://{path}")
