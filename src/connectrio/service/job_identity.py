"""Which CreateTask requests ask for the same job.

Flyte's executor can send the same request again: it has restarted before it wrote down the answer, its view of the
workflow was stale, or its gRPC client retries. A job is named after the attempt (`task_execution_id`, with its
`retry_attempt`) and the task with its inputs; the latter because parts of one execution may share an id. Secrets are
left out, because they can be rotated in between. So is the order of inputs and map entries, which Go picks at random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache
from operator import attrgetter
from typing import Any

from betterproto2 import Message

from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import TaskTemplate

__all__ = ["JobIdentity", "identify"]

# 160 bits, after a letter: within what Kubernetes, Databricks (64 characters) and AWS take for names and tokens
_KEY_DIGITS = 40


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """The job that a CreateTask asks for.

    :ivar key: the same for each request for this job, on any host; lower-case letters, digits and "-", 43 characters
    :ivar task: the same for each attempt at the task
    :ivar attempt: 0 for the first
    :ivar declares_outputs: whether the task has any
    """

    key: str
    task: str
    attempt: int
    declares_outputs: bool


def identify(request: CreateTaskRequest) -> JobIdentity | None:
    """Return the job that `request` asks for; None if it does not say which node of which execution it is for."""
    metadata = request.task_execution_metadata
    name = metadata.task_execution_id if metadata is not None else None
    node = name.node_execution_id if name is not None else None
    execution = node.execution_id if node is not None else None
    if name is None or node is None or not node.node_id or execution is None or not execution.name:
        return None
    template = TaskTemplate() if request.template is None else request.template
    outputs = template.interface.outputs if template.interface is not None else None
    held: list[str] = []
    parts = (name.task_id, node, template, request.inputs)
    task_id, node_id, definition, inputs = [_writer(type(part))(part, held) for part in parts]  # type: ignore[arg-type]  # mypy: classes are hashable
    task = _digest(f"(({task_id}, {node_id}), {definition}, {inputs})", held)
    key = _digest(f"({task!r}, {name.retry_attempt!r}, {request.output_prefix!r})", [])
    return JobIdentity(
        key=f"cr-{key[:_KEY_DIGITS]}",
        task=task,
        attempt=name.retry_attempt,
        declares_outputs=outputs is not None and bool(outputs.variables),
    )


# What is hashed is the `repr` of tuples. It is written without making them, which is quicker; and without a call for
# each message and value, for a request has hundreds of them. A long text is not copied into the one around it, and that
# into the next: it is held, and a mark with its number stands for it. No `repr` has the character of the mark.

_MARK = "\0"
_LONGEST = 1024


def _digest(text: str, held: list[str]) -> str:
    """Return the hash of `text`, with what is held in place of the marks."""
    digest = hashlib.sha256()
    waiting = [text]
    while waiting:
        pieces = waiting.pop().split(_MARK)
        if len(pieces) == 1:
            digest.update(pieces[0].encode("utf-8", "backslashreplace"))
            continue
        pieces[1::2] = list(map(held.__getitem__, map(int, pieces[1::2])))  # every second one is the number of a text
        waiting += reversed(pieces)
    return digest.hexdigest()


@cache
def _writer(cls: type) -> Callable[[Any, list[str]], str]:
    """Return what writes values of `cls` as a text that is the same for equal ones.

    Each message is written as its name and its fields, with maps in key order.
    """
    if issubclass(cls, Message):
        return _message_writer(cls)
    if issubclass(cls, list):
        return _write_list
    if issubclass(cls, dict):
        return _write_dict
    return _write_integer if issubclass(cls, IntEnum) else _write_scalar


def _write_integer(value: int, held: list[str]) -> str:  # noqa: ARG001 - the signature of all writers
    return int.__repr__(value)


def _write_scalar(value: Any, held: list[str]) -> str:  # noqa: ARG001 - as above
    return repr(value)


def _message_writer(cls: type[Message]) -> Callable[[Any, list[str]], str]:
    """Return what writes a message and its fields that are set, as on the wire: a field that a later release adds
    changes nothing.

    It is straight-line Python, as decoders are: a request has a hundred messages, most fields of which are not set.
    """
    known: dict[str, Any] = {"writer": _writer, "write_list": _write_list, "write_dict": _write_dict}
    known |= {"mark": _MARK, "scalars": _SCALARS}
    lines = ["def write(message, held):", "    found = []"]
    for name, default in _defaults(cls):
        is_set = "value is not None" if default is None else "value"  # what is false equals the default
        text = "{int(value)!r}" if isinstance(default, IntEnum) else _TEXTS.get(type(default), _ANY)
        lines += [f"    value = message.{name}", f"    if {is_set}:"]
        lines += [f"        found.append(f\"('{name}', {text})\")"]
    lines += ["    comma = ',' if len(found) == 1 else ''"]
    lines += [f"    text = f\"('{cls.__name__}', ({{', '.join(found)}}{{comma}}))\""]
    lines += [f"    if len(text) <= {_LONGEST}:", "        return text"]
    lines += ["    held.append(text)", "    return f'{mark}{len(held) - 1}{mark}'"]
    exec(compile("\n".join(lines), f"<writer of {cls.__name__}>", "exec"), known)  # noqa: S102 - the lines above
    write: Callable[[Any, list[str]], str] = known["write"]
    return write


# how fields with a default of these classes are written
_SCALARS = frozenset({str, bytes, bool, int, float})
_TEXTS: dict[type, str] = dict.fromkeys(_SCALARS, "{value!r}")
_TEXTS |= {list: "{write_list(value, held)}", dict: "{write_dict(value, held)}"}
_ANY = "{repr(value) if type(value) in scalars else writer(type(value))(value, held)}"


def _defaults(cls: type[Message]) -> list[tuple[str, Any]]:
    """Return the names of a message's fields, and their values when they are not set."""
    empty = cls()
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # all messages are dataclasses
    return [(name, getattr(empty, name)) for name in names if not name.startswith("_")]


def _write_dict(entries: dict[Any, Any], held: list[str]) -> str:
    items = []
    for key in sorted(entries):
        value = entries[key]
        items.append(f"({key!r}, {_writer(type(value))(value, held)})")  # type: ignore[arg-type]  # as above
    return _tuple(items, held)


def _write_list(items: list[Any], held: list[str]) -> str:
    """Flyte 2 writes maps as lists of entries, which have a `key` or a `name`; their order means nothing."""
    keys = set(map(_entry_key, map(type, items)))
    key = keys.pop() if len(keys) == 1 else None
    if key is not None:
        items = sorted(items, key=key)
    return _tuple([_writer(type(item))(item, held) for item in items], held)  # type: ignore[arg-type]  # as above


def _tuple(items: list[str], held: list[str]) -> str:
    """Return the `repr` of a tuple whose items have these."""
    text = f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if len(text) <= _LONGEST:
        return text
    held.append(text)
    return f"{_MARK}{len(held) - 1}{_MARK}"


@cache
def _entry_key(cls: type) -> Callable[[Any], str] | None:
    """Return what gives the text that tells entries of this class apart, if they are entries."""
    defaults = dict(_defaults(cls)) if issubclass(cls, Message) else {}
    label = next((label for label in ("key", "name") if label in defaults), None)
    if label is None:
        return None
    return attrgetter(label) if isinstance(defaults[label], str) else lambda entry: str(getattr(entry, label))
