"""The gate to the systems behind connectors: each call of `create`, `get` or `delete` passes it, if the connector has a
policy with limits.

1. Calls are counted for each account of the other system. An account is known by a hash of secrets and configs, which
   is never shown.
2. Creates and deletes wait at the gate, as many as `max_waiting_calls` of each connector. Polls never wait: where they
   may not pass, they are answered from what the host knows, and the job waits to be polled (`known_jobs.py`).
3. Those that wait pass in turns: one delete, one poll, one create. So none of the three kinds keeps another from
   passing. Within a kind, the first comes first.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import traceback
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Any, TypeVar

import anyio
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from connectrio.connector.base import AsyncConnector
from connectrio.connector.context import pending_start
from connectrio.connector.policy import ConnectorPolicy
from connectrio.connector.retry_after import retry_after
from connectrio.connector.transient import is_one_of
from connectrio.diagnostics import type_name
from connectrio.idl.flyteidl2.core import Connection
from connectrio.logs import get_logger
from connectrio.rpc.call import find_current_call
from connectrio.rpc.exceptions import only_leaf
from connectrio.service.errors import LimitedError, OutageError, OverloadError, RequestError
from connectrio.service.operations import Operation
from connectrio.service.settings import ServiceSettings
from connectrio.service.vendor_limits import Breaker, CallOutcome, VendorLimits

__all__ = ["CallKind", "VendorAccount", "VendorCall", "VendorGate", "VendorGates", "account_key"]

logger = get_logger("connectrio.service")

T = TypeVar("T")

# accounts that are remembered of each connector, beyond those that are in use
_MOST_ACCOUNTS = 256
# accounts that are looked at for each new one beyond them: more than one, so that they become fewer again
_LOOKED_AT = 4
# how long before the client's deadline a call stops to wait: a part of the time that is left, and seconds at most
_MARGIN = 0.1
_LONGEST_MARGIN = 1.0
# so that nobody can find out by trial which secrets a hash belongs to
_SALT = secrets.token_bytes(32)


class CallKind(Enum):
    """The kinds of calls that wait at the gate."""

    DELETE = auto()
    POLL = auto()
    CREATE = auto()


_KINDS = {Operation.CREATE: CallKind.CREATE, Operation.DELETE: CallKind.DELETE}


@dataclass(slots=True, eq=False)
class _Waiter:
    """Who waits for a turn.

    :ivar called: set when it is the next one, or when it should look again
    """

    kind: CallKind
    evenly: bool
    called: anyio.Event = field(default_factory=anyio.Event)


class VendorAccount:
    """The calls to one account of another system.

    Nothing here is safe for threads: use it on the event loop.

    :ivar is_needed: whether jobs of this account are known, so that it must not be forgotten
    """

    def __init__(self, gate: VendorGate) -> None:
        self.gate = gate
        self.limits = VendorLimits(gate.policy)
        self.is_needed = False
        self._waiting: dict[CallKind, deque[_Waiter]] = {kind: deque() for kind in CallKind}
        # the kinds, that which had its turn last at the end
        self._order = list(CallKind)

    @property
    def waiting(self) -> int:
        """How many calls wait, beside polls."""
        return len(self._waiting[CallKind.CREATE]) + len(self._waiting[CallKind.DELETE])

    def try_begin(self) -> VendorCall | None:
        """Begin a call, which is to be `with`ed at once, if it may begin now and nobody waits."""
        now = anyio.current_time()
        if any(self._waiting.values()) or self.limits.wait(now) > 0:
            return None
        return VendorCall(self, self.limits.begin(now))

    def passing(self, first: VendorCall, work: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """Return a function that does `work` as a call to this account, as often as it is called.

        :param first: the call with which it begins. Later ones fail with the error of the one before if no further call
            may begin
        """
        begun: VendorCall | None = first
        last: Exception | None = None

        async def call_through() -> T:
            nonlocal begun, last
            call, begun = begun or self.try_begin(), None
            if call is None:
                raise last or AssertionError("the first call has begun")
            try:
                with call:
                    return await work()
            except Exception as error:
                last = error
                raise

        return call_through

    async def turn(self, kind: CallKind, *, evenly: bool = False) -> VendorCall:
        """Wait until a call may begin, and begin it; what this returns is to be `with`ed at once.

        :param evenly: see `VendorLimits.wait`
        """
        waiter = _Waiter(kind, evenly)
        self._waiting[kind].append(waiter)
        try:
            while True:
                seconds = math.inf
                if self._next() is waiter:
                    now = anyio.current_time()
                    seconds = self.limits.wait(now, evenly=evenly)
                    if seconds == 0:
                        self._order.remove(kind)
                        self._order.append(kind)
                        return VendorCall(self, self.limits.begin(now))
                with anyio.move_on_after(seconds):
                    await waiter.called.wait()
                waiter.called = anyio.Event()
        finally:
            self._waiting[kind].remove(waiter)
            self.call_next()

    def _next(self) -> _Waiter | None:
        order = self._order
        if self.limits.breaker is not Breaker.CLOSED:  # a poll that fails is the cheapest way to find out
            order = [CallKind.POLL, CallKind.DELETE, CallKind.CREATE]
        return next((self._waiting[kind][0] for kind in order if self._waiting[kind]), None)

    def call_next(self) -> None:
        """Let the next one look whether it may begin."""
        waiter = self._next()
        if waiter is not None:
            waiter.called.set()

    def ended(self, call: VendorCall, outcome: CallOutcome) -> None:
        """Note the end of a call."""
        now = anyio.current_time()
        if self.limits.end(now, outcome, is_probe=call.is_probe):
            self.gate.breaker_changed(self.limits)
        self.call_next()

    def was_late(self) -> None:
        """Note that a call, which was cancelled and has ended, had taken too long."""
        if self.limits.late(anyio.current_time()):
            self.gate.breaker_changed(self.limits)

    def refusal(self, call: str) -> RequestError:
        """Return the error of a call that may not begin now.

        :param call: what it is for, as a phrase
        """
        why = f"{call}: the other system is not asked now: {self.limits.reason(anyio.current_time())}"
        return LimitedError(why) if self.limits.breaker is Breaker.CLOSED else OutageError(why)


class VendorCall:
    """A call that has begun. `with` it around the call."""

    __slots__ = ("account", "is_probe")

    def __init__(self, account: VendorAccount, is_probe: bool) -> None:
        self.account = account
        self.is_probe = is_probe

    def give_back(self) -> None:
        """End the call, which was not made."""
        self.account.ended(self, CallOutcome.OTHER)

    def __enter__(self) -> None:
        """The call has begun already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, places: TracebackType | None
    ) -> None:
        account = self.account
        if isinstance(error, Exception):
            account.ended(self, CallOutcome.FAILED if account.gate.failed(account, error) else CallOutcome.OTHER)
        else:
            account.ended(self, CallOutcome.ANSWERED if error is None else CallOutcome.OTHER)


