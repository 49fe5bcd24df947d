"""Hosted connectors for flyte-sdk: their arguments, and the client's answers."""

from __future__ import annotations

import asyncio
import math
import pickle
import threading
from dataclasses import dataclass
from typing import ClassVar

import anyio
import pytest
from anyio.lowlevel import checkpoint
from flyte.connectors import Resource
from flyte.io import DataFrame, File
from flyte.types import TypeEngine
from flyteidl2.connector.connector_pb2 import GetTaskMetricsResponse, TaskExecutionMetadata
from flyteidl2.core.execution_pb2 import TaskExecution, TaskLog
from flyteidl2.core.tasks_pb2 import TaskTemplate
from grpclib import GRPCError
from grpclib.const import Status
from structlog.testing import capture_logs

from connectrio import Phase
from connectrio.flyte import HostedConnector, HostedMeta
from connectrio.flyte.hosting import ForeignConnector
from connectrio.idl.flyteidl2 import core
from connectrio.idl.flyteidl2.connector import Resource as ResourceMessage
from connectrio.idl.flyteidl2.connector import TaskExecutionMetadata as OurMetadata
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral, Outputs
from connectrio.idl.google.protobuf import Struct
from connectrio.literals import python_to_literal
from connectrio.rpc.codec import encode
from flyte_sdk.harness import META, Base, Waiting, connector, eventually, hosting, log_lines
from service.harness import OPERATIONS, Job, Service, secrets
from service.harness import connector as native_connector


@dataclass
class Undecodable:
    text: str


every_operation = pytest.mark.parametrize("operation", OPERATIONS)


async def call(service, operation, **arguments):
    return await service.call(operation, resource_meta=META, **arguments)


async def failure(service, operation, **arguments):
    with pytest.raises(GRPCError) as caught:
        await call(service, operation, **arguments)
    return caught.value


def template(*types, **fields):
    """Return a task template whose inputs have these types."""
    names = [core.VariableEntry(key=f"i{index}", value=core.Variable(type=each)) for index, each in enumerate(types)]
    interface = core.TypedInterface(inputs=core.VariableMap(variables=names))
    return core.TaskTemplate(type="tiny", interface=interface, **fields)


def simple(name):
    return core.LiteralType(simple=core.SimpleType[name])


def inputs(*values):
    return Inputs(
        literals=[NamedLiteral(name=f"i{index}", value=python_to_literal(each)) for index, each in enumerate(values)]
    )


def recording(operation, result=None):
    """Return a connector whose method for `operation` records its arguments, and the record."""
    seen = {}

    async def method(self, **kwargs):
        seen.update(kwargs)
        return result if result is not None else await getattr(Base, operation)(self, **kwargs)

    return connector(**{operation: method}), seen


# calls that succeed


@every_operation
async def test_a_success(operation):
    async with hosting() as service:
        await call(service, operation)
        assert service.count(operation) == 1


async def test_create_is_given_messages_and_native_values():
    hosted, seen = recording("create")
    async with hosting(hosted) as service:
        answer = await service.create(
            template=template(simple("INTEGER"), simple("STRING"), custom=None),
            inputs=inputs(3, "three"),
            output_prefix="s3://x",
            task_execution_metadata=OurMetadata(namespace="ns"),
            connection=secrets(token="t"),
        )
    assert answer.resource_meta == b'{"id": "7"}'
    assert list(seen) == ["task_template", "inputs", "output_prefix", "task_execution_metadata", "token"]
    assert type(seen["task_template"]) is TaskTemplate
    assert seen["task_template"].type == "tiny"
    assert (seen["inputs"], seen["output_prefix"], seen["token"]) == ({"i0": 3, "i1": "three"}, "s3://x", "t")
    assert seen["task_execution_metadata"] == TaskExecutionMetadata(namespace="ns")


async def test_what_a_request_does_not_have():
    hosted, seen = recording("create")
    async with hosting(hosted) as service:
        await service.create()
    assert seen["inputs"] == {}
    assert seen["task_execution_metadata"] == TaskExecutionMetadata()


@pytest.mark.parametrize("operation", ["get", "delete"])
async def test_other_methods_are_given_the_meta_and_the_connection(operation):
    hosted, seen = recording(operation)
    async with hosting(hosted) as service:
        await call(service, operation, connection=secrets(token="t"))
    assert list(seen) == ["resource_meta", "token"]
    assert (type(seen["resource_meta"]), seen["resource_meta"].id) == (hosted.metadata_type, "7")


