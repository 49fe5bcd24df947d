"""The cases of the scale plan, by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from scale.cases import Case, Design
from scale.propeller import LARGEST_BURST, LARGEST_QPS, Executor

# the rate limiter does not limit any more
FREE = Executor(qps=10_000, burst=LARGEST_BURST)
# what the larger cases have: chosen, not the most that Flyte takes
CHOSEN = replace(FREE, workers=100)
MANY_WORKERS = Executor(qps=LARGEST_QPS, burst=LARGEST_BURST, workers=1000)
# of a host for these: as many calls at once as the workers make
SLOTS = 1000
# requests a second that the vendor of the limited cases allows
ALLOWED = 30
# and that the vendor allows that refuses more; the executor has the rate limiter and workers of connect-flyte.md
ANSWERED = 20
RAISED = Executor(qps=1000, burst=1000, workers=50)
SIZES, REPLICAS = (1000, 10_000, 100_000, 1_000_000), (1, 3, 10, 50)
# jobs of one executor, in the cases of all sizes
_EACH = 10_000
# replicas that take turns, from 100,000 jobs on: what more of them know together would take long to simulate
_MOST_IN_TURNS = 10


def refused() -> dict[str, Case]:
    """Return the cases with a vendor that refuses; they are simulated with the service's code."""
    case = Case(1000, executor=RAISED, allowed=ANSWERED, warm=120, seconds=480)
    limited = replace(case, design=Design.LIMITED, rate=ANSWERED)
    many = replace(case, design=Design.MANY)
    return {
        "get, no shield": replace(case, shielded=False),
        "get": case,
        "get, the vendor says Retry-After: 1": replace(case, retry_after=1.0),
        "get, rate_calls=20": limited,
        "get, rate_calls=20, no shield": replace(limited, shielded=False),
        "get_many": many,
        "get_many, rate_calls=20": replace(many, rate=ANSWERED),
    }


def cases(cpu: float, cpu_many: float) -> dict[str, Case]:
    """Return all cases.

    :param cpu: seconds of a host's processor for a poll, as measured
    :param cpu_many: and for each job of a `get_many`
    """
    plan: dict[str, Case] = {}
    for name, case in (*_executor(), *_cap(), *_replicas(), *_sizes(), *_one_executor(), *_grid()):
        plan[name] = replace(case, cpu=cpu, cpu_many=cpu_many)
    return plan


def _executor() -> Iterator[tuple[str, Case]]:
    """What the executor's settings let through."""
    for jobs in (300, 1000, 1400, 1700, 10_000):
        yield f"executor: defaults, {jobs:,} jobs", Case(jobs, warm=1500, seconds=1200)
    for jobs in (1000, 1400, 1700, 10_000):
        yield f"executor: qps 10,000, {jobs:,} jobs", Case(jobs, executor=FREE, warm=600, seconds=600)
    for jobs in (10_000, 13_000, 16_000):
        case = Case(jobs, executor=CHOSEN, warm=150, seconds=180)
        yield f"executor: qps 10,000, 100 workers, {jobs:,} jobs", case
    for jobs in (3000, 10_000, 30_000):
        case = Case(jobs, Design.MANY, executor=FREE, warm=150, seconds=180)
        yield f"executor: qps 10,000, get_many, {jobs:,} jobs", case


def _cap() -> Iterator[tuple[str, Case]]:
    """What a replica does that is asked for more jobs than it knows."""
    for jobs in (10_000, 15_000, 19_000, 21_000, 25_000, 40_000):
        yield f"cap: {jobs:,} jobs", Case(jobs, Design.MANY, executor=replace(CHOSEN, shards=4))


