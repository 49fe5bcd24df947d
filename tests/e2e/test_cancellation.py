"""A client's deadline, its cancel and its death: seen by the connector, within a second."""

from __future__ import annotations

import sys
import time

import grpc
import pytest
from grpc import StatusCode

from e2e.client import OPERATIONS, order
from e2e.programs import TESTS, HostProgram, Program

every_operation = pytest.mark.parametrize("operation", OPERATIONS)


def start_sleeping(host, client, operation, name, deadline=30.0):
    call = client.start(operation, meta=order("sleep", 60, id=name), deadline=deadline)
    host.wait_for("started", operation=operation, id=name)
    return call


def check_seen(host, operation, name, moment):
    ended = host.wait_for("ended", operation=operation, id=name)
    assert ended["outcome"] == "cancelled"
    # both clocks are the machine's
    assert ended["at"] - moment < 1


@every_operation
def test_a_deadline(host, client, operation):
    moment = time.monotonic() + 0.5
    call = client.start(operation, meta=order("sleep", 60, id="deadline"), deadline=0.5)
    with pytest.raises(grpc.RpcError) as raised:
        list(call) if operation == "get_logs" else call.result()
    assert raised.value.code() is StatusCode.DEADLINE_EXCEEDED
    check_seen(host, operation, "deadline", moment)


@every_operation
def test_a_cancel(host, client, operation):
    call = start_sleeping(host, client, operation, "cancel")
    moment = time.monotonic()
    assert call.cancel() or operation == "get_logs"
    check_seen(host, operation, "cancel", moment)


@every_operation
def test_a_cancel_is_seen_by_plain_functions_that_look_for_it(host, client, operation):
    call = client.start(operation, task_type="plain", meta=order("watch", id="watching"))
    host.wait_for("started", operation=operation, id="watching")
    moment = time.monotonic()
    call.cancel()
    check_seen(host, operation, "watching", moment)


CLIENT = """
import sys
from e2e.client import Client, order
client = Client(sys.argv[1])
calls = [client.start(operation, meta=order("sleep", 60, id="killed")) for operation in sys.argv[2:]]
for call in calls:
    call.result()
"""


def test_a_client_that_is_killed(host):
    with Program([sys.executable, "-c", CLIENT, host.target, *OPERATIONS], cwd=TESTS) as client:
        for operation in OPERATIONS:
            host.wait_for("started", operation=operation, id="killed")
        moment = time.monotonic()
        client.kill()
        for operation in OPERATIONS:
            check_seen(host, operation, "killed", moment)


def test_the_hosts_own_limit():
    with HostProgram("asyncio", get_limit=0.3, poll_absorb=0) as host, host.client() as client:
        with pytest.raises(grpc.RpcError) as raised:
            client.call("get", meta=order("sleep", 60, id="limit"))
        assert raised.value.code() is StatusCode.DEADLINE_EXCEEDED
        assert raised.value.details().startswith("get probe task: stopped after 0.3 s, this host's own limit for get")
        assert host.wait_for("ended", id="limit")["outcome"] == "cancelled"
