"""The limits and time-outs of a connection and of calls: each with its unit, its default and the reason for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Literal

from grpclib.const import Status

KIB = 1024
MIB = 1024 * KIB

# RFC 9113 §6.9.2: bytes that a peer may send before it has read our settings, and a connection's first window
PROTOCOL_WINDOW = 65_535

Bound = tuple[Callable[[float], bool], str]
"""Whether a value is valid, and what it must be."""

AT_LEAST_1: Bound = (lambda value: value >= 1, "must be at least 1")
NOT_NEGATIVE: Bound = (lambda value: value >= 0, "must not be negative")
POSITIVE: Bound = (lambda value: value > 0, "must be more than 0")

_WINDOW: Bound = (
    lambda value: PROTOCOL_WINDOW <= value < 2**31,  # RFC 9113 §6.9.1
    f"must be at least {PROTOCOL_WINDOW:,}, the protocol's own window, and less than 2 GiB",
)
_ATTEMPTS: Bound = (
    lambda value: value >= 2 and value == int(value),
    "must be a whole number of at least 2, the first attempt included",
)
_SHARE: Bound = (lambda value: 0 <= value <= 1, "must be a share, from 0 to 1")


def check_bound(options: object, bound: Bound, *names: str) -> None:
    """Check the fields of these names; None is valid if it is the default.

    :raises ValueError: a value is out of bounds, or no number
    """
    is_valid, text = bound
    for name in names:
        value = getattr(options, name)
        if value is None and getattr(type(options), name) is None:
            continue
        if not isinstance(value, int | float) or not is_valid(value):
            raise ValueError(f"{name} {text}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """The limits of one HTTP/2 connection, on either side.

    :ivar max_receive_message_size: bytes; a larger message ends its call with RESOURCE_EXHAUSTED before it is
        buffered. 4 MiB is the default of grpc-go and of grpc's C core
    :ivar max_header_list_size: bytes of headers (RFC 9113 §6.5.2) accepted in one block; a larger one ends its call
        with RESOURCE_EXHAUSTED. The gRPC protocol suggests 8 KiB; twice that leaves room for tracing and tokens
    :ivar stream_window: bytes of flow control window for each call: what a peer may send before the application reads.
        At least 65,535, the protocol's own, which a peer may use before it has read our settings
    :ivar connection_window: bytes of flow control window for all calls of a connection together. It bounds the memory
        that unread data can take. The default lets a whole message of the maximum size be in flight. At least 65,535
    :ivar write_buffer: bytes that may wait for the socket before calls are paused. More than a socket takes at once, so
        that it is never idle; little enough for a thousand connections
    :ivar max_control_backlog: bytes of unsent output beyond which nothing more is read. Otherwise a peer that makes us
        answer (PING, SETTINGS, refused streams) but does not read could fill our memory
    """

    max_receive_message_size: int = 4 * MIB
    max_header_list_size: int = 16 * KIB
    stream_window: int = 1 * MIB
    connection_window: int = 4 * MIB
    write_buffer: int = 256 * KIB
    max_control_backlog: int = 1 * MIB

    def __post_init__(self) -> None:
        check_bound(self, POSITIVE, *(limit.name for limit in fields(ConnectionOptions)))
        check_bound(self, _WINDOW, "stream_window", "connection_window")


@dataclass(frozen=True, kw_only=True)
class ServerOptions(ConnectionOptions):
    """The limits of a server, beyond `ConnectionOptions`. Times are in seconds; `math.inf` means never.

    :ivar max_concurrent_streams: calls at once on one connection; further ones are refused with REFUSED_STREAM, which
        clients retry. As many again (at least 100) may still be ending here when the client is done with them. Most
        clients send all their calls over one connection, so this is also the most that one can have in flight; 1,000
        bounds the tasks a peer can make us start
    :ivar max_connections: connections at once, over all listeners; further ones are closed as soon as they are
        accepted. 1,000 leaves room below the 1,024 files that a process may have open by default. One address (of
        IPv6: one /64) gets at most half of them, and the longest idle ones are told to go before others are closed
    :ivar reset_budget: streams that a client may reset in their first second and before their deadline, or make us
        reset, before its connection is ended with ENHANCE_YOUR_CALM. As many as it may have open, so that cancelling
        everything at once is always allowed; what was used comes back within 30 seconds
    :ivar control_budget: frames a second that carry no call (PING, SETTINGS, PRIORITY, empty DATA, WINDOW_UPDATE,
        unknown frames, and all but data for streams that are over) before a connection is ended. Data and answers that
        we send raise it, because honest clients answer data with such frames, and their resets cross our answers
    :ivar min_ping_interval: the least time between two PINGs of a client with calls (gRFC A8). Go's default is five
        minutes; honest clients that ping every 30 s, as many are set to, must always pass
    :ivar handshake_timeout: from accepting a connection to the client's first SETTINGS. Clients send them at once; 20
        is what gRPC's clients give a connection to be established
    :ivar header_block_timeout: from the first frame of a header block to its last. Nothing else can come in between;
        ten seconds is long for 16 KiB on the slowest link
    :ivar request_timeout: from a call's headers to the last byte of its request, if that is a single message; then the
        call ends with DEADLINE_EXCEEDED. A minute is long for 4 MiB
    :ivar max_request_memory: bytes of requests that have arrived in part, over all connections; beyond it the calls
        with the largest end with RESOURCE_EXHAUSTED. As much as 16 whole messages of the default maximum size. Large
        requests that are being answered have a second limit of the same size: one counts as 4 times its bytes and 256
        for each message in it. One that would exceed the limit is refused, unless it is the only one
    :ivar write_stall_timeout: how long a client may leave unread what is sent to it; then its connection is closed,
        because what waits for it holds memory and its calls. A call that has not been able to send a whole message
        within that time, because its window is shut or opens by little, ends with RESOURCE_EXHAUSTED
    :ivar keepalive_time: silence after which the client is pinged; two hours is gRPC's default
    :ivar keepalive_timeout: for the answer, before the connection counts as lost; gRPC's default
    :ivar max_connection_idle: time without calls after which a connection is drained; never by default
    :ivar max_connection_age: age at which a connection is drained, give or take a tenth, so that clients spread over
        new replicas; never by default
    :ivar max_connection_age_grace: how long calls may go on after that; without limit by default
    :ivar drain_ping_timeout: for the PING that tells which streams the peer had begun when the drain was announced
        (gRFC A9), before the final GOAWAY is sent without it
    :ivar linger: after the last byte is sent, how long to wait for the peer to close a drained connection; closing
        first could destroy what it has not read yet
    """

    max_concurrent_streams: int = 1000
    max_connections: int = 1000
    reset_budget: int = 1000
    control_budget: int = 1000
    min_ping_interval: float = 10.0
    handshake_timeout: float = 20.0
    header_block_timeout: float = 10.0
    request_timeout: float = 60.0
    max_request_memory: int = 64 * MIB
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
        check_bound(self, POSITIVE, *(limit.name for limit in fields(ServerOptions)))


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When a failed call is made again, although a server may have seen it (gRFC A6). The defaults are A6's example.

    Only calls that may be answered twice should be retried: choose the statuses with which the server has done nothing,
    or methods that may be repeated. A call is retried as long as no headers of a response have come and all that it has
    sent fits into `ChannelOptions.retry_buffer_size`. Its deadline covers all attempts. A server can forbid a retry or
    name the pause before it (`grpc-retry-pushback-ms` in its trailers).

    :ivar max_attempts: how often a call is made at most, the first time included; at least 2
    :ivar initial_backoff: seconds from the first failure to the second attempt, give or take a fifth
    :ivar max_backoff: the longest pause, before the fifth
    :ivar backoff_multiplier: how many times longer each further pause is
    :ivar retryable_status_codes: the statuses that are retried
    """

    max_attempts: int = 4
    initial_backoff: float = 0.1
    max_backoff: float = 1.0
    backoff_multiplier: float = 2.0
    retryable_status_codes: Collection[Status] = frozenset([Status.UNAVAILABLE])

    def __post_init__(self) -> None:
        check_bound(self, _ATTEMPTS, "max_attempts")
        check_bound(self, POSITIVE, "initial_backoff", "max_backoff", "backoff_multiplier")
        codes = self.retryable_status_codes
        if not codes or not all(isinstance(code, Status) for code in codes) or Status.OK in codes:
            raise ValueError(f"retryable_status_codes must be some of grpclib's Status, without OK, got {codes!r}")
        object.__setattr__(self, "retryable_status_codes", frozenset(codes))


