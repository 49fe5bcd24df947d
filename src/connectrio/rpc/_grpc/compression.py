"""Message compression: gzip and deflate (zlib's format), a fresh context for each message.

Source: gRPC's compression document, and "Compression" in gRPC over HTTP2.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

from grpclib.const import Status
from grpclib.exceptions import GRPCError

IDENTITY = "identity"
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

ENCODINGS = (IDENTITY, *_WINDOW_BITS)
ACCEPT_ENCODING = ",".join(ENCODINGS)


def is_supported(encoding: str) -> bool:
    """Return whether messages in that `grpc-encoding` can be read and written."""
    return encoding in ENCODINGS


@lru_cache(32)  # clients send one of a few, and always the same
def accepted_encodings(header: str | None) -> frozenset[str]:
    """Return the encodings that a `grpc-accept-encoding` names; "identity" is always one of them."""
    return frozenset([IDENTITY, *(name.strip() for name in (header or "").split(","))])


def compress(message: bytes, encoding: str) -> bytes:
    """Return `message` in `encoding`, which is "gzip" or "deflate"."""
    compressor = zlib.compressobj(wbits=_WINDOW_BITS[encoding])
    return compressor.compress(message) + compressor.flush()


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """Return the message that `data` holds in `encoding`.

    :param limit: bytes; the longest message that is produced
    :raises GRPCError: INTERNAL for a message marked as compressed without an encoding, or for corrupt data;
        RESOURCE_EXHAUSTED for a message over the limit
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
        raise GRPCError(Status.RESOURCE_EXHAUSTED, f"decompressed message larger than max (over {limit} bytes)")
    if not decompressor.eof:
        raise GRPCError(Status.INTERNAL, f"a message in {encoding} is cut short")
    if decompressor.unused_data:
        # gzip may have further members, but no client makes them, and many small ones would take very long
        raise GRPCError(Status.INTERNAL, f"a message in {encoding} has bytes after its end")
    return message
