"""The connector's parts that need no event loop: settings, the store, the table of failures, the import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
import structlog

from connectors.duckdb_tasks import task
from connectrio.connector.failures import UnknownJobError
from connectrio.connectors.duckdb import DuckDBSettings
from connectrio.connectors.duckdb._program import StatementError, state_after
from connectrio.connectors.duckdb._store import HostLock, JobRecord, JobState, JobStore, if_dead, now
from connectrio.connectors.duckdb._task import read_task


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "home")
    yield store
    store.close()


def record(store: JobStore, number: int = 1, **changes) -> JobRecord:
    """Add a job to the store, QUEUED by default, and return its record."""
    base = JobRecord(
        job_id=f"{number:032x}",
        owner=store.host_id,
        database=":memory:",
        statement="digest",
        output=None,
        result_path="/nowhere/result.parquet",
        result_uri="/nowhere/result.parquet",
    )
    changed = replace(base, **changes)
    store.add(changed, "queued")
    return changed


def ended(ago: timedelta) -> dict:
    return {"state": JobState.SUCCEEDED, "finished_at": now() - ago}


def test_a_record_comes_back_as_it_was(store):
    stored = record(store, message="Grüße 漢字", **ended(timedelta(0)))
    assert store.load(stored.job_id) == stored


def test_a_store_is_for_its_user_alone(store, tmp_path):
    stored = record(store)
    for directory in (tmp_path / "home", tmp_path / "home/jobs", tmp_path / "home/jobs" / stored.job_id):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_tidying_forgets_what_ended_long_ago_and_nothing_else(store, tmp_path):
    old = record(store, 1, **ended(timedelta(days=8)))
    recent = record(store, 2, **ended(timedelta(days=6)))
    running = record(store, 3, queued_at=now() - timedelta(days=30))
    store.tidy(timedelta(days=7))
    with pytest.raises(UnknownJobError):
        store.load(old.job_id)
    assert store.load(recent.job_id) == recent
    assert store.load(running.job_id) == running


def test_a_job_of_a_host_that_left_no_trace_is_settled_on_sight(store):
    lost = record(store, owner="elsewhere-1-abc")
    settled = store.load(lost.job_id)
    assert settled.state is JobState.RETRYABLE_FAILED
    assert "(elsewhere-1-abc) died" in settled.message
    assert store.load(lost.job_id) == settled


def test_a_job_of_a_live_host_is_not_settled_by_another(store, tmp_path):
    with_job = record(store)
    other = JobStore(tmp_path / "home")
    try:
        other.tidy(timedelta(days=7))
        assert other.load(with_job.job_id) == with_job
    finally:
        other.close()


def changed(**changes):
    """Return what replaces fields of a job's record."""

    def change(directory: Path) -> None:
        path = directory / "record.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def replaced(make, name: str = "record.json"):
    """Return what replaces a file of a job by what `make` makes."""

    def replace_it(directory: Path) -> None:
        (directory / name).unlink()
        make(directory / name)

    return replace_it


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


DAMAGES = {
    "half": replaced(lambda path: path.write_bytes(b'{"job_id": ')),
    "empty": replaced(Path.touch),
    "zeros": replaced(lambda path: path.write_bytes(bytes(400))),
    "no text": replaced(lambda path: path.write_bytes(b'{"job_id": "\xff"}')),
    "another type": replaced(lambda path: path.write_bytes(b"[]")),
    "nested": replaced(lambda path: path.write_bytes(b"[" * 10**6)),
    "huge": replaced(sparse),
    "a directory": replaced(Path.mkdir),
    "a FIFO": replaced(os.mkfifo),
    "a link": replaced(lambda path: path.symlink_to("/etc/passwd")),
    "a link to itself": replaced(lambda path: path.symlink_to(path)),
    "a state of later": changed(state="EXPLODED"),
    "a time without zone": changed(finished_at="2026-11-01T00:00:00"),
    "no owner": changed(owner=""),
    "owner with NUL": changed(owner="a\0b"),
    "owner that is too long": changed(owner="x" * 300),
    "owner elsewhere": changed(owner="../jobs/x"),
    "owner above": changed(owner=".."),
    "that of another job": changed(job_id="f" * 32),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_record_is_set_aside_and_reported_once(store, tmp_path, damage):
    broken, other = record(store, 1), record(store, 2)
    directory = tmp_path / "home/jobs" / broken.job_id
    damage(directory)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            store.tidy(timedelta(days=7))
            with pytest.raises(UnknownJobError, match=f"record of DuckDB job {broken.job_id} under .* is damaged"):
                store.load(broken.job_id)
            store.request_abort(broken.job_id)
    assert [(entry["log_level"], entry["path"]) for entry in logs] == [("warning", str(directory))]
    assert store.load(other.job_id) == other
    store.tidy(timedelta(0))
    assert not directory.exists()


LOGS = {"a directory": Path.mkdir, "a FIFO": os.mkfifo, "huge": sparse}


@pytest.mark.parametrize("make", LOGS.values(), ids=list(LOGS))
def test_a_damaged_log_is_set_aside_and_reported_once(store, tmp_path, make):
    broken = record(store)
    replaced(make, "log.jsonl")(tmp_path / "home/jobs" / broken.job_id)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(UnknownJobError, match=f"log of DuckDB job {broken.job_id} under .* is damaged"):
                store.read_log(broken.job_id)
    assert len(logs) == 1
    assert store.load(broken.job_id) == broken


@pytest.mark.parametrize("result_path", ["", "/", "a\0b", "/nowhere/x"])
def test_an_orphan_is_settled_wherever_its_result_was_to_be(store, result_path):
    lost = record(store, owner="elsewhere-1-abc", result_path=result_path)
    assert store.load(lost.job_id).state is JobState.RETRYABLE_FAILED


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, os.mkfifo])
@pytest.mark.parametrize("place", ["jobs/lost+found", "jobs/x", "hosts/lost+found", "hosts/..."])
def test_what_is_no_part_of_the_store_is_left_alone(store, tmp_path, make, place):
    strange = tmp_path / "home" / place
    make(strange)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            store.tidy(timedelta(0))
    assert os.path.lexists(strange)
    assert [entry["path"] for entry in logs] == ([] if place == "hosts/..." else [str(strange)])


