"""A client's deadline, its cancel and its death: each cancels the connector's method, and nothing else does."""

from __future__ import annotations

import sys

import grpc
import pytest
from grpc import StatusCode

from e2e.client import OPERATIONS, order
from e2e.programs import HOUR, PATIENCE, TESTS, HostProgram, Program, eventually

every_operation = pytest.mark.parametrize("operation", OPERATIONS)


def check_seen(host, operation, name):
    ended = host.wait_for("ended", operation=operation, id=name)
    assert ended["outcome"] == "cancelled"


@pytest.fixture(scope="module")
def frank_host(start_host):
    """A host that never answers polls in place of the connector."""
    with start_host(poll_absorb=0) as host:
        yield host


@every_operation
def test_a_deadline(frank_host, operation):
    for deadline in (0.5, 2.0, 8.0, 32.0):  # seconds; a slow machine needs a longer one for the method to begin
        name = f"within {deadline} s"
        with frank_host.client() as client:
            call = client.start(operation, meta=order("sleep", HOUR, id=name), deadline=deadline)
            eventually(lambda call=call: call.done(), 2 * deadline + PATIENCE)
            assert call.code() is StatusCode.DEADLINE_EXCEEDED
        if frank_host.events("started", operation=operation, id=name):
            break
    check_seen(frank_host, operation, name)


@every_operation
def test_a_cancel(host, client, operation):
    call = client.start(operation, meta=order("sleep", HOUR, id="cancel"), deadline=HOUR)
    host.wait_for("started", operation=operation, id="cancel")
    assert call.cancel() or operation == "get_logs"
    check_seen(host, operation, "cancel")


@every_operation
def test_a_cancel_is_seen_by_plain_functions_that_look_for_it(host, client, operation):
    call = client.start(operation, task_type="plain", meta=order("watch", id="watching"), deadline=HOUR)
    host.wait_for("started", operation=operation, id="watching")
    call.cancel()
    check_seen(host, operation, "watching")


CLIENT = """
import sys
from e2e.client import Client, order
from e2e.programs import HOUR
client = Client(sys.argv[1])
calls = [client.start(each, meta=order("sleep", HOUR, id="killed"), deadline=HOUR) for each in sys.argv[2:]]
for call in calls:
    call.result()
"""


def test_a_client_that_is_killed(host):
    with Program([sys.executable, "-c", CLIENT, host.target, *OPERATIONS], cwd=TESTS) as client:
        for operation in OPERATIONS:
            host.wait_for("started", operation=operation, id="killed")
        client.kill()
        for operation in OPERATIONS:
            check_seen(host, operation, "killed")


def test_the_hosts_own_limit():
    with HostProgram("asyncio", get_limit=2, poll_absorb=0) as host, host.client() as client:
        with pytest.raises(grpc.RpcError) as raised:
            client.call("get", meta=order("sleep", HOUR, id="limit"), deadline=HOUR)
        assert raised.value.code() is StatusCode.DEADLINE_EXCEEDED
        assert raised.value.details().startswith("get probe task: stopped after 2 s, this host's own limit for get")
        assert host.wait_for("ended", id="limit")["outcome"] == "cancelled"
