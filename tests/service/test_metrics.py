"""The metrics are flyte-sdk's, to the letter."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from flyteidl2.connector import connector_pb2
from grpclib import GRPCError
from grpclib.const import Status
from hypothesis import HealthCheck, given, settings
from prometheus_client import REGISTRY, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import (
    Literal,
    LiteralType,
    Primitive,
    Scalar,
    SimpleType,
    TaskTemplate,
    TypedInterface,
    Variable,
    VariableEntry,
    VariableMap,
)
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.service.metrics import HTTP_CODES, Metrics
from idl.messages import messages
from service.harness import OPERATIONS, Complete, Job, Service, failing, secrets

# what flyte 2.12.1 exposes after the calls that `the_recorded_calls` makes; times and durations are replaced by "*"
RECORDED = Path(__file__).parent / "recorded"

FIVE = Inputs(literals=[NamedLiteral(name="a", value=Literal(scalar=Scalar(primitive=Primitive(integer=5))))])
TAKES_AN_INTEGER = TaskTemplate(
    type="tiny",
    interface=TypedInterface(
        inputs=VariableMap(
            variables=[VariableEntry(key="a", value=Variable(type=LiteralType(simple=SimpleType.INTEGER)))]
        )
    ),
)


class Recorded(Complete):
    async def create(self, task_template, output_prefix, **kwargs):
        if "fail" in kwargs:
            raise ValueError("boom")
        return Job("1")

    async def get(self, resource_meta, **kwargs):
        if resource_meta.id == "bad":
            raise RuntimeError("no such job")
        return await super().get(resource_meta, **kwargs)

    async def delete(self, resource_meta, **kwargs):
        if resource_meta.id == "bad":
            raise RuntimeError("no such job")


async def the_recorded_calls() -> Service:
    service = Service(Recorded())
    bad = Job("bad").encode()
    await service.create()
    await service.create(template=TAKES_AN_INTEGER, inputs=FIVE)
    with pytest.raises(GRPCError):
        await service.create(connection=secrets(fail="v"))
    await service.get()
    await service.get()
    for operation in (service.get, service.delete):
        if operation == service.delete:
            await service.delete()
        with pytest.raises(GRPCError):
            await operation(resource_meta=bad)
    return service


def without_times(exposition: str) -> list[str]:
    lines = [line for line in exposition.splitlines() if "flyte_connector" in line]
    return [re.sub(r"(_created|latency_seconds_sum)(\{.*\}) .*", r"\1\2 *", line) for line in lines]


@pytest.mark.parametrize(
    ("generate", "recorded"),
    [(generate_latest, "exposition.txt"), (generate_openmetrics, "exposition.openmetrics")],
)
async def test_the_exposition_is_flyte_sdks(generate, recorded):
    service = await the_recorded_calls()
    ours = without_times(generate(service.metrics.registry).decode())
    assert ours == (RECORDED / recorded).read_text().splitlines()


def test_the_families_of_the_default_registry_are_there():
    def families(registry) -> list[str]:
        text = generate_latest(registry).decode()
        lines = [line for line in text.splitlines() if line.startswith("#")]
        return [line for line in lines if "flyte_connector" not in line and " connectrio_" not in line]

    assert families(Metrics().registry) == families(REGISTRY)


async def test_two_hosts_in_one_process_count_apart():
    one, other = Service(), Service()
    await one.get()
    assert (one.count("get"), other.count("get")) == (1, 0)


def test_further_collectors_may_be_registered():
    metrics = Metrics()
    Counter("mine_total", "Of somebody else", registry=metrics.registry).inc()
    assert metrics.registry.get_sample_value("mine_total") == 1


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_clients_cannot_make_series_up(operation):
    service = Service()
    for name in ("a", "b" * 1000, ""):
        with pytest.raises(GRPCError):
            await service.call(operation, name)
    with pytest.raises(GRPCError):
        await service.call(operation, "tiny", 7)
    assert service.count(operation, "404", "unregistered") == 3
    # the version is no label, and this one is the type of a connector
    assert service.count(operation, "404", "tiny") == 1


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fails", [False, True])
async def test_latency_is_observed_for_successes_and_failures(operation, fails):
    service = Service(failing(lambda: ValueError("boom"))) if fails else Service()
    began = time.perf_counter()
    if fails:
        with pytest.raises(GRPCError):
            await service.call(operation)
    else:
        await service.call(operation)
    passed = time.perf_counter() - began
    labels = {"task_type": "tiny", "operation": operation}
    sample = service.metrics.registry.get_sample_value
    assert sample("flyte_connector_request_latency_seconds_count", labels) == 1
    assert 0 < sample("flyte_connector_request_latency_seconds_sum", labels) <= passed


async def test_inputs_are_measured_at_every_create():
    service = Service()
    sample = service.metrics.registry.get_sample_value
    await service.create()
    await service.create(inputs=Inputs())
    assert sample("flyte_connector_input_literal_bytes_count", {"task_type": "tiny"}) == 2
    assert sample("flyte_connector_input_literal_bytes_sum", {"task_type": "tiny"}) == 0
    with pytest.raises(GRPCError):
        await service.create("nope", inputs=FIVE)
    assert sample("flyte_connector_input_literal_bytes_count", {"task_type": "unregistered"}) == 1
    assert sample("flyte_connector_input_literal_bytes_sum", {"task_type": "unregistered"}) == 13


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request=messages(connector_pb2.CreateTaskRequest))
def test_inputs_have_the_size_that_protobuf_gives_them(request):
    ours = CreateTaskRequest.parse(request.SerializeToString()).inputs
    assert (0 if ours is None else len(bytes(ours))) == request.inputs.ByteSize()


# by gRPC's number of the status; the comments of google/rpc/code.proto name them
SAME_IN_HTTP = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401]


def test_every_status_has_an_http_code():
    assert [HTTP_CODES[status] for status in sorted(Status, key=lambda status: status.value)] == SAME_IN_HTTP
