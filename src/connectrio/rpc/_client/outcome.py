"""How a call ends, for its caller. Settled once: how a call has failed is how it has failed."""

from __future__ import annotations

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.rpc.deadline import Deadline

_TOO_LATE = "the deadline passed before the call was done"


class Outcome:
    """The status of one call, once there is one.

    :ivar deadline: of the call; None when there is none
    """

    __slots__ = ("_message", "_status", "deadline")

    def __init__(self, deadline: Deadline | None) -> None:
        self.deadline = deadline
        self._status: Status | None = None
        self._message: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether there is a status."""
        return self._status is not None

    def settle(self, status: Status, message: str | None) -> GRPCError:
        """Take this for the status, unless there is one; what to raise for the one that there is.

        CANCELLED past the deadline is DEADLINE_EXCEEDED, by our own account ("Client Cancellation" in gRPC over HTTP2).
        """
        if self._status is None:
            if status is Status.CANCELLED and self._is_late():
                status, message = Status.DEADLINE_EXCEEDED, _TOO_LATE
            self._status, self._message = status, message
        return GRPCError(self._status, self._message)

    def expire(self, connection_error: str) -> GRPCError:
        """The deadline has passed.

        :param connection_error: why the call is not on its way; "" when it is
        """
        reason = f"the deadline passed before there was a connection: {connection_error}"
        return self.settle(Status.DEADLINE_EXCEEDED, reason if connection_error else _TOO_LATE)

    def raise_if_failed(self) -> None:
        """:raises GRPCError: there is a status, and it is not OK"""
        if self._status is not None and self._status is not Status.OK:
            raise GRPCError(self._status, self._message)

    def _is_late(self) -> bool:
        return self.deadline is not None and self.deadline.time_remaining() == 0
