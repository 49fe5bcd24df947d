"""The limits and time-outs of a connection: each with its unit, its default and the reason for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KIB = 1024
MIB = 1024 * KIB

# RFC 9113 §6.9.2: what a peer may send before it has read our settings, and what a connection's window starts with
PROTOCOL_WINDOW = 65_535


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """What bounds one HTTP/2 connection, on either side.

    :ivar max_receive_message_size: bytes; a larger message ends its call with RESOURCE_EXHAUSTED before it is
        buffered. 4 MiB is the default of grpc-go and of grpc's C core
    :ivar max_header_list_size: bytes of headers (RFC 9113 §6.5.2) accepted in one block. The gRPC protocol suggests
        8 KiB; twice that leaves room for tracing and tokens
    :ivar stream_window: bytes of flow control window for each call: what a peer may send before the application reads.
        At least 65,535, the protocol's own, which a peer may use before it has read our settings
    :ivar connection_window: bytes of flow control window for all calls of a connection together. It bounds the memory
        that unread data can take, and lets a whole message of the default maximum size be in flight. At least 65,535
    :ivar write_buffer: bytes that may wait for the socket before calls are paused
    :ivar max_control_backlog: bytes of unsent output beyond which nothing more is read, so that a peer that makes us
        answer (PING, SETTINGS, refused streams) but does not read cannot fill our memory
    """

    max_receive_message_size: int = 4 * MIB
    max_header_list_size: int = 16 * KIB
    stream_window: int = 1 * MIB
    connection_window: int = 4 * MIB
    write_buffer: int = 256 * KIB
    max_control_backlog: int = 1 * MIB

    def __post_init__(self) -> None:
        for name, window in ("stream_window", self.stream_window), ("connection_window", self.connection_window):
            if window < PROTOCOL_WINDOW:
                raise ValueError(f"{name} is {window}, but a peer may send {PROTOCOL_WINDOW:,} bytes in any case")


@dataclass(frozen=True, kw_only=True)
class ServerOptions(ConnectionOptions):
    """What bounds a server, beyond `ConnectionOptions`.

    :ivar max_concurrent_streams: calls at once on one connection; one more is refused with REFUSED_STREAM, which
        clients retry. The executor sends all its calls over one connection, so this is also the most it can have in
        flight; 1,000 bounds the tasks a peer can make us start
    :ivar drain_ping_timeout: seconds to wait for the PING that tells which streams the peer had begun when the drain
        was announced (gRFC A9), before the final GOAWAY is sent without it
    :ivar linger: seconds to wait, after the last byte is sent, for the peer to close a drained connection; closing
        first could destroy what it has not read yet
    """

    max_concurrent_streams: int = 1000
    drain_ping_timeout: float = 1.0
    linger: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ChannelOptions(ConnectionOptions):
    """What bounds a channel, beyond `ConnectionOptions`.

    :ivar compression: of requests: "identity" (none, the default: most messages are small), "gzip" or "deflate".
        Responses are read in any of them
    :ivar connect_timeout: seconds to establish a connection; grpc's connection backoff document uses 20
    :ivar close_timeout: seconds to flush what is written when the channel is closed
    """

    compression: Literal["identity", "gzip", "deflate"] = "identity"
    connect_timeout: float = 20.0
    close_timeout: float = 1.0
