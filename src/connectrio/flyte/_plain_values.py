"""Inputs and outputs of plain types, converted as flyte-sdk's type engine does, in a tenth of its time.

The engine makes a task for each input, list, map and item. This handles what the engine has one answer for: integers,
floats, strings and booleans, and in inputs lists and maps of these, in their usual form. All other types, and values in
any other form, are left to the engine, whose errors are then the same as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, TypeAlias

from flyte.types import TypeEngine
from flyte.types import _type_engine as engine
from flyteidl2.core.interface_pb2 import VariableMap
from flyteidl2.core.literals_pb2 import Literal, Primitive, Scalar
from flyteidl2.core.types_pb2 import LiteralType
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral, Outputs

__all__ = ["plain_inputs", "plain_outputs"]

_Reader: TypeAlias = Callable[[Literal], Any]

# the transformers that the functions below stand for, and the member of `Primitive` that holds their values
_MEMBERS: dict[type, tuple[Any, str]] = {
    int: (engine.IntTransformer, "integer"),
    float: (engine.FloatTransformer, "float_value"),
    str: (engine.StrTransformer, "string_value"),
    bool: (engine.BoolTransformer, "boolean"),
}

# of the declarations of one task; a client could fill the memory with large ones
_LONGEST_REMEMBERED = 16 * 1024


class _OtherFormError(Exception):
    """A value that is left to the type engine."""


def plain_inputs(variables: VariableMap, inputs: Inputs) -> dict[str, Any] | None:
    """Return the inputs as Python values; None if the type engine must convert them.

    :param variables: the declared inputs
    """
    key = variables.SerializeToString()
    readers = _readers(key) if len(key) <= _LONGEST_REMEMBERED else None
    if readers is None or len(inputs.literals) > len(readers):
        return None
    try:
        return {named.name: readers[named.name](named.value) for named in inputs.literals}
    except (_OtherFormError, KeyError):
        return None


def plain_outputs(outputs: Any) -> Outputs | None:
    """Return the outputs as a message; None if the type engine must convert them."""
    if type(outputs) is not dict:
        return None
    literals = []
    for name, value in outputs.items():
        kind = type(value)
        if type(name) is not str or kind not in _MEMBERS or not _is_plain(kind):  # type: ignore[arg-type]  # mypy: classes are hashable
            return None
        try:
            literal = Literal(scalar=Scalar(primitive=Primitive(**{_MEMBERS[kind][1]: value})))
            literals.append(NamedLiteral(name=name, value=literal))
        except ValueError:  # too large a number, or a text that has no encoding
            return None
    return Outputs(literals=literals)


@cache
def _is_plain(kind: type) -> bool:
    """Return whether values of that type are converted as flyte-sdk does by itself."""
    return TypeEngine.get_transformer(kind) is _MEMBERS[kind][0]


@lru_cache(maxsize=256)
def _readers(variables: bytes) -> dict[str, _Reader] | None:
    """Return what reads each input; None if a type is not plain."""
    readers = {}
    for variable in VariableMap.FromString(variables).variables:
        reader = _reader(variable.value.type)
        if reader is None:
            return None
        readers[variable.key] = reader
    return readers


def _reader(declared: LiteralType) -> _Reader | None:
    """Return what reads literals of that type; None if that is the type engine's to do."""
    if declared.HasField("structure"):  # which may name a transformer, also one that is registered later
        return None
    try:
        kind: Any = TypeEngine.guess_python_type(declared)
        transformer = TypeEngine.get_transformer(kind)
    except Exception:  # noqa: BLE001 - the type engine will raise it again
        return None
    if kind in _MEMBERS:
        return partial(_read_scalar, _MEMBERS[kind][1]) if _is_plain(kind) else None
    read: Callable[[_Reader, Literal], Any]
    if type(transformer) is engine.ListTransformer and declared.HasField("collection_type"):
        read, item = _read_list, declared.collection_type
    elif type(transformer) is engine.DictTransformer and declared.HasField("map_value_type"):
        read, item = _read_map, declared.map_value_type
    else:
        return None
    read_item = _reader(item)
    return None if read_item is None else partial(read, read_item)


def _read_scalar(member: str, literal: Literal) -> Any:
    if literal.WhichOneof("value") == "scalar":
        primitive = literal.scalar.primitive
        if primitive.WhichOneof("value") == member:
            return getattr(primitive, member)
    raise _OtherFormError


def _read_list(read_item: _Reader, literal: Literal) -> list[Any]:
    if literal.WhichOneof("value") != "collection":
        raise _OtherFormError
    return [read_item(item) for item in literal.collection.literals]


def _read_map(read_item: _Reader, literal: Literal) -> dict[str, Any]:
    if literal.WhichOneof("value") != "map":
        raise _OtherFormError
    return {key: read_item(item) for key, item in literal.map.literals.items()}
