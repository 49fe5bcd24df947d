"""The types that flyte-sdk declares, and values as it sends them, as our own messages."""

from __future__ import annotations

import json
from pathlib import Path

from flyteidl2.core import literals_pb2, types_pb2
from google.protobuf import json_format

from connectrio.idl.flyteidl2.core import Literal, LiteralType

FOUND = json.loads((Path(__file__).parents[1] / "differential" / "flyte_types.json").read_text())


def type_of(name: str) -> LiteralType:
    """Return the type that flyte-sdk declares under that name."""
    message = json_format.ParseDict(FOUND[name]["type"], types_pb2.LiteralType())
    return LiteralType.parse(message.SerializeToString())


def values_of(name: str) -> list[Literal]:
    """Return values of that type, as flyte-sdk sends them."""
    messages = [json_format.ParseDict(value, literals_pb2.Literal()) for value in FOUND[name]["values"]]
    return [Literal.parse(message.SerializeToString()) for message in messages]


def schema_type(schema: dict, tag: str = "") -> LiteralType:
    """Return the type of a struct with that JSON schema."""
    found = {"simple": "STRUCT", "metadata": schema, **({"structure": {"tag": tag}} if tag else {})}
    return LiteralType.parse(json_format.ParseDict(found, types_pb2.LiteralType()).SerializeToString())
