"""Which connection a call goes to.

Sources: gRPC's "Load Balancing" document, and gRFC A62 for what happens when nobody answers.
"""

from __future__ import annotations

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

    When an address fails, the name is resolved again: addresses that are new are connected to, those that are gone
    take no more calls. Its methods are those of `Subchannel`, the other policy.
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
        backoff = connection_backoff(self._context.options)
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
                if addresses:
                    self._resolution_error = ""
                    self._update(addresses)
                    self._context.on_change()
                    backoff.reset()
                    pause = self._context.options.resolution_interval
                    await self._address_failed.wait()
                else:
                    self._resolution_error = error
                    self._context.on_change()
                    pause = backoff.next()
                await anyio.sleep_until(started + pause)

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
            self._context.on_change()

        subchannel = Subchannel(partial(static_addresses, [address]), self._context, changed)
        self._subchannels[address] = subchannel
        self._rotation.append(subchannel)
        subchannel.connect()


Policy: TypeAlias = Subchannel | RoundRobin
POLICIES: dict[str, type[Policy]] = {"pick_first": Subchannel, "round_robin": RoundRobin}
