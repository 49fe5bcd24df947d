"""The steps that all operations on a task have in common: the record, the connector, the time limit, the slot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType

import anyio
from grpclib.const import Status

from connectrio.connector.failures import LoadFailure
from connectrio.connector.registry import ConnectorNotFoundError, Registry
from connectrio.rpc.call import find_current_call
from connectrio.rpc.exceptions import is_cancellation
from connectrio.rpc.left_open import LeftOpenError, close_left_open
from connectrio.rpc.peer import share_of
from connectrio.service.errors import OutageError, OverloadError, RequestError, TimeLimitError
from connectrio.service.methods import ConnectorMethod, ConnectorMethods
from connectrio.service.metrics import UNREGISTERED, Metrics
from connectrio.service.operations import Operation, TaskCall
from connectrio.service.settings import ServiceSettings
from connectrio.service.slots import Admission, NoRoomError, Slots
from connectrio.service.telemetry import CallRecord, TraceMethod
from connectrio.service.vendor_gate import VendorGates
from connectrio.service.workers import Workers
from connectrio.telemetry.account import Account

__all__ = ["Dispatcher"]

# how long before the client's deadline a poll gives up, so that its answer still arrives: a part of the time that is
# left, and seconds at most. Flyte's executor waits for ten
_MARGIN = 0.1
_LONGEST_MARGIN = 1.0

_UNLIMITED = nullcontext()

# what the limits are called in `ServiceSettings`
_SETTINGS = {
    Operation.CREATE: "create_limit",
    Operation.GET: "get_limit",
    Operation.DELETE: "delete_limit",
    Operation.GET_METRICS: "metrics_limit",
    Operation.GET_LOGS: "logs_limit",
}

# of the entry points that could not be loaded, in the answer to calls for unknown task types
_MOST_FAILURES = 5
_LONGEST_FAILURE = 500


class Dispatcher:
    """Takes calls to connectors, step by step. Each operation goes through the same ones:

    with dispatcher.record(call) as record:
        method = dispatcher.find(record)
        with dispatcher.limit(call), await dispatcher.slot(call):
            ...  # call the method, convert what it returns
    """

    def __init__(
        self,
        registry: Registry,
        settings: ServiceSettings,
        *,
        metrics: Metrics,
        workers: Workers,
        account: Account,
        trace: TraceMethod | None = None,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._trace = trace
        self._workers = workers
        self._account = account
        self._seconds = {
            Operation.CREATE: settings.create_limit,
            Operation.GET: settings.get_limit,
            Operation.DELETE: settings.delete_limit,
            Operation.GET_METRICS: settings.metrics_limit,
            Operation.GET_LOGS: math.inf if settings.logs_limit is None else settings.logs_limit,
        }
        admission = Admission(settings)
        admission.divide_among(registered.connector.task_type_name for registered in registry.registered())
        metrics.registry.register(admission)
        self.admission = admission
        self._slots = {operation: admission.slots(operation) for operation in Operation}
        # by the client's address
        self._log_streams: Counter[str] = Counter()
        # polls are stopped before the client's deadline if they can be answered even then
        self._early_polls = settings.poll_absorb > 0
        self.gates = VendorGates(settings)
        metrics.registry.register(self.gates)
        self.methods = ConnectorMethods(self.gates)

    def record(self, call: TaskCall) -> CallRecord:
        """Return what counts and logs the call, and makes a status of its error."""
        known = self._registry.has(call.task_type, call.version) or self._versions(call.task_type)
        label = call.task_type if known else UNREGISTERED
        return CallRecord(call, label, self._metrics, self._account, self._trace)

    def find(self, record: CallRecord) -> ConnectorMethod:
        """Return the method of the connector that the call is for, which its record knows from then on.

        :raises RequestError: this host has no such connector
        """
        call = record.call
        try:
            connector = record.connector = self._registry.get_connector(call.task_type, call.version)
        except ConnectorNotFoundError:
            if self._registry.broken is not None:
                raise OutageError(self._registry.broken.error) from None
            message = f"Cannot find connector for task type: {call.task_type}."
            versions = self._versions(call.task_type)
            absent = self._registry.absent.get(call.task_type)
            failures = [absent] if absent is not None else self._registry.failures
            if not versions and absent is None and (nearest := self._registry.nearest(call.task_type)):
                message += f" Did you mean {nearest}?"
            if not versions and failures:
                message += f" The connector may be missing because of this: {_shown(failures)}"
            if versions:
                message += f" It is served in version {', '.join(map(str, versions))}, not in version {call.version}."
            raise RequestError(message, Status.NOT_FOUND) from None
        method = self.methods.get(connector, call.operation)
        record.gate = method.gate
        return method

    def _versions(self, task_type: str) -> list[int]:
        connectors = (registered.connector for registered in self._registry.registered())
        return [connector.task_type_version for connector in connectors if connector.task_type_name == task_type]

    def limit(self, call: TaskCall) -> AbstractContextManager[None]:
        """Return a context that stops the call at this host's limit, or a poll shortly before the client's deadline.

        If the client's deadline is earlier, return a context that does nothing: the server's scope ends the call first.
        """
        now = anyio.current_time()
        deadline = now + self._seconds[call.operation]
        if call.operation is Operation.GET and self._early_polls:
            rpc = find_current_call()
            if rpc is not None and rpc.deadline is not None:
                margin = min(_LONGEST_MARGIN, _MARGIN * (rpc.deadline.at - now))
                return _TimeLimit(min(deadline, rpc.deadline.at - margin), now, call, self)
        return _TimeLimit(deadline, now, call, self) if deadline < anyio.current_effective_deadline() else _UNLIMITED

    def too_slow(self, call: TaskCall, seconds: float) -> TimeLimitError:
        """Return the error of a call that was stopped after `seconds`."""
        limit = self._seconds[call.operation]
        if math.isclose(seconds, limit, abs_tol=1e-6):
            why = f"stopped after {limit:g} s, this host's own limit for {call.operation.value}"
            why += f" ({_SETTINGS[call.operation]});"
            why += " the client's deadline was later, or it had set none"
        else:
            why = f"stopped after {seconds:.3g} s, to have an answer before the client's deadline"
        if busy := self._workers.why_busy():
            why += f"; {busy}"
        return TimeLimitError(f"{call.operation.phrase(call.task_type)}: {why}")

    async def slot(self, call: TaskCall) -> AbstractContextManager[None]:
        """Wait for a slot; return what gives it back at the end of its block.

        :raises OutageError: the connector's lifespan is not open
        :raises OverloadError: all slots are taken, and the queue is full
        """
        outage = self._registry.outages.get((call.task_type, call.version))
        if outage is not None:
            raise OutageError(f"{call.operation.phrase(call.task_type)}: {outage.error}. This host will try again")
        slots = self._slots[call.operation]
        try:
            if call.operation is Operation.GET_LOGS:
                return await self._log_stream(call, slots)
            return slots.try_enter(call.task_type) or await slots.enter(call.task_type)
        except NoRoomError:
            if call.operation is Operation.GET_LOGS:
                why = "this host sends as many streams of logs as max_log_streams allows, or half of them to this"
                why += " address; try again later, or raise it"
            else:
                why = "this host is busy with as many calls to this connector as max_calls and max_calls_per_connector"
                why += " allow, and the queue (max_waiting_calls) is full; try again later, or raise these settings"
            raise OverloadError(f"{call.operation.phrase(call.task_type)}: {why}") from None

    async def _log_stream(self, call: TaskCall, slots: Slots) -> AbstractContextManager[None]:
        """Return what holds a slot for a stream of logs, and counts it for the client's address.

        :raises NoRoomError: all are taken, or half of them by this address
        """
        rpc = find_current_call()
        # "" for a transport without addresses; whoever may write to a Unix socket is trusted
        address = "" if rpc is None or rpc.peer.startswith("unix:") else share_of(rpc.peer.rpartition(":")[0])
        if address and self._log_streams[address] >= max(1, slots.limit // 2):
            raise NoRoomError
        return self._counted(await slots.enter(call.task_type), address)

    @contextmanager
    def _counted(self, place: AbstractContextManager[None], address: str) -> Iterator[None]:
        """Hold `place`, and count a stream of logs to `address`."""
        self._log_streams[address] += 1
        try:
            with place:
                yield
        finally:
            self._log_streams[address] -= 1
            if not self._log_streams[address]:
                del self._log_streams[address]


def _shown(failures: Sequence[LoadFailure]) -> str:
    """Return the first failures, cut, for the author of a task."""
    shown = [f"{failure.source}: {failure.error[:_LONGEST_FAILURE]}" for failure in failures[:_MOST_FAILURES]]
    if len(failures) > _MOST_FAILURES:
        shown.append(f"and {len(failures) - _MOST_FAILURES} more, see the host's log")
    return "; ".join(shown)


class _TimeLimit:
    """A cancel scope around a call, which says so when it has stopped the call."""

    def __init__(self, deadline: float, now: float, call: TaskCall, dispatcher: Dispatcher) -> None:
        self._scope = anyio.CancelScope(deadline=deadline)
        self._seconds = deadline - now
        self._call = call
        self._dispatcher = dispatcher

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, places: TracebackType | None
    ) -> None:
        """Turn a cancellation by this limit into an error.

        :raises TimeLimitError: the time has passed; `__cause__` is what the connector made of that
        :raises LeftOpenError: the connector has left a scope open
        """
        try:
            is_stopped = self._scope.__exit__(kind, error, places)
        except BaseException as remaining:  # trio takes its cancellation out of a group, and raises the rest
            if close_left_open(self._scope, remaining):
                raise LeftOpenError from None
            if not self._scope.cancel_called or is_cancellation(remaining):
                raise
            raise self._dispatcher.too_slow(self._call, self._seconds) from remaining
        if error is None or not self._scope.cancel_called:
            return
        if is_stopped:
            # with the places where it was stopped
            raise self._dispatcher.too_slow(self._call, self._seconds).with_traceback(places) from None
        if not is_cancellation(error):
            raise self._dispatcher.too_slow(self._call, self._seconds) from error
