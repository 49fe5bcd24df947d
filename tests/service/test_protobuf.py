"""Protobuf's messages in what connectors return, and in what they are given."""

from __future__ import annotations

import subprocess
import sys
from types import FunctionType, ModuleType

import pytest
from flyteidl.admin import agent_pb2
from flyteidl.core import execution_pb2 as execution_1_pb2
from flyteidl.core import literals_pb2 as literals_1_pb2
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2, literals_pb2, tasks_pb2
from flyteidl2.logs.dataplane import payload_pb2
from flyteidl2.task import common_pb2
from google.protobuf import duration_pb2, json_format, struct_pb2, timestamp_pb2
from grpclib import GRPCError

from connectrio import (
    ExecutionMetricResult,
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskMetricsResponse,
    LogLine,
    LogLineOriginator,
    Resource,
    TaskExecution,
    TaskLog,
)
from connectrio.idl.flyteidl2 import core
from connectrio.idl.flyteidl2.core import Container, KeyValuePair, Sql, TaskTemplate
from connectrio.idl.flyteidl2.task import NamedLiteral, Outputs
from connectrio.idl.google.protobuf import Struct, Timestamp, Value
from connectrio.literals import python_to_literal
from connectrio.rpc.codec import encode
from service.harness import Job, Service, attempt, connector, secrets

PACKAGES = {"flyteidl2": (execution_pb2, literals_pb2), "flyteidl": (execution_1_pb2, literals_1_pb2)}


def reporting(**fields):
    """A service whose connector reports this state."""

    async def get(self, resource_meta, **kwargs):
        return Resource(**{"phase": TaskExecution.SUCCEEDED, **fields})

    return Service(connector(get=get))


async def reported(**fields):
    return (await reporting(**fields).get()).resource


def integer(literals, value):
    return literals.Literal(scalar=literals.Scalar(primitive=literals.Primitive(integer=value)))


@pytest.mark.parametrize("package", PACKAGES)
class TestStates:
    async def test_each_phase(self, package):
        messages, _ = PACKAGES[package]
        for name, number in messages.TaskExecution.Phase.items()[1:]:
            assert (await reported(phase=number)).phase is getattr(TaskExecution, name)

    async def test_log_links(self, package):
        messages, _ = PACKAGES[package]
        link = messages.TaskLog(
            uri="https://x", name="x", message_format=messages.TaskLog.JSON, ttl=duration_pb2.Duration(seconds=3)
        )
        resource = await reported(log_links=[link, TaskLog(uri="https://y")])
        assert [each.uri for each in resource.log_links] == ["https://x", "https://y"]
        assert resource.log_links[0].message_format is TaskLog.JSON
        assert resource.log_links[0].ttl.seconds == 3

    async def test_a_map_of_literals(self, package):
        _, literals = PACKAGES[package]
        outputs = literals.LiteralMap(literals={"n": integer(literals, 7)})
        resource = await reported(outputs=outputs)
        assert resource.outputs == Outputs(literals=[NamedLiteral(name="n", value=python_to_literal(7))])

    async def test_literals_in_a_dictionary(self, package):
        _, literals = PACKAGES[package]
        resource = await reported(outputs={"n": integer(literals, 7), "many": [integer(literals, 8), 9], "x": "x"})
        values = {named.name: named.value for named in resource.outputs.literals}
        assert values == {name: python_to_literal(value) for name, value in [("n", 7), ("many", [8, 9]), ("x", "x")]}


async def test_outputs():
    outputs = common_pb2.Outputs(literals=[common_pb2.NamedLiteral(name="n", value=integer(literals_pb2, 7))])
    expected = Outputs(literals=[NamedLiteral(name="n", value=python_to_literal(7))])
    assert (await reported(outputs=outputs)).outputs == expected
    assert (await reported(outputs=Outputs(literals=list(outputs.literals)))).outputs == expected


def struct(**fields):
    message = struct_pb2.Struct()
    message.update(fields)
    return message


async def test_custom_info():
    info = struct(a=[1, {"b": None}], c="x", inf=float("inf"))
    resource = await reported(custom_info=info)
    assert resource.custom_info.to_dict() == {"a": [1.0, {"b": None}], "c": "x", "inf": "Infinity"}
    mixed = Struct(fields={"a": struct_pb2.Value(string_value="x"), "b": Value(bool_value=True)})
    assert (await reported(custom_info=mixed)).custom_info.to_dict() == {"a": "x", "b": True}
    assert (await reported(custom_info=struct_pb2.Struct())).custom_info is None


