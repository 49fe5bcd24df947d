"""`connectrio demo`."""

from __future__ import annotations

import shlex
import signal
import urllib.request

import pytest

from cli.harness import Process

duckdb = pytest.importorskip("duckdb")

ORDERS = "20000"
COLUMNS = ["month", "best_region", "orders", "customers", "revenue", "growth_percent", "p95_amount"]


def demo(tmp_path, *options):
    """The demo, with a directory of its own for temporary files."""
    (tmp_path / "tmp").mkdir()
    return Process("demo", *options, cwd=tmp_path, environment=temporary(tmp_path))


def temporary(tmp_path):
    return {"TMPDIR": str(tmp_path / "tmp")}


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_the_whole_demo(tmp_path, backend):
    with demo(tmp_path, "--orders", ORDERS, "--backend", backend) as process:
        outcome = process.wait()
    assert (outcome.code, outcome.err) == (0, "")
    headings = [line for line in outcome.out.splitlines() if line.startswith("== ")]
    assert [heading.split(":")[0] for heading in headings] == [
        "== Host",
        "== Query",
        "== Job",
        "== Result",
        "== Metrics of the job",
        "== Metrics of the host",
        "== Drain",
        "== Try next",
    ]
    assert f"running on {backend}" in outcome.out
    result = outcome.out.partition("== Result\n")[2].partition("\n\n")[0].splitlines()
    assert result[0].split() == COLUMNS
    assert [row.split()[0] for row in result[1:]] == [f"2024-{month:02}" for month in range(3, 13)]
    assert 'flyte_connector_requests_success_total{operation="create",task_type="duckdb"} 1.0' in outcome.out
    assert "rows_produced" in outcome.out
    assert "the host has finished its calls and stopped" in outcome.out
    assert "\x1b" not in outcome.out
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_is_kept(tmp_path):
    with demo(tmp_path, "--orders", ORDERS, "--directory", "kept") as process:
        outcome = process.wait()
    assert (outcome.code, outcome.err) == (0, "")
    assert "kept in kept: result/best_regions.parquet" in outcome.out
    with duckdb.connect() as connection:
        [(rows,)] = connection.execute(f"SELECT count(*) FROM '{tmp_path}/kept/result/best_regions.parquet'").fetchall()
    assert rows == 10


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_can_stay_up(tmp_path, backend, end):
    with demo(tmp_path, "--orders", ORDERS, "--backend", backend, "--keep") as process:
        page = process.line_with("its page, for a browser: ").rpartition(" ")[2]
        commands = [shlex.split(process.line_with(f"  connectrio {name} ")) for name in ("run", "create", "ls", "top")]
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(page) as response:
            assert b"<title>status: serving" in response.read()
        for _, name, *arguments in commands:
            once = ["--once"] if name == "top" else []
            with Process(name, *arguments, *once, cwd=tmp_path, environment=temporary(tmp_path)) as asked:
                assert asked.wait().code == 0, name
        process.signal(end)
        outcome = process.wait()
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.endswith("\n== Drain\nthe host has finished its calls and stopped\n")
    assert not list((tmp_path / "tmp").glob("connectrio-demo-*"))


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_an_interrupt_ends_it_in_order(tmp_path, backend):
    with demo(tmp_path, "--orders", "5000000000", "--backend", backend) as process:
        process.line_with("RUNNING")
        process.signal(signal.SIGINT)
        outcome = process.wait()
    assert (outcome.code, outcome.err) == (130, "interrupted; the host has stopped\n")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_without_duckdb(run, monkeypatch):
    monkeypatch.setattr("connectrio.cli.commands.demo.find_spec", lambda name: None)
    outcome = run("demo")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines() == [
        "error: the demo's query needs DuckDB, which is not installed",
        "hint: pip install 'connectrio[duckdb]'",
    ]


def test_no_orders(run):
    assert run("demo", "--orders", "0").err.startswith("error: --orders must be at least 1, got 0")


def test_a_place_where_nothing_can_be_kept(run, tmp_path):
    (tmp_path / "file").touch()
    outcome = run("demo", "--directory", "file/in/a/file")
    assert outcome.code == 2
    assert outcome.err.startswith("error: cannot keep anything in file/in/a/file: ")
