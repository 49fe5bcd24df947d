"""Which CreateTask requests ask for the same job.

Flyte's executor can send the same request again: it has restarted before it wrote down the answer, its view of the
workflow was stale, or its gRPC client retries. What names the job is the attempt (`task_execution_id`, with its
`retry_attempt`) together with what is asked for; the latter because parts of one execution may share an id. Secrets are
no part of it, for they can be rotated in between, nor is the order of inputs and map entries, which Go picks at random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from typing import Any

from betterproto2 import Message

from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import NodeExecutionIdentifier, TaskTemplate

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
    template = TaskTemplate() if request.template is None else request.template
    node = _tuple([_canonical(name.task_id), _canonical(name.node_execution_id)])
    task = _digest(node, _canonical(template), _canonical(request.inputs))
    return JobIdentity(
        key=f"cr-{_digest(repr(task), repr(name.retry_attempt), repr(request.output_prefix))[:_KEY_DIGITS]}",
        task=task,
        attempt=name.retry_attempt,
        output_prefix=request.output_prefix,
        declares_outputs=_declares_outputs(template),
    )


def _is_complete(node: NodeExecutionIdentifier | None) -> bool:
    return node is not None and bool(node.node_id) and node.execution_id is not None and bool(node.execution_id.name)


def _declares_outputs(template: TaskTemplate) -> bool:
    outputs = template.interface.outputs if template.interface is not None else None
    return outputs is not None and bool(outputs.variables)


def _digest(*parts: str) -> str:
    return hashlib.sha256(_tuple(parts).encode("utf-8", "backslashreplace")).hexdigest()


# What is hashed is the `repr` of tuples. It is written without making them, which is quicker.


def _tuple(items: Sequence[str]) -> str:
    """The `repr` of a tuple whose items have these."""
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def _canonical(value: Any) -> str:
    """A text that is the same for equal messages: each as its name and its fields, with maps in the order of keys."""
    return _writer(type(value))(value)  # type: ignore[arg-type]  # mypy: classes are hashable


@cache
def _writer(cls: type) -> Callable[[Any], str]:
    if issubclass(cls, Message):
        return _message_writer(cls)
    if issubclass(cls, list):
        return _write_list
    if issubclass(cls, dict):
        return _write_dict
    return _write_member if issubclass(cls, Enum) else repr


def _message_writer(cls: type[Message]) -> Callable[[Any], str]:
    """What writes a message and its fields that are set, as on the wire: one that a later release adds changes nothing.

    It is straight-line Python, as decoders are: a request has a hundred messages, most fields of which are not set.
    """
    known: dict[str, Any] = {"writer": _writer, "tuple_": _tuple}
    lines = ["def write(message):", "    found = []"]
    for name, default in _defaults(cls):
        known[f"default_{name}"] = default
        is_set = "value is not None" if default is None else f"value or value != default_{name}"
        lines += [f"    value = message.{name}", f"    if {is_set}:"]
        lines += [f"        found.append(f\"('{name}', {{writer(type(value))(value)}})\")"]
    lines += [f"    return f\"('{cls.__name__}', {{tuple_(found)}})\""]
    exec(compile("\n".join(lines), f"<writer of {cls.__name__}>", "exec"), known)  # noqa: S102 - the lines above
    write: Callable[[Any], str] = known["write"]
    return write


def _defaults(cls: type[Message]) -> list[tuple[str, Any]]:
    """The names of a message's fields, and what they are when not set."""
    empty = cls()
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # all messages are dataclasses
    return [(name, getattr(empty, name)) for name in names if not name.startswith("_")]


def _write_dict(entries: dict[Any, Any]) -> str:
    return _tuple([f"({key!r}, {_canonical(entries[key])})" for key in sorted(entries)])


def _write_member(member: Enum) -> str:
    return repr(member.value)


def _write_list(items: list[Any]) -> str:
    """Flyte 2 writes maps as lists of entries, which have a `key` or a `name`; their order means nothing."""
    labels = {_label(type(item)) for item in items}  # type: ignore[arg-type]  # as above
    label = labels.pop() if len(labels) == 1 else None
    if label is not None:
        items = sorted(items, key=lambda item: str(getattr(item, label)))
    return _tuple([_canonical(item) for item in items])


@cache
def _label(cls: type) -> str | None:
    """The field that tells entries of this class apart, if they are entries."""
    names = [field.name for field in fields(cls)] if issubclass(cls, Message) else []  # type: ignore[arg-type]  # as above
    return next((label for label in ("key", "name") if label in names), None)
