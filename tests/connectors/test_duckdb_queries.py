"""Queries, their parameters and their results."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from connectors.duckdb_tasks import ENDLESS, STREAM, create, delete, end, home_of, opened, run, state, task, until
from connectrio import Phase
from connectrio.connectors.duckdb import TaskError
from connectrio.literals import DataFrame, Dir, File


class Colour(str, Enum):  # noqa: UP042 - as tasks declare them; a StrEnum's text is its value anyway
    RED = "red"


@pytest.fixture
async def connector(tmp_path):
    async with opened(home_of(tmp_path)) as connector:
        yield connector


def rows(resource, output: str = "result") -> list[dict]:
    """Return the rows of the file in a job's output."""
    assert resource.phase is Phase.SUCCEEDED, resource.message
    frame = resource.outputs[output]
    assert frame.format == "parquet"
    return pq.read_table(frame.uri).to_pylist()


async def test_a_result_is_a_parquet_file_of_the_outputs_name(connector, tmp_path):
    resource = await run(connector, tmp_path / "new" / "directory", "SELECT 42 AS answer", outputs=("table",))
    assert resource.outputs == {"table": DataFrame(f"{tmp_path}/new/directory/table.parquet", format="parquet")}
    assert rows(resource, "table") == [{"answer": 42}]


PARAMETERS = [
    (7, "INTEGER", "7"),
    (2**63, "UBIGINT", str(2**63)),
    (-(2**100), "HUGEINT", str(-(2**100))),
    (2.5, "DOUBLE", "2.5"),
    (float("inf"), "DOUBLE", "inf"),
    (True, "BOOLEAN", "true"),
    ("Straße; -- '$x'", "VARCHAR", "Straße; -- '$x'"),
    (Colour.RED, "VARCHAR", "red"),
    (datetime(2024, 2, 29, 12, 30, tzinfo=UTC), "TIMESTAMP WITH TIME ZONE", "2024-02-29 12:30:00+00"),
    (timedelta(days=1, seconds=2, microseconds=3), "INTERVAL", "1 day 00:00:02.000003"),
    (None, '"NULL"', None),
    ([1, 2], "INTEGER[]", "[1, 2]"),
    ([Colour.RED], "VARCHAR[]", "[red]"),
    ({"a": 1, "b": ["x"]}, "STRUCT(a INTEGER, b VARCHAR[])", "{'a': 1, 'b': [x]}"),
    (b"\x00\xff", "BLOB", "\\x00\\xFF"),
    (File("/data/a.csv"), "VARCHAR", "/data/a.csv"),
    (File("file:///data/a%20b.csv"), "VARCHAR", "/data/a b.csv"),
    (File("s3://bucket/a%20b.csv"), "VARCHAR", "s3://bucket/a%20b.csv"),
    (Dir("/data"), "VARCHAR", "/data"),
    (DataFrame("/data/t.parquet"), "VARCHAR", "/data/t.parquet"),
    ([File("file:///a"), File("file:///b")], "VARCHAR[]", "[/a, /b]"),
]


@pytest.mark.parametrize(("value", "sql_type", "text"), PARAMETERS)
async def test_inputs_are_bound_as_parameters(connector, tmp_path, value, sql_type, text):
    resource = await run(connector, tmp_path, "SELECT typeof($v) AS type, $v::VARCHAR AS text", {"v": value})
    assert rows(resource) == [{"type": sql_type, "text": text}]


async def test_a_bound_text_is_never_sql(connector, tmp_path):
    attack = "'); DROP TABLE t; --"
    resource = await run(connector, tmp_path, "SELECT $name AS name, length($name) AS n", {"name": attack})
    assert rows(resource) == [{"name": attack, "n": len(attack)}]


async def test_inputs_that_the_statement_does_not_name_are_not_bound(connector, tmp_path):
    resource = await run(connector, tmp_path, "SELECT $a AS a", {"a": 1, "b": object(), "c": 3})
    assert rows(resource) == [{"a": 1}]


async def test_case_of_a_parameter_does_not_matter_unless_inputs_differ_in_it(connector, tmp_path):
    resource = await run(connector, tmp_path, "SELECT $Limit AS a", {"limit": 1})
    assert rows(resource) == [{"a": 1}]
    resource = await run(connector, tmp_path, "SELECT $Limit AS a", {"limit": 1, "Limit": 2})
    assert rows(resource) == [{"a": 2}]


