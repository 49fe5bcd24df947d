"""What a job's key is made of: it is the same on any host, so also for any way to write it down."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import fields
from enum import Enum
from hashlib import sha256
from typing import Any

import pytest
from betterproto2 import Message
from flyteidl2.connector import connector_pb2 as pb
from hypothesis import HealthCheck, given, settings

from connectrio.idl.flyteidl2.connector import CreateTaskRequest, TaskExecutionMetadata
from connectrio.idl.flyteidl2.core import (
    Identifier,
    Literal,
    LiteralCollection,
    LiteralType,
    NodeExecutionIdentifier,
    Primitive,
    Scalar,
    SimpleType,
    TaskExecutionIdentifier,
    TaskTemplate,
    TypedInterface,
    Variable,
    VariableEntry,
    VariableMap,
    WorkflowExecutionIdentifier,
)
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.rpc.codec import decode, encode
from connectrio.service import job_identity
from connectrio.service.job_identity import identify
from idl.messages import messages, mirror
from service.harness import Service

NODE = NodeExecutionIdentifier(node_id="n0", execution_id=WorkflowExecutionIdentifier(name="run"))
TASK = Identifier(name="my.task", version="v1")


def named(request: CreateTaskRequest, attempt: int = 0) -> CreateTaskRequest:
    """`request`, for an attempt at `TASK` in `NODE`."""
    name = TaskExecutionIdentifier(task_id=TASK, node_execution_id=NODE, retry_attempt=attempt)
    request.task_execution_metadata = TaskExecutionMetadata(task_execution_id=name)
    return request


def digest(*parts: Any) -> str:
    return sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()


def as_tuples(value: Any) -> Any:
    """The rule, as plainly as it can be said: what is hashed is the `repr` of this."""
    match value:
        case Message():
            return type(value).__name__, tuple(set_fields(value))
        case list():
            return tuple(map(as_tuples, in_order(value)))
        case dict():
            return tuple(sorted((key, as_tuples(item)) for key, item in value.items()))
        case Enum():
            return value.value
    return value


def set_fields(message: Message) -> Iterable[tuple[str, Any]]:
    empty = type(message)()
    for field in fields(message):  # type: ignore[arg-type]  # all messages are dataclasses
        value = getattr(message, field.name)
        if not field.name.startswith("_") and (value or value != getattr(empty, field.name)):
            yield field.name, as_tuples(value)


def in_order(items: list[Any]) -> list[Any]:
    for label in ("key", "name"):
        if all(isinstance(item, Message) and hasattr(item, label) for item in items):
            return sorted(items, key=lambda item: str(getattr(item, label)))
    return items


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages(pb.CreateTaskRequest, depth=9))
def test_keys_are_made_by_the_rule(message):
    request = named(mirror(message), attempt=2)
    template = request.template or TaskTemplate()
    task = digest((as_tuples(TASK), as_tuples(NODE)), as_tuples(template), as_tuples(request.inputs))
    found = identify(request)
    assert found is not None
    assert found.task == task
    assert found.key == f"cr-{digest(task, 2, request.output_prefix)[:40]}"


def test_a_key_is_the_same_in_each_release():
    """One release takes the place of another host by host, and the same request may reach both."""
    variables = VariableMap(
        variables=[
            VariableEntry(key=key, value=Variable(type=LiteralType(simple=SimpleType.INTEGER))) for key in ("y", "x")
        ]
    )
    template = TaskTemplate(type="query", config={"b": "1", "a": "ü"}, interface=TypedInterface(inputs=variables))
    found = identify(named(CreateTaskRequest(template=template, output_prefix="s3://bucket/prefix"), attempt=1))
    assert found is not None
    assert found.key == "cr-852385c3a21fd62ae313a9558fd7b13a661a7cfe"


def nested(text: str, levels: int) -> CreateTaskRequest:
    value = Literal(scalar=Scalar(primitive=Primitive(string_value=text)))
    for level in range(levels):
        other = Literal(scalar=Scalar(primitive=Primitive(integer=level)))
        value = Literal(collection=LiteralCollection(literals=[value, other]))
    return named(CreateTaskRequest(inputs=Inputs(literals=[NamedLiteral(name="x", value=value)])))


@pytest.mark.parametrize("size", [0, 200, 900, 1100, 5000])
def test_keys_of_large_requests_are_made_by_the_rule(size):
    request = nested("\0 0 \0'\"é☃" * (size // 10), 30)
    task = digest((as_tuples(TASK), as_tuples(NODE)), as_tuples(TaskTemplate()), as_tuples(request.inputs))
    found = identify(request)
    assert found is not None
    assert found.task == task


def test_a_large_value_is_not_copied_at_each_level(monkeypatch):
    """A few megabytes, sixty levels deep, took more than a second of the event loop."""
    hashed = []

    def record(text: str, held: list[str]) -> str:
        hashed.extend([text, *held])
        return "digest"

    monkeypatch.setattr(job_identity, "_digest", record)
    identify(nested("x" * 100_000, 60))
    assert sum(map(len, hashed)) < 2 * 100_000


@pytest.mark.parametrize("part", ["template", "inputs"])
@pytest.mark.parametrize(("size", "is_here"), [(100_000, True), (150_000, False)])
async def test_keys_of_large_requests_are_computed_in_a_thread(part, size, is_here, monkeypatch):
    threads = []

    def noted(request):
        threads.append(threading.current_thread())
        return identify(request)

    monkeypatch.setattr("connectrio.service.async_connector.identify", noted)
    request = nested("x" * size, 0) if part == "inputs" else named(CreateTaskRequest())
    declared = VariableEntry(key="x", value=Variable(type=LiteralType(simple=SimpleType.STRING)))
    interface = TypedInterface(inputs=VariableMap(variables=[declared] if part == "inputs" else []))
    config = {"a": "x" * size} if part == "template" else {}
    request.template = TaskTemplate(type="tiny", interface=interface, config=config)
    service = Service()
    await service.servicer.create_task(decode(encode(request), CreateTaskRequest))
    assert [thread is threading.current_thread() for thread in threads] == [is_here]
    assert service.sample("creates_total", origin="fresh") == 1
