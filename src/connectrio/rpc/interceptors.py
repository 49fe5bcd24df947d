"""Interceptors: code around each call of a server or of a channel. One shape serves both, and all kinds of methods.

An interceptor is a function of the call that returns an async context manager. The block of that is the call:

    @asynccontextmanager
    async def timing(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
        began = anyio.current_time()
        try:
            async with proceed() as stream:  # the interceptors behind this one, then the call itself
                yield stream
        finally:
            print(call.method, call.status.name, anyio.current_time() - began)

    server = Server([Greeter()], interceptors=[timing])
    channel = Channel("127.0.0.1:50051", interceptors=[timing])

The first interceptor of the list is the outermost: it begins first and ends last.

What an interceptor may do:

- Refuse the call: raise `GRPCError` before `proceed`.
- Read and add metadata. On a channel, before `proceed`: what is in `call.metadata` is sent with the request. On a
  server: `call.set_initial_metadata`, `call.set_trailing_metadata`.
- See the end of the call: `call.status` once the block of `proceed()` is left, however that has happened.
- Change the error: catch what comes out of `proceed()`, and raise another `GRPCError`.
- See or change messages: yield a `StreamWrapper` around the stream, with methods of its own.
- Set context variables: the servicer sees them, and they may be reset after the block.
- On a channel, make the call again: each `proceed()` is a new attempt.

What is true where:

1. Inside the block of `proceed()`, errors are as they were raised: by the servicer, or by the caller's code. Outside of
   it, on a server, there are only `GRPCError` and cancellations.
2. On a server, the status is sent after the outermost interceptor has ended. All of them run in the scope of the call:
   its deadline, a client that leaves and the end of the server cancel them where they wait. What they await afterwards
   is cancelled as well, unless it is shielded.
3. On a channel, the deadline bounds what the stream waits for, as without interceptors. An interceptor bounds its own
   waits, by `call.deadline`. If the caller drops the responses of a call before their end, the interceptors end at
   once: GeneratorExit is raised at their `yield`, and an error that is no `Exception` wherever they wait after it.
   Callers who leave a stream early use `closing`. Without it, Python may end the interceptors in another task, where
   they cannot leave a cancel scope or a task group that is open around the `yield`.
4. An error of an interceptor's own ends its call, and nothing else. A server logs it with the interceptor's name, and
   the client gets INTERNAL. On a channel it reaches the caller, with a note that has the name.
5. An interceptor cannot swallow an error: that is an error of its own.
6. Every call that reaches a servicer passes through the server's interceptors, those of health and reflection as well.
   Requests that are refused before, such as those of unknown methods, do not.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Protocol, TypeAlias

from grpclib.const import Status

from connectrio.diagnostics import SafeLogger, definition_of, type_name
from connectrio.rpc.call import Call
from connectrio.rpc.exceptions import only_leaf
from connectrio.rpc.left_open import run_without_waiting

__all__ = ["Interceptor", "MessageStream", "Proceed", "StreamWrapper"]

log = SafeLogger("connectrio.rpc")


class MessageStream(Protocol):
    """The messages of a call, on either side: what an interceptor is given by `proceed()`, and what it yields.

    On a server it is a `ServerStream`, on a channel a `ClientStream`, or what an interceptor has put around one.
    """

    async def send_message(self, message: Any) -> None:
        """Send a message: a response on a server, a request on a channel."""
        ...

    async def recv_message(self) -> Any:
        """Return the next message, None after the last: a request on a server, a response on a channel."""
        ...


Proceed: TypeAlias = Callable[[], AbstractAsyncContextManager[MessageStream]]
"""Goes on with a call: to the next interceptor, and at last to the servicer or to the server."""

Interceptor: TypeAlias = Callable[[Call, Proceed], AbstractAsyncContextManager[MessageStream]]
"""Code around calls, most often a function with `contextlib.asynccontextmanager`; see this module's text."""


class StreamWrapper:
    """A stream around another one. Subclasses override `send_message` and `recv_message` to see or change messages.

    Both are used for all messages, also where a loop (`async for`) receives them. What is not overridden is the inner
    stream's.

    :param inner: what `proceed()` has given
    """

    def __init__(self, inner: MessageStream) -> None:
        self.inner: Any = inner

    async def send_message(self, message: Any, **options: Any) -> None:
        """Send a message.

        :param options: on a channel, `end=True` for the last one
        """
        await self.inner.send_message(message, **options)

    async def recv_message(self) -> Any:
        """Return the next message; None after the last."""
        return await self.inner.recv_message()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self.recv_message()
        if message is None:
            raise StopAsyncIteration
        return message

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


