"""What connectors return, as the messages that the client gets. Everything here raises `ConnectorFault` alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

from connectrio.connector import AsyncConnector, Phase, Resource, TaskLog
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.idl.flyteidl2.task import Outputs
from connectrio.idl.google.protobuf import ListValue, NullValue, Struct, Value
from connectrio.literals import LiteralError, outputs_to_literals
from connectrio.literals.plain import plain
from connectrio.service.errors import ConnectorFault, describe_error

__all__ = ["encode_resource_meta", "expect", "resource_to_message", "sort_of"]

T = TypeVar("T")

# UNDEFINED is no phase of a job: Flyte's executor takes it for an error of the system
_PHASES = frozenset(Phase) - {Phase.UNDEFINED}
_PHASE_NAMES = ", ".join(sorted(str(phase.name) for phase in _PHASES))


def sort_of(value: Any) -> str:
    """What was returned, in a word; never its content."""
    return "None" if value is None else f"an object of class {type(value).__qualname__}"


def expect(value: Any, cls: type[T], label: str) -> T:
    """`value`, which the method `label` returned and which must be a `cls`."""
    if not isinstance(value, cls):
        raise ConnectorFault(f"{label} returned {sort_of(value)}, not a {cls.__qualname__}")
    return value


def encode_resource_meta(connector: AsyncConnector[Any], value: Any, label: str) -> bytes:
    """The bytes by which the client will ask for the job that `create` has started."""
    meta = expect(value, connector.metadata_type, label)
    try:
        data = meta.encode()
    except Exception as error:
        raise ConnectorFault(f"{label} started the job, but returned {describe_error(error)}") from error
    return expect(data, bytes, f"{connector.metadata_type.__qualname__}.encode")


def resource_to_message(value: Any, label: str) -> idl.Resource:
    """The state of a job."""
    resource = expect(value, Resource, label)
    return idl.Resource(
        phase=_phase(resource.phase, label),
        message=_message(resource.message, label),
        log_links=_log_links(resource.log_links, label),
        outputs=_outputs(resource.outputs, label),
        custom_info=_custom_info(resource.custom_info, label),
    )


def _phase(phase: Any, label: str) -> Phase:
    if isinstance(phase, bool) or phase not in _PHASES:
        raise ConnectorFault(f"{label} returned a Resource in phase {phase!r}; a phase is one of {_PHASE_NAMES}")
    return Phase(phase)


def _message(message: Any, label: str) -> str:
    text = expect(message if message is not None else "", str, f"{label}: the Resource's message")
    # a lone surrogate, as in undecodable file names, has no form in protobuf
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _log_links(links: Iterable[Any] | None, label: str) -> list[TaskLog]:
    if links is None:
        return []
    return [expect(link, TaskLog, f"{label}: the Resource's log_links") for link in links]


def _outputs(outputs: Any, label: str) -> Outputs | None:
    if not outputs:
        return None
    try:
        return outputs_to_literals(outputs)
    except (LiteralError, AttributeError) as error:
        raise ConnectorFault(f"{label} returned outputs that Flyte has no form for: {error}") from error


def _custom_info(custom_info: Any, label: str) -> Struct | None:
    if not custom_info:
        return None
    try:
        value = _value(plain(custom_info))
    except LiteralError as error:
        raise ConnectorFault(f"{label} returned custom_info that JSON has no form for: {error}") from error
    if value.struct_value is None:
        raise ConnectorFault(f"{label} returned custom_info that is {sort_of(custom_info)}, not a dict")
    return value.struct_value


def _value(data: Any) -> Value:
    match data:
        case None:
            return Value(null_value=NullValue.NULL_VALUE)
        case bool():
            return Value(bool_value=data)
        case int() | float():
            return Value(number_value=_number(data))
        case str():
            return Value(string_value=data)
        case list():
            return Value(list_value=ListValue(values=[_value(item) for item in data]))
        case dict():
            return Value(struct_value=Struct(fields={str(key): _value(item) for key, item in data.items()}))
        case _:
            raise LiteralError(f"{sort_of(data)} is not JSON")


def _number(number: float) -> float:
    try:
        result = float(number)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise LiteralError("a number that is infinite, too large or not a number")
    return result
