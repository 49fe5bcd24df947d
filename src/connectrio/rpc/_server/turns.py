"""Connections that have much to read take turns, so that those with little need not wait for all of it.

A peer can fill the socket's buffers with thousands of frames in a moment, on hundreds of connections. In each round of
the event loop, only one of those that have much to read acts on frames. The addresses of the peers come one after the
other.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

import anyio


class Turns:
    """The turns of one server."""

    def __init__(self) -> None:
        self._all = anyio.Lock()
        self._addresses: WeakValueDictionary[str | None, anyio.Lock] = WeakValueDictionary()

    def of(self, address: str | None) -> Turn:
        """Return the turns of a connection.

        :param address: of the peer, without its port; None for a transport without one
        """
        own = self._addresses.get(address)
        if own is None:
            own = self._addresses[address] = anyio.Lock(fast_acquire=True)
        return Turn(own, self._all)


class Turn:
    """An async context manager: it waits for the connection's turn, which lasts as long as the block.

    Other tasks have run in between, even if no other connection waits.
    """

    def __init__(self, own: anyio.Lock, everyone: anyio.Lock) -> None:
        self._own = own
        self._everyone = everyone

    async def __aenter__(self) -> None:
        await self._own.acquire()
        try:
            await self._everyone.acquire()
        except BaseException:
            self._own.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._everyone.release()
        self._own.release()