async def test_our_messages_with_protobuf_s_as_outputs():
    scalar = integer(literals_pb2, 7).scalar
    fields = {"a": struct_pb2.Value(number_value=1)}
    resource = await reported(outputs={"n": core.Literal(scalar=scalar), "s": Struct(fields=fields)})
    number, generic = (named.value for named in resource.outputs.literals)
    assert encode(number) == encode(python_to_literal(7))
    assert generic.scalar.generic.to_dict() == {"a": 1.0}


async def test_a_literal_that_cannot_be_encoded():
    with pytest.raises(GRPCError, match="Resource whose outputs are"):
        await reported(outputs={"n": core.Literal(scalar="x")})


def nested(levels):
    literal = literals_pb2.Literal()
    inner = literal
    for _ in range(levels):
        inner = inner.collection.literals.add()
    return literal


async def test_a_message_that_nobody_can_read():
    """No client's request is malformed here: the connector is at fault."""
    with pytest.raises(GRPCError, match=r"a message flyteidl2.core.Literal that cannot be sent: nested more than"):
        await reported(outputs={"a": nested(95)})


async def test_outputs_that_contain_themselves():
    endless = []
    endless.append(endless)
    with pytest.raises(GRPCError, match="whose outputs cannot be encoded: output 'a'"):
        await reported(outputs={"a": endless})


async def test_a_struct_as_an_output():
    resource = await reported(outputs={"s": struct(a=1)})
    assert resource.outputs.literals[0].value.scalar.generic.to_dict() == {"a": 1.0}


@pytest.mark.parametrize(
    "fields",
    [
        {"log_links": [struct(a=1)]},
        {"log_links": [TaskLog]},
        {"outputs": execution_pb2.TaskLog()},
        {"outputs": {"x": execution_pb2.TaskLog}},
        {"custom_info": execution_pb2.TaskLog()},
    ],
)
async def test_other_messages_are_refused(fields):
    with pytest.raises(GRPCError, match=f"Resource whose {next(iter(fields))}"):
        await reported(**fields)


# log lines and metrics

STAMP = timestamp_pb2.Timestamp(seconds=7)
LINE = LogLine(timestamp=Timestamp(seconds=7), message="xyzzy", originator=LogLineOriginator.USER)
PB_LINE = payload_pb2.LogLine(timestamp=STAMP, message="xyzzy", originator=payload_pb2.LogLineOriginator.USER)
HEADER = connector_pb2.GetTaskLogsResponseHeader(token="1")
RESPONSES = {
    "protobuf's": connector_pb2.GetTaskLogsResponse(body=connector_pb2.GetTaskLogsResponseBody(lines=[PB_LINE])),
    "with protobuf's body": GetTaskLogsResponse(body=connector_pb2.GetTaskLogsResponseBody(lines=[PB_LINE])),
    "with protobuf's lines": GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=[PB_LINE])),
    "with protobuf's times": GetTaskLogsResponse(
        body=GetTaskLogsResponseBody(lines=[LogLine(timestamp=STAMP, message="xyzzy", originator=1)])
    ),
    "of Flyte 1": agent_pb2.GetTaskLogsResponse(
        body=agent_pb2.GetTaskLogsResponseBody.FromString(encode(GetTaskLogsResponseBody(lines=[LINE])))
    ),
}


async def encoded(message):
    """Send nothing; as the gRPC layer does, raise an error for what cannot be encoded."""
    encode(message)


def logging(response, how):
    async def returned(self, resource_meta, **kwargs):
        return response

    async def generated(self, resource_meta, **kwargs):
        yield response

    def in_a_thread(self, resource_meta, **kwargs):
        yield response

    return connector(get_logs={"returned": returned, "generated": generated, "in a thread": in_a_thread}[how])


@pytest.mark.parametrize("how", ["returned", "generated", "in a thread"])
@pytest.mark.parametrize("kind", RESPONSES)
async def test_log_lines(kind, how):
    sent = await Service(logging(RESPONSES[kind], how)).get_logs(send=encoded)
    (line,) = sent[0].body.lines
    assert encode(line) == encode(LINE)


@pytest.mark.parametrize("kind", RESPONSES)
async def test_secrets_are_found_in_log_lines(kind):
    service = Service(logging(RESPONSES[kind], "returned"))
    meta = (await service.create(connection=secrets(token="xyzzy"))).resource_meta
    sent = await service.get_logs(resource_meta=meta, send=encoded)
    assert [line.message for line in sent[0].body.lines] == ["[secret token]"]


