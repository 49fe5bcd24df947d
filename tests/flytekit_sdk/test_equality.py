"""A connector for flytekit gets the same arguments here and gives the same answers as in `pyflyte serve connector`."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from flyteidl.admin.agent_pb2 import GetAgentRequest, ListAgentsRequest
from hypothesis import HealthCheck, given, settings

from flytekit_sdk.client import outcome, task
from flytekit_sdk.requests import creates, orders
from flytekit_sdk.table import SUCCEEDED, meta, raising

CREATES, GETS, EXECUTIONS = 300, 300, 100
"""How many requests of each kind are generated."""

ARGUMENTS = ["task_template", "inputs", "output_prefix", "task_execution_metadata"]
MIRRORS = (("mirror", 0), ("plain_mirror", 0), ("plain_mirror", 1))


def generated(count):
    return settings(max_examples=count, suppress_health_check=list(HealthCheck), deadline=None)


def same(answer, theirs):
    # compared as bytes, because NaN is not equal to itself
    assert not isinstance(theirs, tuple), theirs
    assert not isinstance(answer, tuple), answer
    assert answer.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def told(answer):
    """Return the arguments that the mirror has been given."""
    return json.loads(json.loads(answer.resource_meta)["said"])


def test_what_create_is_given(ours, reference):
    numbers = itertools.count()

    @generated(CREATES)
    @given(creates(*MIRRORS))
    def compare(request):
        for create in (ours.create, ours.create_for_flyte_2):
            if request.task_execution_metadata.HasField("task_execution_id"):
                # a job of its own: this host answers a request for the same job with the first one's answer
                node = request.task_execution_metadata.task_execution_id.node_execution_id
                node.node_id = f"n{next(numbers)}"
            theirs = outcome(reference.create, request)
            assert not isinstance(theirs, tuple), theirs
            assert told(outcome(create, request)) == told(theirs)
        assert [name for name, _ in told(theirs)] == [
            "task_template",
            "inputs",
            "output_prefix",
            "task_execution_metadata",
        ]

    compare()


def test_what_get_returns(ours, reference):
    @generated(GETS)
    @given(orders())
    def compare(order):
        for task_type in ("mirror", "plain_mirror"):
            theirs = outcome(reference.get, task_type, meta(order))
            same(outcome(ours.get, task_type, meta(order)), theirs)
            same(outcome(ours.get_by_type, task_type, meta(order)), theirs)

    compare()


def test_what_do_is_given_and_returns(ours, reference):
    @generated(EXECUTIONS)
    @given(creates(("immediate", 2)), orders(phases=(3, 4, 5, 8)))
    def compare(request, order):
        request.ClearField("task_execution_metadata")  # as above; and `do` is not given it
        for prefix in (request.output_prefix, order):
            request.output_prefix = prefix
            theirs = outcome(reference.execute, request)
            same(outcome(ours.execute, request), theirs)

    compare()


def test_deletes_and_the_rest(ours, reference):
    for client in (ours, reference):
        client.delete("mirror", meta('{"phase": 3}'))
        client.delete("plain_mirror", meta('{"phase": 3}'))
        client.delete("bare", meta(""))
    same(ours.get_metrics("mirror", meta('{"phase": 3}')), reference.get_metrics("mirror", meta('{"phase": 3}')))
    request = task("bare")
    same(ours.create(request), reference.create(request))


def test_secrets_come_from_the_environment(ours, reference):
    theirs = reference.execute(task("plain_immediate"))
    assert theirs.outputs.literals["secret"].scalar.primitive.string_value == "s3cret"
    same(ours.execute(task("plain_immediate")), theirs)


def test_sync_connectors_for_executors_that_poll(ours):
    created = ours.create_for_flyte_2(task("immediate", '{"phase": 3, "message": "m", "outputs": {"a": 1}}', 2))
    resource = ours.get("immediate", created.resource_meta, 2).resource
    assert (resource.phase, resource.message) == (3, "m")
    assert resource == ours.execute(task("immediate", '{"phase": 3, "message": "m", "outputs": {"a": 1}}', 2))


def test_each_call_has_its_own_contexts_of_flytekit(ours):
    with ThreadPoolExecutor(2) as threads:
        polls = [threads.submit(ours.get, "nested", meta("")) for _ in range(2)]
    assert [poll.result().resource.message for poll in polls] == ["True", "True"]


@pytest.mark.parametrize("operation", ["get", "get_by_type", "do"])
def test_a_connector_that_ends_the_process_ends_its_call(ours, operation):
    """flytekit's own host would end; its plugin for Slurm calls sys.exit when it cannot connect."""
    order = raising("SystemExit")
    if operation == "do":
        found = outcome(ours.execute, task("immediate", order, 2))
    else:
        task_type = "mirror" if operation == "get" else "plain_mirror"
        found = outcome(getattr(ours, operation), task_type, meta(order))
    assert found[0] is grpc.StatusCode.INTERNAL
    assert ours.get("mirror", meta(SUCCEEDED)).resource.phase == 3


def test_what_flytekit_logs_are_lines_of_the_log(ours):
    ours.delete("bare", meta(""))
    line = next(line for line in ours.program.log if line["event"].startswith("deleted with a line that is longer"))
    assert line["event"].endswith(80 * "x"), "not cut into lines of a terminal"
    assert (line["level"], line["logger"], line["task_type"]) == ("warning", "flytekit", "bare")


def agents(client):
    return {agent.name: agent for agent in client.agents.ListAgents(ListAgentsRequest(), timeout=60).agents}


def test_the_same_agents_are_listed(ours, reference):
    theirs = agents(reference)
    assert {"Mirror", "Immediate", "Sensor", "Webhook Connector"} <= theirs.keys()
    assert agents(ours) == theirs
    for name in theirs:
        request = GetAgentRequest(name=name)
        assert ours.agents.GetAgent(request) == reference.agents.GetAgent(request)


PUBLISHED = {
    "Bigquery Connector": {"bigquery_query_job_task"},
    "ChatGPT Connector": {"chatgpt"},
    "Databricks Connector": {"spark", "databricks"},
    "MMCloud Connector": {"mmcloud_task"},
    "OpenAI Batch Endpoint Connector": {"openai-batch"},
    "Perian Connector": {"perian_task"},
    "SageMaker Training Job Connector": {"sagemaker-training-job"},
    "Slurm Function Connector": {"slurm_fn"},
    "Slurm Script Connector": {"slurm"},
    "Snowflake Connector": {"snowflake"},
}


def test_published_plugins_are_loaded(ours):
    found = agents(ours)
    for name, types in PUBLISHED.items():
        assert {category.name for category in found[name].supported_task_categories} == types
    assert found["ChatGPT Connector"].is_sync


RAISED = [
    ("ValueError", "INTERNAL"),
    ("KeyError", "INTERNAL"),
    ("FlyteUserException", "INTERNAL"),
]


@pytest.mark.parametrize(("kind", "code"), RAISED)
@pytest.mark.parametrize("operation", ["get", "delete", "do"])
def test_errors_have_the_same_status(ours, reference, kind, code, operation):
    order = raising(kind)

    def ask(client):
        if operation == "do":
            return client.execute(task("immediate", order, 2))
        return getattr(client, operation)("mirror", meta(order))

    for client in (ours, reference):
        found, text = outcome(ask, client)
        assert found is grpc.StatusCode[code]
        assert "the disk is full" in text
