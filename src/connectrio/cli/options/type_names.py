"""Flyte types as they are written on the command line.

    type     = variant *( "|" variant )
    variant  = simple / "list[" type "]" / "dict[str, " type "]" / "enum(" member *( "|" member ) ")"
             / ( "file" / "dir" / "dataframe" ) [ "(" format ")" ]
    simple   = "int" / "float" / "str" / "bool" / "datetime" / "duration" / "none" / "dict" / "bytes"

What `connectrio.literals.type_name` calls a type is such a text, except for enums.
"""

from __future__ import annotations

import re

from connectrio.cli.errors import UsageError
from connectrio.idl.flyteidl2.core import (
    BlobType,
    BlobTypeBlobDimensionality,
    EnumType,
    LiteralType,
    SimpleType,
    StructuredDatasetType,
    UnionType,
)
from connectrio.literals.literal_types import tagged

__all__ = ["parse_type"]

_SIMPLE = {
    "int": SimpleType.INTEGER,
    "integer": SimpleType.INTEGER,
    "float": SimpleType.FLOAT,
    "str": SimpleType.STRING,
    "string": SimpleType.STRING,
    "bool": SimpleType.BOOLEAN,
    "boolean": SimpleType.BOOLEAN,
    "datetime": SimpleType.DATETIME,
    "duration": SimpleType.DURATION,
    "timedelta": SimpleType.DURATION,
    "none": SimpleType.NONE,
    "dict": SimpleType.STRUCT,
    "struct": SimpleType.STRUCT,
    "bytes": SimpleType.BINARY,
    "binary": SimpleType.BINARY,
}
_BLOBS = {"file": BlobTypeBlobDimensionality.SINGLE, "dir": BlobTypeBlobDimensionality.MULTIPART}

_NAME = re.compile(r"\s*([A-Za-z]+)\s*")
_IN_PARENTHESES = re.compile(r"\(([^()]*)\)\s*")


def parse_type(text: str) -> LiteralType:
    """The type that `text` names, such as `int`, `list[float]`, `enum(red|green)` or `int|none`.

    :raises UsageError: it names none
    """
    parser = _Parser(text)
    parsed = parser.union()
    parser.expect_end()
    return parsed


class _Parser:
    """Recursive descent; `_rest` is what is still to be read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._rest = text

    def union(self) -> LiteralType:
        variants = [self._variant()]
        while self._take("|"):
            variants.append(self._variant())
        if len(variants) == 1:
            return variants[0]
        return LiteralType(union_type=UnionType(variants=[tagged(variant) for variant in variants]))

    def expect_end(self) -> None:
        if self._rest.strip():
            raise self._error(f"{self._rest.strip()!r} is left over")

    def _variant(self) -> LiteralType:
        name = self._name()
        if name == "list":
            return self._list()
        if name == "dict" and self._rest.startswith("["):
            return self._map()
        if name == "enum":
            return self._enum()
        if name in _BLOBS:
            return LiteralType(blob=BlobType(format=self._parenthesized() or "", dimensionality=_BLOBS[name]))
        if name == "dataframe":
            return LiteralType(structured_dataset_type=StructuredDatasetType(format=self._parenthesized() or ""))
        if name in _SIMPLE:
            return LiteralType(simple=_SIMPLE[name])
        raise self._error(f"there is no type {name!r}")

    def _enum(self) -> LiteralType:
        members = self._parenthesized()
        if not members:
            raise self._error("an enum needs its members, such as enum(red|green)")
        return LiteralType(enum_type=EnumType(values=[member.strip() for member in members.split("|")]))

    def _list(self) -> LiteralType:
        self._expect("[")
        items = self.union()
        self._expect("]")
        return LiteralType(collection_type=items)

    def _map(self) -> LiteralType:
        self._expect("[")
        if self._name() not in ("str", "string"):
            raise self._error("the keys of a dict are str")
        self._expect(",")
        values = self.union()
        self._expect("]")
        return LiteralType(map_value_type=values)

    def _name(self) -> str:
        match = _NAME.match(self._rest)
        if match is None:
            raise self._error(f"a type is missing before {self._rest!r}" if self._rest else "a type is missing")
        self._rest = self._rest[match.end() :]
        return match[1].lower()

    def _parenthesized(self) -> str | None:
        match = _IN_PARENTHESES.match(self._rest)
        if match is None:
            return None
        self._rest = self._rest[match.end() :]
        return match[1].strip()

    def _take(self, sign: str) -> bool:
        if not self._rest.startswith(sign):
            return False
        self._rest = self._rest[len(sign) :].lstrip()
        return True

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._error(f"{sign!r} is missing")

    def _error(self, what: str) -> UsageError:
        return UsageError(
            f"cannot read the type {self._text!r}: {what}",
            hint="types: int float str bool datetime duration none dict bytes file dir dataframe enum(a|b)"
            " list[type] dict[str, type] type|type",
        )
