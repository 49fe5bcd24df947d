"""Streams of log lines: the responses that `get_logs` returns, sent one by one."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from threading import Semaphore
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from connectrio.idl.flyteidl2.connector import GetTaskLogsResponse
from connectrio.masking import SecretMask
from connectrio.rpc.codec import EncodeError
from connectrio.rpc.exceptions import is_cancellation
from connectrio.service.conversion import expect, sendable, sort_of
from connectrio.service.errors import ConnectorFault, DeliveryError
from connectrio.service.methods import ConnectorMethod
from connectrio.service.protobuf import from_protobuf
from connectrio.service.workers import Workers, call_soon_from_threads

__all__ = ["Send", "send_responses"]

Send = Callable[[GetTaskLogsResponse], Awaitable[None]]


async def send_responses(
    result: Any, send: Send, workers: Workers, method: ConnectorMethod, mask: SecretMask | None = None
) -> None:
    """Send the response, or each of the responses, that `method` has returned.

    Iterators are closed before this returns, however it does, but for one whose thread is left behind: that closes it
    when it ends. Plain ones run in a worker thread, from first to last in the same one; while a response is sent, this
    thread may fetch the next one, and no more.

    :param mask: finds the job's secrets in the lines
    :raises ConnectorFault: the method returned something else, or a response that cannot be encoded
    :raises DeliveryError: the client is gone
    """

    async def deliver(response: Any) -> None:
        claim = f"{method.label} returned"
        checked = expect(response, GetTaskLogsResponse, claim)
        if mask is not None:
            # encoded first: a mask sees no difference between some of protobuf's messages and ours
            checked = mask.log_lines(sendable(checked, claim))
        try:
            try:
                await send(checked)
            except EncodeError:  # before anything was sent
                await send(sendable(checked, claim))
        except OSError as error:
            raise DeliveryError(error) from error

    if isinstance(result, GetTaskLogsResponse):
        await deliver(result)
    elif isinstance(result, AsyncIterable):
        await _send_async(result, deliver)
    elif isinstance(result, Iterator):
        await _send_from_thread(result, deliver, workers, method)
    elif (message := from_protobuf(result, GetTaskLogsResponse)) is not None:
        await deliver(message)
    else:
        raise ConnectorFault(
            f"{method.label} returned {sort_of(result)}, not a GetTaskLogsResponse or a generator of them"
        )


async def _send_async(responses: AsyncIterable[Any], deliver: Send) -> None:
    iterator = aiter(responses)
    try:
        async for response in iterator:
            await deliver(response)
            # neither the generator nor sending has to wait; without this, both could keep the event loop to themselves
            await anyio.lowlevel.checkpoint()
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _send_from_thread(responses: Iterator[Any], deliver: Send, workers: Workers, method: ConnectorMethod) -> None:
    outbox, inbox = anyio.create_memory_object_stream[Any](1)
    offers = _Offers(outbox)
    failures: list[BaseException] = []

    async def iterate() -> None:
        with outbox:
            try:
                work = partial(_iterate, responses, offers)
                await workers.run(work, name=method.label, owner=method.owner)
            except BaseException as error:
                if is_cancellation(error):
                    raise
                # not raised here: SystemExit in a task of its own would end asyncio's event loop
                failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(iterate)
        try:
            with inbox:
                async for response in inbox:
                    offers.taken.release()
                    await deliver(response)
        except Exception as error:  # noqa: BLE001 - raised below: here it could get into a group with a cancellation
            failures.append(error)
            tasks.cancel_scope.cancel()
        finally:
            offers.end()
    if failures:
        raise failures[0]


class _Offers:
    """The responses that a worker thread offers to a task, one at a time.

    The thread waits for the task, never for the event loop, which may end before it comes to an offer. The task calls
    `end` in any case, also when it is cancelled.

    :ivar taken: the task releases it for each response that it has taken
    """

    def __init__(self, outbox: MemoryObjectSendStream[Any]) -> None:
        self.taken = Semaphore(0)
        self._outbox = outbox
        self._call_soon = call_soon_from_threads()
        self._is_ended = False

    def end(self) -> None:
        """Take no more responses."""
        self._is_ended = True
        self.taken.release()

    def offer(self, response: Any) -> bool:
        """Wait in the thread until the task has taken `response`; return whether it takes more."""
        try:
            self._call_soon(self._put, response)
        except RuntimeError:  # the event loop is gone
            return False
        self.taken.acquire()
        return not self._is_ended

    def _put(self, response: Any) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the call was cancelled
            self._outbox.send_nowait(response)


def _iterate(responses: Iterator[Any], offers: _Offers) -> None:
    """Offer all responses, until nobody takes them any more. Runs in the worker thread."""
    try:
        for response in responses:
            if not offers.offer(response):
                break
    finally:
        close = getattr(responses, "close", None)
        if close is not None:
            close()
