"""Typed objects: fields, equality, copies."""

import copy
import pickle
from dataclasses import FrozenInstanceError

import pytest

from connectrio.literals import Record

POINT = Record("Point", {"x": 1, "label": "here"})


def test_fields_are_attributes_and_items():
    assert POINT.x == POINT["x"] == 1
    assert dict(POINT) == {"x": 1, "label": "here"}
    assert dict(POINT) == {**POINT}
    assert list(POINT) == ["x", "label"]
    assert len(POINT) == 2
    assert "x" in POINT
    assert "y" not in POINT
    assert POINT.get("y", 7) == 7


def test_a_field_that_is_not_there():
    with pytest.raises(AttributeError, match=r"^Point has no field 'y'; it has x, label$"):
        _ = POINT.y
    with pytest.raises(KeyError):
        _ = POINT["y"]
    with pytest.raises(AttributeError, match=r"^Nothing has no field 'y'; it has none$"):
        _ = Record("Nothing", {}).y


def test_it_cannot_be_changed():
    with pytest.raises(FrozenInstanceError, match=r"^Point\.x cannot be set"):
        POINT.x = 2
    with pytest.raises(FrozenInstanceError, match=r"^Point\.x cannot be deleted"):
        del POINT.x
    with pytest.raises(TypeError):
        hash(POINT)


def test_fields_hide_the_methods_of_mappings():
    record = Record("R", {"items": [1], "keys": 2, "get": 3, "__class__": 4, "a b": 5})
    assert (record.items, record.keys, record.get) == ([1], 2, 3)
    assert record["a b"] == 5
    assert type(record) is Record
    assert record._asdict() == {"items": [1], "keys": 2, "get": 3, "__class__": 4, "a b": 5}


def test_two_are_equal_by_title_and_fields():
    assert Record("Point", {"label": "here", "x": 1}) == POINT
    assert Record("Place", dict(POINT)) != POINT
    assert Record("Point", {"x": 2, "label": "here"}) != POINT
    assert POINT == {"x": 1, "label": "here"}
    assert POINT != 1


def test_it_shows_its_fields():
    assert repr(Record("Line", {"start": POINT, "ends": []})) == "Line(start=Point(x=1, label='here'), ends=[])"
    assert "x" in dir(POINT)


def test_the_records_in_it_become_dictionaries_with_it():
    line = Record("Line", {"start": POINT, "ends": [POINT], "by_name": {"a": POINT}})
    point = {"x": 1, "label": "here"}
    assert line._asdict() == {"start": point, "ends": [point], "by_name": {"a": point}}


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))])
def test_it_can_be_copied_and_pickled(duplicate):
    assert duplicate(POINT) == POINT


def test_patterns_match_it():
    match POINT:
        case {"x": 1, "label": label}:
            assert label == "here"
        case _:
            pytest.fail("it is a mapping")
