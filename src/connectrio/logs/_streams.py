"""Standard output and error of a process that is a host: what others print there goes to a `Writer`."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from connectrio.logs._writer import Writer

__all__ = ["Captured", "Lines", "is_terminal", "own_output", "stream_to"]

# characters of a line that does not end
_LONGEST_LINE = 64 * 1024


_is_own: ContextVar[bool] = ContextVar("connectrio_own_output", default=False)


@contextmanager
def own_output() -> Iterator[None]:
    """Write what this block prints as it is: the host's own words to people, such as its table of connectors."""
    token = _is_own.set(True)
    try:
        yield
    finally:
        _is_own.reset(token)


class Lines:
    """Collects text until a line is complete. Threads do not mix their lines.

    :param take: called with each line, without its end
    """

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        # by thread. One that begins may get the identifier of one that has ended, and then ends its line
        self._rests: dict[int, str] = {}
        self._lock = threading.RLock()

    def __call__(self, text: str) -> None:
        """Take the next piece of text."""
        thread = threading.get_ident()
        with self._lock:
            text = f"{self._rests.pop(thread, '')}{text}"
            end = len(text) if len(text) - text.rfind("\n") > _LONGEST_LINE else text.rfind("\n") + 1
            if end < len(text):
                self._rests[thread] = text[end:]
        start = 0
        while start < end:
            # some lines at a time: a list of all lines of a very long text would need many times its memory
            stop = text.rfind("\n", start, min(start + _LONGEST_LINE, end))
            if stop < 0:
                stop = text.find("\n", start, end)
            stop = end if stop < 0 else stop
            for line in text[start:stop].split("\n"):
                if line and not line.isspace():
                    self._take(line)
            start = stop + 1

    def end(self) -> None:
        """Take the lines that have no end yet as they are."""
        with self._lock:
            rests, self._rests = self._rests, {}
        for rest in rests.values():
            if rest.strip():
                self._take(rest)


class Captured:
    """Standard output or error of a host's own process, whose lines become lines of the log.

    What is printed in a block of `own_output` stays as it is, and all after `release`.

    :param writer: writes to the stream itself
    :param take: called with each line, without its end
    """

    def __init__(self, writer: Writer, before: TextIO | None, take: Callable[[str], None]) -> None:
        self.writer = writer
        self._before = before
        self._lines = Lines(take)
        self._is_released = False
        self.stream = stream_to(self._write, before, is_terminal=lambda: self._is_plain and is_terminal(before))

    @property
    def _is_plain(self) -> bool:
        return self._is_released or _is_own.get()

    def _write(self, text: str) -> None:
        if self._is_plain:
            self.writer.offer(text)
        else:
            self._lines(text)

    def end_lines(self) -> None:
        """Write the lines that have no end yet."""
        self._lines.end()

    def release(self) -> None:
        """Let what is printed from now on stay as it is."""
        self._lines.end()
        self._is_released = True

    def is_target_of(self, stream: object) -> bool:
        """Return whether what is written to `stream` comes here, or would come out beside what comes here."""
        return stream is not None and (stream is self.stream or stream is self._before)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether `stream` is a terminal; not if it was closed, or if the process was started without it."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def stream_to(
    take: Callable[[str], None], before: TextIO | None, *, is_terminal: Callable[[], bool] = lambda: False
) -> TextIO:
    """Return a stream that gives what is written to it to `take`.

    :param before: the stream that it stands for: it keeps its descriptor
    :param is_terminal: returns whether who writes to it writes to a terminal
    """
    return _Stream(_Bytes(take, before, is_terminal), encoding="utf-8", errors="backslashreplace", write_through=True)


class _Stream(io.TextIOWrapper):
    def close(self) -> None:
        """Stay open: a connector that closes standard error closes it for all others in the process."""


class _Bytes(io.RawIOBase):
    """What `sys.stderr.buffer` is, for those who write bytes."""

    mode = "wb"

    def __init__(self, take: Callable[[str], None], before: TextIO | None, is_terminal: Callable[[], bool]) -> None:
        self._take = take
        self._before = before
        self._is_terminal = is_terminal
        self.name = getattr(before, "name", "")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = bytes(data)
        if data:
            self._take(data.decode("utf-8", "backslashreplace"))
        return len(data)

    def fileno(self) -> int:
        if self._before is None:
            raise io.UnsupportedOperation("fileno: the process was started without this stream")
        return self._before.fileno()

    def isatty(self) -> bool:
        return self._is_terminal()

    def close(self) -> None:
        """Stay open, as above."""