class VendorIsBusyError(Exception):
    """Of a plugin, which nobody can change."""


async def test_an_operator_names_the_transient_errors_of_a_plugin():
    async def get(self, resource_meta, **kwargs):
        raise VendorIsBusyError("come again")

    options = [f"tiny.transient={__name__}.VendorIsBusyError"]
    async with hosting(connector(get=get), poll_absorb=600, connector_options=options) as service:
        resource = (await call(service, "get")).resource
    assert resource.phase is Phase.RUNNING
    assert "come again" in resource.message


async def test_metrics_and_logs():
    metrics, seen = recording("get_metrics", GetTaskMetricsResponse())
    async with hosting(metrics) as service:
        await service.get_metrics(resource_meta=META, queries=["cpu"])
    assert list(seen) == ["resource_meta"]
    logs, seen = recording("get_logs", log_lines("one", "two"))
    async with hosting(logs) as service:
        (response,) = await service.get_logs(resource_meta=META, token="t", lines=9)
    assert response.body.results == ["one", "two"]
    assert list(seen) == ["resource_meta", "token"]
    assert seen["token"] == "t"


async def test_logs_of_an_async_generator():
    events = []

    async def get_logs(self, resource_meta, token):
        try:
            for line in range(3):
                yield log_lines(str(line))
        finally:
            await asyncio.sleep(0)
            events.append("closed")

    async with hosting(connector(get_logs=get_logs)) as service:
        responses = await service.get_logs(resource_meta=META)
        assert [response.body.results for response in responses] == [["0"], ["1"], ["2"]]
        assert events == ["closed"]

        async def send(_):
            raise ConnectionError("the client is gone")

        with pytest.raises(ConnectionError):
            await service.get_logs(resource_meta=META, send=send)
        assert events == ["closed"] * 2


async def test_a_resource():
    async def get(self, resource_meta):
        return Resource(
            phase=TaskExecution.SUCCEEDED,
            message="done",
            log_links=[TaskLog(uri="http://x", name="console", ready=True, link_type=TaskLog.DASHBOARD)],
            outputs={
                "number": 7,
                "list": [1, 2],
                "file": File(path="s3://b/f", hash="h"),
                "frame": DataFrame(uri="bq://p:d.t"),
            },
            custom_info={"rows": 7, "nested": {"x": [None, True]}},
        )

    async with hosting(connector(get=get)) as service:
        resource = (await call(service, "get")).resource
    assert (resource.phase, resource.message) == (Phase.SUCCEEDED, "done")
    assert resource.log_links == [
        core.TaskLog(uri="http://x", name="console", ready=True, link_type=core.TaskLogLinkType.DASHBOARD)
    ]
    assert resource.custom_info.to_dict() == {"rows": 7.0, "nested": {"x": [None, True]}}
    outputs = {literal.name: literal.value for literal in resource.outputs.literals}
    assert outputs["number"].scalar.primitive.integer == 7
    assert outputs["list"].scalar.binary.tag == "", "flyte-sdk pickles lists of no declared type"
    assert (outputs["file"].scalar.blob.uri, outputs["file"].hash) == ("s3://b/f", "h")
    assert outputs["frame"].scalar.structured_dataset.uri == "bq://p:d.t"


UNDECODABLE, ESCAPED = "a\udcff", "a\\udcff"


@pytest.mark.parametrize(
    ("returned", "sent"),
    [
        ({"message": UNDECODABLE}, {"message": ESCAPED}),
        ({"custom_info": {UNDECODABLE: [UNDECODABLE]}}, {"custom_info": Struct.from_dict({ESCAPED: [ESCAPED]})}),
        (
            {"outputs": {UNDECODABLE: UNDECODABLE}},
            {"outputs": Outputs(literals=[NamedLiteral(name=ESCAPED, value=python_to_literal(ESCAPED))])},
        ),
        (
            {"custom_info": {"x": [math.nan, {"y": math.inf}, -math.inf, 1.0]}},
            {"custom_info": Struct.from_dict({"x": ["NaN", {"y": "Infinity"}, "-Infinity", 1.0]})},
        ),
    ],
)
async def test_what_has_no_form_in_a_message(returned, sent):
    async def get(self, resource_meta):
        return Resource(phase=TaskExecution.SUCCEEDED, log_links=[TaskLog(uri="http://x")], **returned)

    async with hosting(connector(get=get)) as service:
        resource = (await call(service, "get")).resource
    links = [core.TaskLog(uri="http://x")]
    assert resource == ResourceMessage(phase=Phase.SUCCEEDED, log_links=links, **sent)
    assert encode(resource)


