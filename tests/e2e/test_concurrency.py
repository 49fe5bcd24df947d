"""Many calls at once."""

from __future__ import annotations

import time

from e2e.client import order
from e2e.programs import WORKERS


def seconds_for_200_calls_that_sleep(client):
    started = time.monotonic()
    calls = [client.start("get", meta=order("sleep", 1)) for _ in range(200)]
    for call in calls:
        call.result()
    return time.monotonic() - started


def test_200_calls_that_sleep_for_a_second(client):
    client.call("get")
    # the machine may be busy with something else; one undisturbed run shows that the calls do not wait for each other
    assert any(seconds_for_200_calls_that_sleep(client) < 2 for _ in range(3))


def test_plain_functions_run_in_as_many_threads_as_there_are_workers(host, client):
    gated = [client.start("get", task_type="plain", meta=order("gate", id="crowd")) for _ in range(2 * WORKERS + 1)]
    host.wait_for("started", WORKERS, id="crowd")
    # the event loop is free meanwhile; and this was sent last, so all of the others have arrived
    client.call("get", meta=order("open", id="crowd"))
    for call in gated:
        call.result()
    assert host.wait_for("ended", 2 * WORKERS + 1, id="crowd", outcome="returned")["most"] == WORKERS
