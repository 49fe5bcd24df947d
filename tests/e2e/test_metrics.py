"""The exposition: the same names, labels and texts as flyte-sdk's, and additional metrics."""

from __future__ import annotations

import re
import urllib.request
from contextlib import suppress

import grpc
import pytest
from flyteidl2.core.literals_pb2 import Literal, Primitive, Scalar
from flyteidl2.core.tasks_pb2 import TaskTemplate
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral
from prometheus_client.parser import text_string_to_metric_families

from e2e.client import Client, fetch, order
from e2e.programs import eventually

FAMILIES = [
    "# HELP flyte_connector_requests_success_total Total number of successful requests",
    "# TYPE flyte_connector_requests_success_total counter",
    "# HELP flyte_connector_requests_failure_total Total number of failed requests",
    "# TYPE flyte_connector_requests_failure_total counter",
    "# HELP flyte_connector_request_latency_seconds Time spent processing connector request",
    "# TYPE flyte_connector_request_latency_seconds summary",
    "# HELP flyte_connector_input_literal_bytes Size of input literal",
    "# TYPE flyte_connector_input_literal_bytes summary",
]
TIMES = re.compile(r"_created\{|_seconds_sum\{")
UNKNOWN = {"version": 7}
REFUSED = {"meta": order("raise", "ValueError")}


def exposition(url):
    status, text = fetch(f"{url}/metrics")
    assert status == 200
    return text


def without_times(text):
    """Return the lines for the calls of this module and the families, without times and dates."""
    lines = [line for line in text.splitlines() if "flyte_" in line and ("# " in line or '"metered"' in line)]
    return [line.rpartition(" ")[0] if TIMES.search(line) else line for line in lines]


@pytest.fixture(scope="session")
def metered(running):
    """Make the same calls on a host once. Return its exposition."""
    expositions = {}

    def get(name):
        if name not in expositions:
            host = running(name)
            with Client(host.target) as client:
                make_calls(client)
            expositions[name] = exposition(host.url)
        return expositions[name]

    return get


def make_calls(client):
    value = Literal(scalar=Scalar(primitive=Primitive(integer=7)))
    undeclared = Inputs(literals=[NamedLiteral(name="x", value=value)])
    template = TaskTemplate(type="metered", task_type_version=7)
    for fields in ({}, {}, REFUSED, UNKNOWN, {"template": template, "inputs": undeclared}):
        ignoring_errors(client, "create", task_type="metered", **fields)
    for operation in ("get", "delete"):
        for fields in ({}, REFUSED, REFUSED, UNKNOWN):
            ignoring_errors(client, operation, task_type="metered", **fields)


def ignoring_errors(client, operation, **fields):
    with suppress(grpc.RpcError):
        client.call(operation, **fields)


def test_the_four_families(metered, backend):
    lines = metered(backend).splitlines()
    about_families = [line for line in lines if line.startswith("# ") and "flyte_" in line and "_created" not in line]
    assert about_families == FAMILIES


def test_the_exposition_is_flyte_sdks(metered, backend):
    assert without_times(metered(backend)) == without_times(metered("flyte-sdk"))


def test_all_families_are_flyte_sdks(metered, backend):
    def names(text):
        found = [family.name for family in text_string_to_metric_families(text)]
        return [name for name in found if not name.startswith("connectrio_")]

    assert names(metered(backend)) == names(metered("flyte-sdk"))


# additional metrics


def counted(host, name, **labels):
    """Return the value of a sample; 0 if there is none."""
    for family in text_string_to_metric_families(exposition(host.url)):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


@pytest.mark.parametrize("operation", ["get_metrics", "get_logs"])
def test_metrics_and_logs_are_counted(host, client, operation):
    labels = {"task_type": "bare", "operation": operation, "error_code": "501"}
    before = counted(host, "flyte_connector_requests_failure_total", **labels)
    ignoring_errors(client, operation, task_type="bare")
    assert counted(host, "flyte_connector_requests_failure_total", **labels) == before + 1
    del labels["error_code"]
    labels["task_type"] = "probe"
    before = counted(host, "flyte_connector_requests_success_total", **labels)
    client.call(operation)
    assert counted(host, "flyte_connector_requests_success_total", **labels) == before + 1


def test_clients_cannot_make_up_labels(host, client):
    labels = {"task_type": "unregistered", "operation": "get", "error_code": "404"}
    before = counted(host, "flyte_connector_requests_failure_total", **labels)
    for name in ("made up", "another"):
        ignoring_errors(client, "get", task_type=name)
    assert counted(host, "flyte_connector_requests_failure_total", **labels) == before + 2
    assert "made up" not in exposition(host.url)


@pytest.mark.parametrize(
    ("fields", "code"), [({"meta": b"junk"}, "400"), ({"meta": order("raise", "NotImplementedError")}, "501")]
)
def test_codes_of_errors(host, client, fields, code):
    labels = {"task_type": "probe", "operation": "get", "error_code": code}
    before = counted(host, "flyte_connector_requests_failure_total", **labels)
    ignoring_errors(client, "get", **fields)
    assert counted(host, "flyte_connector_requests_failure_total", **labels) == before + 1


def test_the_code_of_a_cancelled_call(host, client):
    labels = {"task_type": "probe", "operation": "get", "error_code": "499"}
    before = counted(host, "flyte_connector_requests_failure_total", **labels)
    call = client.start("get", meta=order("sleep", 60, id="counted"))
    host.wait_for("started", id="counted")
    call.cancel()
    eventually(lambda: counted(host, "flyte_connector_requests_failure_total", **labels) == before + 1)


def test_openmetrics_for_those_who_ask(host):
    request = urllib.request.Request(f"{host.url}/metrics", headers={"Accept": "application/openmetrics-text"})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert response.read().endswith(b"# EOF\n")
