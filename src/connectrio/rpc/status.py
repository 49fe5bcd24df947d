"""Statuses on the wire, with messages that clients accept.

A client that gets more metadata than it allows drops the status with it.
"""

from __future__ import annotations

import math

from grpclib.const import Status
from grpclib.metadata import encode_grpc_message

from connectrio.rpc._grpc import CONTENT_TYPE
from connectrio.rpc._http2.stream import Headers

# bytes of a percent-encoded grpc-message. Clients take 8 KiB of metadata by default (grpc's C core answers
# RESOURCE_EXHAUSTED in place of the real status beyond it), and custom trailers need room as well
MAX_STATUS_MESSAGE_SIZE = 6 * 1024

# bytes, as RFC 9113 §6.5.2 counts them: what a response without metadata holds beside the text of its message
_BESIDES_MESSAGE = 256

# a character is at most four bytes, each three characters once percent-encoded
_MAX_ENCODED_CHARACTER = 12


def fit_status_message(message: str, size: int = MAX_STATUS_MESSAGE_SIZE) -> str:
    """Return `message`, cut and marked if its percent-encoded form takes more than `size` bytes.

    Lone surrogates, as in undecodable file names, are escaped.

    :param size: bytes; at least the length of the mark (about 50)
    """
    total = len(message)
    # no more than this can fit; without the cut, a long message would take long
    message = message[: size + 1].encode("utf-8", "backslashreplace").decode("utf-8")
    if len(message) * _MAX_ENCODED_CHARACTER <= size or _encoded_size(message) <= size:
        return message
    mark = f" [truncated: {total} characters in all]"
    room = size - len(mark)
    end = 0
    for character in message:
        room -= _encoded_size(character)
        if room < 0:
            break
        end += 1
    return message[:end] + mark


def _encoded_size(text: str) -> int:
    """Return the size of `text` in a `grpc-message`: printable ASCII but "%" takes one byte, each other byte three."""
    data = text.encode()
    return len(data) + 2 * sum(1 for byte in data if not 0x20 <= byte <= 0x7E or byte == 0x25)


def message_room(limit: float) -> int:
    """Return the bytes that a message may take for a client that accepts `limit` bytes of headers, at least 1 KiB."""
    return int(min(MAX_STATUS_MESSAGE_SIZE, limit - _BESIDES_MESSAGE))


def status_headers(status: Status, message: str | None, limit: float = math.inf) -> Headers:
    """Return the trailers that carry a status.

    :param limit: bytes of headers that the client accepts; the message is cut to `message_room`
    """
    headers = [("grpc-status", str(status.value))]
    if message:
        headers.append(("grpc-message", encode_grpc_message(fit_status_message(message, message_room(limit)))))
    return headers


def trailers_only(
    status: Status, message: str | None, limit: float = math.inf, content_type: str = CONTENT_TYPE
) -> Headers:
    """Return a whole response that is nothing but a status; see `status_headers`."""
    return [(":status", "200"), ("content-type", content_type), *status_headers(status, message, limit)]