CYCLE: dict = {}
CYCLE["x"] = CYCLE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("phase", "junk"),
        ("message", 3),
        ("log_links", [3]),
        ("outputs", {"x": Undecodable(UNDECODABLE)}),
        ("outputs", [1]),
        ("custom_info", {"x": {1}}),
        ("custom_info", CYCLE),
    ],
)
async def test_a_field_that_cannot_be_encoded_is_named(field, value):
    async def get(self, resource_meta):
        return Resource(**{"phase": TaskExecution.SUCCEEDED, field: value})

    async with hosting(connector(get=get)) as service:
        error = await failure(service, "get")
    assert error.status is Status.INTERNAL
    assert f"Tiny.get returned a Resource whose {field} cannot be encoded: " in error.message


async def test_a_store_that_fails_for_now_is_an_error_of_its_own(monkeypatch):
    """It may pass, so it must keep its class."""

    async def fail(*_):
        raise ConnectionError("the store is away")

    monkeypatch.setattr("connectrio.flyte._conversion.get_resource_proto", fail)
    async with hosting(poll_retry=0) as service:
        error = await failure(service, "get")
    assert "the store is away" in error.message
    assert "cannot be encoded" not in error.message


async def test_a_resource_that_says_only_its_phase():
    async def get(self, resource_meta):
        return Resource(phase=TaskExecution.QUEUED)

    async with hosting(connector(get=get)) as service:
        resource = (await call(service, "get")).resource
    assert (resource.phase, resource.message, resource.log_links) == (Phase.QUEUED, "", [])
    assert (resource.outputs, resource.custom_info) == (None, None)


async def test_a_cycle_without_a_host():
    """A program calls it as any other connector."""
    hosted = HostedConnector.of(connector())
    async with hosted.lifespan():
        meta = await hosted.create(core.TaskTemplate(type="tiny"), "s3://x", {"x": object()})
        assert meta == HostedMeta(b'{"id": "7"}')
        assert (await hosted.get(meta)).message == "7"
        await hosted.delete(meta)


# calls that fail


@every_operation
async def test_errors(operation):
    async def fail(self, **kwargs):
        raise ValueError("boom")

    async with hosting(connector(**{operation: fail})) as service:
        error = await failure(service, operation)
        assert error.status is Status.INTERNAL
        assert "boom" in error.message
        assert service.count(operation, "500") == 1


@every_operation
@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt("x"), asyncio.CancelledError("mine"), ExceptionGroup("x", [OSError()])]
)
async def test_errors_that_would_end_more_than_a_call(operation, error):
    async def fail(self, **kwargs):
        raise error

    async with hosting(connector(**{operation: fail})) as service:
        assert (await failure(service, operation)).status is Status.INTERNAL
        with anyio.fail_after(30):
            assert (await failure(service, operation)).status is Status.INTERNAL


@every_operation
async def test_a_recursion_error_is_one_call_s(operation):
    async def recurse(self, **kwargs):
        await recurse(self, **kwargs)

    async with hosting(connector(**{operation: recurse})) as service:
        assert (await failure(service, operation)).status is Status.INTERNAL


@pytest.mark.parametrize("operation", ["get_metrics", "get_logs"])
async def test_methods_that_a_connector_does_not_have(operation):
    async with hosting(connector(Base)) as service:
        assert (await failure(service, operation)).status is Status.UNIMPLEMENTED


@pytest.mark.parametrize("operation", ["get_metrics", "get_logs"])
async def test_answers_of_the_wrong_kind(operation):
    async def junk(self, **kwargs):
        return "junk"

    async with hosting(connector(**{operation: junk})) as service:
        error = await failure(service, operation)
    assert error.status is Status.INTERNAL
    assert f"Tiny.{operation} returned an object of class str" in error.message


async def test_a_phase_that_is_none():
    async def get(self, resource_meta):
        return Resource(phase=TaskExecution.UNDEFINED)

    async with hosting(connector(get=get)) as service:
        error = await failure(service, "get")
    assert error.status is Status.INTERNAL
    assert error.message.startswith("failed to get tiny task with error:\n Tiny.get returned a Resource whose phase is")


@pytest.mark.parametrize("operation", ["get", "delete", "get_metrics", "get_logs"])
async def test_a_meta_of_somebody_else(operation):
    async with hosting() as service:
        with pytest.raises(GRPCError) as caught:
            await service.call(operation, resource_meta=b"junk")
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert caught.value.message.startswith("the resource_meta of this tiny task was not made by this connector: ")


