"""Write lines to standard output or error without waiting for who reads them."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TextIO

from connectrio.diagnostics import count_dropped_lines

__all__ = ["Writer"]

# bytes of the lines that wait for the thread; a usual line has 300. Each costs some memory beside its text
_MOST_WAITING = 4 * 1024 * 1024
_COST_OF_A_LINE = 100
# bytes that a pipe takes in one piece even if several processes write into it: PIPE_BUF of POSIX, as Linux has it
_ATOMIC = 4096

# lines; an event to set once all before it is written; None for the end
_Queue = SimpleQueue[bytes | threading.Event | None]


class Writer:
    """Writes lines to a stream: at once, or from `start` to `stop` in a thread of its own.

    No method raises. A line that the stream does not take is dropped. In the thread's time nothing waits for the
    stream: lines wait in a queue that is bounded, and those that find it full are dropped.

    :param stream: what is written to; None if the process was started without it
    :param on_drop: called with the number of lines that were dropped
    :param on_gap: called in the thread with the number of dropped lines once the stream takes lines again
    """

    def __init__(
        self,
        stream: TextIO | None,
        *,
        on_drop: Callable[[int], None] = count_dropped_lines,
        on_gap: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._stream = stream
        self._on_drop = on_drop
        self._on_gap = on_gap
        self._queue: _Queue | None = None
        self._descriptor: int | None = None
        self._waiting = 0
        self._gap = 0
        # reentrant: the garbage collector may run code that writes at any point
        self._lock = threading.RLock()
        self._is_torn = False
        self._is_given_up = False

    def start(self) -> None:
        """Write from a thread from now on."""
        self._waiting = 0
        self._queue = SimpleQueue()
        # a duplicate: if a connector closes the descriptor, the next client's connection gets its number
        self._descriptor = _duplicate(self._stream)
        arguments = self._queue, self._descriptor
        threading.Thread(target=self._run, args=arguments, name="connectrio output", daemon=True).start()
        _started.add(self)

    def offer(self, text: str) -> None:
        """Write `text`, which ends with the end of a line, or let the thread write it."""
        data = text.encode("utf-8", "backslashreplace")
        queue = self._queue
        if queue is None:
            if self._is_given_up or not self._write(data, None):
                self._on_drop(1)
            return
        cost = len(data) + _COST_OF_A_LINE
        with self._lock:
            is_full = self._waiting + cost > _MOST_WAITING
            if not is_full:
                self._waiting += cost
                queue.put(data)
        if is_full:
            self._drop(1)

    def flush(self, seconds: float) -> bool:
        """Wait until the thread has written what was offered before, and return True; False if that takes longer."""
        if self._queue is None:
            return True
        done = threading.Event()
        self._queue.put(done)
        return done.wait(seconds)

    def stop(self, seconds: float) -> None:
        """Write at once again, after a `flush`. If that fails, nothing is written any more: it would wait for ever."""
        queue = self._queue
        if queue is None:
            return
        self._is_given_up = not self.flush(seconds)
        self._queue = None
        queue.put(None)
        _started.discard(self)

    def after_fork(self) -> None:
        """Write at once in a child process, which has no threads of its parent.

        The child keeps no duplicate: who reads the output to its end would wait for the child as well.
        """
        self._lock = threading.RLock()
        self._queue = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    # the thread's part

    def _run(self, queue: _Queue, descriptor: int | None) -> None:
        lines: list[bytes] = []
        while True:
            try:
                item = queue.get(block=not lines)
            except Empty:
                item = b""
            if lines and (not item or isinstance(item, threading.Event) or sum(map(len, lines)) + len(item) > _ATOMIC):
                self._write_together(lines, descriptor)
                lines = []
            if item is None:
                break
            if isinstance(item, threading.Event):
                item.set()
            elif item:
                lines.append(item)
        if descriptor is not None:
            os.close(descriptor)

    def _write_together(self, lines: list[bytes], descriptor: int | None) -> None:
        is_written = self._write(b"".join(lines), descriptor)
        if not is_written:
            self._drop(len(lines))
        with self._lock:
            self._waiting -= sum(map(len, lines)) + _COST_OF_A_LINE * len(lines)
            gap = self._gap if is_written else 0
            self._gap -= gap
        if gap:
            self._on_gap(gap)

    def _drop(self, lines: int) -> None:
        with self._lock:
            self._gap += lines
        self._on_drop(lines)

    def _write(self, data: bytes, descriptor: int | None) -> bool:
        """Write `data`, however long that takes. Return whether all of it was taken."""
        if self._stream is None:
            return False
        if self._is_torn:
            data = b"\n" + data  # the last line was cut short
        left = memoryview(data)
        try:
            if descriptor is None:
                self._stream.write(data.decode("utf-8"))
                self._stream.flush()
                return True
            while left:
                try:
                    left = left[os.write(descriptor, left) :]
                except BlockingIOError:  # another process has set what we share to non-blocking
                    select.select([], [descriptor], [])
        except Exception:  # noqa: BLE001 - the stream may be any object, and closed, full or without a reader
            self._is_torn = self._is_torn or 0 < len(left) < len(data)
            return False
        self._is_torn = False
        return True


_started: set[Writer] = set()


def _duplicate(stream: TextIO | None) -> int | None:
    """Return a new descriptor for what `stream` writes to; None if that is no file."""
    try:
        return None if stream is None else os.dup(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None


def _after_fork() -> None:
    for writer in list(_started):
        writer.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork)
