"""Describe errors and write log lines without harm to what they are about.

An exception of a connector is foreign code: its `__str__` can raise SystemExit or return megabytes, and its causes and
groups can be nested thousands of levels deep. A handler of `logging` is foreign code too. Nothing here raises, and what
it returns is bounded.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
import traceback
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from types import FrameType, TracebackType
from typing import Any

__all__ = [
    "LONGEST_TEXT",
    "Repeats",
    "SafeLogger",
    "continue_traceback",
    "count_dropped_lines",
    "current_trace",
    "definition_of",
    "dropped_lines",
    "encodable",
    "format_error",
    "format_stack",
    "framework_of",
    "is_of_author",
    "place_of",
    "printable",
    "raised_in",
    "set_trace_source",
    "shorten",
    "text_of",
    "type_name",
]

# characters of a text in a log line
LONGEST_TEXT = 64 * 1024
# Characters that are kept of an error's text. More than any reader of it keeps, so that the place of this cut is in
# none of the shorter texts: a secret that it had cut in two would no longer be found and replaced.
_LONGEST_KEPT = 4 * LONGEST_TEXT
# of a traceback: errors in its chains and groups, levels of groups, and of each error its innermost frames and notes
_MOST_ERRORS = 50
_MOST_LEVELS = 10
_MOST_FRAMES = 200
_MOST_NOTES = 20
# innermost frames of a thread's stack
_MOST_STACK_FRAMES = 40
# lines that are told apart by `Repeats`
_MOST_KEYS = 256

# The fields of exceptions as the interpreter keeps them: a class can hide them behind properties of its own.
_cause, _context, _suppresses_context, _traceback = (
    vars(BaseException)[name].__get__ for name in ("__cause__", "__context__", "__suppress_context__", "__traceback__")
)
_members = vars(BaseExceptionGroup)["exceptions"].__get__
_name = vars(type)["__name__"].__get__

# packages whose frames say nothing about the code of a connector
_FRAMEWORK = {
    "connectrio", "anyio", "asyncio", "trio", "uvloop", "grpclib", "concurrent", "contextlib", "threading", "importlib",
}  # fmt: skip
# part of the package, and yet connectors
_CONNECTORS = "connectrio.connectors."

_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


def text_of(value: object) -> str:
    """Return `str(value)` as a plain str without the middle of a very long text. If that raises, say so instead."""
    try:
        # whatever `__str__` returns may be of a subclass of str, with methods of its own
        text = str.__str__(str(value))
    except BaseException as failure:  # noqa: BLE001 - SystemExit as well
        return f"({type_name(failure)} in the error's own text)"
    return shorten(text, _LONGEST_KEPT)


def type_name(value: object) -> str:
    """Return the name of the class of `value`."""
    return str.__str__(_name(type(value)))


def shorten(text: str, length: int) -> str:
    """Return `text`, without its middle if it is longer than `length`: a traceback says the most at its end."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]} [… {len(text) - 2 * half} characters …] {text[-half:]}"


def printable(text: str, *, keep: str = "\n\t") -> str:
    """Return `text` with its control characters and line separators escaped: it must not control a terminal or a log.

    :param keep: the control characters that stay
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character not in keep and (unicodedata.category(character)[0] == "C" or character in "\u2028\u2029")
        else character
        for character in text
    )


def encodable(value: Any) -> Any:
    """Return plain data whose texts UTF-8 can encode; what it cannot becomes question marks, as parts of file names."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {encodable(name): encodable(item) for name, item in value.items()}
        case list() | tuple():
            return [encodable(item) for item in value]
        case _:
            return value


def format_error(error: BaseException, longest: int = LONGEST_TEXT) -> str:
    """Return an error as Python prints it: its traceback, causes, notes and, in a group, its members.

    If code of a connector, or of a library that it uses, has a part in it, frames of connectrio and of what it runs on
    are folded: "[… 14 frames of connectrio and anyio …]". The frame that raised an error always stays.

    :param longest: characters
    """
    try:
        lines = _lines(error, set(), 0, longest, fold=is_of_author(error))
        return shorten("\n".join(lines), longest)
    except BaseException as failure:  # noqa: BLE001 - such as a loader of source lines that fails
        return f"{type_name(error)}: {shorten(text_of(error), longest)} ({type_name(failure)} in its traceback)"


def format_stack(frame: FrameType) -> str:
    """Return where a thread is, as Python prints it, folded like a traceback of `format_error`.

    :param frame: its innermost one; of a deep stack, the innermost ones are shown
    """
    try:
        frames = [each for each, _ in traceback.walk_stack(frame)][:_MOST_STACK_FRAMES][::-1]
        summary = traceback.StackSummary.extract((each, each.f_lineno) for each in frames)
        fold = "" in map(framework_of, frames)
        return shorten("".join(_folded(summary, frames) if fold else summary.format()), LONGEST_TEXT)
    except BaseException:  # noqa: BLE001 - as above
        return place_of(frame)


