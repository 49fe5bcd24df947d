"""Which status a client sees."""

from __future__ import annotations

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from connectrio.rpc._client.response_status import check_response, error_from_termination, status_from_trailers
from connectrio.rpc._http2.stream import Termination, TerminationCause

RESET_CODES = {
    0: Status.INTERNAL,
    1: Status.INTERNAL,
    2: Status.INTERNAL,
    3: Status.INTERNAL,
    4: Status.INTERNAL,
    6: Status.INTERNAL,
    7: Status.UNAVAILABLE,
    8: Status.CANCELLED,
    9: Status.INTERNAL,
    10: Status.INTERNAL,
    11: Status.RESOURCE_EXHAUSTED,
    12: Status.PERMISSION_DENIED,
}


@pytest.mark.parametrize(("code", "status"), RESET_CODES.items())
def test_a_reset_becomes_the_status_of_grpcs_table(code: int, status: Status):
    error = error_from_termination(Termination(TerminationCause.RESET_BY_PEER, ErrorCodes(code)))
    assert error.status is status
    assert ErrorCodes(code).name in str(error.message)


def test_a_reset_with_a_code_that_nobody_knows_is_internal():
    error = error_from_termination(Termination(TerminationCause.RESET_BY_PEER, 0xBEEF))
    assert error.status is Status.INTERNAL


@pytest.mark.parametrize("cause", [TerminationCause.CONNECTION_LOST, TerminationCause.UNPROCESSED])
@pytest.mark.parametrize("code", [None, ErrorCodes.ENHANCE_YOUR_CALM])
def test_a_lost_connection_is_unavailable(cause: TerminationCause, code: ErrorCodes | None):
    assert error_from_termination(Termination(cause, code)).status is Status.UNAVAILABLE


HTTP_STATUSES = {
    "400": Status.INTERNAL,
    "401": Status.UNAUTHENTICATED,
    "403": Status.PERMISSION_DENIED,
    "404": Status.UNIMPLEMENTED,
    "429": Status.UNAVAILABLE,
    "502": Status.UNAVAILABLE,
    "503": Status.UNAVAILABLE,
    "504": Status.UNAVAILABLE,
    "418": Status.UNKNOWN,
    "500": Status.UNKNOWN,
    "204": Status.UNKNOWN,
    "": Status.UNKNOWN,
}


@pytest.mark.parametrize(("http_status", "status"), HTTP_STATUSES.items())
def test_an_http_status_without_a_grpc_one(http_status: str, status: Status):
    with pytest.raises(GRPCError) as raised:
        check_response([(":status", http_status), ("content-type", "application/grpc")])
    assert raised.value.status is status


def test_a_grpc_status_beats_an_http_one():
    check_response([(":status", "503"), ("grpc-status", "5")])


def test_a_grpc_status_in_headers_that_are_not_the_end_is_none():
    with pytest.raises(GRPCError, match="HTTP status 503") as raised:
        check_response([(":status", "503"), ("grpc-status", "5")], trailers_only=False)
    assert raised.value.status is Status.UNAVAILABLE


def test_a_response_that_is_not_grpc():
    with pytest.raises(GRPCError, match="text/html") as raised:
        check_response([(":status", "200"), ("content-type", "text/html")])
    assert raised.value.status is Status.UNKNOWN


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc+json"])
def test_a_grpc_response(content_type: str):
    check_response([(":status", "200"), ("content-type", content_type)])


@pytest.mark.parametrize("status", list(Status))
def test_a_status_in_the_trailers(status: Status):
    assert status_from_trailers([("grpc-status", str(status.value))]) == (status, None)


def test_the_message_is_decoded():
    trailers = [("grpc-status", "13"), ("grpc-message", "%E2%82%AC%20%zz%")]
    assert status_from_trailers(trailers) == (Status.INTERNAL, "€ %zz%")


@pytest.mark.parametrize("encoded", ["%FF%FE", "%", "%f", "\xff"])
def test_a_message_that_is_not_valid_never_raises(encoded: str):
    status, message = status_from_trailers([("grpc-status", "13"), ("grpc-message", encoded)])
    assert status is Status.INTERNAL
    assert message


@pytest.mark.parametrize("trailers", [None, [], [("grpc-message", "but no status")]])
def test_no_status_is_unknown(trailers: list[tuple[str, str]] | None):
    assert status_from_trailers(trailers)[0] is Status.UNKNOWN


@pytest.mark.parametrize("code", ["17", "-1", "abc", "", "0x0", "0_0", " 0", "+0", "1e0", "99999999999999999999", "²"])
def test_an_invalid_status_is_unknown_and_named(code: str):
    status, message = status_from_trailers([("grpc-status", code), ("grpc-message", "why")])
    assert status is Status.UNKNOWN
    assert message == f"invalid grpc-status {code!r}: why"
