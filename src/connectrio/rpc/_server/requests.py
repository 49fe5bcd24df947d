"""Requests: what a call must carry to be answered at all, and how one that does not is refused.

Source: "Requests" in gRPC over HTTP2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import anyio
from grpclib.const import Handler, Status
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.events import _DispatchServerEvents

from connectrio.rpc._grpc import (
    ACCEPT_ENCODING,
    ENCODINGS,
    IDENTITY,
    accepted_encodings,
    decode_metadata,
    decode_timeout,
    is_grpc_content_type,
)
from connectrio.rpc._http2.stream import Headers
from connectrio.rpc.call import Call, Deadline
from connectrio.rpc.options import ServerOptions
from connectrio.rpc.peer import Peer
from connectrio.rpc.status import fit_status_message, trailers_only

# bytes; a refusal tells the client what was wrong with its request, not the whole of it
_MAX_REFUSAL_SIZE = 256


@dataclass(frozen=True)
class CallContext:
    """What the calls of a connection have in common.

    :ivar decode_limiter: limits the threads that decode large messages, which would block the event loop
    """

    handlers: Mapping[str, Handler]
    codec: CodecBase
    status_details_codec: StatusDetailsCodecBase | None
    grpclib_events: _DispatchServerEvents
    options: ServerOptions
    peer: Peer
    peer_name: str
    decode_limiter: anyio.CapacityLimiter


class RefusedRequestError(Exception):
    """The request is not one that this server can answer.

    :ivar headers: the whole response
    """

    def __init__(self, headers: Headers) -> None:
        super().__init__(headers)
        self.headers = headers

    @classmethod
    def http(cls, code: int, message: str) -> RefusedRequestError:
        """Refuse a request that is not gRPC: an HTTP status beside the gRPC one."""
        return cls([(":status", str(code)), *_refusal(Status.INTERNAL, message)[1:]])

    @classmethod
    def grpc(cls, status: Status, message: str) -> RefusedRequestError:
        """Refuse a gRPC request, with a status."""
        return cls(_refusal(status, message))

    @classmethod
    def encoding(cls, name: str) -> RefusedRequestError:
        """Refuse messages that cannot be read, and name the encodings that can."""
        headers = _refusal(Status.UNIMPLEMENTED, f"grpc-encoding {name!r} is not supported")
        return cls([*headers, ("grpc-accept-encoding", ACCEPT_ENCODING)])


def _refusal(status: Status, message: str) -> list[tuple[str, str]]:
    return [*trailers_only(status, fit_status_message(message, _MAX_REFUSAL_SIZE))]


def check_request(headers: Headers, context: CallContext) -> tuple[Handler, Call]:
    """Return who answers the request with these headers, and what the servicer may know of it.

    :raises RefusedRequestError: the request cannot be answered
    """
    values = dict(headers)
    if values.get(":method") != "POST":
        raise RefusedRequestError.http(405, f"gRPC calls are POST requests, this is {values.get(':method')}")
    if not is_grpc_content_type(values.get("content-type")):
        raise RefusedRequestError.http(
            415, f"content-type must be application/grpc, got {values.get('content-type')!r}"
        )
    if values.get("te") != "trailers":
        raise RefusedRequestError.http(400, "the header te: trailers is missing")
    path = values.get(":path", "")
    handler = context.handlers.get(path)
    if handler is None:
        raise RefusedRequestError.grpc(Status.UNIMPLEMENTED, f"unknown method {path}")
    encoding = values.get("grpc-encoding", IDENTITY)
    if encoding not in ENCODINGS:
        raise RefusedRequestError.encoding(encoding)
    try:
        metadata = decode_metadata(headers)
        timeout = values.get("grpc-timeout")
        seconds = None if timeout is None else decode_timeout(timeout)
    except ValueError as error:
        raise RefusedRequestError.grpc(Status.INTERNAL, str(error)) from error
    if seconds == 0:
        raise RefusedRequestError.grpc(Status.DEADLINE_EXCEEDED, "the deadline had passed when the request arrived")
    return handler, Call(
        path,
        metadata,
        deadline=None if seconds is None else Deadline.from_timeout(seconds),
        peer=context.peer_name,
        user_agent=values.get("user-agent"),
        request_encoding=encoding,
        accepted_encodings=accepted_encodings(values.get("grpc-accept-encoding")),
    )
