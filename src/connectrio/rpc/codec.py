"""The codec for betterproto2 messages, and for anything with `SerializeToString` and `FromString`."""

from __future__ import annotations

from functools import cache
from typing import Any

from betterproto2 import Message
from grpclib.encoding.base import CodecBase

from connectrio.rpc._codec.decoder import decode, received_size
from connectrio.rpc._codec.encoder import EncodeError, encode
from connectrio.rpc._codec.wire import DecodeError

__all__ = ["DecodeError", "EncodeError", "MessageCodec", "decode", "encode", "received_size"]


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
            return encode(message)
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
