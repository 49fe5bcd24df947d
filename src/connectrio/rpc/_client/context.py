"""What a call needs of its channel, and how stubs know a channel of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from grpclib.encoding.base import CodecBase

from connectrio.rpc._http2.stream import Stream
from connectrio.rpc.options import ChannelOptions


class OurChannel:
    """Marks the channels whose calls `stubs` makes in its own way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelContext:
    """What all calls of a channel share.

    :ivar grpclib_events: the `_DispatchChannelEvents` where `grpclib.events.listen(channel, …)` registers
    :ivar open_stream: `Channel.open_stream`
    :ivar start_soon: `Channel.start_soon`
    :ivar connection_error: returns why there is no connection, for people; "" while there is one
    """

    options: ChannelOptions
    codec: CodecBase
    authority: str
    scheme: str
    grpclib_events: Any  # _DispatchChannelEvents: its type for metadata is another than ours
    open_stream: Callable[..., Awaitable[Stream]]
    start_soon: Callable[..., None]
    connection_error: Callable[[], str]
