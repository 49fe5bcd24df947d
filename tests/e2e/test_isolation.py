"""One connector's misbehaviour does not affect the others."""

from __future__ import annotations

import signal

import grpc
import pytest
from flyteidl2.connector.connector_pb2 import ListConnectorsRequest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from e2e.client import fetch, order
from e2e.programs import WORKERS

MISBEHAVIOUR = {
    "SystemExit": order("raise", "SystemExit"),
    "KeyboardInterrupt": order("raise", "KeyboardInterrupt"),
    "CancelledError": order("raise", "CancelledError"),
    "ExceptionGroup": order("raise", "ExceptionGroup"),
    "RecursionError": order("recurse"),
    "junk": order("junk"),
}


@pytest.mark.parametrize("task_type", ["probe", "plain"])
@pytest.mark.parametrize("meta", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_other_calls_do_not_notice(host, client, meta, task_type):
    other = client.start("get", meta=order("sleep", 0.1))
    stream = client.start("get_logs", meta=order("sleep", 0.1))
    misbehaving = [client.start("get", task_type=task_type, meta=meta) for _ in range(3)]
    assert {call.exception().code() for call in misbehaving} == {StatusCode.INTERNAL}
    assert other.result().resource.message == "{}"
    assert len(list(stream)) == 2
    assert host.is_running


def test_an_answer_of_50_mb(start_host):
    with start_host(max_response_size=64 * 2**20) as host, host.client() as client:
        others = [client.start("get", meta=order("sleep", 0.1)) for _ in range(5)]
        large = client.start("get", meta=order("big", 50_000_000))
        assert {call.result().resource.message for call in others} == {"{}"}
        assert len(large.result().resource.message) == 50_000_000


def test_an_answer_that_is_larger_than_the_executor_takes(client):
    assert len(client.call("get", meta=order("big", 50_000_000)).resource.message) < 4 * 2**20


def test_busy_threads_hold_up_neither_health_nor_listings_nor_coroutines(host, client):
    busy = [client.start("get", task_type="plain", meta=order("gate", id="busy")) for _ in range(20)]
    host.wait_for("started", WORKERS, id="busy")
    assert client.health.Check(HealthCheckRequest(), timeout=30).status == HealthCheckResponse.SERVING
    assert client.connectors.ListConnectors(ListConnectorsRequest(), timeout=30).connectors
    assert fetch(f"{host.url}/healthz")[0] == 200
    client.call("get", meta=order("open", id="busy"))
    assert all(call.result().resource.message for call in busy)


def test_threads_that_never_end(start_host):
    with start_host(worker=2, grace=0.5, poll_absorb=0) as host, host.client() as client:
        stuck = client.start("get", task_type="plain", meta=order("gate", id="stuck"))
        host.wait_for("started", id="stuck")
        # the other thread is free for all other connectors
        assert client.call("get", task_type="plain").resource.message
        assert stuck.cancel()
        # with all threads stuck, coroutines go on
        other = client.start("get", task_type="plain", meta=order("gate", id="stuck as well"))
        host.wait_for("started", id="stuck as well")
        with pytest.raises(grpc.RpcError) as raised:
            client.call("get", task_type="plain", deadline=0.5)
        assert raised.value.code() is StatusCode.DEADLINE_EXCEEDED
        assert client.call("get").resource.message == "{}"
        assert client.health.Check(HealthCheckRequest(), timeout=30).status == HealthCheckResponse.SERVING
        assert fetch(f"{host.url}/readyz")[0] == 200
        # and they do not delay the end of the process
        host.send(signal.SIGTERM)
        assert other.exception().code() is StatusCode.UNAVAILABLE
        assert host.wait() == 0


def test_a_connector_that_blocks_the_event_loop(host, client):
    """It delays all calls while it blocks; none is lost."""
    client.call("get")
    blocking = client.start("get", meta=order("block", 1, id="blocking"))
    host.wait_for("started", id="blocking")
    others = [client.start("get") for _ in range(20)]
    assert blocking.result().resource.message == "{}"
    assert {call.result().resource.message for call in others} == {"{}"}
