"""A hosted connector gets the same arguments and gives the same answers as in flyte-sdk's own host."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import signal
from pathlib import Path

import grpc
import pytest
from flyte.io import DataFrame, Dir, File
from flyte.types import TypeEngine
from flyteidl2.connector.connector_pb2 import TaskExecutionMetadata
from flyteidl2.core.interface_pb2 import TypedInterface, Variable, VariableEntry, VariableMap
from flyteidl2.core.literals_pb2 import Literal, Primitive, Scalar, Union, Void
from flyteidl2.core.security_pb2 import Connection
from flyteidl2.core.tasks_pb2 import Container, Sql, TaskTemplate
from flyteidl2.core.types_pb2 import LiteralType, SimpleType, UnionType
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral
from google.protobuf.struct_pb2 import Struct

from e2e.client import Client
from e2e.programs import HostProgram
from e2e.reference import ReferenceProgram, find_reference
from flyte_sdk.connectors.mirror import RESOURCES, Color, Mirrored, Model, Point
from flyte_sdk.table import DIFFERENCES

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "flyte-connectors.md"
CONNECTORS = Path(__file__).parent / "connectors"

# seconds; flyte-sdk takes long to import on a busy machine
PATIENCE = 120.0


@pytest.fixture(scope="module")
def reference(pytestconfig):
    """A client of flyte-sdk's host."""
    python = find_reference(pytestconfig)
    with (
        ReferenceProgram(python, modules=["mirror"], cwd=CONNECTORS) as program,
        Client(program.ready(PATIENCE).target) as client,
    ):
        yield client


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def ours(request):
    """A client of our host."""
    with HostProgram(request.param, modules=[str(CONNECTORS / "mirror.py")]) as program:
        with Client(program.ready(PATIENCE).target) as client:
            yield client
        program.send(signal.SIGTERM)
        assert program.wait() == 0


VALUES = [
    (int, 7),
    (int, -(2**62)),
    (float, 1.5),
    (float, float("inf")),
    (str, "grüße"),
    (str, ""),
    (bool, True),
    (bool, False),
    (dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, 678901, dt.UTC)),
    (dt.date, dt.date(2026, 1, 2)),
    (dt.timedelta, dt.timedelta(days=1, microseconds=1)),
    (type(None), None),
    (list[int], [1, 2, 3]),
    (list[int], []),
    (list[list[str]], [["a"], [], ["b", "c"]]),
    (dict[str, int], {"a": 1, "b": 2}),
    (dict[str, list[float]], {"a": [1.5]}),
    (dict, {"a": 1, "b": [1.5, None, {"c": "d"}]}),
    (int | None, 7),
    (int | None, None),
    (int | str, "seven"),
    (int | str, 7),
    (list[int | None], [1, None]),
    (Color, Color.BLUE),
    (list[Color], [Color.RED, Color.BLUE]),
    (Point, Point(1, "one")),
    (list[Point], [Point(1, "one"), Point(2, "two")]),
    (dict[str, Point], {"p": Point(1, "one")}),
    (Point | None, Point(1, "one")),
    (Model, Model(ratio=0.5, names=["a", "b"])),
    (tuple[int, str], (1, "a")),
    (File, File(path="s3://bucket/file", name="file", hash="h")),
    (Dir, Dir(path="s3://bucket/dir", name="dir")),
    (list[File], [File(path="s3://bucket/file")]),
    (DataFrame, DataFrame(uri="bq://p:d.t", format="parquet")),
]


def scalar(**fields):
    return Literal(scalar=Scalar(primitive=Primitive(**fields)))


def generic(**fields):
    struct = Struct()
    struct.update(fields)
    return Literal(scalar=Scalar(generic=struct))


INT, STR, STRUCT = (LiteralType(simple=SimpleType.Value(name)) for name in ("INTEGER", "STRING", "STRUCT"))
LIST = LiteralType(collection_type=INT)
UNION = LiteralType(union_type=UnionType(variants=[INT, STR]))

# requests of clients other than flyte-sdk's, and invalid ones
LITERALS = [
    (INT, scalar(float_value=5.9)),
    (INT, scalar(string_value="text")),
    (INT, Literal()),
    (STR, Literal()),
    (STR, scalar(integer=5)),
    (LiteralType(simple=SimpleType.BOOLEAN), Literal()),
    (LiteralType(simple=SimpleType.FLOAT), scalar(integer=5)),
    (STRUCT, generic(a=1, b=[1, None, {"c": "d"}])),
    (LIST, scalar(integer=1)),
    (LiteralType(map_value_type=INT), Literal()),
    (UNION, scalar(integer=5)),
    (UNION, scalar(string_value="a")),
    (UNION, Literal(scalar=Scalar(union=Union(value=scalar(integer=5), type=INT)))),
    (UNION, Literal(scalar=Scalar(none_type=Void()))),
    (LiteralType(simple=SimpleType.ERROR), scalar(integer=1)),
    (LiteralType(), scalar(integer=1)),
]


def interface(*types):
    entries = [VariableEntry(key=f"i{index}", value=Variable(type=each)) for index, each in enumerate(types)]
    return TypedInterface(inputs=VariableMap(variables=entries))


