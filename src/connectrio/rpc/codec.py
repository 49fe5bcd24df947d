"""Codecs: for messages, betterproto2's or with `SerializeToString` and `FromString`; and for the details of statuses.

Sources: google/rpc/status.proto and google/protobuf/any.proto, for the details.
"""
# ruff: noqa: RUF009 - betterproto2.field makes a field of a dataclass, as dataclasses.field does

from __future__ import annotations

import sys
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import betterproto2
from betterproto2 import Message
from grpclib.const import Status
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase

from connectrio.rpc._codec.decoder import decode, received_messages, received_size
from connectrio.rpc._codec.encoder import KEPT, EncodeError, encode, encode_ahead
from connectrio.rpc._codec.wire import LENGTH, DecodeError, encode_varint

__all__ = [
    "DecodeError",
    "EncodeError",
    "MessageCodec",
    "PackedMessage",
    "StatusDetailsCodec",
    "decode",
    "encode",
    "encode_ahead",
    "encode_field",
    "escape_surrogates",
    "keep_encoded",
    "received_messages",
    "received_size",
]


def escape_surrogates(value: Any) -> Any:
    """Return `value` with the lone surrogates escaped in each text that it holds; messages and containers are copied.

    They come from undecodable file names, and have no form in protobuf.
    """
    match value:
        case str():
            return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
        case list():
            return [escape_surrogates(item) for item in value]
        case tuple() if type(value) is tuple:
            return tuple(map(escape_surrogates, value))
        case dict():
            return {escape_surrogates(key): escape_surrogates(item) for key, item in value.items()}
        case Message():
            result = copy(value)
            result._unknown_fields = value._unknown_fields  # noqa: SLF001 - which betterproto2's copies lack
            for field in fields(value):  # type: ignore[arg-type]  # every message is a dataclass
                setattr(result, field.name, escape_surrogates(getattr(value, field.name)))
            return result
        case _:
            return value


def keep_encoded(message: Message, encoded: bytes) -> None:
    """Let the server send `encoded` for `message`."""
    message.__dict__[KEPT] = encoded


def encode_field(number: int, encoded: bytes) -> bytes:
    """Return a message with one field, which holds a message that is encoded already."""
    return encode_varint(number << 3 | LENGTH) + encode_varint(len(encoded)) + encoded


class MessageCodec(CodecBase):
    """Encodes and decodes the messages of a server or a channel.

    For betterproto2's messages it compiles an encoder and a decoder for each class: strict where betterproto2's own
    parser is not, and several times as fast. Other messages (protobuf's) encode themselves.
    """

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: type[Any]) -> bytes:
        """Return `message` as bytes.

        :raises TypeError: it is not a `message_type`
        :raises EncodeError: a field holds a value that is not of its type
        """
        if not isinstance(message, message_type):
            raise TypeError(f"expected {message_type.__name__}, got {type(message).__name__}")
        if _is_ours(type(message)):  # type: ignore[arg-type]  # mypy: classes are hashable
            kept: bytes | None = getattr(message, KEPT, None)
            return encode(message) if kept is None else kept
        encoded: bytes = message.SerializeToString()
        return encoded

    def decode(self, data: bytes, message_type: type[Any]) -> Any:
        """Return the message that `data` encodes.

        :raises DecodeError: `data` is not such a message; other messages than betterproto2's raise errors of their own
        """
        if _is_ours(message_type):  # type: ignore[arg-type]  # same
            return decode(data, message_type)
        return message_type.FromString(data)


@cache
def _is_ours(message_type: type[Any]) -> bool:
    """Return whether the class is betterproto2's.

    Cached: issubclass() of an abstract class can take longer than the codec.
    """
    return issubclass(message_type, Message)


# the details of statuses

_ANY = "google.protobuf.Any"
_TYPE_URL = "type.googleapis.com/"
_MESSAGES = MessageCodec()


@dataclass(eq=False, repr=False)
class PackedMessage(Message):
    """A google.protobuf.Any: an encoded message, and the name of its type.

    :ivar type_url: ends in a slash and the full name of the type, "type.googleapis.com/google.rpc.ErrorInfo"
    """

    type_url: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    value: bytes = betterproto2.field(2, betterproto2.TYPE_BYTES)


@dataclass(eq=False, repr=False)
class _RichStatus(Message):
    """A google.rpc.Status."""

    code: int = betterproto2.field(1, betterproto2.TYPE_INT32)
    message: str = betterproto2.field(2, betterproto2.TYPE_STRING)
    details: list[PackedMessage] = betterproto2.field(3, betterproto2.TYPE_MESSAGE, repeated=True)


class StatusDetailsCodec(StatusDetailsCodecBase):
    """Encodes and decodes `GRPCError.details` as google.rpc.Status, for `Server` and `Channel`.

    The details are a list of messages: those that betterproto2's compiler makes, or protobuf's. They are sent as
    google.protobuf.Any; a message that is an Any already is sent as it is.

        codec = StatusDetailsCodec([ErrorInfo, RetryInfo])
        server = Server([Greeter()], status_details_codec=codec)
        channel = Channel("localhost:50051", status_details_codec=codec)

    :param types: the classes of the messages to expect. Details of other types are received as `PackedMessage`
    :raises TypeError: a class has no name in protobuf
    """

    def __init__(self, types: Iterable[type[Any]] = ()) -> None:
        self._types = {_full_name(cls): cls for cls in types}

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        """Return the google.rpc.Status.

        :param details: a list of messages
        :raises TypeError: one of them is no message
        """
        return encode(
            _RichStatus(code=status.value, message=message or "", details=[_packed(detail) for detail in details])
        )

    def decode(self, status: Status, message: str | None, data: bytes) -> list[Any]:  # noqa: ARG002 - grpclib's signature
        """Return the details in a google.rpc.Status.

        :raises DecodeError: `data` is no such message
        """
        return [self._unpacked(detail) for detail in decode(data, _RichStatus).details]

    def _unpacked(self, detail: PackedMessage) -> Any:
        cls = self._types.get(detail.type_url.rpartition("/")[2])
        if cls is None:
            return detail
        try:
            return _MESSAGES.decode(detail.value, cls)
        except Exception:  # noqa: BLE001 - protobuf's messages raise errors of their own
            return detail


def _packed(detail: Any) -> PackedMessage:
    name = _full_name(type(detail))
    if name == _ANY:
        return PackedMessage(detail.type_url, detail.value)
    return PackedMessage(_TYPE_URL + name, _MESSAGES.encode(detail, type(detail)))


def _full_name(cls: type[Any]) -> str:
    """Return the full name of a message class in protobuf.

    :raises TypeError: it has none
    """
    if cls is PackedMessage:
        return _ANY
    if issubclass(cls, Message):
        # where betterproto2's compiler registers the classes of a module; a class itself does not know its name
        pool = getattr(sys.modules.get(cls.__module__), "default_message_pool", None)
        url = None if pool is None else pool.type_to_url.get(cls)
        name = None if url is None else url.removeprefix(_TYPE_URL)
    else:
        name = getattr(getattr(cls, "DESCRIPTOR", None), "full_name", None)
    if name is None:
        raise TypeError(
            f"{cls.__module__}.{cls.__qualname__} cannot be a detail of a status: it is no message class that"
            " betterproto2's or protobuf's compiler has made"
        )
    return str(name)