async def test_inputs_that_flyte_sdk_refuses():
    async with hosting() as service:
        with pytest.raises(GRPCError) as caught:
            await service.create(template=template(simple("INTEGER")), inputs=inputs("text"))
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert caught.value.message.startswith("flyte-sdk cannot convert the inputs of this tiny task: ")


async def refused(literal, *types, **settings):
    """Return the text with which an input i0 is refused; nothing of it may have reached the connector."""
    hosted, seen = recording("create")
    async with hosting(hosted, **settings) as service:
        with pytest.raises(GRPCError) as caught:
            await service.create(
                template=template(*types), inputs=Inputs(literals=[NamedLiteral(name="i0", value=literal)])
            )
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert seen == {}
    return caught.value.message


BINARY = simple("BINARY")
PICKLED_FILE = core.LiteralType(blob=core.BlobType(format="PythonPickle"))


def of_one(literal_type, literal):
    """Yield types and literals that hold these."""
    yield literal_type, literal
    yield (
        core.LiteralType(collection_type=literal_type),
        core.Literal(collection=core.LiteralCollection(literals=[literal])),
    )
    yield core.LiteralType(map_value_type=literal_type), core.Literal(map=core.LiteralMap(literals={"a": literal}))
    yield core.LiteralType(union_type=core.UnionType(variants=[simple("INTEGER"), literal_type])), literal


async def test_pickles_are_read_only_where_the_host_allows_it(tmp_path):
    (tmp_path / "stored").write_bytes(pickle.dumps(Trap()))
    file = core.Literal(
        scalar=core.Scalar(
            blob=core.Blob(
                uri=str(tmp_path / "stored"),
                metadata=core.BlobMetadata(type=core.BlobType(format="PythonPickle")),
            )
        )
    )
    marked = core.Literal(
        scalar=core.Scalar(generic=Struct.from_dict({"pickle_file": str(tmp_path / "stored")})),
        metadata={"format": "pickle"},
    )
    for literal_type, literal in (
        *of_one(BINARY, core.Literal(scalar=core.Scalar(binary=core.Binary(value=pickle.dumps(Trap()))))),
        *of_one(PICKLED_FILE, file),
        *of_one(simple("STRUCT"), marked),
    ):
        Trap.sprung.clear()
        message = await refused(literal, literal_type)
        assert message.startswith("input 'i0': it is a Python pickle for flyte-sdk")
        assert Trap.sprung == []
        async with hosting(unsafe_pickle=True) as service:
            await service.create(
                template=template(literal_type), inputs=Inputs(literals=[NamedLiteral(name="i0", value=literal)])
            )
        assert Trap.sprung == ["sprung"]


async def as_flyte_sdk_sends(value, kind):
    declared = TypeEngine.to_literal_type(kind)
    return declared, await TypeEngine.to_literal(value, kind, declared)


@pytest.mark.parametrize(("value", "kind"), [({1}, set), (b"x", bytes), ([{1}], list[set]), ({1}, set | None)])
async def test_what_flyte_sdk_sends_as_a_pickle_is_refused(value, kind):
    messages = await anyio.to_thread.run_sync(asyncio.run, as_flyte_sdk_sends(value, kind))
    declared, literal = (message.SerializeToString() for message in messages)
    message = await refused(core.Literal.parse(literal), core.LiteralType.parse(declared))
    assert message.startswith("input 'i0': it is a Python pickle for flyte-sdk")


class Trap:
    """Its pickle adds to `sprung` when it is read."""

    sprung: ClassVar[list[str]] = []

    def __reduce__(self):
        return _spring, ()


def _spring():
    Trap.sprung.append("sprung")
    return {}


UNREADABLE = "input 'i0': the stored value could not be read; the host's log says why"


def stored(uri):
    return core.Literal(offloaded_metadata=core.LiteralOffloadedMetadata(uri=str(uri)))


async def test_stored_inputs_are_read_with_the_host_s_limits(tmp_path):
    (tmp_path / "seven").write_bytes(encode(python_to_literal(7)))
    hosted, seen = recording("create")
    async with hosting(hosted) as service:
        await service.create(
            template=template(simple("INTEGER")),
            inputs=Inputs(literals=[NamedLiteral(name="i0", value=stored(tmp_path / "seven"))]),
        )
    assert seen["inputs"] == {"i0": 7}
    for settings in ({"max_stored_input_size": 1}, {"storage_schemes": ["s3"]}):
        assert await refused(stored(tmp_path / "seven"), simple("INTEGER"), **settings) == UNREADABLE