def inputs(*literals):
    return Inputs(literals=[NamedLiteral(name=f"i{index}", value=each) for index, each in enumerate(literals)])


def create(client, *, types=(), literals=(), **fields):
    template = TaskTemplate(type="mirror", interface=interface(*types), **fields.pop("template", {}))
    return outcome(lambda: client.call("create", template=template, inputs=inputs(*literals), meta=b"s3://x", **fields))


def outcome(call):
    """Return the answer, or the text of the error after the host's own words."""
    try:
        return call()
    except grpc.RpcError as error:
        return error.details()


def same_failure(ours, theirs):
    """Return whether both failed for the same reason, after each host's own words."""
    reason = theirs.partition("with error:\n ")[2].removesuffix(".").strip() if isinstance(theirs, str) else None
    return bool(reason) and isinstance(ours, str) and reason in ours


async def literal_of(kind, value):
    declared = TypeEngine.to_literal_type(kind)
    return declared, await TypeEngine.to_literal(value, kind, declared)


def test_values_of_all_types(ours, reference):
    for kind, value in VALUES:
        declared, literal = asyncio.run(literal_of(kind, value))
        theirs = create(reference, types=[declared], literals=[literal])
        assert not isinstance(theirs, str), f"{kind}: {theirs}"
        assert create(ours, types=[declared], literals=[literal]) == theirs, kind


@pytest.mark.parametrize(("declared", "literal"), LITERALS)
def test_literals_of_other_kinds(ours, reference, declared, literal):
    theirs = create(reference, types=[declared], literals=[literal])
    answer = create(ours, types=[declared], literals=[literal])
    assert answer == theirs or same_failure(answer, theirs)


def test_interfaces_and_inputs_that_do_not_match(ours, reference):
    for types, literals in [([INT, STR], [scalar(integer=1)]), ([INT], [scalar(integer=1)] * 2), ([], [])]:
        theirs, answer = (create(client, types=types, literals=literals) for client in (reference, ours))
        assert answer == theirs or same_failure(answer, theirs)


def test_everything_else_of_a_create(ours, reference):
    custom = Struct()
    custom.update({"a": 1, "b": [None, "x"]})
    metadata = TaskExecutionMetadata(namespace="ns", labels={"l": "1"}, environment_variables={"E": "2"})
    metadata.task_execution_id.node_execution_id.execution_id.name = "run"
    fields = {
        "template": {"custom": custom, "sql": Sql(statement="SELECT 1"), "container": Container(image="i", args=["a"])},
        "task_execution_metadata": metadata,
        "connection": Connection(secrets={"token": "t", "both": "secret"}, configs={"both": "config", "region": "eu"}),
    }
    theirs = create(reference, **fields)
    given = [name for name, _ in json.loads(json.loads(theirs.resource_meta)["said"])]
    assert given[:4] == ["task_template", "inputs", "output_prefix", "task_execution_metadata"]
    assert set(given[4:]) == {"token", "both", "region"}
    # maps of protobuf have no order
    assert told(create(ours, **fields)) == told(theirs)
    assert told(create(ours)) == told(create(reference))


def test_fields_that_are_newer_than_we_are(ours, reference):
    newer = b"\xf8\x07\x01"  # field 127
    template = TaskTemplate.FromString(TaskTemplate(type="mirror").SerializeToString() + newer)
    theirs, answer = (client.call("create", template=template, meta=b"s3://x") for client in (reference, ours))
    assert newer.hex() in theirs.resource_meta.decode()
    assert answer == theirs


def told(response):
    return sorted(json.loads(json.loads(response.resource_meta)["said"]))


def test_what_other_operations_are_given(ours, reference):
    fields = {"task_type": "mirror", "meta": Mirrored("x").encode()}
    connection = Connection(secrets={"token": "t"}, configs={"region": "eu"})
    for operation in ("get", "delete"):
        answers = [
            outcome(lambda client=client, operation=operation: client.call(operation, connection=connection, **fields))
            for client in (ours, reference)
        ]
        assert answers[0] == answers[1]
        assert "region" in str(answers[0])
    for operation in ("get_metrics", "get_logs"):
        extra = {"token": "t", "lines": 9} if operation == "get_logs" else {"queries": ["cpu"]}
        answers = [client.call(operation, **extra, **fields) for client in (ours, reference)]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("name", RESOURCES)
def test_resources(ours, reference, name):
    def get(client):
        return outcome(lambda: client.call("get", task_type="mirror", meta=Mirrored(name).encode()))

    theirs, answer = get(reference), get(ours)
    if isinstance(theirs, str):
        assert same_failure(answer, theirs)
    else:
        # compared as bytes, because NaN is not equal to itself
        assert answer.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda each: each.case)
def test_both_answer_as_the_table_says(ours, reference, difference):
    assert (difference.answer(reference), difference.answer(ours)) == (difference.theirs, difference.ours)


def test_the_document_has_the_table_and_the_numbers():
    text = DOCUMENT.read_text()
    table = text.partition("| what is asked |")[2].partition("\n\n")[0].splitlines()[2:]
    assert table == [difference.row for difference in DIFFERENCES]
    counts = (
        f"{len(VALUES)} values of all types, {len(LITERALS)} literals of other clients, and {len(RESOURCES)} states"
    )
    assert counts in " ".join(text.split())
