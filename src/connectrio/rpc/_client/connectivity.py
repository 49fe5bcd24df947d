"""What a channel is up to, in the terms of gRPC's connectivity document."""

from __future__ import annotations

import enum


class ChannelState(enum.Enum):
    """The state of a channel, and of its connection to each address.

    Source: gRPC's "Connectivity Semantics and API"; that TRANSIENT_FAILURE lasts until there is a connection, gRFC A62.
    """

    IDLE = enum.auto()  # not connected, and not trying: the next call will
    CONNECTING = enum.auto()  # calls wait
    READY = enum.auto()  # calls go out
    TRANSIENT_FAILURE = enum.auto()  # calls fail, unless they wait; new attempts are made, further and further apart
    SHUTDOWN = enum.auto()  # closed for good
