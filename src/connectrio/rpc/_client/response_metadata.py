"""What a stub's caller can learn of a call beside its messages: metadata and status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

from grpclib.const import Status
from multidict import MultiDict

from connectrio.rpc._client.response_status import Outcome
from connectrio.rpc._grpc import Metadata

_seen: ContextVar[ResponseMetadata | None] = ContextVar("connectrio_response_metadata", default=None)


class ResponseMetadata:
    """The metadata and the status of a call; made by `response_metadata`."""

    __slots__ = ("_outcome",)

    def __init__(self) -> None:
        self._outcome = Outcome(None)

    @property
    def initial(self) -> Metadata:
        """The metadata of the response's headers; empty until they are here, and if the server sent only a status."""
        return self._outcome.initial_metadata or cast("Metadata", MultiDict())

    @property
    def trailing(self) -> Metadata:
        """The metadata that came with the status; empty until it is here, and if it did not come from the server."""
        return self._outcome.trailing_metadata or cast("Metadata", MultiDict())

    @property
    def status(self) -> Status | None:
        """The status; None as long as the call is not over."""
        return self._outcome.status[0] if self._outcome.is_settled else None

    @property
    def message(self) -> str | None:
        """The text that came with the status."""
        return self._outcome.status[1]


@contextmanager
def response_metadata() -> Iterator[ResponseMetadata]:
    """Show the metadata and the status of the call that is made in the block, also after the block and if it fails.

        with response_metadata() as seen:
            reply = await stub.say_hello(HelloRequest(name="you"))
        print(seen.initial["x-request-id"], seen.trailing.get("x-cost"), seen.status)

    Works with the stubs of betterproto2 and of grpclib, for every kind of method. A streaming call is made when its
    first message is asked for. If several calls are made in the block, by this task or by tasks that it starts there,
    it shows the one that was made last: give each of several calls at once a block of its own. Blocks may be nested;
    the innermost one shows the call.
    """
    seen = ResponseMetadata()
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)


def show_outcome(outcome: Outcome) -> None:
    """Let the innermost `response_metadata` block around a new call, if there is one, show its outcome."""
    seen = _seen.get()
    if seen is not None:
        seen._outcome = outcome  # noqa: SLF001 - it is of this module
