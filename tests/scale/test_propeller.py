"""The model of the executor's queue, step by step."""

from __future__ import annotations

from scale.propeller import DRIFT, Executor, PollQueue


def taken(queue: PollQueue, until: float) -> list[tuple[float, int]]:
    """Take all jobs as soon as they may be taken."""
    found = []
    while (time := queue.next_time()) is not None and time <= until:
        job = queue.take(time)
        if job is not None:
            found.append((round(time, 3), job))
    return found


def test_a_burst_and_then_the_rate():
    queue = PollQueue(Executor(qps=10, burst=3))
    for job in range(5):
        queue.add(job, 0.0)
    assert taken(queue, 1.0) == [(0.005, 0), (0.005, 1), (0.005, 2), (0.1, 3), (0.2, 4)]


def test_the_bucket_fills_up_to_the_burst():
    queue = PollQueue(Executor(qps=10, burst=2))
    for job in range(2):
        queue.add(job, 0.0)
    taken(queue, 1.0)
    for job in range(3):
        queue.add(job, 100.0)
    assert taken(queue, 200.0) == [(100.005, 0), (100.005, 1), (100.1, 2)]


def test_what_is_queued_is_not_queued_again():
    queue = PollQueue(Executor(qps=1, burst=1))
    queue.add(0, 0.0)
    queue.add(1, 0.0)
    queue.resync(0.5)
    assert len(queue) == 2
    assert [job for _, job in taken(queue, 0.5)] == [0]
    queue.resync(0.6)
    assert [job for _, job in taken(queue, 9.0)] == [1, 0]


def test_what_waits_for_five_intervals_is_queued_twice():
    queue = PollQueue(Executor(qps=0.001, burst=1, resync=30))
    queue.add(0, 0.0)
    queue.add(1, 0.0)
    queue.take(0.005)
    queue.resync(150.0)
    assert (len(queue), queue.live) == (2, 2)
    queue.resync(5 * (30 + DRIFT))
    assert (len(queue), queue.live) == (3, 2)


def test_a_job_that_has_ended_is_not_polled():
    queue = PollQueue(Executor())
    queue.add(0, 0.0)
    assert queue.end(0)
    assert not queue.end(0)
    assert queue.take(1.0) is None
    assert (len(queue), queue.live) == (0, 0)
