"""Reads bytes with protobuf and with betterproto2, both on this project's .proto files."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError, Message

from idl.messages import canonical, class_of
from idl.wire_contract import main_messages, message_classes, our_services
from idl.wire_facts import load, parse_protos

FILES = parse_protos()
POOL = load(FILES)
SERVICES = [*our_services(FILES, POOL, "flyteidl2"), *our_services(FILES, POOL, "grpc.health")]
MESSAGES = message_classes(SERVICES)
MAIN_MESSAGES = {name: MESSAGES[name] for name in main_messages(SERVICES)}


class Read(NamedTuple):
    """A message as betterproto2 shows it, and how it encodes it again: the bytes, or what that raises."""

    shown: str
    encoded: bytes | type[Exception]


def named(name: str) -> type[Message]:
    """A message's class by its short name."""
    return MESSAGES.get(f"flyteidl2.{name}") or MESSAGES[name]


def read_by_protobuf(cls: type[Message], data: bytes) -> bytes | type[Exception]:
    """The message encoded again, or what reading raises."""
    try:
        return canonical(cls.FromString(data))
    except DecodeError:
        return DecodeError


def read_by_betterproto2(cls: type[Message], data: bytes) -> Read | type[Exception]:
    """The message in our class, or what reading raises."""
    try:
        message = class_of(cls.DESCRIPTOR).parse(data)
    except Exception as error:  # noqa: BLE001 - which one it is is the question
        return type(error)
    try:
        return Read(repr(message), bytes(message))
    except Exception as error:  # noqa: BLE001 - which one it is is the question
        return Read(repr(message), type(error))
