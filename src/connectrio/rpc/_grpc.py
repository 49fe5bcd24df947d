"""gRPC over HTTP/2: content type, time-outs and metadata; messages, and how they are framed and compressed.

Sources: gRPC over HTTP2, and gRPC's compression document.
"""

from __future__ import annotations

import math
import re
import zlib
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import NewType, cast

from anyio.lowlevel import checkpoint_if_cancelled
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from connectrio.rpc._http2.stream import Headers, Stream

# headers: "Requests" and "Responses" in gRPC over HTTP2

CONTENT_TYPE = "application/grpc"
PROTO = "proto"  # the content subtype of a content type that names none
_CONTENT_TYPES = re.compile(r"application/grpc(\+[^;]*)?\s*(;.*)?", re.IGNORECASE)

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_LARGEST_TIMEOUT = 99_999_999
_TIMEOUT_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

# when a client may make a call again, in milliseconds, or -1 for never (gRFC A6): gRPC's own, but servicers send it
RETRY_PUSHBACK = "grpc-retry-pushback-ms"
# Not metadata: HTTP/2's and gRPC's own headers of requests and of responses.
_REQUEST_HEADERS = frozenset({"te", "content-type", "user-agent"})
RESPONSE_HEADERS = frozenset({"content-type"})
# names that cannot be sent as metadata either: HTTP/2 forbids them (RFC 9113 §8.2.2), or they say something else to it
_HTTP_HEADERS = frozenset(
    {"connection", "content-length", "host", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
_METADATA_NAME = re.compile(r"[0-9a-z_.-]+")
_METADATA_VALUE = re.compile(r"[ -~]*")  # printable ASCII

Metadata = NewType("Metadata", "MultiDict[str | bytes]")


class MetadataError(ValueError):
    """Metadata that cannot be sent; the message names the key."""


def is_grpc_content_type(value: str | None) -> bool:
    """Return whether that content type is gRPC, in any encoding of messages."""
    return value == CONTENT_TYPE or (value is not None and _CONTENT_TYPES.fullmatch(value) is not None)


def plain_content_type(value: str | None) -> str | None:
    """Return a gRPC content type in lower case and without parameters, "application/grpc+proto"; None for others."""
    match = None if value is None else _CONTENT_TYPES.fullmatch(value)
    return None if match is None else (CONTENT_TYPE + (match[1] or "")).rstrip().lower()


def decode_timeout(value: str) -> float:
    """Return the seconds in a `grpc-timeout`.

    :raises ValueError: not 1 to 8 digits and a unit
    """
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise ValueError(f"malformed grpc-timeout {value!r}: expected at most 8 digits and one of H M S m u n")
    return int(match[1]) * _TIMEOUT_UNITS[match[2]]


def encode_timeout(seconds: float) -> str:
    """Return `seconds` as a `grpc-timeout`, rounded down to what eight digits can hold."""
    if seconds == math.inf:
        return f"{_LARGEST_TIMEOUT}H"
    for unit, factor in (("n", 1e9), ("u", 1e6), ("m", 1e3), ("S", 1.0), ("M", 1 / 60), ("H", 1 / 3600)):
        value = int(seconds * factor)
        if value <= _LARGEST_TIMEOUT:
            return f"{value}{unit}"
    return f"{_LARGEST_TIMEOUT}H"


def decode_metadata(headers: Headers, transport: AbstractSet[str] = _REQUEST_HEADERS) -> Metadata:
    """Return the custom metadata in a header block, in order; `-bin` values as bytes.

    :param transport: the names that are none, beyond those that begin with "grpc-", which are reserved
    :raises ValueError: a `-bin` value is not base64
    """
    metadata = cast("Metadata", MultiDict())
    for key, value in headers:
        if key.startswith((":", "grpc-")) or key in transport:
            continue
        if key.endswith("-bin"):
            for part in value.split(","):
                metadata.add(key, decode_binary(key, part.strip()))
        else:
            metadata.add(key, value)
    return metadata


def decode_binary(key: str, value: str) -> bytes:
    """Return the bytes in the value of a `-bin` header, padded or not.

    :raises ValueError: it is not base64
    """
    try:
        return b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4), validate=True)
    except (Base64Error, ValueError) as error:
        raise ValueError(f"malformed binary metadata {key!r}: {error}") from error


def encode_metadata(metadata: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]) -> Headers:
    """Return the headers for custom metadata, in order; `-bin` values in base64, unpadded.

    Spaces around a value are not sent: gRPC lets anybody strip them, and HTTP/2 does not allow them.

    :raises MetadataError: a name or a value that is not custom metadata ("Custom-Metadata" in gRPC over HTTP2)
    """
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
    return [(name, _encode_value(name, value)) for name, value in pairs]


def _encode_value(name: object, value: object) -> str:
    if not isinstance(name, str) or _METADATA_NAME.fullmatch(name) is None:
        raise MetadataError(
            f"the metadata name {name!r} cannot be sent: only a-z, 0-9, '_', '-' and '.' are allowed in it"
        )
    is_grpcs = name.startswith("grpc-") and name != RETRY_PUSHBACK
    if is_grpcs or name in _REQUEST_HEADERS or name in _HTTP_HEADERS:
        raise MetadataError(f"the metadata name {name!r} cannot be sent: it belongs to HTTP/2 or gRPC; choose another")
    if name.endswith("-bin"):
        if not isinstance(value, bytes):
            kind = type(value).__name__
            raise MetadataError(f"the metadata {name!r} cannot be sent as {kind}: names that end in -bin hold bytes")
        return b64encode(value).rstrip(b"=").decode("ascii")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise MetadataError(
            f"the metadata {name!r} cannot be sent as {kind}: send str, or bytes under a name that ends in -bin"
        )
    if _METADATA_VALUE.fullmatch(value) is None:
        raise MetadataError(
            f"the value of the metadata {name!r} cannot be sent: only printable ASCII is allowed in it;"
            f" send other text as bytes, as {name + '-bin'!r}"
        )
    return value.strip(" ")


