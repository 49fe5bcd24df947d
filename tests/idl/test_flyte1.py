"""Flyte 1's messages are Flyte 2's on the wire, but for the fields that are named here: the services rely on it."""

from __future__ import annotations

import re

from flyteidl.admin import agent_pb2
from flyteidl.core import literals_pb2
from flyteidl2.connector import connector_pb2
from flyteidl2.task import common_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from idl.messages import class_of
from idl.wire_contract import PUBLISHED
from idl.wire_facts import Facts, Type, facts_of, types_of

# what a Flyte 1 client sends that is read as Flyte 2's message
REQUESTS = [
    (agent_pb2.CreateTaskRequest, connector_pb2.CreateTaskRequest),
    (agent_pb2.TaskCategory, connector_pb2.TaskCategory),
    (literals_pb2.LiteralMap, common_pb2.Inputs),
]
# and what it receives that was written as Flyte 2's
RESPONSES = [
    (agent_pb2.CreateTaskResponse, connector_pb2.CreateTaskResponse),
    (agent_pb2.DeleteTaskResponse, connector_pb2.DeleteTaskResponse),
    (agent_pb2.GetTaskResponse, connector_pb2.GetTaskResponse),
    (agent_pb2.GetTaskMetricsResponse, connector_pb2.GetTaskMetricsResponse),
    (agent_pb2.GetTaskLogsResponse, connector_pb2.GetTaskLogsResponse),
]
ONLY_IN_1 = {
    "flyteidl.admin.Resource.agent_error",
    "flyteidl.admin.Resource.state",
    "flyteidl.admin.TaskExecutionMetadata.overrides",
}


def pairs(messages):
    """Every message of Flyte 1 that these lead to, with Flyte 2's in its place."""
    todo = [(one.DESCRIPTOR, two.DESCRIPTOR) for one, two in messages]
    found: dict[str, tuple[Descriptor, Descriptor]] = {}
    while todo:
        one, two = todo.pop()
        if one.full_name in found:
            continue
        found[one.full_name] = one, two
        for field in one.fields:
            other = two.fields_by_number.get(field.number)
            if other is not None and field.message_type is not None and other.message_type is not None:
                todo.append((field.message_type, other.message_type))
    return found.values()


def wire_form(field: FieldDescriptor):
    """What of a field decides about its bytes."""
    return field.type, field.is_repeated, field.is_packed


def test_a_field_of_flyte_1_has_the_number_and_the_form_that_it_has_in_flyte_2():
    missing, different = set(), set()
    for one, two in pairs(REQUESTS + RESPONSES):
        for field in one.fields:
            other = two.fields_by_number.get(field.number)
            if other is None:
                missing.add(field.full_name)
            elif wire_form(field) != wire_form(other):
                different.add(field.full_name)
    assert (missing, different) == (ONLY_IN_1, set())


def enums(messages):
    """Every enum of Flyte 1 in these, with Flyte 2's in its place."""
    for one, two in pairs(messages):
        for field in one.fields:
            if field.enum_type is not None and field.number in two.fields_by_number:
                yield field.enum_type, two.fields_by_number[field.number].enum_type


def numbers(enum):
    return {value.number: value.name for value in enum.values}


def test_an_enum_of_flyte_1_means_in_flyte_2_what_it_meant():
    compared = dict(enums(REQUESTS + RESPONSES))
    assert len(compared) > 10
    renamed = {
        f"{one.full_name}.{name}": numbers(two).get(number)
        for one, two in compared.items()
        for number, name in numbers(one).items()
        if numbers(two).get(number) != name
    }
    assert renamed == {}


def test_the_comparison_reaches_the_depths():
    names = {one.full_name for one, _ in pairs(REQUESTS + RESPONSES)}
    assert {"flyteidl.core.LiteralMap.LiteralsEntry", "flyteidl.core.SchemaType.SchemaColumn"} <= names
    assert len(names) > 80


def test_where_flyte_1_has_no_class_of_its_own_flyte_2s_has_all_fields_and_values():
    aliases = [one for one in types_of(PUBLISHED["flyteidl"]).values() if ".flyteidl2." in our_class(one).__module__]
    ones, twos = facts_without_packages(aliases), facts_without_packages(types_of(PUBLISHED["flyteidl2"]).values())
    assert len(aliases) > 90
    assert len(ones) > 280
    assert {name: (fact, twos.get(name)) for name, fact in ones.items() if fact != twos.get(name)} == {}


def our_class(found: Type) -> type:
    """The class of a message or an enum; for an entry of a map, that of the message around it."""
    return class_of(found.containing_type if isinstance(found, Descriptor) and is_entry(found) else found)


def is_entry(message: Descriptor) -> bool:
    return message.GetOptions().map_entry


def facts_without_packages(types) -> Facts:
    """The facts about fields and values, with all names as they are within their packages."""
    return {
        re.sub(PACKAGE, "", name): re.sub(PACKAGE, "", fact)
        for name, fact in facts_of([], types).items()
        if fact.startswith(("field", "value"))
    }


PACKAGE = r"\bflyteidl2?(\.[a-z]\w*)+\."
