"""gRPC's headers: content type, time-outs and metadata.

Source: "Requests" and "Responses" in gRPC over HTTP2.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from binascii import Error as Base64Error
from typing import NewType, cast

from multidict import MultiDict

from connectrio.rpc._http2.stream import Headers

CONTENT_TYPE = "application/grpc"
_CONTENT_TYPES = re.compile(r"application/grpc(\+[^;]*)?\s*(;.*)?", re.IGNORECASE)

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_LARGEST_TIMEOUT = 99_999_999
_TIMEOUT_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

# Not metadata: HTTP/2's and gRPC's own headers.
_TRANSPORT_HEADERS = frozenset({"te", "content-type", "user-agent"})

Metadata = NewType("Metadata", "MultiDict[str | bytes]")


def is_grpc_content_type(value: str | None) -> bool:
    """Return whether that content type is gRPC, in any encoding of messages."""
    return value == CONTENT_TYPE or (value is not None and _CONTENT_TYPES.fullmatch(value) is not None)


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


def decode_metadata(headers: Headers) -> Metadata:
    """Return the custom metadata in a header block, in order; `-bin` values as bytes.

    :raises ValueError: a `-bin` value is not base64
    """
    metadata = cast("Metadata", MultiDict())
    for key, value in headers:
        if key.startswith((":", "grpc-")) or key in _TRANSPORT_HEADERS:
            continue
        if key.endswith("-bin"):
            for part in value.split(","):
                metadata.add(key, _decode_binary(key, part.strip()))
        else:
            metadata.add(key, value)
    return metadata


def _decode_binary(key: str, value: str) -> bytes:
    try:
        return b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4), validate=True)
    except (Base64Error, ValueError) as error:
        raise ValueError(f"malformed binary metadata {key!r}: {error}") from error
