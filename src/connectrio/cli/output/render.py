"""A job's state, metrics and log lines as text for people, and as documents for JSON."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from connectrio.idl.flyteidl2.connector import Resource
from connectrio.idl.flyteidl2.core import ExecutionMetricResult
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.idl.flyteidl2.logs.dataplane import LogLine, LogLineOriginator
from connectrio.idl.flyteidl2.task import Outputs
from connectrio.idl.google.protobuf import Struct, Timestamp
from connectrio.literals import DataFrame, Dir, File, LiteralError, literal_to_python
from connectrio.terminal import print_line, print_table, printable

__all__ = [
    "line_document",
    "line_text",
    "meta_document",
    "outputs_of",
    "phase_name",
    "print_metrics",
    "print_resource",
    "resource_document",
    "struct_document",
]

_STYLES = {Phase.SUCCEEDED: "green", Phase.FAILED: "red", Phase.ABORTED: "yellow", Phase.RETRYABLE_FAILED: "red"}


def phase_name(phase: Phase) -> str:
    """Return the phase's name, or its number if this version of the protocol has no name for it."""
    return phase.name or str(int(phase))


def meta_document(meta: bytes) -> dict[str, Any]:
    """Return a resource meta for JSON: as the JSON it holds, if any, and as base64."""
    document: dict[str, Any] = {"resource_meta_base64": base64.b64encode(meta).decode()}
    try:
        return {"resource_meta": msgspec.json.decode(meta), **document}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"resource_meta": None, **document}


def outputs_of(outputs: Outputs | None) -> dict[str, Any]:
    """Return output name → Python value, or the literal as proto-JSON if it has no Python value."""
    values: dict[str, Any] = {}
    for named in outputs.literals if outputs is not None else ():
        try:
            values[named.name] = None if named.value is None else literal_to_python(named.value)
        except LiteralError:
            values[named.name] = {} if named.value is None else named.value.to_dict()
    return values


def struct_document(struct: Struct | None) -> dict[str, Any]:
    """Return a protobuf Struct for JSON, with whole numbers as integers."""
    return {} if struct is None else {key: _integral(value) for key, value in struct.to_dict().items()}


def _integral(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integral(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def resource_document(resource: Resource) -> dict[str, Any]:
    """Return the state of a job for JSON."""
    return {
        "phase": phase_name(resource.phase),
        "message": resource.message,
        "outputs": outputs_of(resource.outputs),
        "custom_info": struct_document(resource.custom_info),
        "log_links": [{"name": link.name, "uri": link.uri} for link in resource.log_links],
    }


def print_resource(resource: Resource) -> None:
    """Print the state of a job for people."""
    summary = phase_name(resource.phase) + (f": {resource.message}" if resource.message else "")
    print_line(summary, _STYLES.get(resource.phase, "cyan"))
    _print_pairs("Outputs", outputs_of(resource.outputs))
    _print_pairs("Details", struct_document(resource.custom_info))
    for link in resource.log_links:
        print_line(f"{link.name or 'link'}: {link.uri}")


def print_metrics(results: list[ExecutionMetricResult]) -> None:
    """Print the metrics of a job for people."""
    rows = []
    for result in results:
        data = struct_document(result.data)
        # most connectors report a value with its unit
        is_measure = data.keys() == {"value", "unit"}
        text = f"{_value_text(data['value'])} {data['unit']}" if is_measure else _value_text(data)
        rows.append((result.metric, text))
    print_table("Metrics", ("Metric", "Data"), rows)


def _print_pairs(title: str, values: dict[str, Any]) -> None:
    if values:
        print_table(title, (title, "Value"), [(name, _value_text(value)) for name, value in values.items()])


def _value_text(value: Any) -> str:
    """Return a value for people: texts and references to stored data as they are, all else as JSON."""
    match value:
        case str():
            return value
        case File() | Dir():
            return value.path
        case DataFrame():
            return value.uri
    return msgspec.json.encode(value).decode()


def line_text(line: LogLine) -> str:
    """Return a line of a log for people."""
    time = f"{_iso(line.timestamp)[11:23]} " if line.timestamp is not None else ""
    return f"{time}{printable(line.message.rstrip())}"


def line_document(line: LogLine) -> dict[str, Any]:
    """Return a line of a log for JSON."""
    originator = LogLineOriginator(line.originator).name or str(int(line.originator))
    return {
        "timestamp": None if line.timestamp is None else _iso(line.timestamp),
        "message": line.message,
        "originator": originator,
    }


def _iso(timestamp: Timestamp) -> str:
    return timestamp.to_datetime().isoformat(timespec="microseconds").replace("+00:00", "Z")
