"""Many calls at once."""

from __future__ import annotations

from e2e.client import order
from e2e.programs import WORKERS


def test_200_calls_wait_at_once(host, client):
    gated = [client.start("get", meta=order("gate", id="host of them")) for _ in range(200)]
    host.wait_for("started", 200, id="host of them")
    client.call("get", meta=order("open", id="host of them"))
    assert {call.result().resource.message for call in gated} == {"{}"}


def test_plain_functions_run_in_as_many_threads_as_there_are_workers(host, client):
    gated = [client.start("get", task_type="plain", meta=order("gate", id="crowd")) for _ in range(2 * WORKERS + 1)]
    host.wait_for("started", WORKERS, id="crowd")
    # the event loop is free; and this was sent last, so all of the others have arrived
    client.call("get", meta=order("open", id="crowd"))
    for call in gated:
        call.result()
    assert host.wait_for("ended", 2 * WORKERS + 1, id="crowd", outcome="returned")["most"] == WORKERS
