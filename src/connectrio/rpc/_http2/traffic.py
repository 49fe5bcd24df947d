"""What has passed through connections, in plain numbers that only grow."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from h2.errors import ErrorCodes

Side = Literal["us", "peer"]


class Traffic:
    """Counts for one connection, or for several that are given the same object.

    :ivar bytes_received: of HTTP/2; under TLS, without its records and handshakes
    :ivar bytes_sent: the same
    :ivar streams_opened: by the peer; those that were refused at once are not counted
    :ivar streams_reset: by who has reset them, and the name of the HTTP/2 error code (RFC 9113 §7); "other" if it has
        none
    """

    __slots__ = ("bytes_received", "bytes_sent", "streams_opened", "streams_reset")

    def __init__(self) -> None:
        self.bytes_received = 0
        self.bytes_sent = 0
        self.streams_opened = 0
        self.streams_reset: Counter[tuple[str, str]] = Counter()

    def stream_reset(self, by: Side, error_code: ErrorCodes | int | None) -> None:
        """Count a stream that was reset."""
        self.streams_reset[by, error_code.name if isinstance(error_code, ErrorCodes) else "other"] += 1
