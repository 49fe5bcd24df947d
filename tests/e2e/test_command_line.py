"""The ways to start a host: the command line of deployments, and the call in the documentation."""

from __future__ import annotations

import json
import re
import signal
import sys
from functools import partial
from pathlib import Path

from flyteidl2.connector.connector_pb2 import ListConnectorsRequest
from grpc import StatusCode

from e2e.client import fetch, order
from e2e.programs import CONNECTORS, CommandProgram

FLYTE_CONNECTOR = Path(sys.executable).with_name("flyte-connector")
RUN = """
from connectrio import ConnectorService

ConnectorService.run(
    port={}, prometheus_port={}, worker=10, timeout=None, modules=["probes"],
    host="127.0.0.1", backend="asyncio", grace={},
)
print("it returned", flush=True)
"""
HERE_ONLY = {"CONNECTRIO_HOST": "127.0.0.1"}
FINE = {**HERE_ONLY, "LIFESPAN": "fine"}


def c0(*options):
    """Return the command line of deployments with further options."""

    def command(port, exporter_port):
        return [
            FLYTE_CONNECTOR, "c0", "--port", port, "--prometheus_port", exporter_port, "--worker", "10", *options
        ]  # fmt: skip

    return command


def check_a_host_from_its_start_to_its_end(host):
    with host.ready().client() as client:
        assert host.wait_for_log("serving")["grpc"] == host.target
        meta = client.call("create").resource_meta
        assert json.loads(client.call("get", meta=meta).resource.message) == {}
        assert 'requests_success_total{operation="get",task_type="probe"} 1.0' in fetch(f"{host.url}/metrics")[1]
        call = client.start("get", meta=order("sleep", 0.5, id="flight"))
        host.wait_for("started", id="flight")
        host.send(signal.SIGTERM)
        assert call.result().resource.message
        assert host.wait() == 0
        assert "Traceback" not in host.errors


def test_the_command_of_deployments(backend):
    with CommandProgram(
        c0("--modules", "probes"), cwd=CONNECTORS, env={**HERE_ONLY, "CONNECTRIO_BACKEND": backend}
    ) as host:
        check_a_host_from_its_start_to_its_end(host)


def run_in_the_documentation(port, exporter_port, grace=60):
    return [sys.executable, "-c", RUN.format(port, exporter_port, grace)]


def test_the_call_in_the_documentation():
    with CommandProgram(run_in_the_documentation, cwd=CONNECTORS) as host:
        check_a_host_from_its_start_to_its_end(host)
        assert host.output.endswith("it returned\n")


def test_the_call_in_the_documentation_while_a_thread_is_stuck():
    run = partial(run_in_the_documentation, grace=1)
    with CommandProgram(run, cwd=CONNECTORS) as host, host.ready().client() as client:
        call = client.start("get", task_type="plain", meta=order("gate", id="stuck"))
        host.wait_for("started", id="stuck")
        host.send(signal.SIGTERM)
        assert call.exception().code() is StatusCode.UNAVAILABLE
        host.wait_for_output(re.compile("it returned"))


def test_the_command_of_deployments_while_a_thread_is_stuck():
    command = c0("--modules", "probes", "--grace", "1")
    with CommandProgram(command, cwd=CONNECTORS, env=HERE_ONLY) as host, host.ready().client() as client:
        call = client.start("get", task_type="plain", meta=order("gate", id="stuck"))
        host.wait_for("started", id="stuck")
        host.send(signal.SIGTERM)
        assert call.exception().code() is StatusCode.UNAVAILABLE
        assert host.wait() == 0
        assert "threads still run; the process ends without them" in host.errors


def test_several_modules():
    with CommandProgram(c0("--modules", "probes", "lifespans"), cwd=CONNECTORS, env=FINE) as host:
        assert {"probe", "holder"} <= task_types(host)


def task_types(host):
    with host.ready().client() as client:
        listed = client.connectors.ListConnectors(ListConnectorsRequest(), timeout=30).connectors
    return {category.name for connector in listed for category in connector.supported_task_categories}


def test_several_modules_one_by_one_and_a_second_signal():
    modules = ["--modules", "lifespans", "--modules", "probes"]
    with CommandProgram(c0(*modules), cwd=CONNECTORS, env=FINE) as host, host.ready().client() as client:
        assert {"probe", "holder"} <= task_types(host)
        call = client.start("get", task_type="plain", meta=order("gate", id="stuck"))
        host.wait_for("started", id="stuck")
        host.send(signal.SIGINT)
        host.wait_for_log("draining")
        host.send(signal.SIGINT)
        assert host.wait() == 128 + signal.SIGINT
        assert call.exception().code() is StatusCode.UNAVAILABLE
