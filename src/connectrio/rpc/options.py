"""The limits and time-outs of a connection: each with its unit, its default and the reason for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
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
    :ivar write_buffer: bytes that may wait for the socket before calls are paused. More than a socket takes at once, so
        that it is never idle; little enough for a thousand connections
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
        clients retry. Calls that are over for the client but still winding up may be as many again (at least 100).
        The executor sends all its calls over one connection, so this is also the most it can have in flight; 1,000
        bounds the tasks a peer can make us start
    :ivar max_connections: at once, over all listeners; one more is closed as soon as it is accepted. 1,000 leaves room
        below the 1,024 files that a process may have open by default
    :ivar reset_budget: streams that a client may reset in their first second, or make us reset, before its connection
        is ended with ENHANCE_YOUR_CALM. As many as it may have open, so that cancelling everything at once is always
        allowed; what was used comes back within 30 seconds
    :ivar control_budget: frames a second that carry no call (PING, SETTINGS, PRIORITY, empty DATA, WINDOW_UPDATE,
        unknown frames, and all but data for streams that are over) before a connection is ended. Data that we send
        earns more, because it makes honest clients send them
    :ivar min_ping_interval: seconds that a client with calls must leave between its PINGs (gRFC A8). Go's default is
        five minutes; the executor pings every 30 s and must always pass
    :ivar handshake_timeout: seconds from accepting a connection to the client's first SETTINGS. Clients send them at
        once; 20 is what gRPC's clients give a connection to be established
    :ivar header_block_timeout: seconds from the first frame of a header block to its last. It is sent as one, and until
        it ends nothing else can come; ten seconds is long for 16 KiB on the slowest link
    :ivar write_stall_timeout: seconds that a client may leave what is sent to it unread. Closing is the only cure: what
        waits for it holds memory, and its calls
    :ivar keepalive_time: seconds of silence after which the client is pinged; two hours is gRPC's default
    :ivar keepalive_timeout: seconds for the answer, before the connection counts as lost; gRPC's default
    :ivar max_connection_idle: seconds without calls after which a connection is drained; never by default
    :ivar max_connection_age: seconds after which a connection is drained, give or take a tenth, so that clients spread
        over new replicas; never by default
    :ivar max_connection_age_grace: seconds that calls may take after that; without limit by default
    :ivar drain_ping_timeout: seconds to wait for the PING that tells which streams the peer had begun when the drain
        was announced (gRFC A9), before the final GOAWAY is sent without it
    :ivar linger: seconds to wait, after the last byte is sent, for the peer to close a drained connection; closing
        first could destroy what it has not read yet
    """

    max_concurrent_streams: int = 1000
    max_connections: int = 1000
    reset_budget: int = 1000
    control_budget: int = 1000
    min_ping_interval: float = 10.0
    handshake_timeout: float = 20.0
    header_block_timeout: float = 10.0
    write_stall_timeout: float = 60.0
    keepalive_time: float = 7200.0
    keepalive_timeout: float = 20.0
    max_connection_idle: float = math.inf
    max_connection_age: float = math.inf
    max_connection_age_grace: float = math.inf
    drain_ping_timeout: float = 1.0
    linger: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for bound in fields(ServerOptions):
            if not getattr(self, bound.name) > 0:
                raise ValueError(f"{bound.name} must be more than 0, got {getattr(self, bound.name)}")


# gRFC A8: what a client may ping at most. Faster would be an attack on the server, and servers treat it as one.
MIN_KEEPALIVE_TIME = 10.0


@dataclass(frozen=True, kw_only=True)
class ChannelOptions(ConnectionOptions):
    """What bounds a channel, beyond `ConnectionOptions`. Times are in seconds; `math.inf` means never.

    :ivar compression: of requests: "identity" (none, the default: most messages are small), "gzip" or "deflate".
        Responses are read in any of them
    :ivar load_balancing: "pick_first" (the default, as in every gRPC library) connects to the first address that
        answers; "round_robin" connects to all and deals the calls out in turn
    :ivar wait_for_ready: whether calls wait, up to their deadline, while the server cannot be reached. By default they
        fail at once with UNAVAILABLE and the reason (gRPC's "Wait for Ready Semantics"); `Channel.when_ready` and
        `Channel.request` choose for each call
    :ivar connect_timeout: to establish a connection, name resolution and the server's settings included; an attempt
        that followed a longer pause may take as long as that. 20 is MIN_CONNECT_TIMEOUT of gRPC's connection backoff
        document, whose are also the next four
    :ivar initial_backoff: from the start of the first failed attempt to the start of the next
    :ivar backoff_multiplier: how many times longer each further wait is
    :ivar max_backoff: which no wait exceeds, jitter aside
    :ivar backoff_jitter: the share of a wait, from 0 to 1, by which it is lengthened or shortened at random, so that
        the clients of a server that comes back do not all come at once
    :ivar connection_attempt_delay: from the attempt at one address to that at the next, if there is no answer yet
        (RFC 8305 §5 recommends 0.25)
    :ivar resolution_interval: between two resolutions of a name by "round_robin", which resolves again when an address
        fails; 30 as in other gRPC libraries, to spare the name servers
    :ivar keepalive_time: without a byte from the server until it is sent a PING. Off by default: who pings needs the
        server's consent (gRFC A8). Less than 10, that document's floor, becomes 10
    :ivar keepalive_timeout: for any byte to come after that PING, before the connection is given up and its calls fail
        with UNAVAILABLE; 20 is gRFC A8's default, which bears a lost packet or two
    :ivar keepalive_without_calls: whether to ping while no call is running; most servers take that for abuse
    :ivar idle_timeout: without a call until the channel disconnects, to connect again with the next call. Never by
        default: a connection costs little, and a server that minds (gRFC A9) says so
    :ivar retry_buffer_size: bytes of a call's requests that are kept until the server answers, to send them again when
        it refused the call unseen (gRFC A6). A call that has sent more is not repeated; 256 KiB, as in grpc-go and
        grpc's C core, holds most unary calls
    :ivar close_timeout: to flush what is written when the channel is closed
    """

    compression: Literal["identity", "gzip", "deflate"] = "identity"
    load_balancing: Literal["pick_first", "round_robin"] = "pick_first"
    wait_for_ready: bool = False
    connect_timeout: float = 20.0
    initial_backoff: float = 1.0
    backoff_multiplier: float = 1.6
    max_backoff: float = 120.0
    backoff_jitter: float = 0.2
    connection_attempt_delay: float = 0.25
    resolution_interval: float = 30.0
    keepalive_time: float = math.inf
    keepalive_timeout: float = 20.0
    keepalive_without_calls: bool = False
    idle_timeout: float = math.inf
    retry_buffer_size: int = 256 * KIB
    close_timeout: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.load_balancing not in ("pick_first", "round_robin"):
            raise ValueError(f'load_balancing is {self.load_balancing!r}; choose "pick_first" or "round_robin"')
        if self.initial_backoff <= 0 or self.backoff_multiplier < 1:
            raise ValueError(
                "initial_backoff must be more than 0, and backoff_multiplier at least 1: attempts to"
                " connect that follow each other without end and pause would be an attack"
            )
        if not 0 <= self.backoff_jitter <= 1:
            raise ValueError(f"backoff_jitter is {self.backoff_jitter}, but a share is between 0 and 1")
        if self.keepalive_time < MIN_KEEPALIVE_TIME:
            object.__setattr__(self, "keepalive_time", MIN_KEEPALIVE_TIME)