def is_of_author(error: BaseException) -> bool:
    """Return whether code beside connectrio and what it runs on has a part in an error, its causes or its members.

    A SyntaxError names the place itself.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left and len(seen) < _MOST_ERRORS:
        current = left.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if issubclass(type(current), SyntaxError) or "" in map(framework_of, _frames(current)):
            return True
        left += [_cause(current), _context(current)]
        if issubclass(type(current), BaseExceptionGroup):
            left += _members(current)[:_MOST_ERRORS]
    return False


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(_traceback(error))][-_MOST_FRAMES:]


def framework_of(frame: FrameType) -> str:
    """Return the package that a frame is folded under; "" if it is not folded."""
    name = frame.f_globals.get("__name__")
    if type(name) is not str or name.startswith(_CONNECTORS):
        return ""
    package = name.partition(".")[0].removeprefix("_frozen_").removesuffix("_external")
    return package if package in _FRAMEWORK else ""


def place_of(frame: FrameType, line: int | None = None) -> str:
    """Return a line of code as "/path/my_connector.py:42 in MyConnector.get"."""
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno if line is None else line} in {code.co_qualname}"


def definition_of(thing: Any) -> str:
    """Return where a class, a function or a method is defined: "/path/my_connector.py:42"."""
    code = getattr(inspect.unwrap(thing), "__code__", None)
    if code is not None:
        return f"{code.co_filename}:{code.co_firstlineno}"
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):  # it was made by code that has no file
        return f"module {getattr(thing, '__module__', '?')}"


def continue_traceback(error: BaseException, places: TracebackType | None) -> None:
    """Let the traceback of `error` go on with `places`: where that was which `error` has ended."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is not None:
        last.tb_next = places


def raised_in(error: BaseException) -> tuple[str, str]:
    """Return the innermost line that `error` passed in code that is not ours or of what we run on, and its module.

    If there is none, return the innermost line of all; ("", "") for an error that was not raised.
    """
    place = module = ""
    is_authors = False
    for frame, line in traceback.walk_tb(error.__traceback__):
        is_framework = bool(framework_of(frame))
        if not is_authors or not is_framework:
            place, module = place_of(frame, line), str(frame.f_globals.get("__name__", ""))
            is_authors = not is_framework
    return place, module


def _lines(error: BaseException, seen: set[int], level: int, longest: int, *, fold: bool) -> Iterator[str]:
    chain: list[tuple[BaseException, str]] = []
    link = ""
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < _MOST_ERRORS:
        seen.add(id(current))
        chain.append((current, link))
        reason, link = _cause(current), _CAUSE
        if reason is None and not _suppresses_context(current):
            reason, link = _context(current), _CONTEXT
        current = reason
    if current is not None:
        yield f"[… {type_name(current)}, which is shown elsewhere or is one too many …]"
    for each, after in reversed(chain):
        yield from _own_lines(each, longest, fold=fold)
        if issubclass(type(each), BaseExceptionGroup):
            yield from _lines_of_members(each, seen, level, longest, fold=fold)
        if after:
            yield from ("", after, "")


def _own_lines(error: BaseException, longest: int, *, fold: bool) -> Iterator[str]:
    places: TracebackType | None = _traceback(error)
    if places is not None:
        yield "Traceback (most recent call last):"
        summary = traceback.extract_tb(places, -_MOST_FRAMES)
        yield "".join(_folded(summary, _frames(error)) if fold else summary.format()).rstrip("\n")
    if issubclass(type(error), SyntaxError):
        yield "".join(traceback.format_exception_only(error)).rstrip("\n")  # with the line that is wrong
        return
    text = shorten(text_of(error), longest)
    yield f"{_qualified_name(type(error))}: {text}" if text else _qualified_name(type(error))
    notes = object.__getattribute__(error, "__dict__").get("__notes__")
    if type(notes) is list:
        yield from (shorten(text_of(note), longest) for note in notes[:_MOST_NOTES])


def _folded(summary: traceback.StackSummary, frames: list[FrameType]) -> Iterator[str]:
    """Yield the lines of a traceback, one for each row of frames that are folded."""
    packages = [*map(framework_of, frames[:-1]), ""]  # the last one is where it was raised
    for is_framework, row in groupby(zip(packages, summary, strict=True), key=lambda found: found[0] != ""):
        found = list(row)
        if is_framework:
            *names, last = dict.fromkeys(package for package, _ in found)
            named = f"{', '.join(names)} and {last}" if names else last
            yield f"  [… {len(found)} frame{'s' * (len(found) > 1)} of {named} …]\n"
        else:
            yield from traceback.StackSummary.from_list([frame for _, frame in found]).format()


def _lines_of_members(group: BaseException, seen: set[int], level: int, longest: int, *, fold: bool) -> Iterator[str]:
    members = _members(group)
    for number, member in enumerate(members, 1):
        if level >= _MOST_LEVELS or len(seen) >= _MOST_ERRORS:
            yield f"  | [… {len(members) - number + 1} more …]"
            return
        yield f"  +---------------- {number} ----------------"
        for part in _lines(member, seen, level + 1, longest, fold=fold):
            yield from (f"  | {line}" for line in part.split("\n"))


def _qualified_name(cls: type) -> str:
    name = vars(type)["__qualname__"].__get__(cls)
    module = cls.__module__
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