def test_a_directory_in_place_of_a_hosts_lock_is_no_live_host(store, tmp_path):
    lost = record(store, owner="elsewhere-1-abc")
    (tmp_path / "home/hosts/elsewhere-1-abc").mkdir()
    store.tidy(timedelta(days=7))
    assert store.load(lost.job_id).state is JobState.RETRYABLE_FAILED


def test_a_full_disk_keeps_no_store_from_opening(store, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    lost, also = record(store, 1, owner="elsewhere-1-abc"), record(store, 2, owner="elsewhere-1-abc")
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(JobStore, "save", full)
        store.tidy(timedelta(days=7))
        assert store.load(lost.job_id) == lost
    assert len(logs) == 2
    store.tidy(timedelta(days=7))
    assert [store.load(each.job_id).state for each in (lost, also)] == [JobState.RETRYABLE_FAILED] * 2


def test_a_directory_that_a_dying_host_left_without_record_is_forgotten_in_time(store, tmp_path):
    (tmp_path / "home/jobs" / ("a" * 32)).mkdir()
    store.tidy(timedelta(days=7))
    assert (tmp_path / "home/jobs" / ("a" * 32)).exists()
    store.tidy(timedelta(0))
    assert not (tmp_path / "home/jobs" / ("a" * 32)).exists()


def test_half_a_log_line_is_skipped(store, tmp_path):
    job = record(store)
    with (tmp_path / "home/jobs" / job.job_id / "log.jsonl").open("ab") as file:
        file.write(b'{"at": "2024-\n')
    store.append_log(job.job_id, "went on")
    assert [entry.message for entry in store.read_log(job.job_id)] == ["queued", "went on"]


def test_who_holds_its_lock_is_alive_and_who_let_go_is_dead(tmp_path):
    lock = HostLock(tmp_path)
    with if_dead(tmp_path, lock.host_id) as dead:
        assert not dead
    lock.close()
    with if_dead(tmp_path, lock.host_id) as dead:
        assert dead


def test_only_one_settles_a_dead_host(tmp_path):
    (tmp_path / "dead").touch()
    with if_dead(tmp_path, "dead") as first, if_dead(tmp_path, "dead") as second:
        assert (first, second) == (True, False)


LASTING = [
    duckdb.ParserException("syntax"),
    duckdb.BinderException("column"),
    duckdb.ConstraintException("duplicate key"),
    duckdb.PermissionException("not yours"),
    duckdb.IOException('IO Error: Cannot open file "x": Permission denied'),
    StatementError("no input"),
    PermissionError(13, "Permission denied"),
    NotADirectoryError(20, "Not a directory"),
]
PASSING = [
    duckdb.OutOfMemoryException("too much"),
    duckdb.TransactionException("Conflict on update!"),
    duckdb.IOException("IO Error: Could not write file: No space left on device"),
    duckdb.HTTPException("HTTP 503"),
    duckdb.InternalException("assertion"),
    duckdb.FatalException("database has been invalidated"),
    duckdb.Error("Failed to download extension"),
    OSError(28, "No space left on device"),
    MemoryError(),
    ImportError("libstdc++.so.6: version not found"),
]


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_trying_again_would_not_help(error):
    assert state_after(error) == {"state": "FAILED", "message": str(error)}


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_trying_again_may_help(error):
    assert state_after(error)["state"] == "RETRYABLE_FAILED"
    assert "bug" not in state_after(error)


def test_a_bug_is_told_from_an_error():
    report = state_after(KeyError("x"))
    assert (report["state"], report["message"]) == (
        "RETRYABLE_FAILED",
        "error in the DuckDB connector: KeyError: 'x'",
    )
    assert report["bug"] == "KeyError: 'x'\n"


def test_a_database_locked_by_another_process_may_be_free_next_time(tmp_path):
    path = str(tmp_path / "x.duckdb")
    code = f"import duckdb; c = duckdb.connect({path!r}); print(1, flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "1\n"
        with pytest.raises(duckdb.IOException) as locked:
            duckdb.connect(path)
        other.kill()
    assert state_after(locked.value)["state"] == "RETRYABLE_FAILED"


def test_settings_of_the_environment():
    given = {
        "CONNECTRIO_DUCKDB_HOME": "/var/lib/connectrio",
        "CONNECTRIO_DUCKDB_MAX_RUNNING": "5",
        "CONNECTRIO_DUCKDB_KEEP_DAYS": "0.5",
        "CONNECTRIO_DUCKDB_ALLOW": "/data /more",
        "CONNECTRIO_DUCKDB_MEMORY_LIMIT": "1.5GiB",
        "CONNECTRIO_DUCKDB_TIME_LIMIT": "90",
        "CONNECTRIO_DUCKDB_MAX_QUEUED": "7",
    }
    assert DuckDBSettings.from_environment(given) == DuckDBSettings(
        home=Path("/var/lib/connectrio"),
        max_running=5,
        keep=timedelta(hours=12),
        allow=(Path("/data"), Path("/more")),
        memory_limit=1610612736,
        time_limit=90.0,
        max_queued=7,
    )
    assert DuckDBSettings.from_environment(dict.fromkeys(given, "")) == DuckDBSettings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONNECTRIO_DUCKDB_MAX_RUNNING", "0"),
        ("CONNECTRIO_DUCKDB_MAX_RUNNING", "many"),
        ("CONNECTRIO_DUCKDB_KEEP_DAYS", "-1"),
        ("CONNECTRIO_DUCKDB_KEEP_DAYS", "nan"),
        ("CONNECTRIO_DUCKDB_KEEP_DAYS", "1e300"),
        ("CONNECTRIO_DUCKDB_KEEP_DAYS", "a week"),
        ("CONNECTRIO_DUCKDB_TIME_LIMIT", "0"),
        ("CONNECTRIO_DUCKDB_TIME_LIMIT", "inf"),
        ("CONNECTRIO_DUCKDB_TIME_LIMIT", "nan"),
        ("CONNECTRIO_DUCKDB_MAX_QUEUED", "0"),
        ("CONNECTRIO_DUCKDB_MEMORY_LIMIT", "80%"),
        ("CONNECTRIO_DUCKDB_MEMORY_LIMIT", "GiB"),
        ("CONNECTRIO_DUCKDB_MEMORY_LIMIT", "1e999GiB"),
        ("CONNECTRIO_DUCKDB_MEMORY_LIMIT", "-4GiB"),
        ("CONNECTRIO_DUCKDB_MEMORY_LIMIT", "4 parsecs"),
    ],
)
def test_a_setting_that_is_none_is_named(variable, value):
    with pytest.raises(ValueError, match=f"{variable} must be a .*, not '{value}'"):
        DuckDBSettings.from_environment({variable: value})


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="max_running must be at least 1"):
        DuckDBSettings(home=tmp_path, max_running=0)
    with pytest.raises(ValueError, match="keep must be more than 0"):
        DuckDBSettings(home=tmp_path, keep=timedelta(0))


