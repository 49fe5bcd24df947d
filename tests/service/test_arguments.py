"""Which arguments reach a connector's methods."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import anyio
import pytest
from grpclib import GRPCError
from grpclib.const import Status

from connectrio import Phase, Resource
from connectrio.idl.flyteidl2.connector import GetTaskMetricsResponse
from connectrio.idl.flyteidl2.core import Connection, Literal
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.idl.google.protobuf import Duration, Timestamp
from connectrio.service.methods import ConnectorMethod, ConnectorMethods
from connectrio.service.operations import Operation
from service.harness import Complete, Job, Service, connector, log_lines, secrets

WITH_CONNECTION = ["create", "get", "delete"]
RESULTS: dict[str, Any] = {
    "create": Job("1"),
    "get": Resource(phase=Phase.RUNNING),
    "delete": None,
    "get_metrics": GetTaskMetricsResponse(),
    "get_logs": log_lines(),
}


def recording(operation: str) -> tuple[Service, dict[str, Any]]:
    """A service whose method for `operation` takes anything, and the arguments that it got."""
    seen: dict[str, Any] = {}

    async def method(self, **kwargs):
        seen.update(kwargs)
        return RESULTS[operation]

    return Service(connector(**{operation: method})), seen


@pytest.mark.parametrize("operation", WITH_CONNECTION)
async def test_secrets_and_configs_become_arguments_and_configs_win(operation):
    service, seen = recording(operation)
    connection = Connection(secrets={"token": "secret", "user": "me"}, configs={"token": "config", "api-host": "h"})
    await service.call(operation, connection=connection)
    assert {name: seen[name] for name in ("token", "user", "api-host")} == {
        "token": "config",
        "user": "me",
        "api-host": "h",
    }


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("create", "inputs"),
        ("create", "task_template"),
        ("create", "task_execution_metadata"),
        ("create", "output_prefix"),
        ("create", "self"),
        ("get", "resource_meta"),
        ("delete", "resource_meta"),
    ],
)
@pytest.mark.parametrize("kind", ["secrets", "configs"])
async def test_a_clash_with_a_parameter_of_the_hosts(operation, name, kind):
    service, seen = recording(operation)
    with pytest.raises(GRPCError) as caught:
        await service.call(operation, connection=Connection(**{kind: {name: "hunter2"}}))
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert caught.value.message.startswith(f"the connection has '{name}', a name that ")
    assert caught.value.message.endswith("rename it in the connection's secrets or configs")
    assert "hunter2" not in caught.value.message
    assert not seen
    assert service.count(operation, "400") == 1


async def test_output_prefix_clashes_only_where_get_takes_it():
    service, seen = recording("get")
    await service.get(connection=secrets(output_prefix="from the connection"), output_prefix="from the request")
    assert seen["output_prefix"] == "from the connection"

    async def get(self, resource_meta, output_prefix, **kwargs):
        return RESULTS["get"]

    with pytest.raises(GRPCError, match=r"the connection has 'output_prefix', a name that Tiny\.get needs"):
        await Service(connector(get=get)).get(connection=secrets(output_prefix="x"))


async def test_a_secret_that_the_method_does_not_take():
    async def get(self, resource_meta, *, token="", **_kwargs_are_not_here):
        return RESULTS["get"]

    async def strict(self, resource_meta, *, token=""):
        return RESULTS["get"]

    await Service(connector(get=get)).get(connection=secrets(other="x"))
    await Service(connector(get=strict)).get(connection=secrets(token="x"))
    with pytest.raises(GRPCError, match=r"has 'a', 'b', but Tiny\.get takes no such parameter") as caught:
        await Service(connector(get=strict)).get(connection=secrets(b="hunter2", a="x"))
    assert caught.value.status is Status.INVALID_ARGUMENT


async def test_a_secret_that_is_missing():
    async def get(self, resource_meta, *, api_key, **kwargs):
        return RESULTS["get"]

    with pytest.raises(GRPCError, match=r"Tiny\.get needs 'api_key', and the connection has no secret") as caught:
        await Service(connector(get=get)).get()
    assert caught.value.status is Status.INVALID_ARGUMENT


async def test_get_takes_the_output_prefix_by_name():
    seen = []

    async def get(self, resource_meta, output_prefix):
        seen.append((resource_meta, output_prefix))
        return RESULTS["get"]

    await Service(connector(get=get)).get(output_prefix="s3://bucket")
    service, kwargs = recording("get")
    await service.get(output_prefix="s3://bucket")
    assert seen == [(Job("7"), "s3://bucket")]
    assert kwargs == {"resource_meta": Job("7")}


async def test_get_logs_takes_token_and_lines():
    service, seen = recording("get_logs")
    await service.get_logs(token="t", lines=5)
    assert seen == {"resource_meta": Job("7"), "token": "t"}

    async def by_name(self, resource_meta, token, lines):
        return log_lines(f"{token} {lines}")

    async def neither(self, resource_meta):
        return log_lines("neither")

    [response] = await Service(connector(get_logs=by_name)).get_logs(token="t", lines=5)
    assert response.body.results == ["t 5"]
    [response] = await Service(connector(get_logs=neither)).get_logs(token="t", lines=5)
    assert response.body.results == ["neither"]


async def test_get_metrics_takes_queries_and_times():
    service, seen = recording("get_metrics")
    query = {
        "queries": ["cpu"],
        "start_time": Timestamp(seconds=60),
        "end_time": Timestamp(seconds=61, nanos=500_000_000),
        "step": Duration(seconds=1),
    }
    await service.get_metrics(**query)
    assert seen == {"resource_meta": Job("7")}

    async def get_metrics(self, resource_meta, queries, start_time, end_time, step):
        seen.update(queries=queries, start_time=start_time, end_time=end_time, step=step)
        return RESULTS["get_metrics"]

    await Service(connector(get_metrics=get_metrics)).get_metrics(**query)
    assert seen == {
        "resource_meta": Job("7"),
        "queries": ["cpu"],
        "start_time": datetime(1970, 1, 1, 0, 1, tzinfo=UTC),
        "end_time": datetime(1970, 1, 1, 0, 1, 1, 500_000, tzinfo=UTC),
        "step": timedelta(seconds=1),
    }
    await Service(connector(get_metrics=get_metrics)).get_metrics()
    assert (seen["queries"], seen["start_time"], seen["end_time"], seen["step"]) == ([], None, None, None)


async def test_a_connector_that_converts_inputs_itself_gets_them_as_they_came():
    seen = {}

    async def create(self, **kwargs):
        seen.update(kwargs)
        return RESULTS["create"]

    inputs = Inputs(literals=[NamedLiteral(name="x", value=Literal())])
    service = Service(connector(create=create, converts_inputs=True))
    await service.create(inputs=inputs)
    assert seen["inputs"] is inputs
    await service.create()
    assert seen["inputs"] is None


def with_retries(function):
    @wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


async def test_a_decorated_method_has_the_signature_of_what_it_wraps():
    @with_retries
    async def get(self, resource_meta, output_prefix):
        return Resource(phase=Phase.RUNNING, message=output_prefix)

    answer = await Service(connector(get=get)).get(output_prefix="s3://x")
    assert answer.resource.message == "s3://x"


async def test_methods_that_are_not_bound():
    class Static(Complete):
        @staticmethod
        async def get(resource_meta, **kwargs):
            return Resource(phase=Phase.RUNNING, message=str(kwargs))

        @classmethod
        def delete(cls, resource_meta, **kwargs):
            assert cls is Static

    service = Service(Static())
    assert (await service.get(connection=secrets(self="x"))).resource.message == "{'self': 'x'}"
    await service.delete()


async def test_a_method_may_return_anything_that_can_be_awaited():
    class Later:
        def __await__(self):
            yield from anyio.lowlevel.checkpoint().__await__()
            return Resource(phase=Phase.RUNNING, message="later")

    answer = await Service(connector(get=lambda self, resource_meta, **kwargs: Later())).get()
    assert answer.resource.message == "later"


def test_a_method_is_inspected_once():
    @dataclass
    class Unhashable(Complete):
        region: str = ""

    methods = ConnectorMethods()
    one, other = Unhashable(), Unhashable()
    assert methods.get(one, Operation.GET) is methods.get(one, Operation.GET)
    assert methods.get(one, Operation.GET) is not methods.get(other, Operation.GET)
    assert methods.get(one, Operation.GET).function.__self__ is one


def test_what_blocks():
    def plain(self, **kwargs):
        return None

    def generator(self, **kwargs):
        yield None

    async def agenerator(self, **kwargs):
        yield None

    async def coroutine(self, **kwargs):
        return None

    blocking = {
        function.__name__: ConnectorMethod.of(connector(get_logs=function), Operation.GET_LOGS).blocking
        for function in (plain, generator, agenerator, coroutine)
    }
    assert blocking == {"plain": True, "generator": False, "agenerator": False, "coroutine": False}
