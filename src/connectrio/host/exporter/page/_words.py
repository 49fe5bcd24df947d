"""How times, numbers and texts are written on the page: filters of the templates.

Connectors, clients and the systems behind them write the texts. They are cut, and characters that would change how
their surroundings read are written as escapes. Jinja escapes the markup in them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit
from zlib import crc32

from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup

__all__ = ["FILTERS", "harmless", "lasting"]

T = TypeVar("T")

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
# characters of a text in a table, and on a page of its own
_SHORT = 240
_LONG = 20_000
# characters for what `full` adds
_NOTE = 100
_LONGEST_LINK = 8192
# control characters but line feed and tab, and those that change the direction of text
_UNREADABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_NOTHING = "\N{EN DASH}"
# each phase that is not here is one of work that goes on
_ENDS = {"SUCCEEDED": "good", "FAILED": "bad", "RETRYABLE_FAILED": "bad", "TIMED_OUT": "bad", "ABORTED": "warn"}


def _visible(text: str) -> str:
    return _UNREADABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def short(text: str, limit: int = _SHORT) -> str:
    """Return a text in one line of at most `limit` characters."""
    line = " ".join(text[: 4 * limit].split())
    return _visible(line[:limit] + ("…" if len(line) > limit or len(text) > 4 * limit else ""))


def full(text: str) -> str:
    """Return a text with its lines; what is left out of a very long one is counted."""
    left_out = len(text) - _LONG
    return _visible(text[:_LONG]) + (f"\n… {left_out:,} more characters" if left_out > 0 else "")


def harmless(value: Any) -> Any:
    """Return a value as a template may write it: the texts that no filter has cut, too."""
    if type(value) is not str:
        return value
    return full(value) if len(value) > _LONG + _NOTE else _visible(value)


def lasting(seconds: float) -> str:
    """Return a duration in one unit, of which there are two at least: "90 s", "45 min". page.js has the same rule."""
    unit, size = next((each for each in _UNITS if abs(seconds) >= 2 * each[1]), _UNITS[-1])
    return f"{int(abs(seconds) // size)} {unit}"


def took(seconds: float | None) -> str:
    """Return how long something took that is over: "35 ms", "1.2 s"."""
    if seconds is None:
        return _NOTHING
    if seconds < 0.001:
        return "< 1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return lasting(seconds)


def rate(per_second: float) -> str:
    """Return a rate, per second or per minute."""
    if per_second == 0:
        return "0"
    return f"{per_second:,.1f}/s" if per_second >= 1 else f"{per_second * 60:.1f}/min"


def count(number: float) -> str:
    """Return a number with separators of thousands."""
    return f"{number:,}"


_AGO = Markup('<time datetime="{}" title="{}">{}</time>')
_SINCE = Markup('<time class="since" datetime="{}" title="{}">{}</time>')


def _moment(at: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def utc(at: float) -> str:
    """Return a time as text."""
    moment = _moment(at)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "?"


def _time(at: float | None, text: Callable[[float], str], context: Context, mark: Markup) -> str:
    if at is None:
        return _NOTHING
    moment = _moment(at)
    if moment is None:
        return "?"
    words = text(context["now"] - math.floor(at))
    return mark.format(f"{moment:%Y-%m-%dT%H:%M:%SZ}", utc(at), words)


def _ago(seconds: float) -> str:
    return f"in {lasting(seconds)}" if seconds < 0 else f"{lasting(seconds)} ago"


@pass_context
def ago(context: Context, at: float | None) -> str:
    """Return how long ago something was, with its time; "in 3 d" for what is to come."""
    return _time(at, _ago, context, _AGO)


@pass_context
def since(context: Context, at: float | None) -> str:
    """Return how long something has lasted by now, with the time when it began."""
    return _time(at, lasting, context, _SINCE)


@pass_context
def when(context: Context, at: float | None) -> str:
    """Return a time as text, and how long ago it was."""
    return _NOTHING if at is None else Markup("{} ({})").format(utc(at), ago(context, at))


def phase_class(phase: str) -> str:
    """Return the class of a phase in the style sheet."""
    return _ENDS.get(phase, "")


def is_web(address: str) -> bool:
    """Return whether a link may lead there."""
    if len(address) > _LONGEST_LINK:
        return False
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def path(text: str) -> str:
    """Return a text as one part of a path."""
    return quote(text.encode("utf-8", "replace"), safe="")


def keyed(items: Iterable[T], *fields: str) -> Iterator[tuple[str, T]]:
    """Return items with ids for their elements, by which the page finds them again after a change.

    :param fields: the attributes that tell an item from the others
    """
    seen: dict[str, int] = {}
    for item in items:
        values = [getattr(item, field) for field in fields]
        # a time that is computed back from a duration moves by parts of a second
        rounded = [round(value) if isinstance(value, float) else value for value in values]
        key = f"{type(item).__name__}-{crc32(repr(rounded).encode('utf-8', 'replace')):08x}"
        seen[key] = seen.get(key, 0) + 1
        yield (key if seen[key] == 1 else f"{key}-{seen[key]}"), item


FILTERS: Mapping[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (ago, count, full, is_web, keyed, lasting, path, phase_class, rate, short, since, took, utc, when)
}
