"""The literals we write, read by the stack of the real client: flyteidl2 on protobuf."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from flyteidl2.core.literals_pb2 import Literal
from flyteidl2.task.common_pb2 import Outputs

from connectrio.literals import DataFrame, Dir, File, outputs_to_literals, python_to_literal
from literals.makers import nested

# protobuf's parsers allow 100 messages in one another; a collection takes two
MOST_COLLECTIONS = 49


def test_named_outputs_are_read():
    outputs = Outputs.FromString(bytes(outputs_to_literals({"n": 1, "s": "x"})))
    assert [(named.name, named.value.scalar.primitive.WhichOneof("value")) for named in outputs.literals] == [
        ("n", "integer"),
        ("s", "string_value"),
    ]


@pytest.mark.parametrize(
    ("value", "field"), [(0, "integer"), (0.0, "float_value"), ("", "string_value"), (False, "boolean")]
)
def test_values_that_are_defaults_are_still_there(value, field):
    primitive = received(value).scalar.primitive
    assert primitive.WhichOneof("value") == field
    assert getattr(primitive, field) == value


@pytest.mark.parametrize(
    "value",
    [
        datetime(1960, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ],
)
def test_times_are_read(value):
    assert received(value).scalar.primitive.datetime.ToDatetime(tzinfo=UTC) == value


@pytest.mark.parametrize("value", [timedelta(seconds=-1.5), timedelta(microseconds=-1), timedelta(days=3_652_500)])
def test_durations_are_read(value):
    assert received(value).scalar.primitive.duration.ToTimedelta() == value


def test_none_lists_and_structs_are_read():
    assert received(None).scalar.WhichOneof("value") == "none_type"
    assert [item.scalar.primitive.integer for item in received([1, 2]).collection.literals] == [1, 2]
    assert msgspec.msgpack.decode(received({"a": 1}).scalar.binary.value) == {"a": 1}


def test_references_are_read():
    file, directory, frame = (
        received(File("a", format="csv", hash="h")),
        received(Dir("b")),
        received(DataFrame("c", "d")),
    )
    assert (file.scalar.blob.uri, file.scalar.blob.metadata.type.format, file.hash) == ("a", "csv", "h")
    assert file.scalar.blob.metadata.type.dimensionality == 0
    assert directory.scalar.blob.metadata.type.dimensionality == 1
    assert frame.scalar.structured_dataset.metadata.structured_dataset_type.format == "d"


def test_collections_are_read_as_deep_as_protobuf_reads_any():
    deepest = received(nested(MOST_COLLECTIONS, lambda item: [item], 1))
    for _ in range(MOST_COLLECTIONS):
        deepest = deepest.collection.literals[0]
    assert deepest.scalar.primitive.integer == 1


def received(value):
    return Literal.FromString(bytes(python_to_literal(value)))
