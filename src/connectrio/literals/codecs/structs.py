"""Structs, with and without a JSON schema, and binary data: MessagePack, and pickles where a host allows them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from connectrio.idl.flyteidl2.core import Literal
from connectrio.idl.google.protobuf import Struct, Value
from connectrio.literals.codecs import Codec, ConvertingCodec
from connectrio.literals.errors import (
    MAX_DEPTH,
    LiteralError,
    StoredElsewhereError,
    describe_value,
    mismatch,
    shortened,
    too_deep,
)
from connectrio.literals.plain_data import fields_reader, msgpack_literal, to_plain_data
from connectrio.literals.shapes import Reading, Shape
from connectrio.literals.steps import take_steps
from connectrio.literals.storage import Storage

__all__ = ["Binary", "Pickle", "TypedStruct", "UntypedStruct", "struct_to_dict"]

# protobuf's messages are slow to look into
_STEPS_PER_VALUE = 3


@dataclass(frozen=True)
class UntypedStruct(ConvertingCodec):
    """Dictionaries of anything. They are written as MessagePack, which keeps integers apart from floats.

    Dataclasses, named tuples and pydantic models are taken as the dictionary of their fields.
    """

    label = "dict"

    def to_python(self, literal: Literal) -> Any:
        if literal.scalar is not None and literal.scalar.generic is not None:
            return struct_to_dict(literal.scalar.generic)
        return self.unusual(literal)

    def from_plain(self, value: Any) -> Any:
        if isinstance(value, dict):
            return value
        if not self.converts or fields_reader(type(value)) is None:
            raise mismatch(self.label, describe_value(value))
        return to_plain_data(value)

    def to_literal(self, value: Any) -> Literal:
        return msgpack_literal(self.from_plain(value))


@dataclass(frozen=True)
class TypedStruct(ConvertingCodec):
    """Objects of one JSON schema: dataclasses, pydantic models, tuples and the like, as typed objects.

    They come as MessagePack or as a protobuf Struct, and are written as MessagePack.
    """

    shape: Shape

    @property
    def label(self) -> str:
        return self.shape.label

    def to_python(self, literal: Literal) -> Any:
        if literal.scalar is not None and literal.scalar.generic is not None:
            return self._read(struct_to_dict(literal.scalar.generic))
        return self.unusual(literal)

    def from_plain(self, value: Any) -> Any:
        return self._read(value if type(value) in (dict, list) else to_plain_data(value))

    def to_literal(self, value: Any) -> Literal:
        return msgpack_literal(self._read(to_plain_data(value)))

    def _read(self, data: Any) -> Any:
        return self.shape.read(data, Reading(exact=not self.converts))


@dataclass(frozen=True)
class Binary(ConvertingCodec):
    """Anything MessagePack holds: bytes, and with conversions any data.

    Untagged binary data, which are Python pickles to flyte-sdk, are refused.
    """

    label = "bytes"

    def to_python(self, literal: Literal) -> Any:
        return self.unusual(literal)

    def from_plain(self, value: Any) -> Any:
        if not self.converts and not isinstance(value, bytes):
            raise mismatch(self.label, describe_value(value))
        return value

    def to_literal(self, value: Any) -> Literal:
        return msgpack_literal(self.from_plain(value))


@dataclass(frozen=True)
class Pickle(Codec):
    """Python pickles, in the literal itself or in a file: what flyte-sdk sends for values that it has no type for.

    Reading one runs code of the sender's, so only hosts that allow it have this codec.

    :ivar storage: reads files. Without it no pickle is read, not even one in a literal: its code may take any time too
    """

    storage: Storage | None
    label = "pickle"

    def to_python(self, literal: Literal) -> Any:
        scalar = literal.scalar
        if scalar is not None and scalar.blob is not None:
            data = self._given_storage().read(scalar.blob.uri)
        elif scalar is not None and scalar.binary is not None and not scalar.binary.tag:
            self._given_storage()
            data = scalar.binary.value
        else:
            return self.unusual(literal)
        try:
            return pickle.loads(data)  # noqa: S301 - the host was told to allow it
        except ModuleNotFoundError as error:
            advice = "pip install cloudpickle" if error.name == "cloudpickle" else "install what the sender installed"
            raise LiteralError(
                f"this pickle needs the module {error.name}, which is not installed here: {advice}"
            ) from error
        except Exception as error:
            # any: a pickle runs code of its own
            raise LiteralError(shortened(f"this pickle cannot be read: {type(error).__name__}: {error}")) from error

    def _given_storage(self) -> Storage:
        if self.storage is None:
            raise StoredElsewhereError("got a pickle, which is read only with a Storage")
        return self.storage

    def from_plain(self, value: Any) -> Any:
        return value

    def to_literal(self, value: Any) -> Literal:
        raise mismatch("a type that is data", f"pickle for {describe_value(value)}")


def struct_to_dict(struct: Struct, depth: int = 0) -> dict[str, Any]:
    """Return a protobuf Struct as a dictionary; all its numbers are floats.

    :param depth: how many structs and lists it is in
    :raises LiteralError: it is nested too deeply
    """
    take_steps(_STEPS_PER_VALUE * len(struct.fields))
    return {key: _struct_value(value, depth + 1) for key, value in struct.fields.items()}


def _struct_value(value: Value, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise too_deep()
    if value.struct_value is not None:
        return struct_to_dict(value.struct_value, depth)
    if value.list_value is not None:
        take_steps(_STEPS_PER_VALUE * len(value.list_value.values))
        return [_struct_value(item, depth + 1) for item in value.list_value.values]
    if value.number_value is not None:
        return float(value.number_value)
    return value.bool_value if value.string_value is None else value.string_value