async def test_where_the_next_page_begins():
    sent = await Service(logging(connector_pb2.GetTaskLogsResponse(header=HEADER), "returned")).get_logs(send=encoded)
    mixed = await Service(logging(GetTaskLogsResponse(header=HEADER), "returned")).get_logs(send=encoded)
    assert [response.header.token for response in [*sent, *mixed]] == ["1", "1"]


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda response: response,
        lambda response: GetTaskMetricsResponse(results=list(response.results)),
        lambda response: GetTaskMetricsResponse(
            results=[ExecutionMetricResult(metric=each.metric, data=each.data) for each in response.results]
        ),
    ],
)
async def test_metrics(wrap, secret):
    response = connector_pb2.GetTaskMetricsResponse()
    response.results.add(metric="xyzzy", data=struct(v=[1, 2]))

    async def get_metrics(self, resource_meta, **kwargs):
        return wrap(response)

    service = Service(connector(get_metrics=get_metrics))
    meta = (await service.create(connection=secrets(token="xyzzy") if secret else None)).resource_meta
    (result,) = (await service.get_metrics(resource_meta=meta)).results
    assert (result.metric, result.data.to_dict()) == ("[secret token]" if secret else "xyzzy", {"v": [1.0, 2.0]})


# what connectors are given

TEMPLATE = TaskTemplate(
    type="tiny",
    custom=Struct.from_dict({"a": [1, {"b": None}], "text": "x"}),
    container=Container(image="an/image", args=["a0"], env=[KeyValuePair(key="K", value="v")]),
    config={"c": "d"},
)


def given(module: ModuleType | None = None, **members):
    """A connector whose `create` keeps what it is given; its class is of `module`."""
    seen = []

    async def create(self, task_template, task_execution_metadata=None, **kwargs):
        seen.extend([task_template, task_execution_metadata])
        return Job("7")

    if module is not None:
        create = FunctionType(create.__code__, {**vars(module), "Job": Job}, "create", closure=create.__closure__)
        create.__kwdefaults__, create.__defaults__ = None, (None,)
    create.__annotations__ = members.pop("annotations", {})
    return connector(create=create, __module__=__name__ if module is None else module.__name__, **members), seen


def module_with(**content):
    module = ModuleType("a_module_of_a_connector")
    vars(module).update(content)
    return module


def imports_late():
    from google.protobuf.json_format import MessageToDict

    return MessageToDict


def imports_late_in_a_closure():
    def inner():
        from google.protobuf import json_format

        return json_format

    return inner


def imports_nothing(value):
    return value.json_format


class Helper:
    to_dict = imports_late