@pytest.mark.parametrize("sql", ["SELECT $a, $gone", "CREATE TABLE t AS SELECT $a; SELECT $gone", "SELECT $a + $GONE"])
async def test_a_parameter_without_input_fails_for_good_before_anything_runs(connector, tmp_path, sql):
    resource = await run(connector, tmp_path, sql, {"a": 1, "z": 2}, custom={"database": f"{tmp_path}/x.duckdb"})
    assert resource.phase is Phase.FAILED
    assert "$gone" in resource.message.lower()
    assert resource.message.endswith("; its inputs: a, z")
    assert duckdb.connect(str(tmp_path / "x.duckdb")).execute("SHOW TABLES").fetchall() == []


async def test_an_input_without_form_in_sql_fails_naming_it(connector, tmp_path):
    resource = await run(connector, tmp_path, "SELECT $thing", {"thing": [object()]})
    assert (resource.phase, resource.message) == (
        Phase.FAILED,
        "input 'thing' is of type object, which has no SQL type",
    )


SETTING = "SELECT current_setting($name)::VARCHAR AS value"


@pytest.mark.parametrize(("name", "value"), [("async_threads", "0"), ("TimeZone", "UTC")])
async def test_duckdb_is_set_up_to_be_interrupted_safely_and_to_be_the_same_everywhere(
    connector, tmp_path, name, value
):
    assert rows(await run(connector, tmp_path, SETTING, {"name": name})) == [{"value": value}]


async def test_queries_that_run_at_once_share_the_memory(tmp_path):
    limits = []
    for share in (1, 4):
        async with opened(home_of(tmp_path), max_running=share) as connector:
            [row] = rows(await run(connector, tmp_path, SETTING, {"name": "memory_limit"}))
            limits.append(float(row["value"].removesuffix(" GiB")))
    assert limits[1] == pytest.approx(limits[0] / 4, rel=0.1)


async def test_python_variables_are_no_tables(connector, tmp_path):
    resource = await run(connector, tmp_path, "SELECT * FROM task")
    assert resource.phase is Phase.FAILED
    assert "task does not exist" in resource.message


async def test_a_result_can_be_the_input_of_the_next_query(connector, tmp_path):
    first = await run(connector, (tmp_path / "ä b'c").as_uri(), "SELECT range AS i FROM range(5)", outputs=("frame",))
    sql = "SELECT sum(i)::BIGINT AS total FROM read_parquet($frame)"
    second = await run(connector, tmp_path, sql, {"frame": first.outputs["frame"]})
    assert rows(second) == [{"total": 10}]


async def test_a_directory_of_parquet_files_can_be_read_too(connector, tmp_path):
    for name in ("0", "1"):
        await run(connector, tmp_path / "in", "SELECT 1 AS one", outputs=(name,))
    resource = await run(
        connector, tmp_path, "SELECT count(*) AS n FROM read_parquet($in)", {"in": Dir(f"{tmp_path}/in")}
    )
    assert rows(resource) == [{"n": 2}]


async def test_of_several_statements_the_last_ones_result_is_the_result(connector, tmp_path):
    sql = """
        CREATE TABLE t AS SELECT range AS i FROM range($n);  -- a comment; with a semicolon
        SELECT 'not me';
        INSERT INTO t VALUES ($more);
        SELECT count(*) AS n, max(i) AS last, ';' AS s FROM t;
    """
    assert rows(await run(connector, tmp_path, sql, {"n": 3, "more": 100})) == [{"n": 4, "last": 100, "s": ";"}]


