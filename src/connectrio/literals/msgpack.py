"""MessagePack in literals: how Flyte carries dictionaries, dataclasses and their attributes."""

from __future__ import annotations

from typing import Any

import msgspec

from connectrio.idl.flyteidl2.core import Binary, Literal, Scalar
from connectrio.literals.describe import quoted_name
from connectrio.literals.errors import MAX_DEPTH, LiteralError, too_deep

__all__ = ["msgpack_literal", "unpack"]

_TAG = "msgpack"


def msgpack_literal(data: Any) -> Literal:
    """A binary literal of plain data (see `plain.plain`).

    :raises LiteralError: an integer is beyond 64 bits, or a text is no Unicode
    """
    try:
        packed = msgspec.msgpack.encode(data)
    except (ValueError, OverflowError) as error:
        raise LiteralError(f"cannot be written as MessagePack: {error}") from error
    return Literal(scalar=Scalar(binary=Binary(value=packed, tag=_TAG)))


def unpack(binary: Binary) -> Any:
    """The plain data in a binary literal.

    :raises LiteralError: it is not tagged as MessagePack, or is not well-formed, or is nested too deeply
    """
    if not binary.tag:
        raise LiteralError(
            "got untagged binary data, which is a Python pickle: it is refused, because reading it would run code"
            " that the sender chose"
        )
    if binary.tag != _TAG:
        raise LiteralError(f"got binary data with tag {quoted_name(binary.tag)}; only {_TAG!r} is understood")
    try:
        data = _DECODER.decode(binary.value)
    except RecursionError:
        raise too_deep() from None
    except (msgspec.DecodeError, ValueError) as error:
        raise LiteralError(f"got malformed MessagePack: {error}") from error
    if _is_too_deep(data):
        raise too_deep()
    return data


def _refuse_extension(code: int, _data: memoryview) -> Any:
    raise ValueError(f"extension type {code} is not understood")


_DECODER = msgspec.msgpack.Decoder(ext_hook=_refuse_extension)


def _is_too_deep(data: Any) -> bool:
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def _children(node: Any) -> Any:
    if type(node) is dict:
        return node.values()
    return node if type(node) is list else ()
