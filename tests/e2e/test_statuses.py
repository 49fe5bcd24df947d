"""The statuses of failed calls: our host's, and flyte-sdk's where the two agree."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import pytest
from flyteidl2.connector.connector_pb2 import GetConnectorRequest
from grpc import StatusCode

from e2e.client import OPERATIONS, Client, order

every_operation = pytest.mark.parametrize("operation", OPERATIONS)
polled = pytest.mark.parametrize("operation", ["create", "get", "delete"])

SUBJECT = {
    "create": "create",
    "get": "get",
    "delete": "delete",
    "get_metrics": "get metrics of",
    "get_logs": "get logs of",
}


@dataclass(frozen=True)
class Refusal:
    """Return the status that a call ended with."""

    code: StatusCode
    text: str


def refusal(client: Client, operation: str, **fields: object) -> Refusal:
    with pytest.raises(grpc.RpcError) as raised:
        client.call(operation, **fields)
    return Refusal(raised.value.code(), raised.value.details())


def failed(operation: str, reason: str, task_type: str = "probe") -> str:
    return f"failed to {SUBJECT[operation]} {task_type} task with error:\n {reason}."


# flyte-sdk's host gives the same status


# a length whose varint does not end
UNDECODABLE = b"\x0a" + b"\xff" * 12
UNKNOWN_TYPE = Refusal(StatusCode.NOT_FOUND, "Cannot find connector for task type: nope.")


@polled
def test_an_unknown_task_type(either_client, operation):
    assert refusal(either_client, operation, task_type="nope") == UNKNOWN_TYPE


@polled
def test_an_unknown_version(either_client, operation):
    found = refusal(either_client, operation, version=7)
    assert found.code is StatusCode.NOT_FOUND
    assert found.text.startswith("Cannot find connector for task type: probe.")


@polled
def test_a_connector_that_raises(either_client, operation):
    expected = Refusal(StatusCode.INTERNAL, failed(operation, "boom"))
    assert refusal(either_client, operation, meta=order("raise", "ValueError")) == expected


@polled
def test_what_works(either_client, operation):
    response = either_client.call(operation)
    assert response.DESCRIPTOR.name == f"{operation.title()}TaskResponse"


def test_unknown_services_and_methods(either_client):
    with pytest.raises(grpc.RpcError) as raised:
        either_client.channel.unary_unary("/flyteidl2.connector.AsyncConnectorService/NoSuch")(b"", timeout=30)
    assert raised.value.code() is StatusCode.UNIMPLEMENTED


def test_a_request_beyond_the_message_limit(either_client):
    found = refusal(either_client, "get", meta=order("echo", "x" * 5 * 1024 * 1024))
    assert found.code is StatusCode.RESOURCE_EXHAUSTED
    either_client.call("get", meta=order("echo", "x" * 3 * 1024 * 1024))


# our host gives a more exact status


@every_operation
def test_unknown_task_types_and_versions_on_all_operations(client, operation):
    assert refusal(client, operation, task_type="nope") == UNKNOWN_TYPE
    found = refusal(client, operation, task_type="bare", version=7)
    assert found.code is StatusCode.NOT_FOUND
    assert found.text.startswith("Cannot find connector for task type: bare. It is served in version 0, 2, ")


@every_operation
@pytest.mark.parametrize("task_type", ["probe", "plain"])
def test_a_connector_that_raises_on_all_operations(client, operation, task_type):
    found = refusal(client, operation, task_type=task_type, meta=order("raise", "ValueError"))
    assert found == Refusal(StatusCode.INTERNAL, failed(operation, "boom", task_type))


@every_operation
def test_not_implemented(client, operation):
    found = refusal(client, operation, meta=order("raise", "NotImplementedError"))
    assert found == Refusal(StatusCode.UNIMPLEMENTED, failed(operation, "NotImplementedError"))


@pytest.mark.parametrize(("operation", "missing"), [("get_metrics", "metrics"), ("get_logs", "logs")])
def test_methods_that_a_connector_does_not_have(client, operation, missing):
    found = refusal(client, operation, task_type="bare")
    assert found == Refusal(StatusCode.UNIMPLEMENTED, f"Bare has no {missing}")


@every_operation
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("CancelledError", "CancelledError: of my own"),
        ("SystemExit", "SystemExit: 3"),
        ("KeyboardInterrupt", "KeyboardInterrupt: boom"),
        ("ExceptionGroup", "ValueError: one; KeyError: 'two'"),
    ],
)
@pytest.mark.parametrize("task_type", ["probe", "plain"])
def test_errors_that_would_end_a_program(client, operation, error, reason, task_type):
    found = refusal(client, operation, task_type=task_type, meta=order("raise", error))
    assert found == Refusal(StatusCode.INTERNAL, failed(operation, reason, task_type))
    client.call("get")


@every_operation
def test_endless_recursion(client, operation):
    found = refusal(client, operation, meta=order("recurse"))
    assert found.code is StatusCode.INTERNAL
    assert "maximum recursion depth exceeded" in found.text


@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation != "create"])
@pytest.mark.parametrize("meta", [b"", b"\xff", b"[]", b'{"what": 1}', b'{"does": 1}'], ids=repr)
def test_a_bad_resource_meta(client, operation, meta):
    found = refusal(client, operation, meta=meta)
    assert found.code is StatusCode.INVALID_ARGUMENT
    assert found.text.startswith("the resource_meta of this probe task was not made by this connector: ")


@every_operation
def test_a_long_error_text_is_cut(client, operation):
    found = refusal(client, operation, meta=order("long", 20_000))
    assert found.code is StatusCode.INTERNAL
    assert found.text.startswith(failed(operation, "éé").removesuffix("."))
    assert "[truncated: " in found.text


@every_operation
def test_an_undecodable_request(client, operation):
    with pytest.raises(grpc.RpcError) as raised:
        client.send_bytes(operation, UNDECODABLE)
    assert raised.value.code() is StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("operation", "returned"),
    [
        ("create", "Probe.create returned None, not a Order"),
        ("get", "Probe.get returned None, not a Resource"),
        ("get_metrics", "Probe.get_metrics returned an object of class str, not a GetTaskMetricsResponse"),
    ],
)
def test_what_no_method_may_return(client, operation, returned):
    assert refusal(client, operation, meta=order("junk")) == Refusal(StatusCode.INTERNAL, failed(operation, returned))


def test_an_unknown_connector(client):
    with pytest.raises(grpc.RpcError) as raised:
        client.connectors.GetConnector(GetConnectorRequest(name="nope"), timeout=30)
    assert raised.value.code() is StatusCode.NOT_FOUND
    assert raised.value.details() == "Cannot find connector for name: nope."


# flyte-sdk's status in these cases, so that a change of it is noticed


@pytest.mark.parametrize("operation", ["get_metrics", "get_logs"])
def test_flyte_sdk_on_metrics_and_logs(reference_client, operation):
    assert refusal(reference_client, operation, task_type="nope").code is StatusCode.UNKNOWN
    assert refusal(reference_client, operation, task_type="bare").code is StatusCode.UNKNOWN
    assert refusal(reference_client, operation, meta=b"{}}").code is StatusCode.UNKNOWN
    assert refusal(reference_client, operation, meta=order("raise", "ValueError")).code is StatusCode.UNKNOWN


@polled
def test_flyte_sdk_on_what_it_does_not_tell_apart(reference_client, operation):
    found = refusal(reference_client, operation, meta=order("raise", "NotImplementedError"))
    assert found == Refusal(StatusCode.INTERNAL, failed(operation, ""))
    assert refusal(reference_client, operation, meta=b"{}}").code is StatusCode.INTERNAL
    assert refusal(reference_client, operation, meta=order("long", 20_000)).code is StatusCode.RESOURCE_EXHAUSTED


def test_flyte_sdk_never_ends_a_call_whose_connector_raises_a_cancellation(reference_client):
    found = refusal(reference_client, "get", meta=order("raise", "CancelledError"), deadline=1)
    assert found.code is StatusCode.DEADLINE_EXCEEDED


def test_flyte_sdk_on_an_undecodable_request_and_an_unknown_connector(reference_client):
    with pytest.raises(grpc.RpcError) as raised:
        reference_client.send_bytes("get", UNDECODABLE)
    assert raised.value.code() is StatusCode.UNKNOWN
    with pytest.raises(grpc.RpcError) as raised:
        reference_client.connectors.GetConnector(GetConnectorRequest(name="nope"), timeout=30)
    assert raised.value.code() is StatusCode.UNKNOWN
