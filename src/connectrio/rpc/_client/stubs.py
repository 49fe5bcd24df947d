"""betterproto2's stubs on our channels: without asyncio, and with an end to each call that does not depend on chance.

`_betterproto.py` says what is replaced, and why.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
from betterproto2.grpclib import ServiceStub
from grpclib.const import Cardinality

from connectrio.rpc._betterproto import replace
from connectrio.rpc._client.call import ClientStream

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
    replace(ServiceStub, "_send_messages", ClientStream.send_all, lambda call, _: isinstance(call, ClientStream))


def _unary_stream(
    stub: ServiceStub, route: str, request: Any, response_type: type[Any], **options: Any
) -> AsyncIterator[Any]:
    call = _request(stub, route, Cardinality.UNARY_STREAM, type(request), response_type, **options)
    return _Responses(call, request)


def _stream_stream(
    stub: ServiceStub, route: str, messages: Any, request_type: type[Any], response_type: type[Any], **options: Any
) -> AsyncIterator[Any]:
    call = _request(stub, route, Cardinality.STREAM_STREAM, request_type, response_type, **options)
    return _Responses(call, None, _Sender(call, messages))


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


class _Responses(AsyncIterator[Any]):
    """The responses of one call, for a stub's generator to read.

    A stub's generator that is closed early just drops what it reads from. So this is no generator, which the event loop
    would have to finish at some later time (trio warns of it), but an object that ends the call when it is dropped.

    :param request: the one message of a call that does not stream its requests
    :param sender: sends the messages of one that does
    """

    def __init__(self, call: ClientStream[Any, Any], request: Any, sender: _Sender | None = None) -> None:
        self._call = call
        self._request = request
        self._sender = sender
        self._exit_stack = AsyncExitStack()
        self._is_begun = self._is_over = False
        self._thread = threading.get_ident()

    async def __anext__(self) -> Any:
        if self._is_over:
            raise StopAsyncIteration
        try:
            if not self._is_begun:
                await self._begin()
            message = await self._call.recv_message()
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
        await self._exit_stack.enter_async_context(self._call)
        if self._sender is None:
            await self._call.send_message(self._request, end=True)
        else:
            await self._exit_stack.enter_async_context(self._sender)

    def __del__(self) -> None:
        # in another thread, the cycle collector has called this: the call then ends with the channel
        if self._is_begun and not self._is_over and threading.get_ident() == self._thread:
            if self._sender is not None:
                self._sender.scope.cancel()
            self._call.abandon()


class _Sender:
    """Sends a call's messages while another task receives; an error of the messages' source reaches the receiver."""

    def __init__(self, call: ClientStream[Any, Any], messages: Any) -> None:
        self.scope = anyio.CancelScope()
        self._call = call
        self._messages = messages
        self._ended = anyio.Event()
        self._error: Exception | None = None

    async def __aenter__(self) -> None:
        await self._call.send_request()
        self._call.context.start_soon(self._run)

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
                await self._call.send_all(self._messages)
        except Exception as error:  # noqa: BLE001 - it is the caller's iterator, and the caller's error
            self._error = error
            await self._call.cancel()
        finally:
            self._ended.set()
