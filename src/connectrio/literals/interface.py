"""Conversions by declared types: one literal, or all inputs of a task by its interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectrio.idl.flyteidl2.core import Literal, LiteralType, VariableMap
from connectrio.idl.flyteidl2.task import Inputs
from connectrio.literals.codecs.structs import Pickle
from connectrio.literals.compile import codec_for
from connectrio.literals.errors import LiteralError, quoted_name, quoted_names
from connectrio.literals.schema.shapes import shared_budget
from connectrio.literals.storage import Storage, fetched
from connectrio.literals.untyped import read_untyped

__all__ = ["inputs_to_python", "literal_to_python", "python_to_literal_as"]


def literal_to_python(literal: Literal, literal_type: LiteralType | None = None) -> Any:
    """Return the Python value of a literal.

    :param literal_type: the declared type, which decides; if it is None, the literal's own form decides
    :raises LiteralError: the literal does not fit the type, or has no value
    """
    if literal_type is None:
        return read_untyped(literal)
    codec = codec_for(literal_type)
    try:
        with shared_budget():
            return codec.to_python(literal)
    except LiteralError as error:
        error.about("", codec.label)
        raise


def python_to_literal_as(value: Any, literal_type: LiteralType) -> Literal:
    """Return a literal of a declared type for a Python value, or for what JSON has in its place.

    Times may be ISO 8601 texts, durations seconds or texts like "1.5s", enum members their names, files, directories
    and data frames their URIs. For a union, the result is a union literal of the variant that fits.

    :raises LiteralError: the value is not of that type and cannot be converted to it
    """
    codec = codec_for(literal_type)
    try:
        return codec.to_literal(value)
    except LiteralError as error:
        error.about("", codec.label)
        raise


def inputs_to_python(
    inputs: Inputs | None, variables: VariableMap | None, *, storage: Storage | None = None, pickles: bool = False
) -> dict[str, Any]:
    """Return the inputs of a task as Python values, by the types that its interface declares, in the interface's order.

    An input that did not come is absent. If several literals have one name, the last one counts.

    :param inputs: the literals that came; None for none
    :param variables: the declared inputs; None for none
    :param storage: reads literals that are stored elsewhere, which blocks
    :param pickles: whether to read Python pickles, **which run whatever code their sender likes**
    :raises StoredElsewhereError: a part of an input is stored elsewhere or is a pickle, and no storage is given
    :raises LiteralError: an input is not declared, or its literal does not fit its declared type
    """
    if inputs is None or not inputs.literals:
        return {}
    pickle = Pickle(storage) if pickles else None
    literals = {named.name: Literal() if named.value is None else named.value for named in inputs.literals}
    entries = () if variables is None else variables.variables
    declared = {entry.key: None if entry.value is None else entry.value.type for entry in entries}
    if not literals.keys() <= declared.keys():
        raise _undeclared(literals, declared)
    values: dict[str, Any] = {}
    with shared_budget() as budget:
        for name, literal_type in declared.items():
            if name not in literals:
                continue
            budget.renew()
            codec = codec_for(literal_type, pickle=pickle)
            literal = literals[name]
            try:
                values[name] = codec.to_python(literal if storage is None else fetched(literal, storage))
            except LiteralError as error:
                error.about(f"input {quoted_name(name)}", codec.label)
                raise
    return values


def _undeclared(came: Mapping[str, Any], declared: Mapping[str, Any]) -> LiteralError:
    unknown = [name for name in came if name not in declared]
    which = f"input {quoted_name(unknown[0])} is" if len(unknown) == 1 else f"inputs {quoted_names(unknown)} are"
    interface = f"it declares {quoted_names(list(declared))}" if declared else "it declares none"
    count = f" ({len(came)} came for {len(declared)} declared)" if len(came) > len(declared) else ""
    return LiteralError(f"{which} not declared in the task's interface: {interface}{count}")
