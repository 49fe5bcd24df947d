"""The spans of calls: which there are, in which trace, and what they say."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from opentelemetry import baggage, propagate, trace
from opentelemetry.trace import SpanKind, StatusCode

from connectrio import Phase, Resource, TransientError
from connectrio._version import __version__
from connectrio.diagnostics import current_trace
from connectrio.flyte import HostedConnector
from connectrio.rpc import Channel
from connectrio.service.errors import DeliveryError
from connectrio.service.methods import ConnectorMethod
from connectrio.service.metrics import Metrics
from connectrio.service.operations import Operation, TaskCall
from connectrio.service.telemetry import CallRecord
from connectrio.telemetry.account import Account
from connectrio.tracing import method_span, on_channel_call
from flyte_sdk.harness import connector as flyte_connector
from flyte_sdk.harness import log_lines as flyte_log_lines
from rpc.kit.serving import eventually
from service.harness import Job, connector, log_lines, secrets
from tracing.harness import SERVICE, Spans, hosted, is_child

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "tracing.md"
SECRET = "hunter2-and-more"
# what another program sends: version, trace, span, and whether it is sampled
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def traceparent(*, sampled: bool = True) -> str:
    return f"00-{TRACE}-{PARENT}-{'01' if sampled else '00'}"


def own_span(headers: dict[str, str] | None = None) -> None:
    """What an instrumented HTTP client does: a span, and its context in the headers of the request."""
    with trace.get_tracer("of the connector").start_as_current_span("own"):
        propagate.inject({} if headers is None else headers)


async def test_a_call_is_three_spans_one_in_the_other(spans: Spans):
    tiny = connector()
    async with hosted(tiny) as host:
        await host.create(timeout=3600)
    client, server, method = spans.of(SpanKind.CLIENT), spans.of(SpanKind.SERVER), spans.of(SpanKind.INTERNAL)
    assert client.parent is None
    assert is_child(server, client)
    assert is_child(method, server)
    assert client.name == server.name == f"{SERVICE}CreateTask"
    assert method.name == "Tiny.create"
    assert client.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}CreateTask",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": host.port,
    }
    port = server.attributes["client.port"]
    task = {
        "flyte.task_type": "tiny",
        "flyte.task_type_version": 0,
        "flyte.project": "p",
        "flyte.domain": "d",
        "flyte.execution": "run",
        "flyte.node": "n0",
        "flyte.attempt": 0,
        "flyte.key": server.attributes["flyte.key"],
    }
    assert server.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}CreateTask",
        "rpc.response.status_code": "OK",
        "user_agent.original": f"grpc-python-connectrio/{__version__}",
        "client.address": "127.0.0.1",
        "client.port": port,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": port,
        **task,
    }
    assert method.attributes == {
        **task,
        "flyte.operation": "create",
        "code.function.name": f"{type(tiny).__module__}.Tiny.create",
    }
    assert [span.status.status_code for span in spans.all] == [StatusCode.UNSET] * 3


async def test_the_trace_of_another_program_goes_on(spans: Spans):
    seen = []

    async def get(self, resource_meta, **kwargs):
        seen.append(baggage.get_baggage("tenant"))
        return Resource(phase=Phase.RUNNING)

    metadata = {"traceparent": traceparent(), "tracestate": "vendor=1", "baggage": "tenant=blue"}
    async with hosted(connector(get=get), traced_channel=False) as host:
        await host.get(metadata=metadata)
    server = spans.of(SpanKind.SERVER)
    assert server.parent is not None
    assert trace.format_trace_id(server.context.trace_id) == TRACE
    assert trace.format_span_id(server.parent.span_id) == PARENT
    assert server.context.trace_state.get("vendor") == "1"
    assert seen == ["blue"]


async def test_a_trace_that_is_not_sampled_is_not_exported_here_either(spans: Spans):
    seen = []

    async def get(self, resource_meta, **kwargs):
        seen.append(current_trace())
        return Resource(phase=Phase.RUNNING)

    async with hosted(connector(get=get), traced_channel=False) as host:
        await host.get(metadata={"traceparent": traceparent(sampled=False)})
    assert spans.all == []
    assert seen == [None]


@pytest.mark.parametrize("malformed", ["", "00-zz-zz-01", "x" * 2000, f"ff-{TRACE}-{PARENT}-01"])
async def test_a_malformed_context_begins_a_new_trace(spans: Spans, malformed):
    async with hosted(connector(), traced_channel=False) as host:
        await host.get(metadata={"traceparent": malformed})
    assert spans.of(SpanKind.SERVER).parent is None


def plain_get(self, resource_meta, **kwargs):
    own_span(headers := {})
    self.seen = headers, current_trace()
    return Resource(phase=Phase.RUNNING)


async def async_get(self, resource_meta, **kwargs):
    await anyio.lowlevel.checkpoint()
    await to_thread.run_sync(own_span, headers := {})
    self.seen = headers, current_trace()
    return Resource(phase=Phase.RUNNING)


@pytest.mark.parametrize("get", [plain_get, async_get])
async def test_what_a_connector_does_joins_the_trace(spans: Spans, get):
    tiny: Any = connector(get=get)
    async with hosted(tiny) as host:
        await host.get()
    method = spans.of(SpanKind.INTERNAL)
    [own] = spans.named("own")
    assert is_child(own, method)
    headers, ids = tiny.seen
    trace_id, span_id = trace.format_trace_id(own.context.trace_id), trace.format_span_id(own.context.span_id)
    assert headers["traceparent"].startswith(f"00-{trace_id}-{span_id}-")
    assert ids == (trace_id, trace.format_span_id(method.context.span_id))
    assert current_trace() is None


async def test_a_connector_for_flyte_sdk_joins_the_trace(spans: Spans):
    async def get(self, resource_meta, **kwargs):
        from flyte.connectors import Resource
        from flyteidl2.core.execution_pb2 import TaskExecution

        own_span()
        return Resource(phase=TaskExecution.RUNNING, message="here")

    async def get_logs(self, resource_meta, token="", **kwargs):
        own_span()
        yield flyte_log_lines("a line")

    async with hosted(HostedConnector.of(flyte_connector(get=get, get_logs=get_logs))) as host:
        assert (await host.get()).resource.message == "here"
        assert await host.logs() == ["a line"]
    owns = spans.named("own")
    methods = spans.named("Tiny.get") + spans.named("Tiny.get_logs")
    assert len(owns) == len(methods) == 2
    assert all(map(is_child, owns, methods))
    assert methods[0].attributes["code.function.name"] == "flyte_sdk.harness.Tiny.get"


async def async_lines(self, resource_meta, **kwargs):
    for line in "ab":
        own_span()
        yield log_lines(line)


def plain_lines(self, resource_meta, **kwargs):
    for line in "ab":
        own_span()
        yield log_lines(line)


@pytest.mark.parametrize("get_logs", [async_lines, plain_lines])
async def test_the_span_of_a_stream_lasts_until_its_last_line(spans: Spans, get_logs):
    async with hosted(connector(get_logs=get_logs)) as host:
        assert await host.logs() == ["a", "b"]
    method, owns = spans.of(SpanKind.INTERNAL), spans.named("own")
    assert len(owns) == 2
    assert all(is_child(own, method) for own in owns)
    assert all(own.end_time <= method.end_time for own in owns)
    assert is_child(method, spans.of(SpanKind.SERVER))


async def test_an_error_is_on_the_spans_with_the_text_that_the_client_gets(spans: Spans):
    async def get(self, resource_meta, token="", **kwargs):
        own = ValueError(f"cannot log in with {token}")
        own.add_note(token)
        raise own

    async with hosted(connector(get=get)) as host:
        with pytest.raises(GRPCError) as caught:
            await host.get(connection=secrets(token=SECRET))
    assert caught.value.status is Status.INTERNAL
    assert "cannot log in with" in (caught.value.message or "")
    for span in spans.all:
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == caught.value.message
        assert span.events == ()
        assert SECRET not in span.to_json()
    assert spans.of(SpanKind.INTERNAL).attributes["error.type"] == "ValueError"
    for kind in SpanKind.SERVER, SpanKind.CLIENT:
        assert spans.of(kind).attributes["error.type"] == "INTERNAL"
        assert spans.of(kind).attributes["rpc.response.status_code"] == "INTERNAL"
        assert spans.of(kind).attributes["grpc.status_message"] == caught.value.message


async def test_a_client_s_mistake_is_no_error_of_the_server(spans: Spans):
    async with hosted(connector()) as host:
        with pytest.raises(GRPCError) as caught:
            await host.get(task_type="unknown")
    server, client = spans.of(SpanKind.SERVER), spans.of(SpanKind.CLIENT)
    assert server.status.status_code is StatusCode.UNSET
    assert "error.type" not in server.attributes
    assert server.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert server.attributes["grpc.status_message"] == caught.value.message
    assert client.status.status_code is StatusCode.ERROR


async def test_each_try_of_a_poll_has_a_span(spans: Spans):
    tries = []

    async def get(self, resource_meta, **kwargs):
        tries.append(None)
        if len(tries) == 1:
            raise TransientError("vendor is down")
        return Resource(phase=Phase.RUNNING)

    async with hosted(connector(get=get)) as host:
        await host.get()
    first, second = spans.named("Tiny.get")
    server = spans.of(SpanKind.SERVER)
    assert is_child(first, server)
    assert is_child(second, server)
    assert first.status.status_code is StatusCode.ERROR
    assert "vendor is down" in first.status.description
    assert second.status.status_code is StatusCode.UNSET
    assert server.attributes["rpc.response.status_code"] == "OK"


async def test_a_poll_that_is_absorbed_shows_why_in_the_method_s_span(spans: Spans):
    async def get(self, resource_meta, **kwargs):
        raise TransientError("vendor is down")

    async with hosted(connector(get=get), poll_retry=0) as host:
        assert "vendor is down" in (await host.get()).resource.message
    assert spans.of(SpanKind.SERVER).attributes["rpc.response.status_code"] == "OK"
    assert "vendor is down" in spans.of(SpanKind.INTERNAL).status.description


async def test_a_client_that_goes_away(spans: Spans):
    begun, ended = anyio.Event(), anyio.Event()

    async def get(self, resource_meta, **kwargs):
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with hosted(connector(get=get)) as host:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.get)
            await begun.wait()
            tasks.cancel_scope.cancel()
        await ended.wait()
        await eventually(lambda: len(spans.all) == 3)
    method, server, client = spans.of(SpanKind.INTERNAL), spans.of(SpanKind.SERVER), spans.of(SpanKind.CLIENT)
    assert method.attributes["flyte.cancelled"] is True
    assert method.status.status_code is server.status.status_code is StatusCode.UNSET
    assert server.attributes["rpc.response.status_code"] == "CANCELLED"
    assert client.attributes["rpc.response.status_code"] == "CANCELLED"


async def test_a_limit_that_passes(spans: Spans):
    async def get(self, resource_meta, **kwargs):
        await anyio.sleep_forever()

    async with hosted(connector(get=get), get_limit=0.01, poll_retry=0, poll_absorb=0) as host:
        with pytest.raises(GRPCError) as caught:
            await host.get()
    assert caught.value.status is Status.DEADLINE_EXCEEDED
    server = spans.of(SpanKind.SERVER)
    assert server.status.status_code is StatusCode.ERROR
    assert server.status.description == caught.value.message
    assert server.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"
    assert spans.of(SpanKind.INTERNAL).attributes["flyte.cancelled"] is True


async def test_the_client_s_deadline_passes(spans: Spans):
    async def get(self, resource_meta, **kwargs):
        await anyio.sleep_forever()

    async with hosted(connector(get=get), get_limit=3600, poll_retry=0, poll_absorb=0) as host:
        with pytest.raises(GRPCError):
            await host.get(timeout=0.05)
        await eventually(lambda: len(spans.all) == 3)
    client, server = spans.of(SpanKind.CLIENT), spans.of(SpanKind.SERVER)
    assert client.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"
    assert client.status.status_code is StatusCode.ERROR
    # the client's reset may come first
    assert server.attributes["rpc.response.status_code"] in ("DEADLINE_EXCEEDED", "CANCELLED")
    assert spans.of(SpanKind.INTERNAL).attributes["flyte.cancelled"] is True


async def test_a_creation_that_outlives_its_call_stays_in_the_trace(spans: Spans):
    begun, may_end = anyio.Event(), anyio.Event()

    async def create(self, **kwargs):
        begun.set()
        await may_end.wait()
        return Job("7")

    async with hosted(connector(create=create)) as host:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.create)
            await begun.wait()
            tasks.cancel_scope.cancel()
        may_end.set()
        await eventually(lambda: len(spans.all) == 3)
    assert is_child(spans.of(SpanKind.INTERNAL), spans.of(SpanKind.SERVER))
    assert "flyte.cancelled" not in spans.of(SpanKind.INTERNAL).attributes


async def test_calls_of_two_clients_are_two_traces(spans: Spans):
    async with hosted(connector()) as host, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(host.get)
    traces = {span.context.trace_id for span in spans.all}
    assert len(traces) == 2
    assert all(len([span for span in spans.all if span.context.trace_id == each]) == 3 for each in traces)


async def test_the_document_names_every_attribute(spans: Spans):
    async def get(self, resource_meta, **kwargs):
        raise ValueError

    async def delete(self, resource_meta, **kwargs):
        await anyio.sleep_forever()

    with tempfile.TemporaryDirectory() as folder:  # tmp_path is too long for a socket
        socket = Path(folder) / "socket"
        async with hosted(connector(get=get, delete=delete), unix_socket=socket, delete_limit=0.01) as host:
            await host.create()
            with pytest.raises(GRPCError):
                await host.get()
            async with Channel(f"unix:{socket}", on_call=on_channel_call) as channel:
                with pytest.raises(GRPCError):
                    await replace(host, channel=channel).delete()
    used = {(str(span.kind.name), name) for span in spans.all for name in span.attributes}
    rows = re.findall(r"^\| (`.*`) \| ([A-Z, ]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {
        (kind, name) for names, kinds in rows for kind in kinds.split(", ") for name in names.split("`")[1::2]
    }
    assert used == documented


async def test_clients_that_send_no_trace_begin_one_each(spans: Spans):
    async with hosted(connector(), traced_channel=False) as host:
        await host.get()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):  # one task of the server answers several that arrive together
                tasks.start_soon(host.get)
    servers = [span for span in spans.all if span.kind is SpanKind.SERVER]
    assert [span.parent for span in servers] == [None] * 21
    assert len({span.context.trace_id for span in servers}) == 21


async def test_an_answer_that_nobody_takes_is_no_error_of_the_method(spans: Spans):
    record = CallRecord(TaskCall(Operation.GET_LOGS, "tiny", 0), "tiny", Metrics(), Account())
    method = ConnectorMethod.of(connector(), Operation.GET_LOGS)
    with pytest.raises(DeliveryError), method_span(record, method):
        raise DeliveryError(OSError("the stream was reset"))
    [span] = spans.all
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["flyte.cancelled"] is True


async def test_health_checks_have_no_spans(spans: Spans):
    from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthStub

    async with hosted(connector()) as host:
        await HealthStub(host.channel).check(HealthCheckRequest())
    assert spans.all == []


async def test_tracing_that_fails_hurts_no_call(spans: Spans, monkeypatch):
    class Broken:
        def start_span(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("a sampler is broken")

    monkeypatch.setattr("connectrio.tracing._spans._tracer", Broken())
    async with hosted(connector()) as host:
        assert (await host.create()).resource_meta == Job("7").encode()


async def test_without_the_setting_there_are_no_spans(spans: Spans):
    async with hosted(connector(), tracing=False, traced_channel=False) as host:
        await host.get()
    assert spans.all == []