def _replicas() -> Iterator[tuple[str, Case]]:
    """What it changes that several replicas answer."""
    for replicas in (1, 2, 3, 5, 10, 20, 50):
        executor = replace(FREE, shards=50)
        case = Case(5000, Design.MANY, replicas=replicas, executor=executor, warm=330, seconds=120)
        yield f"replicas: get_many, in turns, {replicas}", case
        yield f"replicas: get_many, sticky, {replicas}", replace(case, sticky=True)
    for replicas in (1, 2, 3, 5, 10, 30):
        executor = replace(FREE, shards=30)
        case = Case(1000, Design.LIMITED, replicas=replicas, executor=executor, rate=ALLOWED, warm=300, seconds=900)
        yield f"replicas: limited, in turns, {replicas} with 30/s each", case
        shared = replace(case, rate=ALLOWED // replicas)
        yield f"replicas: limited, in turns, {replicas} with 30/s together", shared
        yield f"replicas: limited, sticky, {replicas} with 30/s together", replace(shared, sticky=True)


def _sizes() -> Iterator[tuple[str, Case]]:
    """A thousand jobs to a million."""
    for jobs in SIZES[:-1]:
        executor = replace(CHOSEN, shards=math.ceil(jobs / _EACH))
        case = Case(jobs, executor=executor)
        yield f"size: get, {jobs:,} jobs, 1 replica", case
    million = Case(SIZES[-1], executor=replace(CHOSEN, shards=100), sticky=True, warm=35, seconds=70)
    yield f"size: get, 100,000 jobs, 1 replica, {SLOTS:,} calls at once", replace(case, slots=SLOTS)
    yield "size: get, 1,000,000 jobs, 1 replica", million
    case = replace(million, replicas=10)
    yield "size: get, 1,000,000 jobs, 10 replicas", case
    yield f"size: get, 1,000,000 jobs, 10 replicas, {SLOTS:,} calls at once", replace(case, slots=SLOTS)
    for jobs, seconds in ((300, 300), (1000, 600), (10_000, 1800)):
        case = Case(jobs, Design.LIMITED, rate=ALLOWED, executor=CHOSEN, warm=seconds / 2, seconds=seconds)
        yield f"size: limited, {jobs:,} jobs", case
    smooth = Case(300, Design.LIMITED, rate=ALLOWED, executor=Executor(qps=12, burst=5), warm=150, seconds=300)
    yield "size: limited, 300 jobs, qps 12 and burst 5", smooth


def _one_executor() -> Iterator[tuple[str, Case]]:
    """What one executor with many workers lets through, and its one replica."""
    for jobs in (10_000, 100_000, 400_000):
        case = Case(jobs, executor=MANY_WORKERS, warm=65, seconds=70)
        yield f"workers: get, {jobs:,} jobs", case
        yield f"workers: get, {jobs:,} jobs, 1,000 calls at once", replace(case, slots=SLOTS)
    case = Case(100_000, Design.MANY, executor=MANY_WORKERS, warm=65, seconds=70)
    yield "workers: get_many, 100,000 jobs", case


def _grid() -> Iterator[tuple[str, Case]]:
    """Each size with each number of replicas, with `get_many`."""
    for jobs in SIZES:
        for replicas in REPLICAS:
            yield f"grid: {jobs:,} jobs, {_many(replicas)}sticky", _sticky(jobs, replicas)
            if 1 < replicas <= (REPLICAS[-1] if jobs < SIZES[-2] else _MOST_IN_TURNS):
                yield f"grid: {jobs:,} jobs, {_many(replicas)}in turns", _in_turns(jobs, replicas)
    yield f"grid: {SIZES[-1]:,} jobs, {_many(100)}sticky", _sticky(SIZES[-1], 100)


def _many(replicas: int) -> str:
    return "1 replica, " if replicas == 1 else f"{replicas} replicas, "


def _sticky(jobs: int, replicas: int) -> Case:
    """Return the case in which each replica has its executors to itself. One replica with them is simulated."""
    each = round(jobs / replicas)
    executor = replace(CHOSEN, shards=math.ceil(each / _EACH))
    warm, seconds = (120, 1800) if each <= 1000 else (120, 180) if each < SIZES[-2] else (60, 90)
    return Case(each, Design.MANY, sticky=True, executor=executor, parts=replicas, warm=warm, seconds=seconds)


def _in_turns(jobs: int, replicas: int) -> Case:
    """Return the case in which all executors poll through all replicas: each of these is simulated.

    It is counted when the replicas know as many jobs as they will: all of them, or 20,000.
    """
    executor = replace(CHOSEN, shards=math.ceil(jobs / _EACH))
    warm = 330 if jobs / replicas <= 4000 else 75 if jobs < SIZES[-1] else 35
    seconds = 120 if jobs < SIZES[-1] else 70
    return Case(jobs, Design.MANY, replicas=replicas, executor=executor, warm=warm, seconds=seconds)
