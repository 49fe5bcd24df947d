"""What the cheap simulation says where the result can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scale.cases import Case, Design
from scale.model import simulate
from scale.propeller import LARGEST_BURST, Executor

FAST = Executor(qps=1000, burst=LARGEST_BURST, workers=50)


def test_the_default_rate_limit_takes_300_jobs():
    seen = simulate(Case(300, warm=300, seconds=600))
    assert seen["polls_per_s"] == pytest.approx(10, rel=0.02)
    assert seen["stale_p99"] < 33


def test_more_jobs_than_that_are_polled_later():
    seen = simulate(Case(1400, warm=600, seconds=900))
    assert seen["polls_per_s"] == pytest.approx(10, rel=0.02)
    assert not seen["diverges"]
    assert seen["seconds_between_polls"] == pytest.approx(140, rel=0.02)


def test_a_wait_of_more_than_five_intervals_never_ends():
    """An entry counts as lost after 150 s, and is made again: 10 a second come from 1,500 jobs."""
    assert simulate(Case(1700, warm=1500, seconds=1500))["diverges"]


def test_workers_wait_for_the_vendor():
    seen = simulate(Case(3000, executor=replace(FAST, workers=10)))
    assert seen["polls_per_s"] == pytest.approx(10 / 0.2, rel=0.02)


def test_the_host_answers_one_call_after_the_other():
    seen = simulate(Case(3000, executor=FAST, cpu=0.02))
    assert seen["polls_per_s"] == pytest.approx(1 / 0.02, rel=0.02)


def test_calls_wait_for_slots():
    seen = simulate(Case(3000, executor=FAST, slots=10, waiting=40))
    assert seen["polls_per_s"] == seen["vendor_requests_per_s"] == pytest.approx(10 / 0.2, rel=0.02)


def test_where_no_more_may_wait_polls_are_answered_without_a_request():
    seen = simulate(Case(3000, executor=FAST, slots=10, waiting=0, cpu=0.002))
    assert seen["polls_per_s"] == pytest.approx(3000 / 30, rel=0.1)
    assert 0 < seen["vendor_requests_per_s"] < seen["polls_per_s"] / 2
    assert seen["vendor_peak_per_s"] <= 10 / 0.2


def test_one_replica_s_limit_is_the_vendor_s():
    seen = simulate(Case(3000, Design.LIMITED, rate=20, executor=FAST))
    assert seen["vendor_requests_per_s"] == pytest.approx(20 / 1.01, rel=0.02)
    assert seen["vendor_peak_per_s"] <= 20


def test_the_limits_of_replicas_add_up():
    seen = simulate(Case(3000, Design.LIMITED, rate=20, replicas=3, executor=FAST))
    assert seen["vendor_requests_per_s"] == pytest.approx(60 / 1.01, rel=0.02)


def test_many_jobs_in_one_request():
    """Each ten seconds, with one request for a hundred jobs; and one for each new job."""
    seen = simulate(Case(3000, Design.MANY, executor=FAST))
    assert seen["vendor_get_manys_per_s"] == pytest.approx(3000 / 100 / 10, rel=0.1)
    assert seen["vendor_gets_per_s"] == pytest.approx(3000 / 600, rel=0.1)
    assert seen["stale_p99"] < 42


def test_replicas_that_take_turns_know_all_jobs():
    case = Case(3000, Design.MANY, replicas=4, executor=replace(FAST, shards=4))
    turns, sticky = simulate(case), simulate(replace(case, sticky=True))
    assert turns["known_jobs"] > 2 * sticky["known_jobs"]
    assert turns["vendor_get_manys_per_s"] > 2 * sticky["vendor_get_manys_per_s"]


def test_one_of_many_equal_parts_stands_for_all():
    executor = replace(FAST, shards=4, qps=10_000)
    whole = Case(4000, Design.MANY, replicas=4, sticky=True, executor=executor)
    part = replace(whole, jobs=1000, replicas=1, executor=replace(executor, shards=1), parts=4)
    seen, said = simulate(whole), simulate(part)
    for figure in ("polls_per_s", "vendor_requests_per_s", "stale_p50", "stale_p99"):
        assert said[figure] == pytest.approx(seen[figure], rel=0.1), figure


def test_a_case_has_the_same_figures_each_time():
    case = Case(500, Design.MANY, replicas=2, executor=FAST, warm=60, seconds=60)
    assert simulate(case) == simulate(case)