Translate: TypeAlias = Callable[[str, BaseException], BaseException]
"""Notes in the call how it ends, and returns what is raised in place of an error; the text names the interceptor."""


class Intercepted:
    """One interceptor of one call: an async context manager that says what its errors mean.

    :param proceed: enters what the interceptor is around
    """

    __slots__ = ("_call", "_has_proceeded", "_interceptor", "_manager", "_proceed", "_translate")

    def __init__(self, interceptor: Interceptor, call: Call, proceed: Proceed, translate: Translate) -> None:
        self._interceptor = interceptor
        self._call = call
        self._proceed = proceed
        self._translate = translate
        self._has_proceeded = False
        self._manager: AbstractAsyncContextManager[MessageStream] | None = None

    def proceed(self) -> AbstractAsyncContextManager[MessageStream]:
        """Return what enters the call; the interceptor calls this."""
        self._has_proceeded = True
        return self._proceed()

    async def __aenter__(self) -> MessageStream:
        try:
            self._manager = self._interceptor(self._call, self.proceed)
            return await self._manager.__aenter__()
        except BaseException as error:  # noqa: BLE001 - it, or what stands for it, is raised again
            self._raise(only_leaf(error))

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        manager: Any = self._manager
        try:
            is_swallowed = await manager.__aexit__(exc_type, exc_value, traceback)
        except BaseException as raised:  # noqa: BLE001 - as above
            error = only_leaf(raised)  # a task group of the interceptor's may have wrapped it
            if error is not exc_value:
                self._raise(error)
            return
        if exc_value is not None and is_swallowed:
            swallowed = RuntimeError(f"it has swallowed the error of the call; raise this or another: {exc_value!r}")
            swallowed.__cause__ = exc_value
            self._raise(swallowed)
        if exc_value is None and not self._has_proceeded:  # it has answered by itself
            self._call.status, self._call.status_message = Status.OK, None

    def _raise(self, error: BaseException) -> NoReturn:
        """Raise what stands for `error`."""
        translated = self._translate(name_of(self._interceptor), error)
        if translated is error:
            raise error
        raise translated from error

    def abandon(self) -> None:
        """Leave the call without waiting, as rule 3 has it."""
        try:
            run_without_waiting(self.__aexit__(GeneratorExit, GeneratorExit(), None))
        except Exception:  # the caller has gone, and nobody else could hear of it
            fields = {"interceptor": name_of(self._interceptor), "rpc": self._call.method, "peer": self._call.peer}
            log.exception("the interceptor %(interceptor)s of %(rpc)s raised", fields)


def intercepted(interceptors: Sequence[Interceptor], call: Call, proceed: Proceed, translate: Translate) -> Intercepted:
    """Return `interceptors` around a call, the first outermost.

    :param proceed: enters the call itself; it sets `Call.status` when the call is left
    """
    outermost, *others = interceptors
    for each in reversed(others):
        proceed = partial(Intercepted, each, call, proceed, translate)
    return Intercepted(outermost, call, proceed, translate)


def checked(interceptors: Iterable[Interceptor]) -> tuple[Interceptor, ...]:
    """Return the interceptors of a server or of a channel.

    :raises TypeError: one of them returns no async context manager, because a decorator was forgotten
    """
    found = tuple(interceptors)
    for each in found:
        own: Any = each.func if isinstance(each, partial) else each
        function = own if hasattr(own, "__code__") else type(own).__call__
        if inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function):
            raise TypeError(
                f"the interceptor {name_of(each)} ({definition_of(function)}) returns no async context manager: let it"
                " `yield` the stream, and decorate it with `contextlib.asynccontextmanager`"
            )
    return found


def name_of(interceptor: Callable[..., Any]) -> str:
    """Return what an interceptor is called in its author's code."""
    own = interceptor.func if isinstance(interceptor, partial) else interceptor
    return getattr(own, "__qualname__", None) or type_name(own)
