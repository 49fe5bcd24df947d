"""Plugins of flytekit as they are on PyPI do the same here as in flytekit's host: for Flyte, and for their vendors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from flyteidl.admin.agent_pb2 import CreateTaskRequest
from flyteidl.core.interface_pb2 import Variable
from flyteidl.core.literals_pb2 import Literal, Primitive, Scalar
from flyteidl.core.tasks_pb2 import Container, Sql
from flyteidl.core.types_pb2 import LiteralType, SimpleType, StructuredDatasetType

from flytekit_sdk.client import task
from flytekit_sdk.requests import struct
from flytekit_sdk.vendors import Vendors, without_uuids

STRING, INTEGER = SimpleType.STRING, SimpleType.INTEGER


def request(task_type: str, custom: dict[str, Any], *, inputs: dict[str, Any] | None = None, **template: Any) -> Any:
    """Return a request for a task with texts and integers as inputs."""
    message = task(task_type)
    message.template.custom.CopyFrom(struct(custom))
    message.template.metadata.runtime.version = "1.16.31"
    for name, field in template.items():
        getattr(message.template, name).CopyFrom(field)
    for name, value in (inputs or {}).items():
        is_text = isinstance(value, str)
        kind = LiteralType(simple=STRING if is_text else INTEGER)
        message.template.interface.inputs.variables[name].CopyFrom(Variable(type=kind))
        primitive = Primitive(string_value=value) if is_text else Primitive(integer=value)
        message.inputs.literals[name].CopyFrom(Literal(scalar=Scalar(primitive=primitive)))
    return message


def bigquery(vendors: Vendors) -> CreateTaskRequest:
    custom = {"ProjectID": "a-project", "Location": "EU", "Domain": "development"}
    sql = Sql(statement="SELECT @n", dialect=Sql.ANSI)
    message = request("bigquery_query_job_task", custom, inputs={"n": 7}, sql=sql)
    kind = LiteralType(structured_dataset_type=StructuredDatasetType())
    message.template.interface.outputs.variables["results"].CopyFrom(Variable(type=kind))
    return message


def databricks(vendors: Vendors) -> CreateTaskRequest:
    custom = {
        "sparkConf": {"spark.executor.memory": "4g"},
        "databricksConf": {"run_name": "a run", "new_cluster": {"num_workers": 2}},
        "databricksInstance": f"127.0.0.1:{vendors.databricks.fake.port}",
    }
    return request("spark", custom, container=Container(image="an/image:1", args=["a", "b"]))


def batch(vendors: Vendors) -> CreateTaskRequest:
    custom = {"openai_organization": "an-org", "config": {"metadata": {"a": "b"}}}
    return request("openai-batch", custom, inputs={"input_file_id": "file-1"})


def endpoint(vendors: Vendors) -> CreateTaskRequest:
    config = {"EndpointName": "{inputs.name}", "EndpointConfigName": "c"}
    return request("sagemaker-endpoint", {"config": config, "region": "eu-west-1"}, inputs={"name": "e"})


def mmcloud(vendors: Vendors) -> CreateTaskRequest:
    custom = {"resources": ["1", "2", "3", "4"], "submit_extra": "--zone a"}
    return request("mmcloud_task", custom, container=Container(image="an/image:1", args=["echo", "a b"]))


@dataclass
class Scenario:
    """A task of a plugin.

    :ivar make: makes the request
    :ivar finish: lets its job end
    """

    make: Callable[[Vendors], CreateTaskRequest]
    finish: Callable[[Vendors], Any]


SCENARIOS = {
    "bigquery": Scenario(bigquery, lambda vendors: vendors.bigquery.finish(*vendors.bigquery.jobs)),
    "databricks": Scenario(databricks, lambda vendors: vendors.databricks.finish("1001")),
    "openai batch": Scenario(batch, lambda vendors: vendors.openai.finish("batch_1")),
    "sagemaker endpoint": Scenario(endpoint, lambda vendors: vendors.sagemaker.finish("e")),
    "mmcloud": Scenario(mmcloud, lambda vendors: vendors.state.write_text("Completed")),
}


def told(resource: Any) -> str:
    return without_uuids(str(resource))


def play(scenario: Scenario, client: Any, vendors: Vendors) -> tuple[list[str], list[int], list[str]]:
    """Create, poll, finish, poll, delete and poll a job.

    Return the answers, the phases, and what the vendor was asked.
    """
    vendors.forget()
    message = scenario.make(vendors)
    meta = client.create(message).resource_meta
    task_type = message.template.type
    answers = [client.get(task_type, meta).resource]
    scenario.finish(vendors)
    answers.append(client.get(task_type, meta).resource)
    client.delete(task_type, meta)
    answers.append(client.get(task_type, meta).resource)
    # a pickle has the entries of protobuf's maps in their order, which is random
    metas = [] if meta.startswith(b"\x80") else [without_uuids(meta.decode())]
    texts = [*metas, *map(told, answers)]
    return texts, [answer.phase for answer in answers], vendors.asked()


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_job_from_create_to_delete(ours, reference, vendors, name):
    theirs = play(SCENARIOS[name], reference, vendors)
    assert theirs[1][:2] == [2, 3], "RUNNING, then SUCCEEDED"
    assert play(SCENARIOS[name], ours, vendors) == theirs


CHAT = {"openai_organization": "an-org", "chatgpt_config": {"model": "m"}}
MODEL = {
    "service": "sagemaker",
    "method": "create_model",
    "region": "eu-west-1",
    "config": {"ModelName": "{inputs.name}"},
}


@pytest.mark.parametrize(
    "message",
    [
        request("chatgpt", CHAT, inputs={"message": "hello"}),
        request("boto", MODEL | {"region": "eu-west-1"}, inputs={"name": "m"}),
    ],
    ids=["chatgpt", "boto"],
)
def test_a_task_of_a_sync_plugin(ours, reference, vendors, message):
    def play(client):
        vendors.forget()
        return told(client.execute(message)), vendors.asked()

    theirs = play(reference)
    assert "SUCCEEDED" in theirs[0]
    assert play(ours) == theirs
    vendors.forget()
    created = ours.create_for_flyte_2(message)
    assert told(ours.get(message.template.type, created.resource_meta).resource) == theirs[0]
    assert vendors.asked() == theirs[1], "once, by the create"


def test_a_plugin_that_is_broken_does_not_hurt_the_others(ours, flytekit_python, broken_plugin):
    """All tests here are of a host that has it."""
    failures = [line for line in ours.program.log if line["event"] == "an entry point failed to load"]
    assert "entry point broken (no_such_module)" in {line["source"] for line in failures}
    command = [flytekit_python, "-c", "import flytekit"]
    env = {**os.environ, "PYTHONPATH": str(broken_plugin)}
    alone = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert "No module named 'no_such_module'" in alone.stderr, "else this needs no work of ours"
