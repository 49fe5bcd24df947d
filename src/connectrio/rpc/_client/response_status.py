"""Which status a client sees when the server sent none.

Sources: "Responses" and "Errors" in gRPC over HTTP2, and gRPC's http-grpc-status-mapping document.
"""

from __future__ import annotations

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.metadata import decode_grpc_message
from h2.errors import ErrorCodes

from connectrio.rpc._grpc.headers import Metadata, decode_metadata, is_grpc_content_type
from connectrio.rpc._http2.stream import Headers, Termination, TerminationCause

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

_BY_ERROR_CODE = {
    ErrorCodes.REFUSED_STREAM: Status.UNAVAILABLE,
    ErrorCodes.CANCEL: Status.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
}

_UNAVAILABLE = (TerminationCause.CONNECTION_LOST, TerminationCause.UNPROCESSED, TerminationCause.NEVER_SENT)

_STATUSES = {str(status.value): status for status in Status}


def error_from_termination(termination: Termination) -> GRPCError:
    """For a call whose stream was cut short before a status came."""
    if termination.cause in _UNAVAILABLE:
        return GRPCError(Status.UNAVAILABLE, str(termination))
    status = Status.INTERNAL
    if isinstance(termination.error_code, ErrorCodes):
        status = _BY_ERROR_CODE.get(termination.error_code, Status.INTERNAL)
    return GRPCError(status, str(termination))


def check_response(headers: Headers) -> None:
    """:raises GRPCError: the response is not gRPC"""
    values = dict(headers)
    if "grpc-status" in values:
        return
    http_status = values.get(":status")
    if http_status != "200":
        status = _BY_HTTP_STATUS.get(http_status or "", Status.UNKNOWN)
        raise GRPCError(status, f"the server answered with HTTP status {http_status} and no gRPC status")
    if not is_grpc_content_type(values.get("content-type")):
        raise GRPCError(Status.UNKNOWN, f"the response is not gRPC: its content-type is {values.get('content-type')!r}")


def status_from_trailers(trailers: Headers | None) -> tuple[Status, str | None]:
    """The status that ends a call; UNKNOWN where the server sent none that is valid."""
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


def received_metadata(headers: Headers) -> Metadata:
    """The custom metadata in a response's headers or trailers.

    :raises GRPCError: INTERNAL, when it is malformed; the status that came with it, if any, is in the message
    """
    try:
        return decode_metadata(headers)
    except ValueError as error:
        status = dict(headers).get("grpc-status")
        came_with = f"; it came with grpc-status {status}" if status else ""
        raise GRPCError(Status.INTERNAL, f"the server sent {error}{came_with}") from error
