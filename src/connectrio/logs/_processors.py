"""structlog's processors for the lines of a host: whatever a value or an error does, there is a line."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from connectrio.diagnostics import LONGEST_TEXT, format_error, printable, shorten, text_of
from connectrio.logs._fields import CALL_FIELDS, add_line_fields, masked

__all__ = ["processors"]

_Event = MutableMapping[str, Any]

# the fields that each line has
_FIRST = ("timestamp", "level", "event")
# fields of connectors' lines that have no text of theirs, beside those of the call
_OURS = {"timestamp", "level", "logger"}
# for people: the fields after the event, and those of calls at the end of lines that need attention
_FIRST_FOR_PEOPLE = ("execution", "node", "task_type", "operation", "job")
_DETAILS = (
    "attempt", "project", "domain", "output_prefix", "task_type_version", "key", "peer", "rpc", "trace_id", "span_id",
)  # fmt: skip
# fields that structlog shows as they are; it quotes the others, with escapes, if they have one of these characters
_UNQUOTED = {"event", "level", "timestamp", "logger"}
_QUOTED = frozenset(" \t=\r\n\"'")
# levels of lists and dicts in a value, and items of each
_MOST_LEVELS = 4
_MOST_ITEMS = 100
# of an integer: readers of JSON fail at longer ones, and Python does at very long ones
_MOST_BITS = 64


def processors(*, console: bool, process: int | None) -> list[structlog.typing.Processor]:
    """Return the processors that make text of a line.

    :param console: for people, else JSON
    :param process: the number of this process among several, for each line
    """

    def add_process(_logger: Any, _method: str, event: _Event) -> _Event:
        event.setdefault("process", process)
        return event

    return [
        _add_fields,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if process is None else [add_process]),
        _error_as_text,
        _plain_values,
        *([_sort_for_people, _escape, _for_people()] if console else [structlog.processors.JSONRenderer()]),
    ]


def _for_people() -> structlog.dev.ConsoleRenderer:
    """Return what makes lines for people, with colours on a terminal only: they would hide words from `grep`."""
    colors = os.isatty(2) and not os.environ.get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(
        colors=colors, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )


def _add_fields(logger: Any, method: str, event: _Event) -> _Event:
    """Add the fields of the call, and those of structlog's context. No word of a connector takes the place of ours."""
    if not _is_authors(event):
        add_line_fields(event)
        return structlog.contextvars.merge_contextvars(logger, method, event)
    event = structlog.contextvars.merge_contextvars(logger, method, event)
    own = {name: event.pop(name) for name in list(event) if name in CALL_FIELDS}
    if own:
        given = event.get("extra", {})
        event["extra"] = {**(given if isinstance(given, dict) else {"extra": given}), **own}
    add_line_fields(event)
    return event


def _is_authors(event: _Event) -> bool:
    """Return whether a line was written by code of a connector or a library: the host's own name no logger."""
    return "logger" in event


def _error_as_text(_logger: Any, _method: str, event: _Event) -> _Event:
    """Put the traceback of `exc_info` into `exception`, without local variables: they hold tokens and passwords.

    It has no secrets of the call either: the text of an error is its author's, whoever logs it.
    """
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = masked(format_error(error, 2 * LONGEST_TEXT))
    elif "exception" in event and not isinstance(given := event["exception"], str):
        # always a text; a processor of a connector may have made a list of it
        event["exception"] = format_error(given) if isinstance(given, BaseException) else text_of(given)
    return event


def _plain_values(_logger: Any, _method: str, event: _Event) -> _Event:
    cut = _cut_masked if _is_authors(event) else _cut
    plain = dict.fromkeys(_FIRST, "")  # a line begins with these
    for name, value in event.items():
        is_ours = name in CALL_FIELDS or name in _OURS
        plain[name if type(name) is str else text_of(name)] = _plain(value, 0, _cut if is_ours else cut)
    return plain


def _cut(text: str) -> str:
    return shorten(text, LONGEST_TEXT)


def _cut_masked(text: str) -> str:
    return shorten(masked(text), LONGEST_TEXT)  # before it is cut: a cut could go through a secret


def _plain(value: Any, level: int, cut: Callable[[str], str]) -> Any:
    """Return `value` as JSON has it, bounded; what JSON does not have as text.

    :param cut: shortens texts
    """
    kind = type(value)
    if kind is str:
        return cut(value)
    if value is None or kind is bool or (kind is int and value.bit_length() <= _MOST_BITS):
        return value
    if kind is float and math.isfinite(value):
        return value
    if level < _MOST_LEVELS and (kind is list or kind is tuple):
        return [_plain(item, level + 1, cut) for item in value[:_MOST_ITEMS]]
    if level < _MOST_LEVELS and kind is dict:
        return {cut(text_of(name)): _plain(value[name], level + 1, cut) for name in list(value)[:_MOST_ITEMS]}
    return cut(text_of(value))


def _sort_for_people(_logger: Any, _method: str, event: _Event) -> _Event:
    """Put what people look for first, and the rest of what names the call last; lines of routine go without that."""
    is_routine = event["level"] in ("debug", "info")
    first = {name: event[name] for name in (*_FIRST, *_FIRST_FOR_PEOPLE) if name in event}
    own = {name: value for name, value in event.items() if name not in first and name not in _DETAILS}
    details = {} if is_routine else {name: event[name] for name in _DETAILS if name in event}
    return {**first, **own, **details}


def _escape(_logger: Any, _method: str, event: _Event) -> _Event:
    """Escape what could control the terminal, and indent further lines: no value can look like a line of its own."""
    for name, value in event.items():
        if name in ("exception", "stack"):
            event[name] = "\n".join(f"    {line}" for line in printable(str(value)).split("\n"))
        elif isinstance(value, str) and (name in _UNQUOTED or not _QUOTED.intersection(value)):
            event[name] = printable(value, keep="")
    return event
