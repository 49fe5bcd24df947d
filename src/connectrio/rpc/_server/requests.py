"""Requests: what a call must carry to be answered at all, and how one that does not is refused.

Source: "Requests" in gRPC over HTTP2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import anyio
from grpclib.const import Handler, Status
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.events import _DispatchServerEvents

from connectrio.rpc._grpc import (
    ACCEPT_ENCODING,
    CONTENT_TYPE,
    ENCODINGS,
    IDENTITY,
    accepted_encodings,
    decode_metadata,
    decode_timeout,
    plain_content_type,
)
from connectrio.rpc._http2.stream import Headers
from connectrio.rpc._server.memory import RequestMemory
from connectrio.rpc._server.turns import Turn
from connectrio.rpc.call import Call, Deadline, OnCall
from connectrio.rpc.interceptors import Interceptor
from connectrio.rpc.options import ServerOptions
from connectrio.rpc.peer import Peer
from connectrio.rpc.status import fit_status_message, trailers_only

# bytes; a refusal tells the client what was wrong with its request, not the whole of it
_MAX_REFUSAL_SIZE = 256

_ATTEMPTS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class CallContext:
    """What the calls of a connection have in common.

    :ivar codecs: by the content types that they are for, without parameters
    :ivar decode_turn: held while a thread decodes a large message, which would block the event loop
    :ivar memory: what the requests of all connections hold
    :ivar turn: of the connection, when it has many frames to act on
    :ivar on_call: told of each call that a servicer answers; None costs nothing
    :ivar interceptors: around each call that a servicer answers, the first outermost; none cost nothing
    """

    handlers: Mapping[str, Handler]
    codecs: Mapping[str, CodecBase]
    status_details_codec: StatusDetailsCodecBase | None
    grpclib_events: _DispatchServerEvents
    options: ServerOptions
    peer: Peer
    peer_name: str
    decode_turn: anyio.Lock
    memory: RequestMemory
    turn: Turn
    on_call: OnCall | None = None
    interceptors: tuple[Interceptor, ...] = ()


class RefusedRequestError(Exception):
    """The request is not one that this server can answer.

    :param http_status: for a request that is not gRPC, an HTTP status beside the gRPC one
    :param headers: further headers
    :param content_type: of the response
    :ivar headers: the whole response
    """

    def __init__(
        self,
        status: Status,
        message: str,
        *,
        http_status: int = 200,
        headers: Headers = (),
        content_type: str = CONTENT_TYPE,
    ) -> None:
        super().__init__(message)
        _, *response = trailers_only(status, fit_status_message(message, _MAX_REFUSAL_SIZE), content_type=content_type)
        self.headers: Headers = [(":status", str(http_status)), *response, *headers]


def too_large(size: int, limit: int) -> RefusedRequestError:
    """Return the refusal of a request whose headers take `size` bytes, more than `limit`."""
    message = f"the request's headers take {size} bytes, but this server takes at most {limit}: send less metadata"
    return RefusedRequestError(Status.RESOURCE_EXHAUSTED, message)


def check_request(headers: Headers, context: CallContext) -> tuple[Handler, Call]:
    """Return who answers the request with these headers, and what the servicer may know of it.

    :raises RefusedRequestError: the request cannot be answered
    """
    values = dict(headers)
    method, content_type = values.get(":method"), values.get("content-type")
    if method != "POST":
        message = f"gRPC calls are POST requests, this is {method}"
        raise RefusedRequestError(Status.INTERNAL, message, http_status=405)
    if content_type is None or content_type not in context.codecs:
        sent, content_type = content_type, plain_content_type(content_type)
        if content_type is None or content_type not in context.codecs:
            message = f"content-type must be {' or '.join(context.codecs)}, got {sent!r}"
            raise RefusedRequestError(Status.INTERNAL, message, http_status=415)
    if values.get("te") != "trailers":
        message = "the header te: trailers is missing"
        raise RefusedRequestError(Status.INTERNAL, message, http_status=400, content_type=content_type)
    path = values.get(":path", "")
    handler = context.handlers.get(path)
    if handler is None:
        raise RefusedRequestError(Status.UNIMPLEMENTED, f"unknown method {path}", content_type=content_type)
    encoding = values.get("grpc-encoding", IDENTITY)
    if encoding not in ENCODINGS:
        message = f"grpc-encoding {encoding!r} is not supported"
        supported = [("grpc-accept-encoding", ACCEPT_ENCODING)]
        raise RefusedRequestError(Status.UNIMPLEMENTED, message, headers=supported, content_type=content_type)
    try:
        metadata = decode_metadata(headers)
        timeout = values.get("grpc-timeout")
        seconds = None if timeout is None else decode_timeout(timeout)
    except ValueError as error:
        raise RefusedRequestError(Status.INTERNAL, str(error), content_type=content_type) from error
    if seconds == 0:
        message = "the deadline had passed when the request arrived"
        raise RefusedRequestError(Status.DEADLINE_EXCEEDED, message, content_type=content_type)
    attempts = values.get("grpc-previous-rpc-attempts")
    return handler, Call(
        path,
        metadata,
        cardinality=handler.cardinality,
        deadline=None if seconds is None else Deadline.from_timeout(seconds),
        peer=context.peer_name,
        user_agent=values.get("user-agent"),
        # what is no number says nothing; int() would take other digits and any length
        previous_attempts=int(attempts) if attempts and _ATTEMPTS.fullmatch(attempts) else 0,
        content_type=content_type,
        request_encoding=encoding,
        accepted_encodings=accepted_encodings(values.get("grpc-accept-encoding")),
    )