class VendorGate:
    """The gate of one connector.

    :param most_waiting: how many creates and deletes may wait, for all accounts together
    :ivar has_many: whether the connector has `get_many`
    :ivar applies: whether calls have to pass; if not, nothing is counted. Without limits, only as long as an account is
        to be left alone
    :ivar limited: how many polls were answered from what the host knows, because they might not pass
    """

    def __init__(self, connector: AsyncConnector[Any], policy: ConnectorPolicy, most_waiting: float = math.inf) -> None:
        self.policy = policy
        self.limited = 0
        self._connector = connector
        self.task_type = connector.task_type_name
        self._most_waiting = most_waiting
        self._accounts: OrderedDict[bytes, VendorAccount] = OrderedDict()
        self.has_many = type(connector).get_many is not AsyncConnector.get_many
        limits = policy.rate_calls or policy.max_vendor_calls or policy.breaker_failures
        self._always_applies = self.applies = self.has_many or bool(limits)
        self._held_until = -math.inf

    @property
    def accounts(self) -> list[VendorAccount]:
        """The accounts that are known."""
        return list(self._accounts.values())

    def account(self, connection: Connection | None) -> VendorAccount:
        """Return the account that a request with this connection uses."""
        if not self._always_applies and anyio.current_time() >= self._held_until:
            self.applies = False
        key = account_key(connection, self.policy.account_names)
        account = self._accounts.get(key)
        if account is not None:
            self._accounts.move_to_end(key)
            return account
        account = self._accounts[key] = VendorAccount(self)
        for _ in range(_LOOKED_AT if len(self._accounts) > _MOST_ACCOUNTS else 0):
            oldest_key, oldest = next(iter(self._accounts.items()))
            is_used = oldest is account or oldest.waiting or oldest.is_needed
            if is_used or not oldest.limits.is_idle(anyio.current_time()):
                self._accounts.move_to_end(oldest_key)  # others behind it may be idle
                continue
            del self._accounts[oldest_key]
            if len(self._accounts) <= _MOST_ACCOUNTS:
                break
        return account

    async def through(self, operation: Operation, connection: Connection | None, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, which calls `create` or `delete`, when it may begin.

        :raises RequestError: see `enter`
        :raises BaseException: the error of `work`
        """
        if self.applies:
            with await self.enter(operation, connection):
                return await work()
        try:
            return await work()
        except Exception as error:
            self.failed_unlimited(connection, error)
            raise

    async def enter(self, operation: Operation, connection: Connection | None) -> VendorCall:
        """Wait until a create or a delete may begin; what this returns is to be `with`ed at once.

        It does not wait longer than until shortly before the client's deadline, or until a create would be too late.

        :raises OverloadError: too many wait, or this one has waited too long
        :raises OutageError: the same, while the circuit breaker is open
        """
        account = self.account(connection)
        call = account.try_begin()
        if call is not None:
            return call
        if sum(each.waiting for each in self._accounts.values()) >= self._most_waiting:
            raise self._too_busy(account, operation, "and as many calls wait as max_waiting_calls allows")
        with anyio.move_on_after(self._patience()):
            return await account.turn(_KINDS[operation])
        raise self._too_busy(account, operation, "and the client's deadline is near")

    def _patience(self) -> float:
        rpc = find_current_call()
        if rpc is None or rpc.deadline is None:
            return math.inf
        left = rpc.deadline.time_remaining()
        start = pending_start()
        return max(0.0, left - max(min(_LONGEST_MARGIN, _MARGIN * left), 0.0 if start is None else start.usual()))

    def _too_busy(self, account: VendorAccount, operation: Operation, why: str) -> RequestError:
        error = account.refusal(operation.phrase(self.task_type))
        text = f"{error}; {why}. Nothing was done, so try again later"
        return OutageError(text) if isinstance(error, OutageError) else OverloadError(text)

    def is_vendors(self, error: BaseException) -> bool:
        """Return whether the other system is at fault, for the moment, as the connector or its policy says."""
        error = only_leaf(error)
        if not isinstance(error, Exception) or issubclass(type(error), RequestError):
            return False  # the host's own word on a request, whatever it was raised from
        words = self.policy.transient
        try:
            return bool(words and is_one_of(error, words)) or bool(self._connector.is_transient(error))
        except BaseException as failure:  # noqa: BLE001 - SystemExit as well, from the connector's code or its error's
            # neither the text of this error nor that of the call's, which it follows: they may hold secrets
            logger.error(  # noqa: TRY400 - same
                "is_transient failed; the error counts as lasting",
                connector=self._connector.name,
                exception=f"{''.join(traceback.format_tb(failure.__traceback__))}{type_name(failure)}",
            )
            return False

    def failed(self, account: VendorAccount, error: Exception) -> bool:
        """Keep to what the error of a call asks for; return whether the other system is at fault, for the moment."""
        if not self.is_vendors(error):
            return False
        seconds = retry_after(error)
        if seconds:
            now = anyio.current_time()
            account.limits.hold(now + seconds)
            self._held_until = max(self._held_until, now + seconds)
            self.applies = True
        return True

    def failed_unlimited(self, connection: Connection | None, error: Exception) -> None:
        """Keep to what the error of a call asks for that did not have to pass."""
        if self.is_vendors(error) and retry_after(error):
            self.failed(self.account(connection), error)

    def breaker_changed(self, limits: VendorLimits) -> None:
        """Log that a circuit breaker has opened or closed."""
        fields = {"connector": self._connector.name, "task_type": self.task_type}
        if limits.breaker is Breaker.CLOSED:
            logger.info("the circuit breaker is closed again: the other system answers", **fields)
        else:
            logger.warning(
                "the circuit breaker has opened: the other system has failed too often in a row",
                **fields,
                failures=limits.failures,
                delay_seconds=self.policy.breaker_pause,
            )


class VendorGates(Collector):
    """The gates of all connectors.

    In a registry of metrics, it is asked at each scrape how many calls wait and which circuit breakers are open.
    """

    def __init__(self, settings: ServiceSettings | None = None) -> None:
        settings = settings or ServiceSettings()
        self._policies = settings.policies
        self._most_waiting = settings.max_waiting_calls
        # by identity, as `ConnectorMethods` does; a gate keeps its connector alive
        self._gates: dict[int, VendorGate] = {}

    def of(self, connector: AsyncConnector[Any]) -> VendorGate:
        """Return the gate of a connector."""
        gate = self._gates.get(id(connector))
        if gate is None:
            policy = self._policies.of(connector.task_type_name, connector.policy)
            gate = self._gates[id(connector)] = VendorGate(connector, policy, self._most_waiting)
        return gate

    def open_breakers(self) -> dict[str, int]:
        """Return how many accounts have a circuit breaker that is not closed, for each task type with a gate."""
        counts: dict[str, int] = {}
        for gate in [gate for gate in list(self._gates.values()) if gate.applies]:
            is_open = [account.limits.breaker is not Breaker.CLOSED for account in gate.accounts]
            counts[gate.task_type] = counts.get(gate.task_type, 0) + sum(is_open)
        return counts

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers of each task type whose calls have to pass a gate."""
        limited = CounterMetricFamily(
            "connectrio_limited_polls",
            "Polls that were answered with the last known phase, because a limit of the policy allowed no call",
            labels=["task_type"],
        )
        waiting = GaugeMetricFamily(
            "connectrio_gate_waiting_calls",
            "Creates and deletes that wait because of a limit of the policy",
            labels=["task_type"],
        )
        breakers = GaugeMetricFamily(
            "connectrio_open_breakers", "Accounts whose circuit breaker is not closed", labels=["task_type"]
        )
        gates = [gate for gate in list(self._gates.values()) if gate.applies]
        for task_type in {gate.task_type: None for gate in gates}:
            same = [gate for gate in gates if gate.task_type == task_type]
            accounts = [account for gate in same for account in gate.accounts]
            limited.add_metric([task_type], sum(gate.limited for gate in same))
            waiting.add_metric([task_type], sum(account.waiting for account in accounts))
        for task_type, count in self.open_breakers().items():
            breakers.add_metric([task_type], count)
        yield from (limited, waiting, breakers)


def account_key(connection: Connection | None, names: Iterable[str] = ("*",)) -> bytes:
    """Return a hash of what a connection says of the account: of its secrets and configs with these names."""
    if connection is None:
        return b""
    pairs = sorted({**connection.secrets, **connection.configs}.items())
    if "*" not in names:
        pairs = [(name, value) for name, value in pairs if name in names]
    if not pairs:
        return b""
    return hashlib.blake2b(repr(pairs).encode("utf-8", "surrogatepass"), key=_SALT, digest_size=16).digest()
