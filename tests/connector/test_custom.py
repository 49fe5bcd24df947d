"""A task's own configuration as Python values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from connectrio import InvalidRequestError, TaskTemplate, read_custom
from connectrio.idl.google.protobuf import ListValue, Struct, Value


@dataclass
class Limits:
    rows: int


@dataclass
class Settings:
    warehouse: str
    timeout: float = 60.0
    limits: Limits | None = None


def template(custom: dict[str, Any]) -> TaskTemplate:
    return TaskTemplate(custom=Struct.from_dict(custom))


def test_a_dictionary():
    custom = {"a": 5, "b": 0.5, "c": [1, {"d": 2.0}], "e": None, "f": True, "g": "5"}
    read = read_custom(template(custom))
    assert read == custom
    assert [type(read["a"]), type(read["b"]), type(read["c"][0]), type(read["c"][1]["d"])] == [int, float, int, int]


def test_numbers_that_are_not_whole():
    read = read_custom(template({"a": float("inf"), "b": float("nan")}))
    assert read["a"] == float("inf")
    assert read["b"] != read["b"]


def test_no_configuration():
    assert read_custom(TaskTemplate()) == {}
    with pytest.raises(InvalidRequestError, match="required field `warehouse`"):
        read_custom(TaskTemplate(), Settings)


def test_an_object():
    custom = {"warehouse": "big", "timeout": 5, "limits": {"rows": 10}, "secrets": {"token": "TOKEN"}}
    read = read_custom(template(custom), Settings)
    assert read == Settings("big", 5.0, Limits(10))
    assert read_custom(template({"warehouse": "big"}), Settings) == Settings("big")


@pytest.mark.parametrize(
    ("custom", "text"),
    [
        ({"warehose": "a"}, "has the key 'warehose', which this connector does not know; did you mean 'warehouse'?"),
        ({"warehouse": "a", "x": 1}, "does not know: it may have 'warehouse', 'timeout', 'limits'"),
        ({"warehouse": 1}, "does not fit Settings: Expected `str`, got `int` - at `$.warehouse`"),
        ({"warehouse": "a", "limits": {"rows": 0.5}}, "Expected `int`, got `float` - at `$.limits.rows`"),
    ],
)
def test_what_does_not_fit(custom: dict[str, Any], text: str):
    with pytest.raises(InvalidRequestError) as raised:
        read_custom(template(custom), Settings)
    assert text in str(raised.value)


@pytest.mark.parametrize("value", [Value(), Value(list_value=ListValue(values=[Value()]))])
def test_a_value_without_a_kind(value: Value):
    with pytest.raises(InvalidRequestError, match="the task's custom has a value without a kind"):
        read_custom(TaskTemplate(custom=Struct(fields={"warehouse": value})), Settings)


def test_a_long_key():
    with pytest.raises(InvalidRequestError) as caught:
        read_custom(template({"k" * 1_000_000: 1}), Settings)
    assert len(str(caught.value)) < 300
