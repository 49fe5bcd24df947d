"""Hosted connectors in a process of their own, through real calls: the probes for flyte-sdk."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest
from flyteidl2.core.execution_pb2 import TaskExecution
from grpc_health.v1.health_pb2 import HealthCheckRequest

from e2e.client import Client, order
from e2e.programs import CONNECTORS, HostProgram, eventually

BACKENDS = ["asyncio", "trio"]
CANCELLABLE = ["get", "delete", "get_metrics", "get_logs"]
ENV = {"CONNECTOR_API": "flyte.connectors"}
IMPATIENT = Path(__file__).parent / "connectors" / "impatient.py"

# seconds; flyte-sdk takes long to import on a busy machine
PATIENCE = 120.0


@pytest.fixture(scope="module", params=BACKENDS)
def host(request):
    """A host of the probes for flyte-sdk. After all tests, it must still shut down without an error."""
    with HostProgram(request.param, env=ENV) as program:
        yield program.ready(PATIENCE)
        program.send(signal.SIGTERM)
        assert program.wait() == 0


@pytest.fixture
def client(host):
    """A client of it."""
    with Client(host.target) as client:
        yield client


def failure(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


@pytest.mark.parametrize("operation", CANCELLABLE)
def test_a_client_that_goes_away_cancels_the_coroutine(host, client, operation):
    call = client.start(operation, meta=order("sleep", PATIENCE, id=f"cancelled {operation}"), deadline=PATIENCE)
    host.wait_for("started", id=f"cancelled {operation}")
    call.cancel()
    assert host.wait_for("ended", id=f"cancelled {operation}")["outcome"] == "cancelled"


@pytest.mark.parametrize("operation", ["delete", "get_metrics", "get_logs"])
def test_a_deadline_cancels_the_coroutine(host, client, operation):
    name = f"too late {operation}"
    meta = order("sleep", PATIENCE, id=name)
    assert failure(lambda: client.call(operation, meta=meta, deadline=0.5)) is grpc.StatusCode.DEADLINE_EXCEEDED
    # on a very slow machine it may not have begun
    eventually(lambda: len(host.events("started", id=name)) == len(host.events("ended", id=name, outcome="cancelled")))


@pytest.mark.parametrize("operation", [*CANCELLABLE, "create"])
@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt", "CancelledError", "ExceptionGroup", "ValueError"])
def test_errors_end_one_call(client, operation, error):
    for _ in range(2):
        code = failure(lambda: client.call(operation, meta=order("raise", error)))
        assert code is grpc.StatusCode.INTERNAL
    assert client.call("get").resource.phase == TaskExecution.SUCCEEDED


def test_deep_and_big_answers(host):
    with Client(host.target, **{"grpc.max_receive_message_length": -1}) as client:
        assert failure(lambda: client.call("get", meta=order("recurse"))) is grpc.StatusCode.INTERNAL
        assert len(client.call("get", meta=order("big", 50_000_000)).resource.message) < 4 * 2**20


def test_methods_that_a_connector_does_not_have(client):
    for operation in ("get_metrics", "get_logs"):
        code = failure(lambda operation=operation: client.call(operation, task_type="bare"))
        assert code is grpc.StatusCode.UNIMPLEMENTED


def test_a_phase_that_flyte_does_not_know(client):
    code = failure(lambda: client.call("get", meta=order("junk")))
    assert code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_host_ends_while_hosted_code_blocks(backend):
    modules = [str(CONNECTORS / "probes.py"), str(IMPATIENT)]
    settings = {"grace": 0.1, "get_limit": 10 * PATIENCE, "modules": modules}
    with HostProgram(backend, env=ENV, **settings) as program, Client(program.ready(PATIENCE).target) as client:
        call = client.start("get", meta=order("block", 10 * PATIENCE, id="stuck"), deadline=10 * PATIENCE)
        program.wait_for("started", id="stuck")
        assert client.health.Check(HealthCheckRequest(), timeout=30)
        program.send(signal.SIGTERM)
        assert failure(call.result) is grpc.StatusCode.UNAVAILABLE
        assert program.wait(PATIENCE) == 0
        events = [line["event"] for line in program.log]
    assert "a hosted call was cancelled and goes on" in events
    assert "a hosted connector's thread did not end" in events


def test_a_drain_waits_for_hosted_calls():
    with HostProgram("trio", env=ENV) as program, Client(program.ready(PATIENCE).target) as client:
        call = client.start("get", meta=order("sleep", 1, id="in flight"))
        program.wait_for("started", id="in flight")
        program.send(signal.SIGTERM)
        assert call.result().resource.phase == TaskExecution.SUCCEEDED
        assert program.wait() == 0