async def test_what_is_stored_does_not_show(tmp_path):
    (tmp_path / "text").write_bytes(encode(python_to_literal("the content")))
    (tmp_path / "junk").write_bytes(b"\x0f")
    for uri in (
        tmp_path / "text",  # flyte-sdk cannot convert it, and would quote it
        tmp_path / "junk",
        tmp_path / "nothing",
        "/dev/zero",
        "http://127.0.0.1:1/x",
        f"simplecache::file://{tmp_path}/text",
    ):
        with capture_logs() as logs:
            assert await refused(stored(uri), simple("INTEGER")) == UNREADABLE
        assert [line["event"] for line in logs if "stored" in line["event"]] == ["a stored input could not be read"]


async def test_schemas_of_which_flyte_sdk_would_make_very_many_classes():
    classes = {"L0": {"title": "L", "type": "object", "properties": {"a": {"type": "integer"}}}}
    for level in range(1, 12):
        fields = {f"p{index}": {"$ref": f"#/$defs/L{level - 1}"} for index in range(4)}
        classes[f"L{level}"] = {"title": "L", "type": "object", "properties": fields}
    schema = {"title": "A", "type": "object", "$defs": classes, "properties": {"a": {"$ref": "#/$defs/L11"}}}
    declared = core.LiteralType(simple=core.SimpleType.STRUCT, metadata=Struct.from_dict(schema))
    message = await refused(core.Literal(scalar=core.Scalar(generic=Struct())), declared)
    assert message.startswith("input 'i0': converting it takes more than 2000000 steps")


async def test_a_secret_that_is_named_as_a_parameter_is():
    async with hosting() as service:
        error = await failure(service, "create", connection=secrets(inputs="mine"))
    assert error.status is Status.INVALID_ARGUMENT
    assert "Tiny.create needs for a parameter of its own" in error.message


async def test_secrets_do_not_show():
    async def fail(self, token, **kwargs):
        raise ValueError(f"the token {token} is wrong")

    async with hosting(connector(get=fail)) as service:
        error = await failure(service, "get", connection=secrets(token="hush-hush"))
    assert "the token [secret token] is wrong" in error.message


# cancellation


@every_operation
async def test_a_cancelled_call_cancels_the_method(operation):
    waiting = Waiting()
    async with hosting(connector(**{operation: waiting.method()})) as service:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: call(service, operation))
            await eventually(lambda: waiting.events)
            tasks.cancel_scope.cancel()
        assert waiting.events == ["begun", "cancelled"]


async def test_the_host_s_limit_cancels_the_method():
    waiting = Waiting()
    async with hosting(connector(get=waiting.method()), get_limit=0.5) as service:
        error = await failure(service, "get")
    assert error.status is Status.DEADLINE_EXCEEDED
    # on a very slow machine it may not have begun
    assert waiting.events in (["begun", "cancelled"], [])


# isolation


async def test_the_host_s_loop_is_free_while_a_connector_blocks():
    inside, release = [], threading.Event()

    async def get(self, resource_meta, **kwargs):
        inside.append(1)
        release.wait(30)
        return await Base.get(self, resource_meta)

    native = native_connector(task_type_name="native")
    async with hosting(connector(get=get)) as hosted:
        service = Service(*(each.connector for each in hosted.registry.registered()), native)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: call(service, "get"))
            await eventually(lambda: inside)
            await checkpoint()
            await service.get("native", resource_meta=Job("7").encode())
            release.set()


async def test_a_connector_outside_of_its_lifespan():
    service = Service(HostedConnector.of(connector()))
    error = await failure(service, "get")
    assert error.status is Status.INTERNAL
    assert "call them within their lifespan()" in error.message


async def test_connectors_of_two_frameworks_in_one_package_share_its_loop():
    async def get(self, resource_meta, **kwargs):
        return Resource(phase=TaskExecution.RUNNING, message=str(id(asyncio.get_running_loop())))

    async def loop_of(connector):
        return str(id(asyncio.get_running_loop()))

    class OfAnotherFramework(ForeignConnector):
        async def create(self, **kwargs):
            raise NotImplementedError

        async def get(self, resource_meta, **kwargs):
            return await self._run(loop_of)

        async def delete(self, resource_meta, **kwargs):
            raise NotImplementedError

    other = OfAnotherFramework(connector(), "other", 0)
    async with hosting(connector(get=get)) as service, other.lifespan():
        response = await call(service, "get")
        assert response.resource.message == await other.get(HostedMeta(META))
