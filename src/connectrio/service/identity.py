"""Which CreateTask requests ask for the same job.

Flyte's executor can send the same request again: it has restarted before it wrote down the answer, its view of the
workflow was stale, or its gRPC client retries. What names the job is the attempt (`task_execution_id`, with its
`retry_attempt`) together with what is asked for; the latter because parts of one execution may share an id. Secrets are
no part of it, for they can be rotated in between, nor is the order of inputs and map entries, which Go picks at random.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from typing import Any

from betterproto2 import Message

from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import NodeExecutionIdentifier, TaskExecutionIdentifier, TaskTemplate

__all__ = ["JobIdentity", "identify"]

# 160 bits, after a letter: within what Kubernetes, Databricks (64 characters) and AWS take for names and tokens
_KEY_DIGITS = 40


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """The job that a CreateTask asks for.

    :ivar key: the same for each request for this job, on any host; lower-case letters, digits and "-", 43 characters
    :ivar task: the same for each attempt at the task
    :ivar attempt: 0 for the first
    :ivar output_prefix: where this attempt's outputs are to be written
    :ivar declares_outputs: whether the task has any
    """

    key: str
    task: str
    attempt: int
    output_prefix: str
    declares_outputs: bool


def identify(request: CreateTaskRequest) -> JobIdentity | None:
    """The job that `request` asks for; None if it does not say which node of which execution it is for."""
    metadata = request.task_execution_metadata
    name = metadata.task_execution_id if metadata is not None else None
    if name is None or not _is_complete(name.node_execution_id):
        return None
    template = request.template or TaskTemplate()
    task = _digest(_node(name), _canonical(template), _canonical(request.inputs))
    return JobIdentity(
        key=f"cr-{_digest(task, name.retry_attempt, request.output_prefix)[:_KEY_DIGITS]}",
        task=task,
        attempt=name.retry_attempt,
        output_prefix=request.output_prefix,
        declares_outputs=_declares_outputs(template),
    )


def _is_complete(node: NodeExecutionIdentifier | None) -> bool:
    return node is not None and bool(node.node_id) and node.execution_id is not None and bool(node.execution_id.name)


def _node(name: TaskExecutionIdentifier) -> Any:
    return _canonical(name.task_id), _canonical(name.node_execution_id)


def _declares_outputs(template: TaskTemplate) -> bool:
    outputs = template.interface.outputs if template.interface is not None else None
    return outputs is not None and bool(outputs.variables)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()


def _canonical(value: Any) -> Any:
    """`value` as tuples and plain values, whose `repr` is the same for equal messages."""
    match value:
        case Message():
            return type(value).__name__, tuple(_fields(value))
        case list():
            return tuple(_sorted_entries(value))
        case dict():
            return tuple(sorted((key, _canonical(item)) for key, item in value.items()))
        case Enum():
            return value.value
    return value


def _fields(message: Message) -> list[tuple[str, Any]]:
    """Those that are set, as on the wire: a field that a later release adds changes nothing until somebody sets it."""
    found = []
    for name, default in _defaults(type(message)):
        value = getattr(message, name)
        if value or value != default:
            found.append((name, _canonical(value)))
    return found


@cache
def _defaults(cls: type[Message]) -> list[tuple[str, Any]]:
    empty = cls()
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # all messages are dataclasses
    return [(name, getattr(empty, name)) for name in names if not name.startswith("_")]


def _sorted_entries(items: list[Any]) -> list[Any]:
    """Flyte 2 writes maps as lists of entries, which have a `key` or a `name`; their order means nothing."""
    canonical = [_canonical(item) for item in items]
    for label in ("key", "name"):
        if items and all(isinstance(item, Message) and hasattr(item, label) for item in items):
            order = sorted(range(len(items)), key=lambda index: str(getattr(items[index], label)))
            return [canonical[index] for index in order]
    return canonical
