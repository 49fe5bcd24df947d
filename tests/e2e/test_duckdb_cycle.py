"""The main use: a real client creates, polls, reads and deletes a query on an installed host."""

from __future__ import annotations

import struct
from datetime import timedelta
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from flyteidl2.core.execution_pb2 import TaskExecution
from pyarrow import parquet

from e2e.client import Client
from e2e.duckdb_task import (
    NOON,
    boolean,
    duration,
    enum,
    file,
    frame,
    integer,
    items,
    mapping,
    moment,
    nothing,
    query,
    real,
    string,
    structure,
    union,
)
from e2e.programs import HostProgram, eventually

FINAL = {TaskExecution.SUCCEEDED, TaskExecution.FAILED, TaskExecution.ABORTED, TaskExecution.RETRYABLE_FAILED}
ENDLESS = "SELECT count(*) FROM range(10000000000000) AS a(i) WHERE hash(i) = 0"


@pytest.fixture(scope="module")
def duckdb_host(backend, tmp_path_factory):
    with TemporaryDirectory() as home:  # SQL must not reach it
        env = {"CONNECTRIO_DUCKDB_HOME": home, "CONNECTRIO_DUCKDB_ALLOW": str(tmp_path_factory.getbasetemp())}
        with HostProgram(backend, env=env, entry_points=True, modules=[]) as host:
            yield host


@pytest.fixture
def duckdb(duckdb_host):
    """A client of a host with the DuckDB connector."""
    with Client(duckdb_host.target) as client:
        yield DuckDBClient(client)


class DuckDBClient:
    """The calls of the executor for a task of type duckdb."""

    def __init__(self, client):
        self._client = client

    def create(self, statement, output_prefix, inputs=None):
        return self._client.call("create", **query(statement, output_prefix, inputs)).resource_meta

    def call(self, operation, meta, **fields):
        return self._client.call(operation, task_type="duckdb", meta=meta, **fields)

    def state(self, meta):
        return self.call("get", meta).resource

    def wait(self, meta, phases=FINAL):
        """Wait until the task is in one of `phases`. Return its state."""
        eventually(lambda: self.state(meta).phase in phases)
        return self.state(meta)

    def run(self, statement, output_prefix, inputs=None):
        """Return the rows of the result; the task must succeed."""
        resource = self.wait(self.create(statement, output_prefix, inputs))
        assert resource.phase == TaskExecution.SUCCEEDED, resource.message
        return read(resource).to_pylist()


def read(resource):
    (output,) = resource.outputs.literals
    assert output.name == "result"
    dataset = output.value.scalar.structured_dataset
    assert dataset.metadata.structured_dataset_type.format == "parquet"
    return parquet.read_table(urlsplit(dataset.uri).path)


# a duration in Parquet: months, days and milliseconds, which pyarrow does not convert
INTERVAL = struct.Struct("<III")

KINDS = {
    "integer": (integer(2**40), 2**40),
    "float": (real(0.25), 0.25),
    "string": (string("naïve ∅ 🦆"), "naïve ∅ 🦆"),
    "boolean": (boolean(True), True),
    "datetime": (moment(NOON), NOON),
    "duration": (duration(timedelta(days=1, seconds=2)), INTERVAL.pack(0, 1, 2000)),
    "none": (nothing(), None),
    "list": (items(integer(3), integer(1), integer(2)), [3, 1, 2]),
    "map": (mapping(a=integer(1), b=integer(2)), {"a": 1, "b": 2}),
    "enum": (enum("red", "red", "green"), "red"),
    "union": (union(integer(7), "int", string("").type), 7),
    "struct": (structure({"city": "Köln", "zip": "50667"}), {"city": "Köln", "zip": "50667"}),
}


@pytest.mark.parametrize("prefix", [str, lambda path: path.as_uri()], ids=["path", "URL"])
def test_every_kind_of_input(duckdb, tmp_path, prefix):
    columns = ", ".join(f"$v_{name} AS {name}_" for name in KINDS)
    inputs = {f"v_{name}": given for name, (given, _) in KINDS.items()}
    (row,) = duckdb.run(f"SELECT {columns}", prefix(tmp_path), inputs)
    assert row == {f"{name}_": expected for name, (_, expected) in KINDS.items()}


