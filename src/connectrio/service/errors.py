"""Errors of calls: their gRPC statuses, the texts that clients read, and how the host logs them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from typing import Any

from grpclib import GRPCError
from grpclib.const import Status

from connectrio.connector.failures import ConnectorError
from connectrio.diagnostics import text_of, type_name
from connectrio.rpc.exceptions import leaves, only_leaf
from connectrio.rpc.left_open import LeftOpenError, trio_has_closed
from connectrio.service.operations import Operation

__all__ = [
    "CallFailure",
    "ConnectorFault",
    "DeliveryError",
    "LimitedError",
    "OverloadError",
    "RequestError",
    "Severity",
    "TimeLimitError",
    "classify",
    "describe_error",
]


class RequestError(Exception):
    """The client asked for something that the host cannot do; the text is for whoever sent the request."""

    def __init__(self, message: str, status: Status = Status.INVALID_ARGUMENT) -> None:
        super().__init__(message)
        self.status = status


class OverloadError(RequestError):
    """The host is too busy; the client can try again later."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Status.RESOURCE_EXHAUSTED)


class OutageError(RequestError):
    """The connector's lifespan is not open, or its circuit breaker is; the host tries again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Status.UNAVAILABLE)


class LimitedError(RequestError):
    """A limit of the connector's policy allows no call now. Polls are answered with the last known phase instead."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Status.UNAVAILABLE)


class ConnectorFault(Exception):  # noqa: N818 - the field's word for "the other side is at fault"
    """A connector returned something that the host cannot pass on; the text is for the connector's author."""


class TimeLimitError(Exception):
    """The host's own limit for an operation has passed."""


class DeliveryError(Exception):
    """A response could not be sent.

    :ivar reason: what the gRPC layer raised
    """

    def __init__(self, reason: BaseException) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Severity(Enum):
    """Who has to act on a failed call.

    :cvar BUG: the connector's author, or the operator
    :cvar REFUSED: the client: the request is at fault, or the connector reported a failure of a known kind
    """

    BUG = auto()
    REFUSED = auto()


@dataclass(frozen=True)
class CallFailure:
    """How a call failed.

    :ivar message: what the client reads
    :ivar details: for `GRPCError.details`
    :ivar traceback: whether the traceback tells more than the message
    """

    status: Status
    message: str
    severity: Severity
    traceback: bool = False
    details: Any = None


def classify(error: BaseException, operation: Operation, task_type: str) -> CallFailure:
    """Return how an operation on a task of that type failed, given what it raised. Raises nothing."""
    try:
        return _classify(only_leaf(error), operation, task_type)
    except BaseException as failure:  # noqa: BLE001 - the error's class is the connector's, and may do anything
        text = f"failed to {operation.phrase(task_type)} with an error of class {type_name(error)}, and describing it"
        return CallFailure(Status.INTERNAL, f"{text} failed with {type_name(failure)}", Severity.BUG, traceback=True)


def _classify(error: BaseException, operation: Operation, task_type: str) -> CallFailure:
    if trio_has_closed(error):
        error = LeftOpenError()
    attempt = f"failed to {operation.phrase(task_type)} with error:\n {describe_error(error)}."
    match error:
        case RequestError():
            return CallFailure(error.status, text_of(error), Severity.REFUSED)
        case ConnectorError() if type(error.status) is Status:
            return CallFailure(error.status, describe_error(error), Severity.REFUSED, error.__cause__ is not None)
        case TimeLimitError():
            return CallFailure(Status.DEADLINE_EXCEEDED, text_of(error), Severity.REFUSED, error.__cause__ is not None)
        case GRPCError() if type(error.status) is Status and error.status is not Status.OK:
            severity = Severity.BUG if error.status in _SERVER_FAULTS else Severity.REFUSED
            message = "" if error.message is None else text_of(error.message)
            return CallFailure(error.status, message, severity, traceback=True, details=error.details)
        case NotImplementedError():
            return CallFailure(Status.UNIMPLEMENTED, attempt, Severity.REFUSED, traceback=True)
        case _:
            return CallFailure(Status.INTERNAL, attempt, Severity.BUG, traceback=True)


# errors of a group that are described
_MOST_LEAVES = 20
_SERVER_FAULTS = {Status.UNKNOWN, Status.INTERNAL, Status.DATA_LOSS}


def describe_error(error: BaseException) -> str:
    """Return the text of an error, with its class where the text alone would say nothing. Raises nothing."""
    if issubclass(type(error), BaseExceptionGroup):
        parts = leaves(error)
        described = [_with_type(leaf) for leaf in islice(parts, _MOST_LEAVES)]
        more = sum(1 for _ in parts)
        return "; ".join([*described, f"and {more} more"] if more else described)
    if issubclass(type(error), KeyError | GRPCError) or not issubclass(type(error), Exception):
        return _with_type(error)
    return text_of(error) or type_name(error)


def _with_type(error: BaseException) -> str:
    text = text_of(error)
    return f"{type_name(error)}: {text}" if text else type_name(error)
