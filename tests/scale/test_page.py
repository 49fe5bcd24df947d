"""The scale plan's page shows figures.json, and these are the figures of the cases in plan.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connectrio.service import known_jobs
from connectrio.service.settings import ServiceSettings
from scale.__main__ import load
from scale.page import DOCS, PAGE, TABLES, page, plots
from scale.plan import ALLOWED, ANSWERED, RAISED, cases, refused
from scale.propeller import LARGEST_BURST, LARGEST_CACHE, LARGEST_QPS, MOST_FAILURES, MOST_WORKERS, Executor
from scale.test_agreement import CASES, differing

FIGURES = load()


def result(name: str) -> dict[str, Any]:
    return FIGURES["cases"][name]["result"]


def test_the_figures_are_of_these_cases():
    limits = FIGURES["limits"]
    plan = cases(limits["get"]["cpu_us"] / 1e6, limits["background"]["cpu_us"] / 1e6)
    assert {name: each["case"] for name, each in FIGURES["cases"].items()} == {
        name: case.as_dict() for name, case in plan.items()
    }
    assert {name: each["case"] for name, each in FIGURES["agreement"].items()} == {
        name: case.as_dict() for name, case in CASES.items()
    }
    assert {name: each["case"] for name, each in FIGURES["refused"].items()} == {
        name: case.as_dict() for name, case in refused().items()
    }


@pytest.mark.parametrize("name", FIGURES["agreement"])
def test_the_figures_agree(name):
    both = FIGURES["agreement"][name]
    assert differing(both["real"], both["model"]) == {}


def test_the_tables_are_up_to_date():
    text = PAGE.read_text()
    assert page(text, FIGURES) == text, "write them with: PYTHONPATH=tests uv run python -m scale.page"
    assert all(f"<!-- scale: {name} -->" in text for name in TABLES)


@pytest.mark.parametrize("name", plots(FIGURES))
def test_the_plots_are_up_to_date(name):
    assert (DOCS / "images" / name).read_text() == plots(FIGURES)[name]
    assert f"(../images/{name})" in PAGE.read_text()


def says(text: str, where: Path = PAGE) -> None:
    """See that the page has this text, wherever its lines break."""
    assert text in " ".join(where.read_text().split())


def test_what_is_said_of_the_executor():
    says("at most 10 times a second")
    says("enough for 300 jobs")
    assert Executor().qps == 10
    assert result("executor: defaults, 300 jobs")["seconds_between_polls"] == pytest.approx(30, rel=0.02)
    assert result("executor: defaults, 1,000 jobs")["seconds_between_polls"] > 90
    says("Beyond 1,500 jobs it gets worse with time")
    assert not result("executor: defaults, 1,400 jobs")["diverges"]
    assert result("executor: defaults, 1,700 jobs")["diverges"]
    says("10 workers and a vendor of 0.2 s make 50 polls a second")
    assert result("executor: qps 10,000, 10,000 jobs")["polls_per_s"] == pytest.approx(50, rel=0.02)
    says("That is chosen: Flyte takes up to 10,000")
    says("The executor's cache has 500,000 places at most")
    assert (MOST_WORKERS, LARGEST_BURST, LARGEST_CACHE) == (10_000, 10_000, 500_000)
    says("When 30,000 jobs begin within 30 s, 10 workers never get through these")
    assert not result("executor: qps 10,000, get_many, 10,000 jobs")["diverges"]
    assert result("executor: qps 10,000, get_many, 30,000 jobs")["diverges"]


def test_what_is_said_of_known_jobs():
    says("One replica knows 20,000 jobs of an account")
    assert known_jobs._MOST_JOBS == 20_000
    below, beyond = result("cap: 19,000 jobs"), result("cap: 40,000 jobs")
    assert below["vendor_requests_per_s"] < 0.1 * below["polls_per_s"]
    assert beyond["vendor_requests_per_s"] > 0.4 * beyond["polls_per_s"]


def test_what_is_said_of_replicas():
    says("With 20 replicas the vendor gets as many requests as without `get_many`")
    twenty = result("replicas: get_many, in turns, 20")
    assert twenty["vendor_requests_per_s"] >= 0.98 * twenty["polls_per_s"]
    says("together they ask for more than the vendor allows")
    assert result("replicas: limited, in turns, 2 with 30/s each")["vendor_peak_per_s"] > ALLOWED
    says("Then more replicas cost little")
    alone, sticky = (result(f"replicas: get_many, sticky, {replicas}") for replicas in (1, 50))
    assert sticky["vendor_requests_per_s"] < 1.5 * alone["vendor_requests_per_s"]
    late = [result(f"replicas: limited, in turns, {n} with 30/s together")["stale_p99"] for n in (1, 2, 3, 5, 10)]
    assert late == sorted(late)
    kept = [result(f"replicas: limited, sticky, {n} with 30/s together")["stale_p99"] for n in (1, 2, 3, 5, 10, 30)]
    assert max(kept) < 1.1 * kept[0]
    says("with `get_many` or limits, from the second replica on")
    assert result("replicas: get_many, in turns, 2")["vendor_requests_per_s"] > 1.5 * alone["vendor_requests_per_s"]


def test_what_is_said_of_limits():
    says("With a `qps` below the limit and a small `burst` all pass")
    at_once, smooth = result("size: limited, 300 jobs"), result("size: limited, 300 jobs, qps 12 and burst 5")
    assert smooth["stale_p99"] < 32 < 50 < at_once["stale_p99"]


def test_what_is_said_of_a_million():
    one, ten = (result(f"size: get, 1,000,000 jobs, {many}") for many in ("1 replica", "10 replicas"))
    core = 1e6 / FIGURES["limits"]["get"]["cpu_us"]
    assert one["seconds_between_polls"] > 120
    assert one["polls_per_s"] == pytest.approx(core, rel=0.02)
    assert ten["polls_per_s"] > 30_000


def test_what_is_said_of_many_workers():
    assert (ServiceSettings.max_calls_per_connector, ServiceSettings.max_waiting_calls) == (400, 150)
    says("**The replica's 400 calls at once.** 150 more wait")
    for jobs in ("10,000", "100,000"):
        usual, more = (result(f"workers: get, {jobs} jobs{end}") for end in ("", ", 1,000 calls at once"))
        assert usual["stale_p99"] is None
        assert usual["vendor_requests_per_s"] < 0.4 * usual["polls_per_s"]
        assert more["stale_p99"] < 31
    assert result("executor: qps 10,000, 100 workers, 10,000 jobs")["stale_p99"] < 31
    says("make 5,000 polls a second")
    assert result("workers: get, 400,000 jobs, 1,000 calls at once")["polls_per_s"] == pytest.approx(5000, rel=0.02)
    says(f"{1e6 / FIGURES['limits']['get']['cpu_us']:,.0f} calls a second")
    says("2,000 polls a second here")
    assert result("size: get, 100,000 jobs, 1 replica")["vendor_requests_per_s"] == pytest.approx(2000, rel=0.02)


def test_what_is_said_of_all_sizes():
    def requests(name: str) -> float:
        return result(f"grid: {name}")["vendor_requests_per_s"]

    says("Up to 10,000 jobs, one replica is enough")
    assert all(result(f"grid: {jobs} jobs, 1 replica, sticky")["stale_p99"] < 40 for jobs in ("1,000", "10,000"))
    for jobs in ("1,000", "10,000"):
        turns = [requests(f"{jobs} jobs, {replicas} replicas, in turns") for replicas in (3, 10, 50)]
        assert turns == sorted(turns)
        assert turns[-1] > result(f"grid: {jobs} jobs, 50 replicas, in turns")["polls_per_s"]
    says("a request for most polls with ten of them already")
    for jobs in ("100,000", "1,000,000"):
        ten = result(f"grid: {jobs} jobs, 10 replicas, in turns")
        assert ten["vendor_requests_per_s"] > 0.5 * ten["polls_per_s"]
    says("100,000 jobs are too many for one replica")
    alone = result("grid: 100,000 jobs, 1 replica, sticky")
    assert alone["vendor_peak_per_s"] == pytest.approx(2000, rel=0.02)
    assert alone["stale_p99"] is None
    assert result("grid: 100,000 jobs, 10 replicas, sticky")["known_jobs"] < known_jobs._MOST_JOBS
    says("A million jobs need 50 replicas, sticky, and a hundred do with two thirds of their requests")
    fifty, hundred = (requests(f"1,000,000 jobs, {replicas} replicas, sticky") for replicas in (50, 100))
    assert hundred == pytest.approx(2 / 3 * fifty, rel=0.15)
    assert requests("1,000,000 jobs, 10 replicas, sticky") > 4 * fifty


def test_what_is_said_of_a_vendor_that_refuses():
    seen = {name: each["result"] for name, each in FIGURES["refused"].items()}
    says(f"a vendor that answers {ANSWERED} requests in each second")
    says("Flyte gives up a task at its sixth failed poll")
    assert MOST_FAILURES == 5
    assert seen["get, no shield"]["tasks_given_up"] > 2000
    assert all(each["failed_polls_per_s"] == 0 for name, each in seen.items() if name != "get, no shield")
    says("five times the requests that it allows")
    assert seen["get"]["vendor_requests_per_s"] == pytest.approx(5 * ANSWERED, rel=0.15)
    asked, limited = seen["get, the vendor says Retry-After: 1"], seen["get, rate_calls=20"]
    assert 0 < asked["vendor_refused_per_s"] < seen["get"]["vendor_refused_per_s"] / 4
    assert asked["stale_p50"] > seen["get"]["stale_p50"]
    assert limited["stale_p99"] < asked["stale_p99"]
    assert all(each["vendor_refused_per_s"] == 0 for name, each in seen.items() if "rate_calls" in name)
    assert seen["get_many"]["vendor_refused_per_s"] < seen["get_many"]["vendor_gets_per_s"]
    assert seen["get_many"]["stale_p99"] < limited["stale_p99"]


def test_what_is_said_of_flyte_s_largest_settings():
    where = DOCS / "how-to" / "connect-flyte.md"
    says(f"how many polls go on at once; {MOST_WORKERS:,} at most", where)
    says(f"`qps` is {LARGEST_QPS:,} at most, `burst` {LARGEST_BURST:,}", where)
    raised = [f"qps: {RAISED.qps:g}", f"burst: {RAISED.burst}", f"workers: {RAISED.workers}"]
    assert all(line in where.read_text() for line in raised)


def test_what_is_said_in_the_short_list():
    limits, where = FIGURES["limits"], DOCS / "how-to" / "scale.md"
    says(f"A GetTask costs the host {limits['get']['cpu_us']} µs of processor time", where)
    says("even 10,000 jobs need a twentieth of a core", where)
    assert 10_000 / 30 * limits["get"]["cpu_us"] / 1e6 == pytest.approx(0.05, rel=0.3)
    says(f"| {limits['memory']['created_job_bytes'] / 1024:.1f} KiB, and its resource meta |", where)
    assert round(limits["memory"]["created_job_bytes"] / 1000) == 4, "the docstring of create_memory_size says 4 KB"
