"""Unary calls of a channel that are made again if they fail with certain statuses."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from random import uniform
from typing import Any

import anyio

from connectrio.rpc import Call, Cardinality, GRPCError, Interceptor, MessageStream, Proceed, Status


class Repeated:
    """A unary call that is not made before its response is asked for. Then it is made until it succeeds."""

    def __init__(self, proceed: Proceed, statuses: Collection[Status], attempts: int) -> None:
        self._proceed = proceed
        self._statuses = statuses
        self._attempts = attempts
        self._request: Any = None

    async def send_message(self, message: Any, **_: Any) -> None:
        self._request = message

    async def recv_message(self) -> Any:
        pause = 0.1
        attempt = 1
        while True:
            try:
                async with self._proceed() as stream:  # a new call each time, within the same deadline
                    await stream.send_message(self._request)
                    return await stream.recv_message()
            except GRPCError as error:
                if error.status not in self._statuses or attempt == self._attempts:
                    raise
            await anyio.sleep(uniform(0, pause))
            attempt, pause = attempt + 1, pause * 2


def retry(statuses: Collection[Status] = (Status.UNAVAILABLE,), attempts: int = 5) -> Interceptor:
    """Make unary calls up to `attempts` times; only for methods that may be called twice."""

    @asynccontextmanager
    async def again(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        if call.cardinality is Cardinality.UNARY_UNARY:
            yield Repeated(proceed, statuses, attempts)
        else:
            async with proceed() as stream:
                yield stream

    return again