class Repeats:
    """Lets some lines of each sort through within a while, and counts those that it leaves out.

    :param seconds: how long the while is
    :param clock: returns seconds
    :param burst: how many lines of a sort it lets through within that
    """

    def __init__(self, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic, *, burst: int = 1) -> None:
        self._seconds = seconds
        self._clock = clock
        self._burst = burst
        # when the while ends, how many lines were let through in it, how many left out since the last one, and the
        # first of these
        self._lines: OrderedDict[int, tuple[float, int, int, Any]] = OrderedDict()
        self._forgotten: list[tuple[Any, int]] = []
        self._lock = threading.RLock()

    def count(self, line: object, about: Callable[[], object] | None = None) -> int | None:
        """Return None if `line` is to be left out, else how many like it were left out since it came last.

        :param about: returns what `untold` returns of it; called for the first one that is left out
        """
        key, now = hash(line), self._clock()
        with self._lock:
            end, passed, left_out, what = self._lines.pop(key, (now, 0, 0, None))
            if now >= end:
                end, passed = now + self._seconds, 0
            if passed >= self._burst:
                what = about() if about is not None and not left_out else what
                self._lines[key] = end, passed, left_out + 1, what
                return None
            self._lines[key] = end, passed + 1, 0, None
            if len(self._lines) > _MOST_KEYS:
                _, (_, _, untold, what) = self._lines.popitem(last=False)
                if what is not None and len(self._forgotten) < _MOST_KEYS:
                    self._forgotten.append((what, untold))
        return left_out

    def untold(self, *, at_end: bool = False) -> list[tuple[Any, int]]:
        """Return what was left out and not told with a later line: for each sort, its `about` and how many. Forget it.

        :param at_end: do not wait until the while of a sort has ended
        """
        now = self._clock()
        with self._lock:
            found, self._forgotten = self._forgotten, []
            for key, (end, passed, left_out, what) in self._lines.items():
                if what is not None and (at_end or now >= end):
                    found.append((what, left_out))
                    self._lines[key] = end, passed, 0, None
        return found


_dropped = 0
# reentrant, as the garbage collector may run code that logs at any point
_dropped_lock = threading.RLock()


def count_dropped_lines(number: int = 1) -> None:
    """Count log lines that could not be written."""
    global _dropped  # noqa: PLW0603 - one count for the process, as there is one log
    with _dropped_lock:
        _dropped += number


def dropped_lines() -> int:
    """Return how many log lines of this process could not be written."""
    return _dropped


_trace_source: Callable[[], tuple[str, str] | None] | None = None


def current_trace() -> tuple[str, str] | None:
    """Return the ids of the trace and of the span that this task or thread is in, in hex, for lines and exemplars.

    None if nothing is traced now, or this trace is not sampled, so that nobody could look it up.
    """
    return None if _trace_source is None else _trace_source()


def set_trace_source(source: Callable[[], tuple[str, str] | None] | None) -> None:
    """Let `current_trace` ask `source`, which raises nothing; None turns it off."""
    global _trace_source  # noqa: PLW0603 - one for the process, as OpenTelemetry's provider is
    _trace_source = source


class SafeLogger:
    """A logger of `logging` that never raises: a line is dropped and counted if a handler or a filter fails.

    The methods take a text with `%(name)s` fields, and their values.

    :param name: the logger's
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._repeats = Repeats()

    def debug(self, text: str, fields: Mapping[str, Any] | None = None) -> None:
        """Log at the level DEBUG."""
        self._log(logging.DEBUG, text, fields)

    def info(self, text: str, fields: Mapping[str, Any] | None = None) -> None:
        """Log at the level INFO."""
        self._log(logging.INFO, text, fields)

    def warning(self, text: str, fields: Mapping[str, Any] | None = None) -> None:
        """Log at the level WARNING."""
        self._log(logging.WARNING, text, fields)

    def error(
        self, text: str, fields: Mapping[str, Any] | None = None, *, exc_info: BaseException | None = None
    ) -> None:
        """Log at the level ERROR.

        :param exc_info: an error to show with its traceback
        """
        self._log(logging.ERROR, text, fields, exc_info)

    def exception(self, text: str, fields: Mapping[str, Any] | None = None) -> None:
        """Log at the level ERROR, with the traceback of the error that is being handled."""
        self._log(logging.ERROR, text, fields, exc_info=True)

    def repeated_warning(self, text: str, fields: Mapping[str, Any]) -> None:
        """Log at the level WARNING, once a second at most. The line says how many like it were left out."""
        left_out = self._repeats.count(text)
        if left_out is not None:
            if left_out:
                text += "; lines like this that were left out: %(left_out)d"
                fields = {**fields, "left_out": left_out}
            self._log(logging.WARNING, text, fields)

    def _log(
        self, level: int, text: str, fields: Mapping[str, Any] | None, exc_info: BaseException | bool | None = None
    ) -> None:
        try:
            arguments = () if fields is None else (fields,)
            self._logger.log(level, text, *arguments, exc_info=exc_info, stacklevel=3)
        except BaseException:  # noqa: BLE001 - a diagnostic must not harm what it describes
            count_dropped_lines()
