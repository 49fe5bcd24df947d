"""Which connection a call goes to.

Sources: gRPC's "Load Balancing" document, and gRFC A62 for what happens when nobody answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import anyio

from connectrio.rpc._client.subchannel import ChannelState, Resolve, Subchannel, SubchannelContext, connection_backoff
from connectrio.rpc._client.target import Address, static_addresses
from connectrio.rpc._http2.client_side import ClientConnection
from connectrio.rpc._http2.wakeup import Wakeup


class RoundRobin:
    """Keeps a connection to every address; calls go to the connected ones in turn.

    When an address fails, the name is resolved again, soon if no other answers: addresses that are new are connected
    to, those that are gone take no more calls. Its methods are those of `Subchannel`, the other policy.
    """

    def __init__(self, resolve: Resolve, context: SubchannelContext) -> None:
        self._resolve = resolve
        self._context = context
        self._subchannels: dict[Address, Subchannel] = {}
        self._retired: list[Subchannel] = []
        self._rotation: list[Subchannel] = []
        self._resolve_scope: anyio.CancelScope | None = None
        self._resolution_error = ""
        self._address_failed = Wakeup()
        self._backoff = connection_backoff(context.options)

    @property
    def state(self) -> ChannelState:
        """The channel's state: the best of the addresses' states."""
        if self._resolve_scope is None:
            return ChannelState.IDLE
        states = {subchannel.state for subchannel in self._rotation}
        if ChannelState.READY in states:
            return ChannelState.READY
        if states == {ChannelState.TRANSIENT_FAILURE} or (not states and self._resolution_error):
            return ChannelState.TRANSIENT_FAILURE
        return ChannelState.CONNECTING

    @property
    def error(self) -> str:
        """Why there is no connection, for people."""
        errors = [
            one.error if one.error.startswith(f"{address}: ") else f"{address}: {one.error}"
            for address, one in self._subchannels.items()
            if one.error
        ]
        return "; ".join(filter(None, [self._resolution_error, *errors]))

    @property
    def is_busy(self) -> bool:
        """Whether a call is running."""
        return any(subchannel.is_busy for subchannel in [*self._rotation, *self._retired])

    def connect(self) -> None:
        """Leave IDLE; does nothing in another state."""
        if self._resolve_scope is None:
            self._resolve_scope = anyio.CancelScope()
            self._context.tasks.start_soon(self._keep_resolving, self._resolve_scope)
            self._context.on_change()

    def pick(self) -> ClientConnection | None:
        """Return the next connection in turn on which a stream can be opened right now."""
        for position, subchannel in enumerate(self._rotation):
            connection = subchannel.pick()
            if connection is not None:
                self._rotation = self._rotation[position + 1 :] + self._rotation[: position + 1]
                return connection
        return None

    def disconnect(self) -> None:
        """Disconnect; running calls go on. The state is IDLE afterwards."""
        self._stop_resolving()
        self._update([])
        self._context.on_change()

    def close(self) -> None:
        """End everything for good, running calls too."""
        self._stop_resolving()
        for subchannel in [*self._rotation, *self._retired]:
            subchannel.close()

    def _stop_resolving(self) -> None:
        if self._resolve_scope is not None:
            self._resolve_scope.cancel()
            self._resolve_scope = None

    async def _keep_resolving(self, scope: anyio.CancelScope) -> None:
        """Resolve the name, and again whenever an address has failed; after errors, the backoff paces the attempts."""
        with scope:
            while True:
                started = anyio.current_time()
                addresses: Sequence[Address] = []
                error = "it has no addresses"
                try:
                    addresses = await self._resolve()
                except OSError as failure:
                    error = str(failure) or repr(failure)
                if self._resolve_scope is not scope:  # stopped, but too late to be cancelled
                    return
                self._resolution_error = "" if addresses else error
                if addresses:
                    self._update(addresses)
                    if self.state is ChannelState.READY:
                        self._backoff.reset()
                self._context.on_change()
                await self._wait_to_resolve(started)

    async def _wait_to_resolve(self, started: float) -> None:
        """Wait until an address has failed, and then until the resolution that began at `started` is old enough.

        That is `resolution_interval`, but only the backoff while there is no other address that calls could go to.
        """
        due, oldest = math.inf, started + self._context.options.resolution_interval
        while not self._is_unreachable and anyio.current_time() < due:
            with anyio.CancelScope(deadline=due):
                await self._address_failed.wait()
                due = oldest
        if self._is_unreachable:
            latest = math.inf if self._resolution_error else oldest
            await anyio.sleep_until(min(latest, started + self._backoff.next()))

    @property
    def _is_unreachable(self) -> bool:
        """Whether the name is not known, or none of its addresses answers."""
        return bool(self._resolution_error) or self.state is ChannelState.TRANSIENT_FAILURE

    def _update(self, addresses: Sequence[Address]) -> None:
        for address in self._subchannels.keys() - set(addresses):
            subchannel = self._subchannels.pop(address)
            self._rotation.remove(subchannel)
            self._retired.append(subchannel)
            subchannel.disconnect()
        self._retired = [subchannel for subchannel in self._retired if subchannel.is_busy]
        for address in addresses:
            if address not in self._subchannels:
                self._add(address)

    def _add(self, address: Address) -> None:
        def changed() -> None:
            if subchannel in self._rotation and subchannel.state in (ChannelState.IDLE, ChannelState.TRANSIENT_FAILURE):
                self._address_failed.wake()
                subchannel.connect()
            elif subchannel.state is ChannelState.READY:
                self._backoff.reset()
            self._context.on_change()

        subchannel = Subchannel(partial(static_addresses, [address]), self._context, changed)
        self._subchannels[address] = subchannel
        self._rotation.append(subchannel)
        subchannel.connect()


Policy: TypeAlias = Subchannel | RoundRobin
POLICIES: dict[str, type[Policy]] = {"pick_first": Subchannel, "round_robin": RoundRobin}
