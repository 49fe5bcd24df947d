"""What all operations on a task have in common: the connector, the time limit, errors as statuses, the account."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from grpclib import GRPCError
from grpclib.const import Status

from connectrio.connector.base import AsyncConnector
from connectrio.connector.context import CurrentCall, reset_current_call, set_current_call
from connectrio.connector.registry import ConnectorNotFoundError, Registry
from connectrio.rpc.call import Call, current_call
from connectrio.rpc.status import fit_status_message
from connectrio.service.admission import Admission
from connectrio.service.errors import (
    DeliveryError,
    OverloadError,
    RequestError,
    TimeLimitError,
    classify,
    is_cancellation,
    only_leaf,
)
from connectrio.service.metrics import UNREGISTERED, Metrics
from connectrio.service.operations import Operation, OperationLimits
from connectrio.service.redaction import redact
from connectrio.service.slots import NoRoomError
from connectrio.service.telemetry import Account, TaskCall
from connectrio.service.workers import Workers

__all__ = ["Calls"]

T = TypeVar("T")

Work = Callable[[AsyncConnector[Any]], Awaitable[T]]
Recover = Callable[[AsyncConnector[Any], BaseException, str], T | None]

# seconds before the client's deadline that a poll gives up, so that its answer still arrives. Flyte's executor waits
# ten; a client that waits for less than twice this gets what can be had
_MARGIN = 1.0

_OUTSIDE = CurrentCall()


class Calls:
    """Lets connectors do the work of calls, and answers for whatever they raise.

    :param early_polls: whether polls that are not answered in time are answered by `recover`, before the client's
        deadline
    """

    def __init__(
        self,
        registry: Registry,
        *,
        metrics: Metrics,
        workers: Workers,
        limits: OperationLimits,
        admission: Admission,
        early_polls: bool,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._workers = workers
        self._limits = limits
        self._admission = admission
        self._early_polls = early_polls

    async def perform(self, call: TaskCall, work: Work[T], recover: Recover[T] | None = None) -> T:
        """Let the connector that `call` is for do `work`, and account for the call.

        :param recover: what to answer in place of an error, given the connector, the error and its text; None: nothing
        :raises GRPCError: it failed, whatever the connector has raised
        """
        account = Account(call, self._label(call), self._metrics)
        connector: AsyncConnector[Any] | None = None
        rpc = current_call()
        token = set_current_call(_OUTSIDE if rpc is None else _for_connector(rpc))
        try:
            if call.operation is Operation.CREATE:
                account.observe_inputs()
            connector = self._find(call)
            result = await self._within_limit(call, work, connector)
        except BaseException as error:
            if is_cancellation(error):
                account.cancelled()
                raise
            cause = only_leaf(error)
            if isinstance(cause, DeliveryError):
                account.cancelled()
                raise cause.reason from None
            failure = classify(cause, call.operation, call.task_type)
            message = fit_status_message(redact(failure.message, call.connection))
            answer = None if connector is None or recover is None else recover(connector, cause, message)
            if answer is None:
                account.failed(failure, error)
                raise GRPCError(failure.status, message, failure.details) from error
            account.recovered(failure, error)
            return answer
        finally:
            reset_current_call(token)
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
        known = self._registry.has(call.task_type, call.version) or self._versions(call.task_type)
        return call.task_type if known else UNREGISTERED

    async def _within_limit(self, call: TaskCall, work: Work[T], connector: AsyncConnector[Any]) -> T:
        """:raises TimeLimitError: the time has passed; `__cause__` is what the connector made of that"""
        began = anyio.current_time()
        deadline = self._deadline(call, began)
        if deadline == math.inf:
            return await self._in_its_place(call, work, connector)
        scope = anyio.CancelScope(deadline=deadline)
        try:
            with scope:
                return await self._in_its_place(call, work, connector)
        except BaseException as error:
            if scope.cancel_called and not is_cancellation(error):
                raise self._too_slow(call, scope.deadline - began) from error
            raise
        raise self._too_slow(call, scope.deadline - began)

    def _deadline(self, call: TaskCall, now: float) -> float:
        """When this host stops the call; never, where it has no limit or the client's deadline comes first.

        For that the server has a scope around the call, inside which another one would never act.
        """
        seconds = self._limits.seconds(call.operation)
        deadline = math.inf if seconds is None else now + seconds
        if call.operation is Operation.GET and self._early_polls:
            rpc = current_call()
            if rpc is not None and rpc.deadline is not None and rpc.deadline.at - now > 2 * _MARGIN:
                return min(deadline, rpc.deadline.at - _MARGIN)
        return deadline if deadline < anyio.current_effective_deadline() else math.inf

    async def _in_its_place(self, call: TaskCall, work: Work[T], connector: AsyncConnector[Any]) -> T:
        """:raises OverloadError: there is none, and as many wait for one as may"""
        slots = self._admission.slots(call.operation)
        name = connector.task_type_name
        if not slots.try_enter(name):
            try:
                await slots.enter(name)
            except NoRoomError:
                raise OverloadError(
                    f"{call.operation.of(name)}: this host is busy with as many calls to this connector as it may be,"
                    " and as many wait; try again later"
                ) from None
        try:
            return await work(connector)
        finally:
            slots.leave(name)

    def _too_slow(self, call: TaskCall, seconds: float) -> TimeLimitError:
        limit = self._limits.seconds(call.operation)
        if limit is not None and math.isclose(seconds, limit, abs_tol=1e-6):
            why = f"stopped after {limit:g} s, this host's own limit for {call.operation.value};"
            why += " the client's deadline was later, or it had set none"
        else:
            why = f"stopped after {seconds:.3g} s, to have an answer before the client's deadline"
        if self._workers.busy >= self._workers.limit:
            why += f". All {self._workers.limit} worker threads were busy: the host may need more of them"
        return TimeLimitError(f"{call.operation.of(call.task_type)}: {why}")


def _for_connector(call: Call) -> CurrentCall:
    return CurrentCall(None, call.peer, call.metadata, None if call.deadline is None else call.deadline.at)
