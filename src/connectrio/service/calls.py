"""What all operations on a task have in common: the connector, the time limit, errors as statuses, the account."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from grpclib import GRPCError
from grpclib.const import Status

from connectrio.connector import AsyncConnector
from connectrio.registry import ConnectorNotFoundError, Registry
from connectrio.service.accounting import Account, TaskCall
from connectrio.service.errors import (
    DeliveryError,
    RequestError,
    TimeLimitError,
    classify,
    fit_message,
    is_cancellation,
    only_leaf,
)
from connectrio.service.metrics import UNREGISTERED, Metrics
from connectrio.service.operations import Operation, OperationLimits
from connectrio.service.redaction import redact
from connectrio.service.workers import Workers

__all__ = ["Calls"]

T = TypeVar("T")

Work = Callable[[AsyncConnector[Any]], Awaitable[T]]


class Calls:
    """Lets connectors do the work of calls, and answers for whatever they raise."""

    def __init__(self, registry: Registry, *, metrics: Metrics, workers: Workers, limits: OperationLimits) -> None:
        self._registry = registry
        self._metrics = metrics
        self._workers = workers
        self._limits = limits

    async def perform(self, call: TaskCall, work: Work[T]) -> T:
        """Let the connector that `call` is for do `work`, and account for the call.

        :raises GRPCError: it failed, whatever the connector has raised
        """
        account = Account(call, self._label(call), self._metrics)
        try:
            if call.operation is Operation.CREATE:
                account.observe_inputs()
            result = await self._within_limit(call, work, self._find(call))
        except BaseException as error:
            if is_cancellation(error):
                account.cancelled()
                raise
            cause = only_leaf(error)
            if isinstance(cause, DeliveryError):
                account.cancelled()
                raise cause.reason from None
            failure = classify(cause, call.operation, call.task_type)
            account.failed(failure, error)
            message = fit_message(redact(failure.message, call.connection))
            raise GRPCError(failure.status, message, failure.details) from error
        account.succeeded()
        return result

    def _find(self, call: TaskCall) -> AsyncConnector[Any]:
        """:raises RequestError: this host has no such connector"""
        try:
            return self._registry.get_connector(call.task_type, call.version)
        except ConnectorNotFoundError:
            message = f"Cannot find connector for task type: {call.task_type}."
            versions = self._versions(call.task_type)
            if versions:
                message += f" It is served in version {', '.join(map(str, versions))}, not in version {call.version}."
            raise RequestError(message, Status.NOT_FOUND) from None

    def _versions(self, task_type: str) -> list[int]:
        connectors = (registered.connector for registered in self._registry.registered())
        return [connector.task_type_version for connector in connectors if connector.task_type_name == task_type]

    def _label(self, call: TaskCall) -> str:
        return call.task_type if self._versions(call.task_type) else UNREGISTERED

    async def _within_limit(self, call: TaskCall, work: Work[T], connector: AsyncConnector[Any]) -> T:
        """:raises TimeLimitError: the host's limit has passed; `__cause__` is what the connector made of that"""
        seconds = self._limits.seconds(call.operation)
        scope = anyio.CancelScope(deadline=math.inf if seconds is None else anyio.current_time() + seconds)
        try:
            with scope:
                return await work(connector)
        except BaseException as error:
            if scope.cancel_called and not is_cancellation(error):
                raise self._too_slow(call, seconds) from error
            raise
        raise self._too_slow(call, seconds)

    def _too_slow(self, call: TaskCall, seconds: float | None) -> TimeLimitError:
        message = f"{call.operation.of(call.task_type)}: stopped after {seconds:g} s, this host's own limit for"
        message += f" {call.operation.value}; the client's deadline was later, or it had set none"
        if self._workers.busy >= self._workers.limit:
            message += f". All {self._workers.limit} worker threads were busy: the host may need more of them"
        return TimeLimitError(message)
