"""The scale plan's page says what figures.json has, and that is of the cases that there are."""

from __future__ import annotations

from typing import Any

import pytest

from connectrio.service import known_jobs
from scale.__main__ import load
from scale.page import DOCS, PAGE, TABLES, page, plots
from scale.plan import ALLOWED, cases
from scale.propeller import LARGEST_BURST, LARGEST_CACHE, MOST_WORKERS, Executor
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


def says(text: str) -> None:
    """See that the page has this text, wherever its lines break."""
    assert text in " ".join(PAGE.read_text().split())


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
    says("The most that Flyte takes is 100 workers")
    says("The executor's cache has 500,000 places at most")
    assert (MOST_WORKERS, LARGEST_BURST, LARGEST_CACHE) == (100, 10_000, 500_000)
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
    one, ten = (result(f"size: get, 1,000,000 jobs, {replicas} replicas") for replicas in (1, 10))
    core = 1e6 / FIGURES["limits"]["get"]["cpu_us"]
    assert one["seconds_between_polls"] > 120
    assert one["polls_per_s"] == pytest.approx(core, rel=0.02)
    assert ten["polls_per_s"] > 30_000
