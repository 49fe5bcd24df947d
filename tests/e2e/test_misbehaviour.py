"""Misbehaviour of a connector's method ends its call with a status, and nothing else."""

from __future__ import annotations

import signal

import grpc
import pytest
from flyteidl2.connector.connector_pb2 import TaskExecutionMetadata
from flyteidl2.core.identifier_pb2 import NodeExecutionIdentifier, TaskExecutionIdentifier, WorkflowExecutionIdentifier
from grpc import StatusCode

from e2e.client import OPERATIONS, order
from e2e.programs import CONNECTORS

MISBEHAVIOUR = {
    "SystemExit": order("raise", "SystemExit"),
    "KeyboardInterrupt": order("raise", "KeyboardInterrupt"),
    "CancelledError": order("raise", "CancelledError"),
    "ExceptionGroup": order("raise", "ExceptionGroup"),
    "RecursionError": order("recurse"),
    "50 MB of text": order("long", 25_000_000),
}
MISBEHAVING = [(operation, name) for operation in OPERATIONS for name in MISBEHAVIOUR]


def execution(name):
    """Return the metadata of an execution: with it, the creation is shielded from its client."""
    node = NodeExecutionIdentifier(
        node_id="n0", execution_id=WorkflowExecutionIdentifier(project="p", domain="d", name=name)
    )
    return TaskExecutionMetadata(task_execution_id=TaskExecutionIdentifier(node_execution_id=node))


def start(client, operation, name, **fields):
    if operation == "create":
        fields["task_execution_metadata"] = execution(name)
    return client.start(operation, **fields)


@pytest.mark.parametrize("task_type", ["probe", "plain"])
@pytest.mark.parametrize(("operation", "name"), MISBEHAVING, ids=map(" ".join, MISBEHAVING))
def test_one_call_ends(host, client, task_type, operation, name):
    other = client.start("get", meta=order("sleep", 0.1))
    call = start(client, operation, f"{name} {task_type}", task_type=task_type, meta=MISBEHAVIOUR[name])
    with pytest.raises(grpc.RpcError) as raised:
        list(call) if operation == "get_logs" else call.result()
    assert raised.value.code() is StatusCode.INTERNAL
    assert len(raised.value.details()) < 6 * 1024
    assert other.result().resource.message == "{}"
    assert host.is_running


@pytest.mark.parametrize("how", ["task", "interrupt", "callback", "stop"])
def test_code_beside_the_calls_does_not_end_the_process(start_host, backend, how):
    if backend == "trio":
        pytest.skip("trio has no tasks and callbacks beside those of its nurseries")
    with start_host() as host, host.client() as client:
        other = client.start("get", meta=order("sleep", 1))
        assert client.call("get", meta=order("end the process", how)).resource.message
        assert other.result().resource.message == "{}"
        [line] = [line for line in host.log if line["level"] == "warning"]
        assert ("has stopped the event loop" if how == "stop" else "tried to end the process") in line["event"]
        if how in ("task", "interrupt"):
            assert line["raised"] == {"task": "SystemExit", "interrupt": "KeyboardInterrupt"}[how]
            assert line["where"].startswith(f"{CONNECTORS / 'probes.py'}:")
            assert line["where"].endswith("in end_the_process.<locals>.leave")
            assert line["module"].endswith("probes")
        assert not [line for line in host.log if "never retrieved" in line["event"]]
        host.send(signal.SIGTERM)
        assert host.wait() == 0


def test_a_resource_meta_of_50_mb(start_host):
    """It reaches the client and returns, up to the receive limit."""
    with start_host(max_response_size=64 * 2**20) as host, host.client() as client:
        created = start(client, "create", "large", meta=order("big", 50_000_000)).result()
        assert len(created.resource_meta) > 50_000_000
        refused = client.start("get", meta=created.resource_meta).exception()
        assert refused.code() is StatusCode.RESOURCE_EXHAUSTED
        assert client.call("get").resource.message == "{}"


def test_a_resource_meta_that_is_larger_than_the_executor_takes(client):
    refused = start(client, "create", "large", meta=order("big", 50_000_000)).exception()
    assert refused.code() is StatusCode.INTERNAL
    assert "started a job that nobody can find again" in refused.details()


def test_log_lines_of_50_mb(client):
    other = client.start("get", meta=order("sleep", 0.1))
    lines = [
        line for response in client.call("get_logs", meta=order("big", 50_000_000)) for line in response.body.results
    ]
    assert sum(map(len, lines)) > 50_000_000
    assert other.result().resource.message == "{}"


def test_jobs_are_created_once(host, client):
    """A repeated CreateTask gets the same answer, in flight or afterwards."""
    fields = {"meta": order("sleep", 0.2, id="once"), "task_execution_metadata": execution("once")}
    calls = [client.start("create", **fields) for _ in range(5)]
    answers = {call.result().resource_meta for call in calls}
    answers.add(client.call("create", **fields).resource_meta)
    assert len(answers) == 1
    assert len(host.events("started", operation="create", id="once")) == 1


def test_a_client_that_goes_away_does_not_end_a_create(host, client):
    fields = {"meta": order("sleep", 1, id="left"), "task_execution_metadata": execution("left")}
    first = client.start("create", **fields)
    host.wait_for("started", operation="create", id="left")
    first.cancel()
    assert client.call("create", **fields).resource_meta
    assert len(host.events("started", operation="create", id="left")) == 1
    assert host.wait_for("ended", operation="create", id="left")["outcome"] == "returned"
