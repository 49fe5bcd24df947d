"""A process that only hosts: all that anybody in it prints, logs, warns or fails with becomes lines of its log."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Any

from connectrio.diagnostics import count_dropped_lines, text_of
from connectrio.logs._host_log import FromLogging, HostLog
from connectrio.logs._streams import Captured
from connectrio.logs._writer import Writer

__all__ = ["TakenOver"]


class TakenOver:
    """The hold of a host's log on its process, from the start to the end of the process.

    Handlers of `logging` that write to standard output or error do so as lines of the log: what a connector sets up
    with `basicConfig` or `dictConfig` decides which lines there are, and not what they look like.

    :param log: its writer has been started
    :param flush_timeout: seconds for the lines that wait when the process ends
    """

    def __init__(self, log: HostLog, flush_timeout: float) -> None:
        self._log = log
        self._flush_timeout = flush_timeout
        output = Writer(sys.stdout, on_drop=lambda _: None)
        output.start()
        self._handler = FromLogging(log)
        self.captured = [
            Captured(output, sys.stdout, self._taker("stdout", logging.INFO)),
            Captured(log.writer, sys.stderr, self._taker("stderr", logging.WARNING)),
        ]
        sys.stdout, sys.stderr = (each.stream for each in self.captured)
        self._take_handlers()
        # else flytekit draws its lines for a terminal, in boxes, when it is imported
        os.environ.setdefault("FLYTE_SDK_RICH_TRACEBACKS", "0")
        _keep_context_in_pools()
        root = logging.getLogger()
        root.addHandler(self._handler)
        # below it, libraries are asked by name: those that the host itself uses would fill the log
        root.setLevel(max(logging.INFO, log.levels.default))
        logging.captureWarnings(capture=True)
        self.keep([])
        sys.excepthook, threading.excepthook = self._process_fails, self._thread_fails
        sys.unraisablehook = self._is_ignored
        atexit.register(self._end)

    def keep(self, authors: list[str]) -> None:
        """Undo what connectors' modules have done to `logging` that would lose lines, and set the levels.

        :param authors: the names of the connectors' packages and modules, whose loggers have the host's level
        """
        logging.disable(logging.NOTSET)
        root = logging.getLogger()
        if not root.handlers:
            root.addHandler(self._handler)
        levels = self._log.levels
        if levels.default < logging.INFO:
            for name in authors:
                logger = logging.getLogger(name)
                logger.setLevel(logger.level or levels.default)
        for name, level in levels.named.items():
            logging.getLogger(name).setLevel(level)

    def flush(self, seconds: float) -> None:
        """Wait until what was written has reached standard output and error, but for `seconds` at most."""
        for each in self.captured:
            each.writer.flush(seconds)

    def release(self) -> None:
        """Let what is printed stay as it is, on a terminal: the host has ended, and the command tells how."""
        for each in self.captured:
            if self._log.console:
                each.release()

    def _end(self) -> None:
        for each in self.captured:
            each.end_lines()
        self._log.tell_left_out(at_end=True)
        for each in self.captured:
            each.writer.stop(self._flush_timeout)

    def _taker(self, name: str, level: int) -> Callable[[str], None]:
        """Return what writes a printed line. It has no level of its own, so it is left out only where it is named."""
        log, lowest = self._log, self._log.levels.named.get(name, logging.NOTSET)

        def take(line: str) -> None:
            try:
                left_out = log.left_out(level, name, line, is_printed=True) if level >= lowest else None
                if left_out is not None:
                    log.logger.log(level, line, logger=name, **({"left_out": left_out} if left_out else {}))
            except BaseException:  # noqa: BLE001 - a value of the line's fields: it must harm nothing else
                count_dropped_lines()

        return take

    def _take_handlers(self) -> None:
        handlers: Any = logging.StreamHandler
        emit_as_before, captured, ours = handlers.emit, self.captured, self._handler

        def emit(handler: Any, record: logging.LogRecord) -> None:
            if any(each.is_target_of(handler.stream) for each in captured):
                ours.emit(record)
            else:
                emit_as_before(handler, record)

        handlers.emit = emit

    def _process_fails(self, _kind: type[BaseException], error: BaseException, _places: TracebackType | None) -> None:
        self._fails("the process ends because of an error", exc_info=error)

    def _thread_fails(self, end: threading.ExceptHookArgs) -> None:
        if end.exc_type is not SystemExit:
            name = None if end.thread is None else end.thread.name
            self._fails("a thread ended because of an error", thread=name, exc_info=end.exc_value)

    def _is_ignored(self, ignored: Any) -> None:
        """Log an error that Python cannot raise, such as one in a `__del__`."""
        self._fails(
            "an error was ignored, because nothing could be told of it",
            where=f"{ignored.err_msg or 'in'} {text_of(ignored.object)}",
            exc_info=ignored.exc_value,
        )

    def _fails(self, event: str, **fields: Any) -> None:
        try:
            self._log.logger.error(event, **fields)
        except BaseException:  # noqa: BLE001 - as above
            count_dropped_lines()


def _keep_context_in_pools() -> None:
    """Let functions in thread pools run in the context of who submits them, as `asyncio.to_thread` does.

    So the lines of `loop.run_in_executor` and of a connector's own pools have the fields of their call.
    """
    pools: Any = ThreadPoolExecutor
    submit_as_before = pools.submit

    def submit(pool: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = submit_as_before(pool, copy_context().run, fn, *args, **kwargs)
        return future

    pools.submit = submit