async def test_no_statement_is_run_after_one_that_fails(connector, tmp_path):
    database = tmp_path / "x.duckdb"
    sql = "CREATE TABLE a (i INTEGER); INSERT INTO a VALUES ('x'); CREATE TABLE b (i INTEGER)"
    resource = await run(connector, tmp_path, sql, custom={"database": str(database)})
    assert resource.phase is Phase.FAILED
    assert "Could not convert string 'x' to INT32" in resource.message
    assert duckdb.connect(str(database)).execute("SHOW TABLES").fetchall() == [("a",)]


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("CREATE TABLE t AS SELECT * FROM range(3)", 3),
        ("CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1), (2)", 2),
        ("CREATE TABLE t AS SELECT 1 AS i; UPDATE t SET i = 2", 1),
        ("CREATE TABLE t AS SELECT 1 AS i; DELETE FROM t WHERE false", 0),
        ("CREATE VIEW v AS SELECT 1", None),
        ("SET TimeZone = 'Europe/Oslo'", None),
        ("BEGIN; CREATE TABLE t AS SELECT 1; COMMIT", None),
    ],
)
@pytest.mark.parametrize("outputs", [(), ("result",)])
async def test_a_statement_without_result_set_succeeds(connector, tmp_path, sql, count, outputs):
    prefix = tmp_path / "out"
    resource = await run(connector, prefix, sql, outputs=outputs)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    assert resource.custom_info.get("rows") == count
    assert "columns" not in resource.custom_info
    # a declared output will be read: it is DuckDB's answer to the statement
    assert prefix.exists() == bool(outputs)
    assert (resource.outputs is None) == (not outputs)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1), (2) RETURNING i * 10 AS x", [{"x": 10}, {"x": 20}]),
        ('CREATE TABLE t (i BIGINT); INSERT INTO t VALUES (7) RETURNING i AS "Count"', [{"Count": 7}]),
        ("CALL range(2)", [{"range": 0}, {"range": 1}]),
        ("PREPARE p AS SELECT $x + 1 AS y; EXECUTE p(x := 1)", [{"y": 2}]),
        ("CREATE TABLE t AS SELECT 'a' AS k, 1 AS v; PIVOT t ON k USING sum(v)::BIGINT", [{"a": 1}]),
        ("DESCRIBE SELECT 1 AS one -- and a comment", [{"column_name": "one", "column_type": "INTEGER"}]),
        ("VALUES (1), (2);;", [{"col0": 1}, {"col0": 2}]),
        ("SELECT 1 AS one WHERE false", []),
        ("FROM range(5) ORDER BY range DESC LIMIT 2", [{"range": 4}, {"range": 3}]),
        ('SELECT 1 AS "Spalte; ü"', [{"Spalte; ü": 1}]),
    ],
)
async def test_any_statement_with_a_result_set_will_do(connector, tmp_path, sql, expected):
    found = rows(await run(connector, tmp_path, sql))
    keys = expected[0].keys() if expected else ()
    assert [{key: row[key] for key in keys} for row in found] == expected


async def test_without_a_declared_output_the_result_is_still_named(connector, tmp_path):
    resource = await run(connector, tmp_path, "SELECT 1 AS one", outputs=())
    assert resource.outputs is None
    assert resource.custom_info["result"] == f"{tmp_path}/result.parquet"
    assert pq.read_table(tmp_path / "result.parquet").to_pylist() == [{"one": 1}]


AWKWARD = ["plain", "with space", "Ünïcödé 漢字", "it's", "100%25", "a?b#c", "[ab]*", "semi;colon", 'quo"te', "a\\b"]


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("form", [str, Path.as_uri])
async def test_a_prefix_may_have_any_name(connector, tmp_path, name, form):
    directory = tmp_path / name
    resource = await run(connector, form(directory), "SELECT 1 AS one")
    assert [path.name for path in directory.iterdir()] == ["result.parquet"]
    assert resource.outputs["result"].uri == form(directory / "result.parquet")


async def test_a_relative_prefix_is_one_of_the_host_that_started_the_query(connector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resource = await run(connector, "some/../out", "SELECT 1 AS one")
    assert resource.outputs["result"].uri == f"{tmp_path}/out/result.parquet"


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("s3://bucket/prefix", "'s3://bucket/prefix'"),
        ("https://example.org/x", "file:// URL"),
        ("file://elsewhere/x", "three slashes"),
        ("file:///%ff", "UTF-8"),
        ("/a\0b", "NUL"),
        ("", "empty"),
    ],
)
async def test_a_prefix_that_is_not_local_is_refused_at_once(connector, prefix, words):
    with pytest.raises(TaskError, match="output_prefix") as refusal:
        await create(connector, prefix, "SELECT 1")
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (task("  "), "the task has no SQL: put it in the template's sql.statement"),
        (
            task("SELECT 1", {"databse": "x", "a": 1}),
            "the task's custom has 'a', 'databse', but DuckDB tasks support only: database",
        ),
        (task("SELECT 1", {"database": 3}), "the task's custom has database=3; it must be a file's path or ':memory:'"),
        (task("SELECT 1", {"database": "s3://b/x.duckdb"}), "database is 's3://b/x.duckdb', but the DuckDB connector"),
        (task("SELECT 1", outputs=("a", "b")), "a DuckDB task has one result, but this one declares 2 outputs: a, b"),
        (
            task("SELECT 1", outputs=("../a",)),
            "'../a' cannot be the name of an output: it is no valid file name",
        ),
    ],
)
async def test_a_template_that_cannot_be_served_is_refused_at_once(connector, tmp_path, template, message):
    with pytest.raises(TaskError) as refusal:
        await connector.create(template, str(tmp_path))
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("form", [str, Path.as_uri])
async def test_a_database_file_keeps_its_tables(connector, tmp_path, form):
    custom = {"database": form(tmp_path / "a ü.duckdb")}
    await run(connector, tmp_path, "CREATE TABLE t AS SELECT 1 AS one", custom=custom, outputs=())
    assert (tmp_path / "a ü.duckdb").exists()
    assert rows(await run(connector, tmp_path, "FROM t", custom=custom)) == [{"one": 1}]


