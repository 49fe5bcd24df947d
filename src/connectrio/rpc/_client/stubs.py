"""betterproto2's stubs on our channels: without asyncio, and with an end to each call that does not depend on chance.

`_betterproto.py` says what is replaced, and why.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
from anyio.lowlevel import checkpoint
from betterproto2.grpclib import ServiceStub
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError

from connectrio.rpc._betterproto import replace
from connectrio.rpc._client.call import ClientStream
from connectrio.rpc._client.response_status import CallEndedError
from connectrio.rpc.interceptors import StreamWrapper

if TYPE_CHECKING:
    # the type of what generated stubs take. Only for type checkers: its code is asyncio's, and none of it is used here
    from grpclib.client import Channel as _GrpclibChannel
else:
    _GrpclibChannel = object

_Recv = TypeVar("_Recv")


class StubChannel(_GrpclibChannel):
    """The base of our channels. On these, betterproto2's stubs use the functions of this module."""


def closing(responses: AsyncIterator[_Recv]) -> AbstractAsyncContextManager[AsyncIterator[_Recv]]:
    """End a streaming call of a stub with the block, however the block ends, so that the server stops working on it.

        async with closing(stub.watch(request)) as replies:
            async for reply in replies:
                ...

    It is `contextlib.aclosing` for what generated stubs return. They are annotated with AsyncIterator, although they
    return generators, so type checkers do not let `aclosing` close them.
    """
    return aclosing(cast("AsyncGenerator[_Recv]", responses))


@cache
def adopt_stubs() -> None:
    """Let betterproto2's stubs use functions of ours on our channels. Every call after the first does nothing."""
    for name, ours in ("_unary_stream", _unary_stream), ("_stream_stream", _stream_stream):
        replace(ServiceStub, name, ours, lambda stub, *_: isinstance(stub.channel, StubChannel))
    replace(
        ServiceStub, "_send_messages", _send_all, lambda stream, _: isinstance(stream, ClientStream | StreamWrapper)
    )


def _unary_stream(
    stub: ServiceStub, route: str, request: Any, response_type: type[Any], **options: Any
) -> AsyncIterator[Any]:
    call = _request(stub, route, Cardinality.UNARY_STREAM, type(request), response_type, **options)
    return _Responses(call, request)


def _stream_stream(
    stub: ServiceStub, route: str, messages: Any, request_type: type[Any], response_type: type[Any], **options: Any
) -> AsyncIterator[Any]:
    call = _request(stub, route, Cardinality.STREAM_STREAM, request_type, response_type, **options)
    return _Responses(call, None, messages)


def _request(
    stub: ServiceStub,
    route: str,
    cardinality: Cardinality,
    request_type: type[Any],
    response_type: type[Any],
    *,
    timeout: float | None = None,
    deadline: Any = None,
    metadata: Any = None,
) -> Any:
    return stub.channel.request(
        route,
        cardinality,
        request_type,
        response_type,
        timeout=stub.timeout if timeout is None else timeout,
        deadline=stub.deadline if deadline is None else deadline,
        metadata=stub.metadata if metadata is None else metadata,
    )


async def _send_all(stream: Any, messages: AsyncIterable[Any] | Iterable[Any]) -> None:
    """Send `messages`, then end the request; stop early when the server has ended the call.

    An asynchronous generator is always closed afterwards.

    :param stream: a `ClientStream`, or a `StreamWrapper` around one
    """
    if isinstance(messages, AsyncIterable):
        await _send_async(stream, messages)
    else:
        for message in messages:
            if not await _send_one(stream, message):
                return
    await stream.end()


async def _send_async(stream: Any, messages: AsyncIterable[Any]) -> None:
    async with AsyncExitStack() as stack:
        if isinstance(messages, AsyncGenerator):
            await stack.enter_async_context(aclosing(messages))
        async for message in messages:
            if not await _send_one(stream, message):
                return


async def _send_one(stream: Any, message: Any) -> bool:
    """Send a message; return whether the server reads more. The status is the receiver's to raise."""
    try:
        await stream.send_message(message)
        await checkpoint()  # if nothing above ever waits, what the server sends must still be read
    except (GRPCError, CallEndedError):
        if not stream.is_answered:
            raise
    return not stream.is_answered


class _Responses(AsyncIterator[Any]):
    """The responses of one call, for a stub's generator to read.

    A stub's generator that is closed early just drops what it reads from. So this is no generator, which the event loop
    would have to finish at some later time (trio warns of it), but an object that ends the call when it is dropped.

    :param call: what `Channel.request` has returned
    :param request: the one message of a call that does not stream its requests
    :param requests: the messages of one that does
    """

    def __init__(self, call: ClientStream[Any, Any], request: Any, requests: Any = None) -> None:
        self._call = call
        self._stream: Any = None  # `call`, or what interceptors have put around it
        self._request = request
        self._requests = requests
        self._sender: _Sender | None = None
        self._exit_stack = AsyncExitStack()
        self._is_begun = self._is_over = False
        self._thread = threading.get_ident()

    async def __anext__(self) -> Any:
        if self._is_over:
            raise StopAsyncIteration
        try:
            if not self._is_begun:
                await self._begin()
            message = await self._stream.recv_message()
        except BaseException:
            self._is_over = True
            await self._exit_stack.__aexit__(*sys.exc_info())
            raise
        if message is not None:
            return message
        self._is_over = True
        await self._exit_stack.aclose()
        raise StopAsyncIteration

    async def _begin(self) -> None:
        self._is_begun = True
        self._stream = await self._exit_stack.enter_async_context(self._call)
        if self._requests is None:
            await self._stream.send_message(self._request, end=True)
        else:
            self._sender = _Sender(self._stream, self._requests)
            await self._exit_stack.enter_async_context(self._sender)

    def __del__(self) -> None:
        # in another thread, the cycle collector has called this: the call then ends with the channel
        if self._is_begun and not self._is_over and threading.get_ident() == self._thread:
            if self._sender is not None:
                self._sender.scope.cancel()
            self._call.abandon()


class _Sender:
    """Sends a call's messages while another task receives; an error of the messages' source reaches the receiver."""

    def __init__(self, stream: ClientStream[Any, Any], messages: Any) -> None:
        self.scope = anyio.CancelScope()
        self._stream = stream
        self._messages = messages
        self._ended = anyio.Event()
        self._error: Exception | None = None

    async def __aenter__(self) -> None:
        await self._stream.send_request()
        self._stream.context.start_soon(self._run)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        try:
            with self.scope:
                await _send_all(self._stream, self._messages)
        except Exception as error:  # noqa: BLE001 - it is the caller's iterator, and the caller's error
            self._error = error
            await self._stream.cancel()
        finally:
            self._ended.set()
