"""A task's named inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from connectrio.idl.flyteidl2.core import Literal, LiteralType, VariableMap
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral, Outputs
from connectrio.literals.codecs.base import Codec
from connectrio.literals.codecs.pickles import Pickle
from connectrio.literals.codecs.text import encodable
from connectrio.literals.compile import codec_for
from connectrio.literals.describe import quoted_name, quoted_names
from connectrio.literals.errors import LiteralError
from connectrio.literals.offloaded import fetched
from connectrio.literals.outputs import write_value
from connectrio.literals.schema.shapes import one_budget
from connectrio.literals.storage import Storage

__all__ = ["inputs_to_python", "outputs_to_literals"]


def inputs_to_python(
    inputs: Inputs | None, variables: VariableMap | None, *, storage: Storage | None = None, pickles: bool = False
) -> dict[str, Any]:
    """The inputs of a task as Python values, by the types that its interface declares, in the interface's order.

    An input that did not come is absent. Of several literals with one name the last one counts.

    :param inputs: the literals that came; None for none
    :param variables: the declared inputs; None for none
    :param storage: what reads literals that are stored elsewhere, which blocks
    :param pickles: whether to read Python pickles, **which run whatever code their sender likes**
    :raises StoredElsewhereError: there is something stored elsewhere, or a pickle, and no storage is given
    :raises LiteralError: an input is not declared, or its literal does not fit its declared type
    """
    pickle = Pickle(storage) if pickles else None
    if inputs is None or not inputs.literals:
        return {}
    literals = {named.name: named.value for named in inputs.literals}
    declared = _declared_types(variables)
    if not literals.keys() <= declared.keys():
        raise _undeclared(literals.keys(), declared.keys())
    values: dict[str, Any] = {}
    with one_budget() as budget:
        for name, literal_type in declared.items():
            if name in literals:
                budget.renew()
                values[name] = _read_input(name, literals[name], codec_for(literal_type, pickle=pickle), storage)
    return values


def _declared_types(variables: VariableMap | None) -> dict[str, LiteralType | None]:
    entries = () if variables is None else variables.variables
    return {entry.key: None if entry.value is None else entry.value.type for entry in entries}


def _undeclared(came: Iterable[str], declared: Iterable[str]) -> LiteralError:
    names, known = list(came), list(declared)
    unknown = [name for name in names if name not in known]
    which = f"input {quoted_name(unknown[0])} is" if len(unknown) == 1 else f"inputs {quoted_names(unknown)} are"
    interface = f"it declares {quoted_names(known)}" if known else "it declares none"
    count = f" ({len(names)} came for {len(known)} declared)" if len(names) > len(known) else ""
    return LiteralError(f"{which} not declared in the task's interface: {interface}{count}")


def _read_input(name: str, literal: Literal | None, codec: Codec, storage: Storage | None) -> Any:
    literal = Literal() if literal is None else literal
    try:
        return codec.to_python(literal if storage is None else fetched(literal, storage))
    except LiteralError as error:
        error.about(f"input {quoted_name(name)}", codec.label)
        raise


def outputs_to_literals(outputs: Mapping[str, Any]) -> Outputs:
    """The outputs of a job as literals, each from the class of its value alone.

    Lists and tuples become collections; dicts, dataclasses, named tuples and pydantic models MessagePack; enum members
    the text of their name; naive datetimes are taken as UTC; bytes become untagged binary data; a Literal stays as it
    is.

    :param outputs: output name → value
    :raises LiteralError: Flyte has no literal for a value, or it is out of range
    """
    return Outputs(literals=[_write_output(name, value) for name, value in outputs.items()])


def _write_output(name: str, value: Any) -> NamedLiteral:
    try:
        return NamedLiteral(name=encodable(name), value=write_value(value))
    except LiteralError as error:
        error.about(f"output {quoted_name(str(name))}")
        raise
