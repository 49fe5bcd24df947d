"""Reads the escapes in a text: those of URLs, of JSON, Python and C, of HTML and XML, and two layers of them."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

__all__ = ["Reading", "readings"]

# escapes inside of escapes: JSON in the repr of a text, a URL in JSON
_LAYERS = 2
# in all layers of one text together
_MOST_ESCAPES = 25_000


def readings(data: bytes) -> Iterator[Reading | None]:
    """Yield a text as it is, with its escapes read, and with those read that were in the escapes.

    The last one is None if there are too many escapes to read them all.
    """
    layer = [Reading(data)]
    yield from layer
    escapes = 0
    for _ in range(_LAYERS):
        inner: list[Reading] = []
        for reading in layer:
            for kind in _ESCAPES:
                if kind.mark.search(reading.data) is None:
                    continue
                unescaped, count = reading.read(kind)
                inner.append(unescaped)
                escapes += count
                if escapes > _MOST_ESCAPES:
                    yield None
                    return
        yield from inner
        layer = inner


class Reading:
    """A text with one layer of escapes read.

    :param before: the text with the escapes; None: `data` is the original
    :ivar data: what the escapes stand for, and all else
    """

    def __init__(self, data: bytes, before: Reading | None = None, kind: _Escape | None = None) -> None:
        self.data = data
        self._before = before
        self._kind = kind

    def read(self, kind: _Escape) -> tuple[Reading, int]:
        """Return this text with the escapes of a kind read, and how many there were."""
        data, count = kind.pattern.subn(kind.meaning, self.data)
        return Reading(data, self, kind), count

    def origin(self, begin: int, end: int) -> tuple[int, int]:
        """Return where `data[begin:end]` is in the original."""
        reading = self
        while reading._before is not None:
            begins, ends, sources = reading._escapes
            first = bisect_right(begins, begin) - 1
            if first >= 0:
                source = sources[first]
                begin = source[0] if begin < ends[first] else begin - ends[first] + source[1]
            last = bisect_left(begins, end) - 1
            if last >= 0:
                end = sources[last][1] + max(0, end - ends[last])
            reading = reading._before
        return begin, end

    @cached_property
    def _escapes(self) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """Where the escapes begin and end in `data`, and where they are in the text before."""
        begins: list[int] = []
        ends: list[int] = []
        sources: list[tuple[int, int]] = []
        if self._before is None or self._kind is None:
            return begins, ends, sources
        shift = 0  # from a position in the text before to the one in `data`
        for match in self._kind.pattern.finditer(self._before.data):
            source = match.span()
            begins.append(source[0] + shift)
            ends.append(begins[-1] + len(self._kind.meaning(match)))
            sources.append(source)
            shift = ends[-1] - source[1]
        return begins, ends, sources


@dataclass(frozen=True)
class _Escape:
    """A way to escape characters.

    :ivar pattern: finds an escape
    :ivar meaning: returns what it stands for
    :ivar mark: is in each text that has such escapes
    """

    pattern: re.Pattern[bytes]
    meaning: Callable[[re.Match[bytes]], bytes]
    mark: re.Pattern[bytes]


def _percent(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 16)])


_SHORT = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f", b"v": b"\v", b"a": b"\a"}


def _backslash(match: re.Match[bytes], *, in_text: bool = False) -> bytes:
    """Return what an escape stands for.

    :param in_text: \\xe9 is the character é, as in a `str` of Python; else it is a byte, as in a `bytes`
    """
    high, low, short, long, byte, octal, other = match.groups()
    if high is not None:
        return _character(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)
    if byte is not None:
        return _character(int(byte, 16)) if in_text else bytes([int(byte, 16)])
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    if other is not None:
        return _SHORT.get(other, other)
    return _character(int(short or long, 16))


_NAMED = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}


def _entity(match: re.Match[bytes]) -> bytes:
    decimal, hexadecimal, name = match.groups()
    if name is not None:
        return _NAMED[name]
    return _character(int(decimal) if decimal is not None else int(hexadecimal, 16))


def _character(code: int) -> bytes:
    return chr(code).encode("utf-8", "backslashreplace") if code <= 0x10FFFF else b"?"


_BACKSLASH = re.compile(
    rb"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})"
    rb"|x([0-9a-fA-F]{2})|([0-7]{1,3})|(.))",
    re.DOTALL,
)
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_ENTITY = re.compile(rb"&(?:#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6})|(amp|lt|gt|quot|apos));")
_ESCAPES = (
    _Escape(_PERCENT, _percent, _PERCENT),
    _Escape(_BACKSLASH, _backslash, _BACKSLASH),
    _Escape(_BACKSLASH, partial(_backslash, in_text=True), re.compile(rb"\\x[89a-fA-F]")),
    _Escape(_ENTITY, _entity, _ENTITY),
)