@pytest.mark.parametrize(
    ("state_home", "expected"), [("/state", "/state/connectrio/duckdb"), ("relative", None), ("", None)]
)
def test_the_default_home_is_where_state_belongs(monkeypatch, state_home, expected):
    monkeypatch.setenv("XDG_STATE_HOME", state_home)
    assert DuckDBSettings().home == Path(expected or "~/.local/state/connectrio/duckdb")


def test_the_digest_tells_statements_apart(tmp_path):
    one, two = (read_task(task(sql), str(tmp_path), None) for sql in ("SELECT 1", "SELECT 2"))
    assert one.digest != two.digest
    assert len(one.digest) == 32


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_connector_registers_it_and_does_not_load_duckdb():
    code = """
import sys
import connectrio.connectors.duckdb
from connectrio import ConnectorRegistry
print(type(ConnectorRegistry.get_connector("duckdb")).__name__, "duckdb" in sys.modules, "_duckdb" in sys.modules)
"""
    assert python(code).stdout == "DuckDBConnector False False\n"


def test_without_the_extra_the_import_says_how_to_get_it():
    code = """
import sys
sys.modules["duckdb"] = None
import connectrio.connectors.duckdb
"""
    result = python(code)
    assert result.returncode == 1
    assert 'ImportError: the DuckDB connector needs DuckDB: pip install "connectrio[duckdb]"' in result.stderr
