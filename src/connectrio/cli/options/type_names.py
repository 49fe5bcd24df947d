"""Parses Flyte types as the command line writes them.

    type     = variant *( "|" variant )
    variant  = simple / "list[" type "]" / "dict[str, " type "]" / "enum(" member *( "|" member ) ")"
             / ( "file" / "dir" / "dataframe" ) [ "(" format ")" ]
    simple   = "int" / "float" / "str" / "bool" / "datetime" / "duration" / "none" / "dict" / "bytes"

`connectrio.literals.type_name` writes types in this form, except enums.
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
    """Return the type that `text` names, such as `int`, `list[float]`, `enum(red|green)` or `int|none`.

    :raises UsageError: it names no type
    """
    parser = _Parser(text)
    parsed = parser.union()
    if parser.rest.strip():
        raise parser.error(f"{parser.rest.strip()!r} is left over")
    return parsed


class _Parser:
    """A recursive descent parser. `rest` is the text that is not read yet."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.rest = text

    def union(self) -> LiteralType:
        variants = [self._variant()]
        while self._take("|"):
            variants.append(self._variant())
        if len(variants) == 1:
            return variants[0]
        return LiteralType(union_type=UnionType(variants=[tagged(variant) for variant in variants]))

    def _variant(self) -> LiteralType:
        name = self._name()
        if name == "list":
            self._expect("[")
            items = self.union()
            self._expect("]")
            return LiteralType(collection_type=items)
        if name == "dict" and self.rest.startswith("["):
            self._expect("[")
            if self._name() not in ("str", "string"):
                raise self.error("the keys of a dict are str")
            self._expect(",")
            values = self.union()
            self._expect("]")
            return LiteralType(map_value_type=values)
        if name == "enum":
            members = self._parenthesized()
            if not members:
                raise self.error("an enum needs its members, such as enum(red|green)")
            return LiteralType(enum_type=EnumType(values=[member.strip() for member in members.split("|")]))
        if name in _BLOBS:
            return LiteralType(blob=BlobType(format=self._parenthesized(), dimensionality=_BLOBS[name]))
        if name == "dataframe":
            return LiteralType(structured_dataset_type=StructuredDatasetType(format=self._parenthesized()))
        if name in _SIMPLE:
            return LiteralType(simple=_SIMPLE[name])
        raise self.error(f"there is no type {name!r}")

    def _name(self) -> str:
        match = _NAME.match(self.rest)
        if match is None:
            raise self.error(f"a type is missing before {self.rest!r}" if self.rest else "a type is missing")
        self.rest = self.rest[match.end() :]
        return match[1].lower()

    def _parenthesized(self) -> str:
        """Read and return the text in parentheses; "" if there are none."""
        match = _IN_PARENTHESES.match(self.rest)
        if match is None:
            return ""
        self.rest = self.rest[match.end() :]
        return match[1].strip()

    def _take(self, sign: str) -> bool:
        if not self.rest.startswith(sign):
            return False
        self.rest = self.rest[len(sign) :].lstrip()
        return True

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self.error(f"{sign!r} is missing")

    def error(self, what: str) -> UsageError:
        return UsageError(
            f"cannot read the type {self._text!r}: {what}",
            hint="types: int float str bool datetime duration none dict bytes file dir dataframe enum(a|b)"
            " list[type] dict[str, type] type|type",
        )
