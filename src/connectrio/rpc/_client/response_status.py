"""The status of a call, as its caller sees it: what the server sent, or what stands for it when it sent none.

Sources: "Responses" and "Errors" in gRPC over HTTP2, and gRPC's http-grpc-status-mapping document.
"""

from __future__ import annotations

import logging
from typing import Any

from grpclib.const import Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.exceptions import GRPCError
from grpclib.metadata import decode_grpc_message
from h2.errors import ErrorCodes

from connectrio.rpc._grpc import (
    CONTENT_TYPE,
    PROTO,
    RESPONSE_HEADERS,
    Metadata,
    decode_binary,
    decode_metadata,
    is_grpc_content_type,
    plain_content_type,
)
from connectrio.rpc._http2.stream import Headers, Termination, TerminationCause
from connectrio.rpc.call import Deadline

log = logging.getLogger("connectrio.rpc")

_BY_HTTP_STATUS = {
    "400": Status.INTERNAL,
    "401": Status.UNAUTHENTICATED,
    "403": Status.PERMISSION_DENIED,
    "404": Status.UNIMPLEMENTED,
    "431": Status.INTERNAL,
    "429": Status.UNAVAILABLE,
    "502": Status.UNAVAILABLE,
    "503": Status.UNAVAILABLE,
    "504": Status.UNAVAILABLE,
}

_BY_ERROR_CODE: dict[object, Status] = {
    ErrorCodes.REFUSED_STREAM: Status.UNAVAILABLE,
    ErrorCodes.CANCEL: Status.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
}

_UNAVAILABLE = (TerminationCause.CONNECTION_LOST, TerminationCause.UNPROCESSED, TerminationCause.NEVER_SENT)

_STATUSES = {str(status.value): status for status in Status}

_DEADLINE_PASSED = "the deadline passed before the call was done"


class CallEndedError(Exception):
    """A message was not sent, because the server has ended the call with OK and reads no more. Receive its answer."""

    def __init__(self) -> None:
        super().__init__(
            "the message was not sent: the server has ended the call with OK before it read all messages; receive what"
            " it has answered"
        )


class Outcome:
    """The status of one call, from the moment it has one, and its metadata. The first status stays.

    :ivar deadline: of the call; None when it has none
    :ivar initial_metadata: the metadata of the response's headers; None until they are here
    :ivar trailing_metadata: the metadata of the trailers; None until they are here
    """

    __slots__ = ("_details", "_message", "_status", "deadline", "initial_metadata", "trailing_metadata")

    def __init__(self, deadline: Deadline | None) -> None:
        self.deadline = deadline
        self.initial_metadata: Metadata | None = None
        self.trailing_metadata: Metadata | None = None
        self._status: Status | None = None
        self._message: str | None = None
        self._details: Any = None

    @property
    def is_settled(self) -> bool:
        """Whether there is a status."""
        return self._status is not None

    @property
    def status(self) -> tuple[Status, str | None]:
        """The status and its message; CANCELLED as long as there is none."""
        return (Status.CANCELLED, None) if self._status is None else (self._status, self._message)

    def settle(self, status: Status, message: str | None, details: Any = None) -> GRPCError:
        """Set the status, unless there is one; return the error for the status that the call has now.

        CANCELLED past the deadline becomes DEADLINE_EXCEEDED ("Client Cancellation" in gRPC over HTTP2).
        """
        if self._status is None:
            deadline = self.deadline
            if status is Status.CANCELLED and deadline is not None and deadline.has_passed:
                status, message, details = Status.DEADLINE_EXCEEDED, _DEADLINE_PASSED, None
            self._status, self._message, self._details = status, message, details
        return GRPCError(self._status, self._message, self._details)

    def expire(self, connection_error: str) -> GRPCError:
        """Settle the call because its deadline has passed; return the error for the status that the call has now.

        :param connection_error: why the request is not sent yet; "" when it is
        """
        reason = f"the deadline passed before there was a connection: {connection_error}"
        return self.settle(Status.DEADLINE_EXCEEDED, reason if connection_error else _DEADLINE_PASSED)

    def raise_if_failed(self) -> None:
        """Do nothing if there is no status yet, or it is OK.

        :raises GRPCError: there is another status
        """
        if self._status is not None and self._status is not Status.OK:
            raise GRPCError(self._status, self._message, self._details)


def error_from_termination(termination: Termination) -> GRPCError:
    """Return the error of a call whose stream was cut short before a status came."""
    if termination.cause in _UNAVAILABLE:
        return GRPCError(Status.UNAVAILABLE, str(termination))
    return GRPCError(_BY_ERROR_CODE.get(termination.error_code, Status.INTERNAL), str(termination))


def check_response(headers: Headers, *, trailers_only: bool = True, content_type: str | None = None) -> None:
    """Check the headers that begin a response.

    :param trailers_only: they are the whole response. Only then do they have a status: "Responses" in gRPC over HTTP2
    :param content_type: of the request. A response may name no subtype, because grpc's C core never does; but if it
        names one, it must be the same
    :raises GRPCError: the response is not gRPC, or its messages are encoded in another way
    """
    values = dict(headers)
    if trailers_only and "grpc-status" in values:
        return
    http_status = values.get(":status")
    if http_status != "200":
        status = _BY_HTTP_STATUS.get(http_status or "", Status.UNKNOWN)
        raise GRPCError(status, f"the server answered with HTTP status {http_status} and no gRPC status")
    received = values.get("content-type")
    if received in (CONTENT_TYPE, content_type):
        return
    if not is_grpc_content_type(received):
        raise GRPCError(Status.UNKNOWN, f"the response is not gRPC: its content-type is {received!r}")
    also = f"{CONTENT_TYPE}+{PROTO}" if content_type == CONTENT_TYPE else content_type
    if content_type is not None and plain_content_type(received) not in (CONTENT_TYPE, also):
        raise GRPCError(Status.UNKNOWN, f"the response's content-type is {received!r}, the request's {content_type!r}")


def status_from_trailers(trailers: Headers | None) -> tuple[Status, str | None]:
    """Return the status that ends a call, and its message; UNKNOWN if the server sent no valid status."""
    values = dict(trailers or [])
    code = values.get("grpc-status")
    if code is None:
        return Status.UNKNOWN, "the server ended the call without a status"
    message = values.get("grpc-message")
    text = None if message is None else decode_grpc_message(message)
    try:
        return _STATUSES[code], text
    except KeyError:
        return Status.UNKNOWN, f"invalid grpc-status {code!r}" + (f": {text}" if text else "")


def details_from_trailers(
    trailers: Headers, status: Status, message: str | None, codec: StatusDetailsCodecBase | None
) -> Any:
    """Return the details of the status that ends a call; None if the server sent none that can be decoded."""
    encoded = None if codec is None else dict(trailers).get("grpc-status-details-bin")
    if encoded is None or codec is None:
        return None
    try:
        return codec.decode(status, message, decode_binary("grpc-status-details-bin", encoded))
    except Exception:
        # any: the codec is the application's. The status is worth more than its details
        log.warning("the details of a status cannot be decoded, and are left out", exc_info=True)
        return None


def received_metadata(headers: Headers) -> Metadata:
    """Return the custom metadata in a response's headers or trailers.

    :raises GRPCError: INTERNAL, when it is malformed; the status that came with it, if any, is in the message
    """
    try:
        return decode_metadata(headers, RESPONSE_HEADERS)
    except ValueError as error:
        status = dict(headers).get("grpc-status")
        came_with = f"; it came with grpc-status {status}" if status else ""
        raise GRPCError(Status.INTERNAL, f"the server sent {error}{came_with}") from error
