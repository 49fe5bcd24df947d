"""The state of a job as text for people, and as documents for JSON."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from connectrio.idl.flyteidl2.connector import Resource
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.idl.flyteidl2.logs.dataplane import LogLine, LogLineOriginator
from connectrio.idl.flyteidl2.task import Outputs
from connectrio.idl.google.protobuf import Struct, Timestamp
from connectrio.literals import DataFrame, Dir, File, LiteralError, literal_to_python
from connectrio.terminal import print_line, print_table, printable

__all__ = [
    "FINAL",
    "line_document",
    "line_text",
    "meta_document",
    "outputs_of",
    "phase_name",
    "print_resource",
    "resource_document",
    "struct_document",
]

FINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED})
"""The phases after which there is no other."""

_STYLES = {Phase.SUCCEEDED: "green", Phase.FAILED: "red", Phase.ABORTED: "yellow", Phase.RETRYABLE_FAILED: "red"}


def phase_name(phase: Phase) -> str:
    """The phase's name; its number, if this version of the protocol has no name for it."""
    return phase.name or str(int(phase))


def meta_document(meta: bytes) -> dict[str, Any]:
    """A resource meta: as it is where it is JSON, and as base64."""
    document: dict[str, Any] = {"resource_meta_base64": base64.b64encode(meta).decode()}
    try:
        return {"resource_meta": msgspec.json.decode(meta), **document}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"resource_meta": None, **document}


def outputs_of(outputs: Outputs | None) -> dict[str, Any]:
    """Output name → Python value; a literal that has none stays a literal, as proto-JSON."""
    values: dict[str, Any] = {}
    for named in outputs.literals if outputs is not None else ():
        try:
            values[named.name] = None if named.value is None else literal_to_python(named.value)
        except LiteralError:
            values[named.name] = {} if named.value is None else named.value.to_dict()
    return values


def struct_document(struct: Struct | None) -> dict[str, Any]:
    """A protobuf Struct as JSON has it, with integral numbers as integers."""
    return {} if struct is None else {key: _integral(value) for key, value in struct.to_dict().items()}


def _integral(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integral(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def resource_document(resource: Resource) -> dict[str, Any]:
    """The state of a job for JSON."""
    return {
        "phase": phase_name(resource.phase),
        "message": resource.message,
        "outputs": outputs_of(resource.outputs),
        "custom_info": struct_document(resource.custom_info),
        "log_links": [{"name": link.name, "uri": link.uri} for link in resource.log_links],
    }


def print_resource(resource: Resource) -> None:
    """The state of a job for people."""
    summary = phase_name(resource.phase) + (f": {resource.message}" if resource.message else "")
    print_line(summary, _STYLES.get(resource.phase, "cyan"))
    print_pairs("Outputs", outputs_of(resource.outputs))
    print_pairs("Details", struct_document(resource.custom_info))
    for link in resource.log_links:
        print_line(f"{link.name or 'link'}: {link.uri}")


def print_pairs(title: str, values: dict[str, Any]) -> None:
    """Names and values, if there are any."""
    if values:
        print_table(title, (title, "Value"), [(name, value_text(value)) for name, value in values.items()])


def value_text(value: Any) -> str:
    """A value as a person reads it: texts and references to stored data as they are, all else as JSON."""
    match value:
        case str():
            return value
        case File() | Dir():
            return value.path
        case DataFrame():
            return value.uri
    return msgspec.json.encode(value).decode()


def line_text(line: LogLine) -> str:
    """A line of a log for people."""
    time = f"{_iso(line.timestamp)[11:23]} " if line.timestamp is not None else ""
    return f"{time}{printable(line.message.rstrip())}"


def line_document(line: LogLine) -> dict[str, Any]:
    """A line of a log for JSON."""
    originator = LogLineOriginator(line.originator).name or str(int(line.originator))
    return {
        "timestamp": None if line.timestamp is None else _iso(line.timestamp),
        "message": line.message,
        "originator": originator,
    }


def _iso(timestamp: Timestamp) -> str:
    return timestamp.to_datetime().isoformat(timespec="microseconds").replace("+00:00", "Z")