@pytest.mark.parametrize("custom", [None, {}, {"database": ":memory:"}, {"database": None}])
async def test_databases_in_memory_are_each_jobs_own(connector, tmp_path, custom):
    await run(connector, tmp_path, "CREATE TABLE t AS SELECT 1 AS one", custom=custom, outputs=())
    assert (await run(connector, tmp_path, "FROM t", custom=custom)).phase is Phase.FAILED


async def test_queries_on_one_database_file_run_one_after_the_other(tmp_path):
    custom = {"database": str(tmp_path / "x.duckdb")}
    async with opened(home_of(tmp_path), max_running=2) as connector:
        busy = await connector.create(task(ENDLESS, custom), str(tmp_path / "busy"))
        await until(connector, busy, Phase.RUNNING)
        second = await create(connector, tmp_path, "CREATE TABLE t AS SELECT 1 AS one; FROM t", custom=custom)
        assert (await run(connector, tmp_path / "other", "SELECT 1")).phase is Phase.SUCCEEDED
        waiting = await state(connector, second)
        assert waiting.phase is Phase.QUEUED
        assert "one for each database file" in waiting.message
        await delete(connector, busy)
        assert rows(await end(connector, second)) == [{"one": 1}]


async def test_nobody_sees_half_a_result(connector, tmp_path):
    (tmp_path / "result.parquet").write_text("that of an earlier attempt")
    job = await connector.create(task(STREAM), str(tmp_path))
    while not list(tmp_path.glob(".*.tmp")):
        await until(connector, job, Phase.RUNNING)
    assert (tmp_path / "result.parquet").read_text() == "that of an earlier attempt"
    await delete(connector, job)
    while list(tmp_path.glob(".*.tmp")):
        assert (await end(connector, job)).phase is Phase.ABORTED
    assert (tmp_path / "result.parquet").read_text() == "that of an earlier attempt"


FAILURES = [
    ("SELEC 1", Phase.FAILED, 'syntax error at or near "SELEC"'),
    ("SELECT nope", Phase.FAILED, 'Referenced column "nope"'),
    ("FROM nowhere", Phase.FAILED, "nowhere does not exist"),
    ("SELECT 'x'::INTEGER", Phase.FAILED, "Could not convert string 'x' to INT32"),
    ("SELECT error('my own words')", Phase.FAILED, "my own words"),
    ("FROM '{}/x.parquet'", Phase.FAILED, "No files found"),
    ("COPY (SELECT 1) TO '{}/x.csv'", Phase.FAILED, "No such file or directory"),
    ("SELECT -INTERVAL 1 DAY AS i", Phase.FAILED, "do not support negative intervals"),
    ("-- only this", Phase.FAILED, "holds no statement"),
    ("SELECT ?", Phase.FAILED, "$1"),
]


@pytest.mark.parametrize(("sql", "phase", "words"), FAILURES)
async def test_a_failed_query_says_why_and_whether_to_try_again(connector, tmp_path, sql, phase, words):
    resource = await run(connector, tmp_path / "out", sql.format(tmp_path / "nowhere"))
    assert resource.phase is phase, resource.message
    assert words in resource.message
    assert resource.outputs is None
    assert not list(tmp_path.glob("out/*"))


async def test_a_query_that_needs_too_much_memory_is_to_be_tried_again(tmp_path):
    async with opened(home_of(tmp_path), memory_limit=20 * 2**20) as connector:
        resource = await run(connector, tmp_path / "out", "SELECT list(range) FROM range(9000000)")
    assert resource.phase is Phase.RETRYABLE_FAILED
    assert "Out of Memory" in resource.message


async def test_a_prefix_that_cannot_be_a_directory_fails_for_good(connector, tmp_path):
    (tmp_path / "file").touch()
    resource = await run(connector, tmp_path / "file", "SELECT 1")
    assert resource.phase is Phase.FAILED
    assert str(tmp_path / "file") in resource.message


async def test_a_huge_error_is_cut(connector, tmp_path):
    resource = await run(connector, tmp_path, "SELECT error(repeat('x', 100000))")
    assert resource.phase is Phase.FAILED
    assert len(resource.message) < 5000
    assert resource.message.endswith(" characters in all)")