class Unwilling:
    """As lazy imports and proxies are, before they are set up."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


PROTOBUF = {
    "the module": {"module": module_with(json_format=json_format)},
    "a function of it": {"module": module_with(convert=json_format.MessageToDict)},
    "in a function": {"module": module_with(convert=imports_late)},
    "in a closure": {"module": module_with(convert=imports_late_in_a_closure)},
    "in a class": {"module": module_with(Helper=Helper)},
    "annotated": {"module": module_with(), "annotations": {"task_template": tasks_pb2.TaskTemplate}},
    "annotated with a text": {
        "module": module_with(tasks_pb2=tasks_pb2),
        "annotations": {"task_template": "tasks_pb2.TaskTemplate"},
    },
    "stated": {"module": module_with(), "takes_protobuf": True},
}
OURS = {
    "nothing": {"module": module_with(TaskExecution=execution_pb2.TaskExecution, f=imports_nothing)},
    "annotated": {
        "module": module_with(json_format=json_format, core=core),
        "annotations": {"task_template": "core.TaskTemplate"},
    },
    "annotated with what does not exist": {
        "module": module_with(),
        "annotations": {"task_template": "pb2.TaskTemplate"},
    },
    "annotated with something else": {"module": module_with(), "annotations": {"task_template": dict[str, int]}},
    "annotated with what cannot be asked": {
        "module": module_with(lazy=Unwilling()),
        "annotations": {"task_template": "lazy.TaskTemplate"},
    },
    "stated": {"module": module_with(json_format=json_format), "takes_protobuf": False},
    "another type system's": {"module": module_with(json_format=json_format), "converts_inputs": True},
}


@pytest.mark.parametrize("why", PROTOBUF)
async def test_connectors_for_protobuf_are_given_its_messages(why):
    tiny, seen = given(**PROTOBUF[why])
    await Service(tiny).create(template=TEMPLATE, task_execution_metadata=attempt(3))
    template, metadata = seen
    assert isinstance(template, tasks_pb2.TaskTemplate)
    assert json_format.MessageToDict(template.custom) == {"a": [1.0, {"b": None}], "text": "x"}
    assert (template.custom["text"], template.container.args[0], template.config["c"]) == ("x", "a0", "d")
    assert {each.key: each.value for each in template.container.env} == {"K": "v"}
    assert (template.sql.statement, len(template.interface.outputs.variables)) == ("", 0), "unset, and still there"
    assert isinstance(metadata, connector_pb2.TaskExecutionMetadata)
    assert metadata.HasField("task_execution_id")
    assert metadata.task_execution_id.retry_attempt == 3


@pytest.mark.parametrize("why", OURS)
async def test_others_are_given_ours(why):
    tiny, seen = given(**OURS[why])
    await Service(tiny).create(template=TEMPLATE)
    assert isinstance(seen[0], TaskTemplate)
    assert seen[0].sql is None


async def test_a_request_without_metadata():
    tiny, seen = given(**PROTOBUF["stated"])
    await Service(tiny).create(template=TaskTemplate(type="tiny", sql=Sql(statement="SELECT 1")))
    assert seen[0].sql.statement == "SELECT 1"
    assert seen[1] is None


@pytest.mark.parametrize("how", ["stated", "nothing"])
async def test_the_other_kind_of_messages_is_an_error_that_says_what_to_write(how):
    async def create(self, task_template, **kwargs):
        return task_template.to_dict() if how == "stated" else json_format.MessageToDict(task_template.custom)

    tiny = connector(create=create, takes_protobuf=how == "stated")
    with pytest.raises(GRPCError, match=f"takes_protobuf = {how == 'nothing'}") as caught:
        await Service(tiny).create(template=TEMPLATE)
    assert "Tiny.create" in caught.value.message


async def test_other_attributes_that_are_missing_have_their_own_errors():
    async def create(self, task_template, **kwargs):
        return task_template.costum

    with pytest.raises(GRPCError, match="costum") as caught:
        await Service(connector(create=create, takes_protobuf=False)).create()
    assert "takes_protobuf" not in caught.value.message


def test_protobuf_is_enough():
    """Without flyteidl2; and what does not need protobuf does not load it."""
    program = """
import sys
sys.modules["flyteidl2"] = None
from connectrio.idl.flyteidl2.connector import TaskExecutionMetadata
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.idl.google.protobuf import Struct
from connectrio.service.protobuf import to_protobuf
import connectrio.service.async_connector
assert not [name for name in sys.modules if name.startswith("google.protobuf")]
given = to_protobuf({"t": TaskTemplate(custom=Struct.from_dict({"a": 1})), "m": TaskExecutionMetadata(), "x": 1})
from google.protobuf.json_format import MessageToDict
assert MessageToDict(given["t"].custom) == {"a": 1.0}
assert given["t"].custom["a"] == 1.0
assert not given["m"].HasField("task_execution_id")
assert given["x"] == 1
"""
    ran = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


async def test_the_fields_of_a_struct_have_names():
    """In connectrio's messages as in protobuf's."""
    seen = []

    async def create(self, task_template, **kwargs):
        custom = task_template.custom
        seen.append(
            [
                custom["text"],
                "text" in custom,
                "none" in custom,
                list(custom),
                sorted(custom.keys()),
                len(custom.items()),
            ]
        )
        with pytest.raises((KeyError, ValueError)):
            custom["none"]
        if isinstance(task_template, TaskTemplate):
            assert (custom["a"], custom.get("a"), custom.get("none"), custom.get("none", 3)) == (
                [1.0, {"b": None}], [1.0, {"b": None}], None, 3,
            )  # fmt: skip
            assert dict(custom) == dict(custom.items()) == {**custom} == custom.to_dict()
        return Job("7")

    for takes_protobuf in (False, True):
        await Service(connector(create=create, takes_protobuf=takes_protobuf)).create(template=TEMPLATE)
    assert seen[0] == ["x", True, False, ["a", "text"], ["a", "text"], 2]
    seen[1][3].sort()  # in protobuf, they have no order
    assert seen[0] == seen[1]
