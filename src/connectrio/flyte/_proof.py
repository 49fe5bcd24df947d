"""Decides whether calls of a package may leave its home loop, and tells errors that come from leaving it."""

from __future__ import annotations

import asyncio  # noqa: TID251 - the type of the loops
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto

from connectrio.diagnostics import text_of

__all__ = ["BoundState", "Permission", "Proof", "comes_from_loop"]

BoundState = Callable[[Sequence[asyncio.AbstractEventLoop]], str | None]
"""Returns the name of something that is bound to one of these loops or will be, or None."""

# the errors of asyncio, aiohttp, async_lru and others for an object that is used on a loop other than its own
_WRONG_LOOP = re.compile(
    r"(different|another|other|across)( event)? loops?\b|bound to a different|loop other than the current"
    r"|Timeout context manager should be used inside a task"
)
# errors have others in them, which may lead back to them
_MOST_ERRORS = 100


class Permission(Enum):
    """What a call that waits for a blocked home loop may do now."""

    WAIT = auto()
    """It stays in the queue of the home loop."""
    SEARCH = auto()
    """Somebody must search for bound state first: the one that is told so. It must call `searched` then."""
    LEAVE = auto()
    """It may begin on a further loop."""


class Proof:
    """The proof that a package's calls may leave their home loop. The pool's lock protects it.

    Calls of a method may leave once a call of this method has succeeded at home, and a search afterwards has found
    nothing that is bound to a loop: before a session is opened, there is none to be found. After a failure, which may
    have made the package drop its session, another call must succeed first. Each time as many calls have ended as
    before the last search, the next one that wants to leave makes another search necessary.

    :param bound_state: searches; takes time
    :param says: returns what the package says itself: True if its calls may use any loop, False if they may not, None
        if it does not say
    :ivar is_refuted: whether all calls stay at home, for good
    """

    def __init__(self, bound_state: BoundState, says: Callable[[], bool | None]) -> None:
        self.bound_state = bound_state
        self.is_refuted = False
        self._says = says
        self._succeeded: set[str] = set()
        self._in_search: frozenset[str] = frozenset()
        self._proved: frozenset[str] = frozenset()
        self._ended = 0
        self._search_at = 0
        self._searches = False

    def ended(self, method: str, error: BaseException | None, *, at_home: bool) -> None:
        """Note that a call has ended."""
        self._ended += 1
        if error is not None:
            self._succeeded.clear()
            self._in_search = frozenset()
        elif at_home:
            self._succeeded.add(method)

    def permission(self, method: str) -> Permission:
        """Return what a waiting call of `method` may do."""
        if self.is_refuted or (said := self._says()) is False:
            return Permission.WAIT
        if said:
            return Permission.LEAVE
        is_proved = method in self._proved
        if not is_proved and method not in self._succeeded:
            return Permission.WAIT
        if not self._searches and (not is_proved or self._ended >= self._search_at):
            self._searches = True
            self._in_search = frozenset(self._succeeded)
            return Permission.SEARCH
        return Permission.LEAVE if is_proved else Permission.WAIT

    def may_leave(self, method: str) -> bool:
        """Return whether a call of `method` may begin on a further loop, without a new search."""
        return not self.is_refuted and (method in self._proved or self._says() is True)

    def searched(self, found: str | None) -> None:
        """Take the result of the search."""
        self._searches = False
        self._search_at = 2 * self._ended
        if found is None:
            self._proved |= self._in_search
        else:
            self.is_refuted = True


def comes_from_loop(error: BaseException | None) -> bool:
    """Return whether `error`, or one that it was raised from or that it contains, says that an object was used on a
    loop that is not its own."""
    return any(_WRONG_LOOP.search(text_of(each)) for each in _with_causes(error))


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    errors, seen = [error], set[int]()
    while errors and len(seen) < _MOST_ERRORS:
        each = errors.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        errors += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            errors += each.exceptions
