"""Which connection a call goes to.

Source: gRPC's "Load Balancing" document, and gRFC A62 for what happens when nobody answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import anyio

from connectrio.rpc._client.backoff import Backoff
from connectrio.rpc._client.connectivity import ChannelState
from connectrio.rpc._client.subchannel import Resolve, Subchannel, SubchannelContext
from connectrio.rpc._client.target import Address
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.wakeup import Wakeup


class Policy(ABC):
    """Keeps connections, and picks one for each call."""

    @property
    @abstractmethod
    def state(self) -> ChannelState:
        """What the channel's state is."""

    @property
    @abstractmethod
    def error(self) -> str:
        """Why there is no connection, for people."""

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether a call is running."""

    @abstractmethod
    def connect(self) -> None:
        """Leave IDLE; does nothing in another state."""

    @abstractmethod
    def pick(self) -> ClientConnection | None:
        """A connection on which a stream can be opened right now."""

    @abstractmethod
    def rest(self) -> None:
        """Disconnect; calls that run go on. IDLE afterwards."""

    @abstractmethod
    def close(self) -> None:
        """End everything, calls included, for good."""


class PickFirst(Policy):
    """All calls go to the first address that answers. When that is lost, the next call connects again."""

    def __init__(self, resolve: Resolve, context: SubchannelContext) -> None:
        self._subchannel = Subchannel(resolve, context, context.on_change)

    @property
    def state(self) -> ChannelState:
        """See `Policy.state`."""
        return self._subchannel.state

    @property
    def error(self) -> str:
        """See `Policy.error`."""
        return self._subchannel.error

    @property
    def is_busy(self) -> bool:
        """See `Policy.is_busy`."""
        return self._subchannel.is_busy

    def connect(self) -> None:
        """See `Policy.connect`."""
        self._subchannel.connect()

    def pick(self) -> ClientConnection | None:
        """See `Policy.pick`."""
        return self._subchannel.available()

    def rest(self) -> None:
        """See `Policy.rest`."""
        self._subchannel.retire()

    def close(self) -> None:
        """See `Policy.close`."""
        self._subchannel.close()


class RoundRobin(Policy):
    """Connects to every address, and keeps at it; calls go to those that are connected, in turn.

    When an address fails, the name is resolved again: addresses that are new are connected to, those that are gone
    take no more calls.
    """

    def __init__(self, resolve: Resolve, context: SubchannelContext) -> None:
        self._resolve = resolve
        self._context = context
        self._subchannels: dict[Address, Subchannel] = {}
        self._retired: list[Subchannel] = []
        self._turns: list[Subchannel] = []
        self._resolving: anyio.CancelScope | None = None
        self._resolution_error = ""
        self._failed = Wakeup()

    @property
    def state(self) -> ChannelState:
        """See `Policy.state`."""
        if self._resolving is None:
            return ChannelState.IDLE
        states = {subchannel.state for subchannel in self._turns}
        if ChannelState.READY in states:
            return ChannelState.READY
        if states == {ChannelState.TRANSIENT_FAILURE} or (not states and self._resolution_error):
            return ChannelState.TRANSIENT_FAILURE
        return ChannelState.CONNECTING

    @property
    def error(self) -> str:
        """See `Policy.error`."""
        errors = [f"{address}: {one.error}" for address, one in self._subchannels.items() if one.error]
        return "; ".join(filter(None, [self._resolution_error, *errors]))

    @property
    def is_busy(self) -> bool:
        """See `Policy.is_busy`."""
        return any(subchannel.is_busy for subchannel in [*self._turns, *self._retired])

    def connect(self) -> None:
        """See `Policy.connect`."""
        if self._resolving is None:
            self._resolving = anyio.CancelScope()
            self._context.tasks.start_soon(self._keep_resolving, self._resolving)
            self._context.on_change()

    def pick(self) -> ClientConnection | None:
        """See `Policy.pick`."""
        for position, subchannel in enumerate(self._turns):
            connection = subchannel.available()
            if connection is not None:
                self._turns = self._turns[position + 1 :] + self._turns[: position + 1]
                return connection
        return None

    def rest(self) -> None:
        """See `Policy.rest`."""
        self._stop_resolving()
        self._update([])
        self._context.on_change()

    def close(self) -> None:
        """See `Policy.close`."""
        self._stop_resolving()
        for subchannel in [*self._turns, *self._retired]:
            subchannel.close()

    def _stop_resolving(self) -> None:
        if self._resolving is not None:
            self._resolving.cancel()
            self._resolving = None

    async def _keep_resolving(self, scope: anyio.CancelScope) -> None:
        backoff = Backoff(self._context.options)
        with scope:
            while True:
                started = anyio.current_time()
                if await self._resolved(scope):
                    backoff.reset()
                    pause = self._context.options.resolution_interval
                    await self._failed.wait()
                else:
                    pause = backoff.next_delay()
                await anyio.sleep_until(started + pause)

    async def _resolved(self, scope: anyio.CancelScope) -> bool:
        addresses: Sequence[Address] = []
        error = "it has no addresses"
        try:
            addresses = await self._resolve()
        except OSError as failure:
            error = str(failure) or repr(failure)
        if self._resolving is not scope:  # stopped, but too late to be cancelled
            return False
        self._resolution_error = "" if addresses else error
        if addresses:
            self._update(addresses)
        self._context.on_change()
        return bool(addresses)

    def _update(self, addresses: Sequence[Address]) -> None:
        for address in self._subchannels.keys() - set(addresses):
            subchannel = self._subchannels.pop(address)
            self._turns.remove(subchannel)
            self._retired.append(subchannel)
            subchannel.retire()
        self._retired = [subchannel for subchannel in self._retired if subchannel.is_busy]
        for address in addresses:
            if address not in self._subchannels:
                self._add(address)

    def _add(self, address: Address) -> None:
        async def resolve() -> Sequence[Address]:
            return [address]

        subchannel = Subchannel(resolve, self._context, lambda: self._subchannel_changed(subchannel))
        self._subchannels[address] = subchannel
        self._turns.append(subchannel)
        subchannel.connect()

    def _subchannel_changed(self, subchannel: Subchannel) -> None:
        if subchannel in self._turns and subchannel.state in (ChannelState.IDLE, ChannelState.TRANSIENT_FAILURE):
            self._failed.wake()
            subchannel.connect()
        self._context.on_change()