def test_files_and_frames(duckdb, tmp_path):
    csv, table = tmp_path / "cities of the north.csv", tmp_path / "sales.parquet"
    csv.write_text("city,country\nKøbenhavn,dk\nOslo,no\n")
    parquet.write_table(pa.table({"city": ["Oslo", "Oslo", "København"], "amount": [1, 2, 4]}), table)
    rows = duckdb.run(
        "SELECT country, sum(amount)::INT AS total FROM read_csv($cities) JOIN read_parquet($sales) USING (city)"
        " GROUP BY country ORDER BY country",
        tmp_path,
        {"cities": file(csv), "sales": frame(table)},
    )
    assert rows == [{"country": "dk", "total": 4}, {"country": "no", "total": 3}]


def test_the_whole_cycle(duckdb, tmp_path):
    meta = duckdb.create(
        "SELECT i, i * $factor AS product FROM range($count) AS r(i)",
        tmp_path,
        {"factor": integer(3), "count": integer(100_000)},
    )
    resource = duckdb.wait(meta)
    assert resource.phase == TaskExecution.SUCCEEDED
    table = read(resource)
    assert table.column("product").to_pylist() == [3 * i for i in range(100_000)]
    assert resource.custom_info["rows"] == 100_000
    assert [column["name"] for column in resource.custom_info["columns"]] == ["i", "product"]

    messages = list(duckdb.call("get_logs", meta))
    lines = [line.message for message in messages for line in message.body.lines]
    assert lines
    # page by page, they are the same
    paged, token = [], ""
    for _ in range(len(lines)):
        page = list(duckdb.call("get_logs", meta, token=token, lines=1))
        paged += [line.message for message in page for line in message.body.lines]
        token = page[-1].header.token
        if not token:
            break
    assert paged == lines

    metrics = {found.metric: found.data for found in duckdb.call("get_metrics", meta).results}
    assert metrics["rows_produced"]["value"] == 100_000
    assert metrics["elapsed_seconds"]["value"] > 0
    (asked,) = duckdb.call("get_metrics", meta, queries=["rows_read"]).results
    assert asked.metric == "rows_read"

    duckdb.call("delete", meta)
    duckdb.call("delete", meta)
    # a job that has ended never changes
    assert duckdb.state(meta).phase == TaskExecution.SUCCEEDED


def test_a_running_query_is_deleted(duckdb, tmp_path):
    meta = duckdb.create(ENDLESS, tmp_path)
    duckdb.wait(meta, {TaskExecution.RUNNING})
    duckdb.call("delete", meta)
    assert duckdb.wait(meta).phase == TaskExecution.ABORTED
    # the job is ABORTED before DuckDB has stopped
    eventually(lambda: list(tmp_path.iterdir()) == [])


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM no_such_table", "no_such_table"),
        ("SELECT $absent", r"$absent"),
        ("SELECT 'seven'::INT", "seven"),
    ],
)
def test_bad_sql_fails_with_duckdbs_own_words(duckdb, tmp_path, statement, message):
    resource = duckdb.wait(duckdb.create(statement, tmp_path))
    assert resource.phase == TaskExecution.FAILED
    assert message in resource.message
    assert not resource.outputs.literals


def test_sql_reaches_no_other_file(duckdb, tmp_path):
    for sql in ("FROM read_text('/etc/passwd')", "FROM read_text('/proc/self/environ')"):
        resource = duckdb.wait(duckdb.create(sql, tmp_path))
        assert resource.phase == TaskExecution.FAILED
        assert "CONNECTRIO_DUCKDB_ALLOW" in resource.message


def test_many_queries_at_once(duckdb, tmp_path):
    metas = [duckdb.create(f"SELECT {number} AS number", tmp_path / str(number)) for number in range(10)]
    assert [read(duckdb.wait(meta)).to_pylist() for meta in metas] == [[{"number": number}] for number in range(10)]
