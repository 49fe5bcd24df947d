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
    """How a server and a channel encode messages.

    betterproto2's messages go through encoders and decoders that are compiled for each class: strict where its own
    parser is not, and several times as fast. Other messages (protobuf's) encode themselves.
    """

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: type[Any]) -> bytes:
        """`message` as bytes.

        :raises TypeError: it is no `message_type`
        :raises EncodeError: a field holds a value that its type does not have
        """
        if not isinstance(message, message_type):
            raise TypeError(f"expected {message_type.__name__}, got {type(message).__name__}")
        if _is_ours(type(message)):  # type: ignore[arg-type]  # mypy: classes are hashable
            return encode(message)
        encoded: bytes = message.SerializeToString()
        return encoded

    def decode(self, data: bytes, message_type: type[Any]) -> Any:
        """The message that `data` encodes.

        :raises DecodeError: it encodes none; messages that are not betterproto2's raise errors of their own
        """
        if _is_ours(message_type):  # type: ignore[arg-type]  # same
            return decode(data, message_type)
        return message_type.FromString(data)


@cache
def _is_ours(message_type: type[Any]) -> bool:
    """Whether betterproto2 made the class; asking an abstract class takes longer than the rest of some messages."""
    return issubclass(message_type, Message)