# messages: "Length-Prefixed-Message"; a flag byte, four bytes of length, the message

PREFIX_SIZE = 5


def frame_message(message: bytes, *, compressed: bool = False) -> bytes:
    """Return `message` behind its prefix."""
    return (b"\1" if compressed else b"\0") + len(message).to_bytes(4, "big") + message


class MessageReader:
    """Cuts bytes, which may be split anywhere, into messages.

    :param limit: bytes; the longest message that is accepted
    """

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes | bytearray) -> None:
        """Take in the next bytes."""
        self._buffer += data

    def next_message(self) -> tuple[bool, bytes] | None:
        """Return whether the next whole message is compressed, and the message; None when more bytes are needed.

        :raises GRPCError: INTERNAL for a flag that is neither 0 nor 1, RESOURCE_EXHAUSTED for a length over the limit
        """
        buffer = self._buffer
        if len(buffer) < PREFIX_SIZE:
            return None
        if buffer[0] > 1:
            raise GRPCError(Status.INTERNAL, f"invalid message: its compression flag is {buffer[0]}, not 0 or 1")
        length = int.from_bytes(buffer[1:PREFIX_SIZE], "big")
        if length > self._limit:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED,
                f"received message larger than max ({length} vs. {self._limit} bytes)",
            )
        end = PREFIX_SIZE + length
        if len(buffer) < end:
            return None
        message = bytes(memoryview(buffer)[PREFIX_SIZE:end])
        compressed = buffer[0] == 1
        del buffer[:end]
        return compressed, message

    def __len__(self) -> int:
        """Return how many bytes of an unfinished message are held."""
        return len(self._buffer)


async def read_message(
    stream: Stream, reader: MessageReader, wait: Callable[[], Awaitable[object]]
) -> tuple[bool, bytes] | None:
    """Return whether the next message is compressed, and the message; None when the peer has ended its side.

    Cancelled, whether it has to wait or not, it takes no message: the next call returns what has arrived.

    :param wait: waits until `stream` is readable, and may raise
    :raises GRPCError: INTERNAL when the peer ended inside a message; what `MessageReader.next_message` raises
    :raises StreamTerminatedError: the stream was cut short
    """
    # otherwise a task that reads messages as fast as they arrive could never be cancelled
    await checkpoint_if_cancelled()
    while True:
        message = reader.next_message()
        if message is not None:
            return message
        chunk = stream.take()
        if chunk is not None:
            reader.feed(chunk)
        elif not stream.is_complete:
            stream.raise_if_terminated()
            await wait()
        elif not len(reader):
            return None
        else:
            raise GRPCError(Status.INTERNAL, "the stream ended in the middle of a message")


# compression

IDENTITY = "identity"
# deflate is zlib's format; each message has a fresh context
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

# what a `grpc-encoding` may be
ENCODINGS = (IDENTITY, *_WINDOW_BITS)
ACCEPT_ENCODING = ",".join(ENCODINGS)


@lru_cache(32)  # clients send one of a few, and always the same
def accepted_encodings(header: str | None) -> frozenset[str]:
    """Return the encodings that a `grpc-accept-encoding` names; "identity" is always one of them."""
    return frozenset([IDENTITY, *(name.strip() for name in (header or "").split(","))])


def compress(message: bytes, encoding: str) -> bytes:
    """Return `message` in `encoding`, which is "gzip" or "deflate"."""
    compressor = zlib.compressobj(wbits=_WINDOW_BITS[encoding])
    return compressor.compress(message) + compressor.flush()


class TooLargeError(GRPCError):
    """A message is over the limit once it is decompressed."""


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """Return the message that `data` holds in `encoding`.

    :param limit: bytes; the longest message that is produced
    :raises GRPCError: INTERNAL for a message marked as compressed without an encoding, or for corrupt data;
        `TooLargeError` (RESOURCE_EXHAUSTED) for a message over the limit
    """
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise GRPCError(Status.INTERNAL, "a message is marked as compressed, but grpc-encoding names no algorithm")
    decompressor = zlib.decompressobj(wbits=bits)
    try:
        message = decompressor.decompress(data, limit + 1)
    except zlib.error as error:
        raise GRPCError(Status.INTERNAL, f"a message in {encoding} is corrupt: {error}") from error
    if len(message) > limit:
        raise TooLargeError(Status.RESOURCE_EXHAUSTED, f"decompressed message larger than max (over {limit} bytes)")
    if not decompressor.eof:
        raise GRPCError(Status.INTERNAL, f"a message in {encoding} is cut short")
    if decompressor.unused_data:
        # gzip may have further members, but no client makes them, and many small ones would take very long
        raise GRPCError(Status.INTERNAL, f"a message in {encoding} has bytes after its end")
    return message
