"""The cases of the scale plan, by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from scale.cases import Case, Design
from scale.propeller import LARGEST_BURST, MOST_WORKERS, Executor

DEFAULTS = Executor()
# the rate limiter does not limit any more
FREE = Executor(qps=10_000, burst=LARGEST_BURST)
MOST = replace(FREE, workers=MOST_WORKERS)
# requests a second that the vendor of the limited cases allows
ALLOWED = 30


def cases(cpu: float, cpu_many: float) -> dict[str, Case]:
    """Return all cases.

    :param cpu: seconds of a host's processor for a poll, as measured
    :param cpu_many: and for each job of a `get_many`
    """
    plan: dict[str, Case] = {}
    for name, case in (*_executor(), *_cap(), *_replicas(), *_sizes()):
        plan[name] = replace(case, cpu=cpu, cpu_many=cpu_many)
    return plan


def _executor() -> Iterator[tuple[str, Case]]:
    """What the executor's settings let through."""
    for jobs in (300, 1000, 1400, 1700, 10_000):
        yield f"executor: defaults, {jobs:,} jobs", Case(jobs, warm=1500, seconds=1200)
    for jobs in (1000, 1400, 1700, 10_000):
        yield f"executor: qps 10,000, {jobs:,} jobs", Case(jobs, executor=FREE, warm=600, seconds=600)
    for jobs in (10_000, 13_000, 16_000):
        case = Case(jobs, executor=MOST, warm=150, seconds=180)
        yield f"executor: qps 10,000, 100 workers, {jobs:,} jobs", case
    for jobs in (3000, 10_000, 30_000):
        case = Case(jobs, Design.MANY, executor=FREE, warm=150, seconds=180)
        yield f"executor: qps 10,000, get_many, {jobs:,} jobs", case


def _cap() -> Iterator[tuple[str, Case]]:
    """What a replica does that is asked for more jobs than it knows."""
    for jobs in (10_000, 15_000, 19_000, 21_000, 25_000, 40_000):
        yield f"cap: {jobs:,} jobs", Case(jobs, Design.MANY, executor=replace(MOST, shards=4))


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
    for jobs, shards in ((1000, 1), (10_000, 1), (100_000, 10)):
        executor = replace(MOST, shards=shards)
        yield f"size: get, {jobs:,} jobs", Case(jobs, executor=executor)
        yield f"size: get_many, {jobs:,} jobs, 1 replica", Case(jobs, Design.MANY, executor=executor)
    for jobs, seconds in ((300, 300), (1000, 600), (10_000, 1800)):
        case = Case(jobs, Design.LIMITED, rate=ALLOWED, executor=MOST, warm=seconds / 2, seconds=seconds)
        yield f"size: limited, {jobs:,} jobs", case
    smooth = Case(300, Design.LIMITED, rate=ALLOWED, executor=Executor(qps=12, burst=5), warm=150, seconds=300)
    yield "size: limited, 300 jobs, qps 12 and burst 5", smooth
    large = Case(100_000, Design.MANY, replicas=10, executor=replace(MOST, shards=10), warm=60, seconds=90)
    yield "size: get_many, 100,000 jobs, 10 replicas, sticky", replace(large, sticky=True)
    yield "size: get_many, 100,000 jobs, 10 replicas, in turns", large
    million = Case(1_000_000, executor=replace(MOST, shards=100), sticky=True, warm=35, seconds=70)
    for replicas in (1, 10):
        yield f"size: get, 1,000,000 jobs, {replicas} replicas", replace(million, replicas=replicas)
    # each replica has its executors to itself, so that one with them is enough to be simulated
    for replicas in (50, 100):
        executor = replace(MOST, shards=100 // replicas)
        part = replace(million, jobs=1_000_000 // replicas, executor=executor, parts=replicas, warm=120, seconds=180)
        many = replace(part, design=Design.MANY)
        yield f"size: get_many, 1,000,000 jobs, {replicas} replicas, sticky", many
