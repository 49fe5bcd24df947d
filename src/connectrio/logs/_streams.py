"""Standard output and error of a process that is a host: what others print there goes to a `Writer`."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any, TextIO

__all__ = ["Lines", "is_terminal", "stream_to"]

# characters of a line that does not end
_LONGEST_LINE = 64 * 1024


class Lines:
    """Collects text until a line is complete.

    :param take: called with each line, without its end
    """

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = ""
        self._lock = threading.RLock()

    def __call__(self, text: str) -> None:
        """Take the next piece of text."""
        with self._lock:
            *lines, self._rest = f"{self._rest}{text}".split("\n")
            if len(self._rest) > _LONGEST_LINE:
                lines.append(self._rest)
                self._rest = ""
        for line in lines:
            if line.strip():
                self._take(line)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether `stream` is a terminal; not if it was closed, or if the process was started without it."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def stream_to(take: Callable[[str], None], before: TextIO | None) -> TextIO:
    """Return a stream that gives what is written to it to `take`.

    :param before: the stream that it stands for: it keeps its descriptor, and says whether it is a terminal
    """
    return _Stream(_Bytes(take, before), encoding="utf-8", errors="backslashreplace", write_through=True)


class _Stream(io.TextIOWrapper):
    def close(self) -> None:
        """Stay open: a connector that closes standard error closes it for all others in the process."""


class _Bytes(io.RawIOBase):
    """What `sys.stderr.buffer` is, for those who write bytes."""

    mode = "wb"

    def __init__(self, take: Callable[[str], None], before: TextIO | None) -> None:
        self._take = take
        self._before = before
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
        return is_terminal(self._before)

    def close(self) -> None:
        """Stay open, as above."""
