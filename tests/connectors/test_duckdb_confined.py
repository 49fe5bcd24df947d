"""What SQL, and the rest of a task, may reach on the host: the allowed directories, and nothing else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from connectors.duckdb_tasks import create, home_of, opened, run, task
from connectrio import Phase
from connectrio.connector.context import unsafe_sql
from connectrio.connectors.duckdb import TaskError
from connectrio.literals import DataFrame, File


@pytest.fixture
async def connector(tmp_path):
    async with opened(home_of(tmp_path)) as connector:
        yield connector


@pytest.fixture
def outside(tmp_path):
    """A directory beside the allowed one, whose name begins like it, with a file that nobody may read."""
    outside = tmp_path.with_name(tmp_path.name + "-outside")
    outside.mkdir()
    (outside / "secret.csv").write_text("key\nhunter2\n")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "link.csv").symlink_to(outside / "secret.csv")
    return outside


FILES = [
    "FROM read_text('{outside}/secret.csv')",
    "FROM read_blob('{outside}/secret.csv')",
    "FROM read_csv('{outside}/secret.csv')",
    "FROM read_csv(['{outside}/secret.csv'])",
    "FROM read_csv($file)",
    "FROM read_parquet($frame)",
    "FROM read_json('{outside}/secret.csv')",
    "FROM sniff_csv('{outside}/secret.csv')",
    "FROM parquet_metadata('{outside}/secret.csv')",
    "FROM '{outside}/secret.csv'",
    "FROM query('FROM read_text(''{outside}/secret.csv'')')",
    "FROM read_text('file://{outside}/secret.csv')",
    "FROM read_text('{inside}/../{inside.name}-outside/secret.csv')",
    "FROM read_text('{inside}/link/secret.csv')",
    "FROM read_text('{inside}/link.csv')",
    "FROM read_text('{inside}/*/secret.csv')",
    "FROM glob('{outside}/*')",
    "FROM glob('{inside}/link/*')",
    "FROM glob('{inside}/../*')",
    "FROM read_text('/proc/self/environ')",
    "FROM read_blob('/proc/self/environ')",
    "FROM read_blob('/proc/self/fd/0')",
    "FROM read_text('/dev/stdin')",
    "FROM read_text('~/.bashrc')",
    "FROM read_text('{home}/jobs/*/record.json')",
    "COPY (SELECT 1) TO '{outside}/written.csv'",
    "COPY (SELECT 1) TO '{inside}/link/written.csv'",
    "COPY (SELECT 1) TO '{home}/jobs/written.csv'",
    "COPY (SELECT 1) TO '/dev/stderr' (FORMAT csv)",
    "ATTACH '{outside}/other.db' AS other",
    "ATTACH '{inside}/link/other.db' AS other",
    "EXPORT DATABASE '{outside}/exported'",
    "IMPORT DATABASE '{outside}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "INSTALL '{inside}/own.duckdb_extension'",
    "LOAD '{inside}/own.duckdb_extension'",
    "CREATE EXTENSION REPOSITORY localhost",
    "FROM 'http://127.0.0.1:{port}/x.csv'",
    "FROM 's3://bucket/x.parquet'",
    "ATTACH 'http://127.0.0.1:{port}/x.db' AS other",
    "SELECT getenv('HOME')",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "SET allowed_paths = ['{outside}/secret.csv']",
    "SET allowed_configs = ['memory_limit']",
    "SET lock_configuration = false",
    "RESET lock_configuration",
    "SET memory_limit = '1TB'",
    "PRAGMA memory_limit = '1TB'",
    "SET threads = 64",
    "SET temp_directory = '{outside}'",
    "SET max_temp_directory_size = '1TB'",
    "SET secret_directory = '{outside}'",
    "SET home_directory = '{outside}'",
    "SET extension_directories = ['{inside}']",
    "SET file_search_path = '{outside}'",
    "SET profile_output = '{outside}/profile'",
    "PRAGMA enable_profiling = 'json'",
    "SET log_query_path = '{outside}/log'",
    "CALL enable_logging(storage = 'file', storage_path = '{outside}/log')",
    "SET max_expression_depth = 1000000",
    "SET python_enable_replacements = true; FROM connection",
    "FROM connection",
    "FROM statement",
]


@pytest.mark.parametrize("sql", FILES)
async def test_sql_reaches_nothing_else(connector, tmp_path, outside, sql):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        places = {"inside": tmp_path, "outside": outside, "home": home_of(tmp_path), "port": server.getsockname()[1]}
        inputs = {"file": File(f"{outside}/secret.csv"), "frame": DataFrame(f"{outside}/secret.csv")}
        before = sorted(outside.rglob("*"))
        resource = await run(connector, tmp_path / "out", sql.format(**places), inputs)
        assert resource.phase is Phase.FAILED, resource.message
        assert "hunter2" not in resource.message
        assert not (tmp_path / "out" / "result.parquet").exists()
        assert sorted(outside.rglob("*")) == before
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_the_error_says_what_would_allow_it(connector, tmp_path, outside):
    resource = await run(connector, tmp_path, f"FROM read_text('{outside}/secret.csv')")
    assert f'Cannot access file "{outside}/secret.csv"' in resource.message
    assert "CONNECTRIO_DUCKDB_ALLOW" in resource.message
    assert "--unsafe-sql" in resource.message


INSIDE = [
    "COPY (SELECT 1 AS one) TO '{0}/written.csv'; FROM '{0}/written.csv'",
    "COPY (SELECT 1 AS one) TO '{0}/written.parquet'; FROM read_parquet('{0}/../{0.name}/*.parquet')",
    "ATTACH '{0}/other.db' AS other; CREATE TABLE other.t AS SELECT 1 AS one; FROM other.t",
    "SET TimeZone = 'Asia/Kathmandu'; SET default_null_order = 'nulls_first'; SELECT 1 AS one",
    "SET VARIABLE x = 1; SELECT getvariable('x') AS one",
    "SELECT json_extract('{{\"a\": 1}}', '$.a')::INTEGER AS one",
]


@pytest.mark.parametrize("sql", INSIDE)
async def test_sql_may_use_the_allowed_directories(connector, tmp_path, sql):
    resource = await run(connector, tmp_path / "out", sql.format(tmp_path))
    assert resource.phase is Phase.SUCCEEDED, resource.message
    assert pq.read_table(resource.outputs["result"].uri).to_pylist() == [{"one": 1}]


async def test_the_data_directory_needs_no_setting(tmp_path):
    home = home_of(tmp_path)
    async with opened(home, allow=()) as connector:
        sql = f"COPY (SELECT 1 AS one) TO '{home}/data/written.csv'; FROM '{home}/data/written.csv'"
        resource = await run(connector, home / "data" / "out", sql, custom={"database": f"{home}/data/x.db"})
        assert resource.phase is Phase.SUCCEEDED, resource.message
    assert (home / "data").stat().st_mode & 0o777 == 0o700


async def test_a_client_that_gives_no_prefix_gets_its_result(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with opened(home_of(tmp_path), allow=()) as connector:
        resource = await run(connector, tmp_path / "connectrio-0123456789ab", "SELECT 1 AS one")
        assert resource.phase is Phase.SUCCEEDED, resource.message
        for name in ("connectrio-0123456789ab/x", "connectrio-", "x", "connectrio-0123456789ab.d"):
            with pytest.raises(TaskError, match=r"output_prefix is .* may use only"):
                await create(connector, tmp_path / name, "SELECT 1")
        (tmp_path / "connectrio-ffffffffffff").symlink_to(tmp_path / "x")
        with pytest.raises(TaskError, match=r"output_prefix is .* may use only"):
            await create(connector, tmp_path / "connectrio-ffffffffffff", "SELECT 1")


PLACES = [
    "{outside}",
    "{inside}/../{inside.name}-outside",
    "{inside}/link",
    "{inside}/link/new",
    "/proc/self",
    "{home}",
]


@pytest.mark.parametrize("form", ["{}", "file://{}"])
@pytest.mark.parametrize("place", PLACES)
async def test_results_and_databases_are_in_the_allowed_directories(connector, tmp_path, outside, place, form):
    place = form.format(place.format(inside=tmp_path, outside=outside, home=home_of(tmp_path)))
    with pytest.raises(TaskError, match=r"output_prefix is .* may use only .*CONNECTRIO_DUCKDB_ALLOW"):
        await create(connector, place, "SELECT 1")
    with pytest.raises(TaskError, match=r"database is .* may use only .*--unsafe-sql"):
        await create(connector, tmp_path, "SELECT 1", custom={"database": f"{place}/x.db"})
    assert sorted(path.name for path in outside.iterdir()) == ["secret.csv"]


async def test_a_link_between_allowed_directories_is_followed(connector, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    resource = await run(connector, tmp_path / "alias", "SELECT 1 AS one")
    assert resource.outputs["result"].uri == f"{tmp_path}/alias/result.parquet"
    assert (tmp_path / "real" / "result.parquet").is_file()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("unsafe", [False, True])
async def test_a_database_that_is_no_regular_file_is_refused(tmp_path, make, unsafe):
    make(tmp_path / "odd")
    async with opened(home_of(tmp_path), unsafe_sql=unsafe) as connector:
        with pytest.raises(TaskError, match="is no regular file"):
            await connector.create(task("SELECT 1", {"database": f"{tmp_path}/odd"}), str(tmp_path))


@pytest.mark.parametrize("told", ["by settings", "by the host"])
async def test_unsafe_sql_reaches_everything(tmp_path, outside, told):
    token = unsafe_sql.set(told == "by the host")
    async with opened(home_of(tmp_path), allow=(), unsafe_sql=told == "by settings") as connector:
        unsafe_sql.reset(token)
        custom = {"database": f"{outside}/x.db"}
        resource = await run(connector, outside / "out", f"SET threads = 1; FROM '{outside}/secret.csv'", custom=custom)
        assert resource.phase is Phase.SUCCEEDED, resource.message
        assert pq.read_table(resource.outputs["result"].uri).to_pylist() == [{"key": "hunter2"}]


@pytest.mark.parametrize("place", ["{home}", "{home}/jobs", "{home}/hosts/x", "/", "{home}/.."])
async def test_no_setting_lets_sql_reach_the_job_store(tmp_path, place):
    place = Path(place.format(home=home_of(tmp_path)))
    with pytest.raises(ValueError, match=r"CONNECTRIO_DUCKDB_ALLOW names .*, but SQL must not reach the job store"):
        async with opened(home_of(tmp_path), allow=(place,)):
            pass
