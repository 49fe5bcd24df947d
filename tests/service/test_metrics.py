"""The metrics are flyte-sdk's, to the letter."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flyteidl2.connector import connector_pb2
from grpclib import GRPCError
from grpclib.const import Status
from hypothesis import HealthCheck, given, settings
from prometheus_client import (
    REGISTRY,
    Counter,
    disable_created_metrics,
    enable_created_metrics,
    generate_latest,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

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
from connectrio.service.metrics import DURATION_BUCKETS, HTTP_CODES, Metrics
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
        # those that the client of Prometheus adds: programs of other tests count in the default registry, too
        return [line for line in lines if line.split()[2].startswith(("python_", "process_"))]

    assert families(Metrics().registry) == families(REGISTRY) != []


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


def buckets(metrics: Metrics, **labels: str) -> list[float]:
    """Return how many calls took at most as long as each bound."""
    sample = metrics.registry.get_sample_value
    bounds = [*map(str, DURATION_BUCKETS), "+Inf"]
    found = [sample("connectrio_request_duration_seconds_bucket", {**labels, "le": bound}) for bound in bounds]
    assert None not in found
    return found


def test_durations_are_in_the_bucket_of_the_next_bound():
    metrics = Metrics()
    labels = {"task_type": "tiny", "operation": "get"}
    for status, seconds in (
        (Status.OK, 0.0),
        (Status.OK, 0.001),
        (Status.INTERNAL, 0.0011),
        (Status.UNAVAILABLE, 60.0),
        (Status.OK, 60.1),
    ):
        metrics.request_ended("tiny", "get", status, seconds)
    assert buckets(metrics, **labels) == [2, *[3] * (len(DURATION_BUCKETS) - 2), 4, 5]
    sample = metrics.registry.get_sample_value
    for name in ("connectrio_request_duration_seconds", "flyte_connector_request_latency_seconds"):
        assert sample(f"{name}_count", labels) == 5
        assert sample(f"{name}_sum", labels) == pytest.approx(120.1021)
    assert sample("flyte_connector_requests_success_total", labels) == 3
    for code in ("500", "503"):
        assert sample("flyte_connector_requests_failure_total", {**labels, "error_code": code}) == 1


def test_statuses_with_one_http_code_are_one_series():
    metrics = Metrics()
    for status in (Status.INVALID_ARGUMENT, Status.OUT_OF_RANGE):
        metrics.request_ended("tiny", "get", status, 0.1)
    labels = {"task_type": "tiny", "operation": "get", "error_code": "400"}
    assert metrics.registry.get_sample_value("flyte_connector_requests_failure_total", labels) == 2


def test_calls_that_failed_and_were_answered_are_no_errors_of_clients():
    metrics = Metrics()
    for is_answered in (True, False, True):
        metrics.request_ended("tiny", "get", Status.UNAVAILABLE, 0.1, is_answered=is_answered)
    labels = {"task_type": "tiny", "operation": "get", "error_code": "503"}
    assert metrics.registry.get_sample_value("flyte_connector_requests_failure_total", labels) == 3
    assert metrics.registry.get_sample_value("connectrio_client_errors_total", labels) == 1


def test_openmetrics_shows_the_last_exemplar_of_each_bucket():
    metrics = Metrics()
    for status, seconds, name in (
        (Status.OK, 0.02, "first"),
        (Status.INTERNAL, 0.021, "last"),
        (Status.OK, 3.0, "slow"),
        (Status.OK, 20.0, "x" * 121),
    ):
        metrics.request_ended("tiny", "get", status, seconds, exemplar={"trace_id": name})
    metrics.request_ended("tiny", "get", Status.OK, 0.022)
    text = generate_openmetrics(metrics.registry).decode()
    (family,) = [each for each in openmetrics(text) if each.name == "connectrio_request_duration_seconds"]
    shown = {
        sample.labels["le"]: (sample.exemplar.labels["trace_id"], sample.exemplar.value)
        for sample in family.samples
        if sample.exemplar
    }
    assert shown == {"0.025": ("last", 0.021), "5.0": ("slow", 3.0)}
    assert "trace_id" not in generate_latest(metrics.registry).decode()


def test_no_family_has_a_time_of_creation_where_that_is_turned_off():
    metrics = Metrics()
    metrics.request_ended("tiny", "get", Status.OK, 0.1)
    metrics.request_ended("tiny", "get", Status.INTERNAL, 0.1)
    assert len(re.findall(rb"^flyte_\w+_created{", generate_latest(metrics.registry), re.MULTILINE)) == 3
    disable_created_metrics()
    try:
        assert b"_created" not in generate_latest(metrics.registry)
    finally:
        enable_created_metrics()


def test_errors_of_the_other_system_are_counted_by_kind():
    metrics = Metrics()
    for _ in range(2):
        metrics.vendor_failed("tiny", "get", "throttled")
    labels = {"task_type": "tiny", "operation": "get", "kind": "throttled"}
    assert metrics.registry.get_sample_value("connectrio_vendor_errors_total", labels) == 2


def test_scrapes_while_calls_end():
    """What a scrape shows is whole, and no scrape fails, whatever ends meanwhile in the event loop's thread."""
    metrics, done = Metrics(), threading.Event()

    def scrape():
        while not done.is_set():
            list(openmetrics(generate_openmetrics(metrics.registry).decode()))

    with ThreadPoolExecutor(1) as threads:
        scraping = threads.submit(scrape)
        for number in range(3000):
            status = Status.OK if number % 3 else Status.INTERNAL
            metrics.request_ended(f"type {number % 50}", "get", status, number % 7, exemplar={"trace_id": str(number)})
        done.set()
        scraping.result()


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
