"""The connector's arguments and the client's answers, in our host and in flyte-sdk's."""

from __future__ import annotations

import json

import grpc
import pytest
from flyteidl2.connector.connector_pb2 import GetConnectorRequest, ListConnectorsRequest
from flyteidl2.core.execution_pb2 import TaskExecution
from flyteidl2.core.interface_pb2 import TypedInterface, Variable, VariableEntry, VariableMap
from flyteidl2.core.literals_pb2 import Literal, Primitive, Scalar
from flyteidl2.core.security_pb2 import Connection
from flyteidl2.core.tasks_pb2 import TaskTemplate
from flyteidl2.core.types_pb2 import LiteralType, SimpleType
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral

from e2e.client import OPERATIONS, order

CONNECTION = Connection(secrets={"token": "from secrets", "user": "me"}, configs={"token": "from configs"})


def test_secrets_and_configs_become_arguments(either_client):
    assert either_client.echo(connection=CONNECTION) == {"token": "from configs", "user": "me"}


def test_create_gets_the_inputs_and_answers_with_the_resource_meta(either_client):
    variable = VariableEntry(key="x", value=Variable(type=LiteralType(simple=SimpleType.INTEGER)))
    interface = TypedInterface(inputs=VariableMap(variables=[variable]))
    value = Literal(scalar=Scalar(primitive=Primitive(integer=7)))
    response = either_client.call(
        "create",
        template=TaskTemplate(type="probe", interface=interface),
        inputs=Inputs(literals=[NamedLiteral(name="x", value=value)]),
        connection=CONNECTION,
        meta=order(id="job 1"),
    )
    meta = json.loads(response.resource_meta)
    assert meta["id"] == "job 1"
    assert json.loads(meta["argument"]) == {"x": 7, "token": "from configs", "user": "me"}
    assert either_client.call("get", meta=response.resource_meta).resource.phase == TaskExecution.SUCCEEDED


def test_logs_of_a_generator_come_one_by_one(either_client):
    responses = either_client.call("get_logs", token="after 7")
    assert [list(response.body.results) for response in responses] == [["first", "after 7"], ["{}", "after 7"]]


def test_logs_of_a_coroutine_come_at_once(either_client):
    (response,) = either_client.call("get_logs", task_type="paged", token="after 7")
    assert list(response.body.results)[1] == "after 7"


def test_logs_arrive_while_more_are_to_come(client):
    stream = client.start("get_logs", meta=order("sleep", 60))
    assert list(next(stream).body.results) == ["first", ""]
    stream.cancel()


def test_what_ours_gives_to_methods_that_ask_for_it(host, client):
    message = client.call("get", task_type="paged", output_prefix="s3://bucket/out").resource.message
    assert json.loads(message) == {"output_prefix": "s3://bucket/out"}
    (response,) = client.call("get_logs", task_type="paged", lines=50)
    assert json.loads(response.body.results[0]) == {"lines": 50}
    query = {"queries": ["cpu"], "start_time": {"seconds": 60}, "end_time": {"seconds": 120}, "step": {"seconds": 5}}
    client.call("get_metrics", task_type="paged", meta=order(id="metrics"), **query)
    asked = host.wait_for("asked", id="metrics")
    assert asked["queries"] == "['cpu']"
    assert asked["start_time"].startswith("datetime.datetime(1970, 1, 1, 0, 1, ")
    assert asked["step"] == "datetime.timedelta(seconds=5)"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_of_a_connector_of_plain_functions(client, operation):
    client.call(operation, task_type="plain")


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(either_client, compression):
    call = either_client.start("get", meta=order("echo", "x" * 10_000), compression=compression)
    assert call.result().resource.phase == TaskExecution.SUCCEEDED


def test_the_listing_of_connectors(either_client):
    listed = either_client.connectors.ListConnectors(ListConnectorsRequest(), timeout=30).connectors
    categories = {
        connector.name: [(category.name, category.version) for category in connector.supported_task_categories]
        for connector in listed
    }
    expected = {
        "Probe": [("probe", 0)],
        "Paged": [("paged", 0)],
        "Plain": [("plain", 0)],
        "Bare": [("bare", 0), ("bare", 2)],
    }
    assert expected.items() <= categories.items()
    for name in expected:
        one = either_client.connectors.GetConnector(GetConnectorRequest(name=name), timeout=30).connector
        assert one in listed
