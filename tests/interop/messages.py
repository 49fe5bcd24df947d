"""The messages of grpc.testing.TestService, as far as the interoperability tests use them."""

# ruff: noqa: RUF009 - how betterproto2's fields are declared
from __future__ import annotations

from dataclasses import dataclass

import betterproto2


@dataclass(eq=False, repr=False)
class Empty(betterproto2.Message):
    """Nothing."""


@dataclass(eq=False, repr=False)
class BoolValue(betterproto2.Message):
    """A flag that may be absent."""

    value: bool = betterproto2.field(1, betterproto2.TYPE_BOOL)


@dataclass(eq=False, repr=False)
class Payload(betterproto2.Message):
    """So many bytes."""

    type: int = betterproto2.field(1, betterproto2.TYPE_INT32)
    body: bytes = betterproto2.field(2, betterproto2.TYPE_BYTES)


@dataclass(eq=False, repr=False)
class EchoStatus(betterproto2.Message):
    """The status that the server is to end the call with."""

    code: int = betterproto2.field(1, betterproto2.TYPE_INT32)
    message: str = betterproto2.field(2, betterproto2.TYPE_STRING)


@dataclass(eq=False, repr=False)
class SimpleRequest(betterproto2.Message):
    """A unary request."""

    response_type: int = betterproto2.field(1, betterproto2.TYPE_INT32)
    response_size: int = betterproto2.field(2, betterproto2.TYPE_INT32)
    payload: Payload | None = betterproto2.field(3, betterproto2.TYPE_MESSAGE, optional=True)
    fill_username: bool = betterproto2.field(4, betterproto2.TYPE_BOOL)
    fill_oauth_scope: bool = betterproto2.field(5, betterproto2.TYPE_BOOL)
    response_compressed: BoolValue | None = betterproto2.field(6, betterproto2.TYPE_MESSAGE, optional=True)
    response_status: EchoStatus | None = betterproto2.field(7, betterproto2.TYPE_MESSAGE, optional=True)
    expect_compressed: BoolValue | None = betterproto2.field(8, betterproto2.TYPE_MESSAGE, optional=True)


@dataclass(eq=False, repr=False)
class SimpleResponse(betterproto2.Message):
    """A unary response."""

    payload: Payload | None = betterproto2.field(1, betterproto2.TYPE_MESSAGE, optional=True)
    username: str = betterproto2.field(2, betterproto2.TYPE_STRING)
    oauth_scope: str = betterproto2.field(3, betterproto2.TYPE_STRING)


@dataclass(eq=False, repr=False)
class StreamingInputCallRequest(betterproto2.Message):
    """One of many requests."""

    payload: Payload | None = betterproto2.field(1, betterproto2.TYPE_MESSAGE, optional=True)
    expect_compressed: BoolValue | None = betterproto2.field(2, betterproto2.TYPE_MESSAGE, optional=True)


@dataclass(eq=False, repr=False)
class StreamingInputCallResponse(betterproto2.Message):
    """How much the requests had in them."""

    aggregated_payload_size: int = betterproto2.field(1, betterproto2.TYPE_INT32)


@dataclass(eq=False, repr=False)
class ResponseParameters(betterproto2.Message):
    """What one of many responses is to be."""

    size: int = betterproto2.field(1, betterproto2.TYPE_INT32)
    interval_us: int = betterproto2.field(2, betterproto2.TYPE_INT32)
    compressed: BoolValue | None = betterproto2.field(3, betterproto2.TYPE_MESSAGE, optional=True)


@dataclass(eq=False, repr=False)
class StreamingOutputCallRequest(betterproto2.Message):
    """What all of the responses are to be."""

    response_type: int = betterproto2.field(1, betterproto2.TYPE_INT32)
    response_parameters: list[ResponseParameters] = betterproto2.field(2, betterproto2.TYPE_MESSAGE, repeated=True)
    payload: Payload | None = betterproto2.field(3, betterproto2.TYPE_MESSAGE, optional=True)
    response_status: EchoStatus | None = betterproto2.field(7, betterproto2.TYPE_MESSAGE, optional=True)


@dataclass(eq=False, repr=False)
class StreamingOutputCallResponse(betterproto2.Message):
    """One of many responses."""

    payload: Payload | None = betterproto2.field(1, betterproto2.TYPE_MESSAGE, optional=True)