@dataclass(frozen=True, kw_only=True)
class RetryThrottling:
    """Stops the retries of a channel while too many of its calls fail (gRFC A6), so that they do not add to the load.

    A channel begins with `max_tokens`. Each attempt that fails with a retryable status, or forbids retries, takes one;
    each call that succeeds gives `token_ratio` back. With half of them or less, failed calls are not retried.

    :ivar max_tokens: more than 0, at most 1,000
    :ivar token_ratio: more than 0; three decimal places count
    """

    max_tokens: float = 10.0
    token_ratio: float = 0.1

    def __post_init__(self) -> None:
        check_bound(self, (lambda value: 0 < value <= 1000, "must be more than 0, and at most 1,000"), "max_tokens")
        check_bound(self, (lambda value: value >= 0.001, "must be at least 0.001"), "token_ratio")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What a channel does with the calls of a method, or of a service.

    :ivar retry: when failed calls are made again; None for never
    :ivar timeout: seconds that a call may take; the caller's own limit counts if it is shorter
    :ivar wait_for_ready: as in `ChannelOptions`; None is as there
    """

    retry: RetryPolicy | None = None
    timeout: float = math.inf
    wait_for_ready: bool | None = None

    def __post_init__(self) -> None:
        check_bound(self, POSITIVE, "timeout")


_NOTHING_SPECIAL = MethodConfig()

# gRFC A8: the least time between two PINGs of a client; servers treat more as an attack.
MIN_KEEPALIVE_TIME = 10.0


@dataclass(frozen=True, kw_only=True)
class ChannelOptions(ConnectionOptions):
    """The limits of a channel, beyond `ConnectionOptions`. Times are in seconds; `math.inf` means never.

    :ivar compression: of requests: "identity" (none, the default: most messages are small), "gzip" or "deflate".
        Responses are read in any of them
    :ivar load_balancing: "pick_first" (the default, as in every gRPC library) connects to the first address that
        answers; "round_robin" connects to all and distributes the calls in turn
    :ivar health_service: the service whose health each server is asked for, "" for the server as a whole: calls go only
        to those that say SERVING (gRFC A17). A server without a health service counts as healthy. None, the default,
        asks nobody. Only with "round_robin", as in other gRPC libraries: "pick_first" has no other server to go to. The
        check is a stream of its own, and counts toward the streams that the server allows
    :ivar wait_for_ready: whether calls wait, up to their deadline, while the server cannot be reached. By default they
        fail at once with UNAVAILABLE and the reason (gRPC's "Wait for Ready Semantics"); `Channel.when_ready` and
        `Channel.request` choose for each call
    :ivar connect_timeout: for one attempt to connect, name resolution and the server's settings included; an attempt
        after a longer pause may take as long as the pause. 20 is MIN_CONNECT_TIMEOUT of gRPC's connection backoff
        document, which the next four come from too
    :ivar initial_backoff: from the start of the first failed attempt to the start of the next
    :ivar backoff_multiplier: how many times longer each further pause is
    :ivar max_backoff: the longest pause, before jitter
    :ivar backoff_jitter: the share of a pause, from 0 to 1, by which it is lengthened or shortened at random, so that
        clients do not all connect at once when their server is back
    :ivar connection_attempt_delay: from the attempt at one address to the attempt at the next, if the first has not
        answered yet (RFC 8305 §5 recommends 0.25)
    :ivar resolution_interval: between two resolutions of a name by "round_robin", which resolves again when an address
        fails; 30 as in other gRPC libraries, to spare the name servers. While none of its addresses answers, it
        resolves as often as it connects
    :ivar keepalive_time: silence of the server after which it is sent a PING. Off by default: PINGs need the server's
        consent (gRFC A8). Less than 10, that document's minimum, becomes 10
    :ivar keepalive_timeout: for any byte to come after that PING, before the connection is given up and its calls fail
        with UNAVAILABLE; 20 is gRFC A8's default, which allows for a lost packet or two
    :ivar keepalive_without_calls: whether to ping while no call is running; most servers treat that as abuse
    :ivar idle_timeout: time without a call after which the channel disconnects; the next call connects again. Never by
        default: a connection costs little, and servers close idle ones themselves if they mind (gRFC A9)
    :ivar retry: when failed calls are made again; None for never. Calls that no server has seen are repeated anyway
    :ivar methods: what holds for single methods and services, in place of `retry`: "package.Service/Method",
        "package.Service", or "" for all others. The most specific one counts, as a whole
    :ivar retry_throttling: stops retries while too many calls fail; None for never
    :ivar retry_buffer_size: bytes of a call's requests that are kept until the server answers, to send them again when
        the call is made again (gRFC A6). A call that has sent more is not repeated; 256 KiB, as in grpc-go and
        grpc's C core, holds most unary calls
    :ivar close_timeout: to flush what is written when the channel is closed
    """

    compression: Literal["identity", "gzip", "deflate"] = "identity"
    load_balancing: Literal["pick_first", "round_robin"] = "pick_first"
    health_service: str | None = None
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
    retry: RetryPolicy | None = None
    methods: Mapping[str, MethodConfig] = field(default_factory=lambda: MappingProxyType({}))
    retry_throttling: RetryThrottling | None = None
    retry_buffer_size: int = 256 * KIB
    close_timeout: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.load_balancing not in ("pick_first", "round_robin"):
            raise ValueError(f'load_balancing is {self.load_balancing!r}; choose "pick_first" or "round_robin"')
        if self.health_service is not None and self.load_balancing != "round_robin":
            raise ValueError('health_service needs load_balancing="round_robin", which works with one address too')
        check_bound(self, POSITIVE, "connect_timeout", "initial_backoff", "max_backoff", "resolution_interval")
        check_bound(self, POSITIVE, "keepalive_timeout", "idle_timeout")
        check_bound(self, AT_LEAST_1, "backoff_multiplier")
        check_bound(self, NOT_NEGATIVE, "connection_attempt_delay", "keepalive_time")
        check_bound(self, NOT_NEGATIVE, "retry_buffer_size", "close_timeout")
        check_bound(self, _SHARE, "backoff_jitter")
        if self.keepalive_time < MIN_KEEPALIVE_TIME:
            object.__setattr__(self, "keepalive_time", MIN_KEEPALIVE_TIME)
        wrong = [name for name in self.methods if name.startswith("/") or name.count("/") > 1]
        if wrong:
            raise ValueError(f'methods has the name {wrong[0]!r}; write "package.Service/Method" or "package.Service"')

    def method_config(self, method: str) -> MethodConfig:
        """Return what holds for a method.

        :param method: its path, "/package.Service/Method"
        """
        for name in (method[1:], method[1:].partition("/")[0], "") if self.methods else ():
            found = self.methods.get(name)
            if found is not None:
                return found
        return _NOTHING_SPECIAL if self.retry is None else MethodConfig(retry=self.retry)
