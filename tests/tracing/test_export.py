"""Spans on their way to a collector: over OTLP/HTTP, from programs of their own, because a process has one provider."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult
from structlog.testing import capture_logs

from connectrio import HostSettings
from connectrio.host.host import Host, HostError
from connectrio.tracing import _export
from processes.hosts import Processes
from rpc.kit.serving import held_port
from tracing.receiver import hanging, receiving

TESTS = Path(__file__).parents[1]
BACKENDS = ["asyncio", "uvloop", "trio"]

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def run(backend: str, *calls: int, **variables: str) -> str:
    """Run the program; what it has printed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment = {**own, "PYTHONPATH": str(TESTS), **variables}
    ran = subprocess.run(
        [sys.executable, "-W", "error", TESTS / "tracing" / "program.py", backend, *map(str, calls)],
        check=False, capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    return ran.stdout


@each_backend
def test_a_collector_gets_the_spans(backend):
    with receiving() as receiver:
        output = run(backend, 2, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_RESOURCE_ATTRIBUTES="team=data")
    assert sorted(span.name for span in receiver.spans) == [
        "Tiny.create", "Tiny.create",
        "flyteidl2.connector.AsyncConnectorService/CreateTask", "flyteidl2.connector.AsyncConnectorService/CreateTask",
    ]  # fmt: skip
    by_id = {span.span_id: span for span in receiver.spans}
    for method in (span for span in receiver.spans if span.name == "Tiny.create"):
        assert by_id[method.parent_span_id].trace_id == method.trace_id
    [resource] = receiver.resources
    assert resource["service.name"] == "connectrio"
    assert resource["team"] == "data"
    assert "WARNING" not in output


@pytest.mark.parametrize(
    "variables", [{"OTEL_SERVICE_NAME": "mine"}, {"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine"}]
)
def test_the_name_of_the_service_is_the_operator_s(variables):
    with receiving() as receiver:
        run("asyncio", 1, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, **variables)
    assert [resource["service.name"] for resource in receiver.resources] == ["mine"]


def test_the_sampler_is_the_operator_s():
    with receiving() as receiver:
        run("asyncio", 1, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_TRACES_SAMPLER="always_off")
    assert receiver.spans == []


def test_hosts_one_after_the_other_both_export():
    with receiving() as receiver:
        run("asyncio", 1, 1, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert [len(request.resource_spans[0].scope_spans[0].spans) for request in receiver.requests] == [2, 2]


@each_backend
def test_a_collector_that_hangs_does_not_hold_up_the_end(backend):
    with hanging() as url:
        # an hour: longer than a test may take
        output = run(backend, 1, OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_TIMEOUT="3600")
    assert "the last spans were not exported in time" in output
    assert output.index("not exported in time") < output.index("the host has stopped")


@each_backend
def test_a_collector_that_is_gone_is_one_line(backend):
    with held_port() as port:
        output = run(backend, 3, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_BSP_SCHEDULE_DELAY="10")
    lines = [line for line in output.splitlines() if line.startswith(("WARNING", "ERROR"))]
    ours = [line for line in lines if "spans" in line]
    assert all("connectrio.tracing" in line for line in ours), lines
    assert 1 <= len(ours) <= 2  # and that the last ones came too late
    assert "the host has stopped" in output


def test_failures_are_logged_when_they_begin_and_when_they_end(monkeypatch):
    results = [SpanExportResult.SUCCESS, *[SpanExportResult.FAILURE] * 3, *[SpanExportResult.SUCCESS] * 2]

    def export(self: OTLPSpanExporter, spans: Any) -> SpanExportResult:
        result = results.pop(0)
        if result is SpanExportResult.FAILURE:
            own = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
            own.warning("connection %s", "refused")
            own.error("giving up")
        return result

    monkeypatch.setattr(OTLPSpanExporter, "export", export)
    exporter = _export._Exporter()
    with capture_logs() as lines:
        while results:
            exporter.export([object()] * 5)  # type: ignore[list-item]
    begin, end = lines
    assert (begin["event"], begin["reason"]) == ("spans cannot be exported, and are lost", "connection refused")
    assert (end["event"], end["lost"]) == ("spans are exported again", 15)
    exporter.shutdown()


async def test_without_opentelemetry_the_host_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "connectrio.tracing", None)
    with pytest.raises(HostError, match=r"pip install 'connectrio\[otel\]'"):
        await Host(HostSettings(tracing=True, port=0, prometheus_port=0, entry_points=False)).serve()


def test_a_wrong_variable_ends_the_start_and_says_what_is_wrong():
    command = [sys.executable, "-m", "connectrio", "serve", "--tracing", "--port", "0", "--prometheus-port", "0"]
    environment = {**os.environ, "OTEL_PROPAGATORS": "nonsense"}
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
    assert ran.returncode != 0
    assert "tracing cannot be set up" in ran.stderr
    assert "nonsense" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_each_of_several_processes_exports_its_own():
    with receiving() as receiver:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        with Processes("asyncio", "--tracing", env=environment) as program, ExitStack() as stack:
            clients = program.ready().clients_of_all(stack)
            stack.close()
            program.send(signal.SIGTERM)
            assert program.wait() == 0
    assert {resource["process.pid"] for resource in receiver.resources} == {str(pid) for pid in clients}
    assert len([span for span in receiver.spans if span.name.endswith("/GetTask")]) == program.calls
