"""Logging to standard error: a host's own process writes readable lines on a terminal, and JSON lines elsewhere.

Inside another program, log lines go to structlog if the program has configured it, else to the standard library's
`logging`, under names that begin with "connectrio". `connectrio.rpc` always logs through `logging`; in a host's own
process its lines are written as the others are.

A line that cannot be written is dropped and counted, here as there. A host writes its lines from a thread: a reader of
the log that is slow, or has gone, never holds a call.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

import structlog

from connectrio.diagnostics import Repeats, count_dropped_lines, text_of
from connectrio.logs._processors import processors
from connectrio.logs._streams import Lines, is_terminal, stream_to
from connectrio.logs._writer import Writer

__all__ = [
    "LogFormat",
    "LogLevel",
    "configure_logging",
    "flush_output",
    "get_logger",
    "host_logging",
    "keep_logging",
    "writes_json",
]

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# seconds for the lines that wait when a host ends; a reader that takes none within that has probably gone
_FLUSH_TIMEOUT = 1.0


class _Logger:
    """Chooses where each line goes: the program may configure structlog or `logging` after this module is imported."""

    def __init__(self, name: str) -> None:
        self._structlog = structlog.get_logger(name)
        self._logging = structlog.wrap_logger(
            logging.getLogger(name),
            wrapper_class=structlog.stdlib.BoundLogger,
            processors=[
                structlog.stdlib.filter_by_level,
                _to_logging,
            ],
        )
        self._name = name

    def is_enabled_for(self, level: LogLevel) -> bool:
        """Return whether a line of that level may be written. This costs less than a line that is dropped."""
        number = _LEVELS[level]
        if _host_log is not None:
            return number >= _host_log.level
        return structlog.is_configured() or logging.getLogger(self._name).isEnabledFor(number)

    def debug(self, event: str, *args: Any, **fields: Any) -> None:
        """Write a line at the level DEBUG."""
        self._write("debug", event, args, fields)

    def info(self, event: str, *args: Any, **fields: Any) -> None:
        """Write a line at the level INFO."""
        self._write("info", event, args, fields)

    def warning(self, event: str, *args: Any, **fields: Any) -> None:
        """Write a line at the level WARNING."""
        self._write("warning", event, args, fields)

    def error(self, event: str, *args: Any, **fields: Any) -> None:
        """Write a line at the level ERROR."""
        self._write("error", event, args, fields)

    def exception(self, event: str, *args: Any, **fields: Any) -> None:
        """Write a line at the level ERROR, with the traceback of the error that is being handled."""
        self._write("error", event, args, {"exc_info": True, **fields})

    def _write(self, method: str, event: str, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
        try:
            if _host_log is not None:
                target = _host_log.logger
            else:
                target = self._structlog if structlog.is_configured() else self._logging
            getattr(target, method)(event, *args, **fields)
        except BaseException:  # noqa: BLE001 - of a handler or a value, SystemExit as well: it must harm nothing else
            count_dropped_lines()


_render = structlog.processors.KeyValueRenderer(key_order=["event"])


def _to_logging(logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any], dict[str, Any]]:
    """Return the arguments for a method of `logging`, which formats the traceback itself."""
    exc_info = event.pop("exc_info", None)
    return (_render(logger, method, event),), {"exc_info": exc_info}


def get_logger(name: str) -> _Logger:
    """Return a logger with structlog's interface, whose methods never raise.

    :param name: the logger's name in `logging`: "connectrio" and the part of it that writes
    """
    return _Logger(name)


class _HostLog:
    """The log of a host's own process.

    It does not depend on the global settings of structlog and `logging`, which connectors may change.
    """

    def __init__(self, level: LogLevel, *, console: bool, process: int | None) -> None:
        self.level = _LEVELS[level]
        self.console = console
        self.writer = Writer(sys.stderr, on_gap=self._tell_of_gap)
        chain = processors(console=console, process=process)
        wrapper = structlog.make_filtering_bound_logger(self.level)
        # for connectors that use structlog
        structlog.configure(processors=chain, wrapper_class=wrapper, logger_factory=lambda *_: self)
        self.logger = structlog.wrap_logger(self, processors=chain, wrapper_class=wrapper).bind()
        # for what has no level, so that none hides it
        self.unfiltered = structlog.wrap_logger(
            self, processors=chain, wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET)
        ).bind()

    def write(self, text: str) -> None:
        """Write a line that is rendered."""
        self.writer.offer(f"{text}\n")

    debug = info = warning = error = critical = exception = write

    def _tell_of_gap(self, lines: int) -> None:
        self.logger.warning("log lines are missing here: standard error did not take them", lines=lines)


_RPC = logging.getLogger("connectrio.rpc")

# the log of this process, if it is a host's own
_host_log: _HostLog | None = None


def configure_logging(level: LogLevel = "info", form: LogFormat = "auto", *, process: int | None = None) -> None:
    """Set up logging for a process of our own. A program that embeds a host keeps its own set-up.

    :param level: the lowest level that is written
    :param form: "auto" is "console" on a terminal and "json" elsewhere
    :param process: the number of this process among several, for each line
    """
    global _host_log  # noqa: PLW0603 - as global as the settings of structlog
    console = form == "console" or (form == "auto" and is_terminal(sys.stderr))
    _host_log = _HostLog(level, console=console, process=process)
    _RPC.setLevel(_host_log.level)
    _RPC.handlers = [_FromLogging(_host_log)]
    _RPC.propagate = False


@contextmanager
def host_logging(
    level: LogLevel = "info", form: LogFormat = "auto", *, process: int | None = None, owns_process: bool = False
) -> Iterator[None]:
    """Set up logging for the life of a host, whose lines a thread writes. The end waits a second for it, no longer.

    :param level: see `configure_logging`
    :param form: see `configure_logging`
    :param process: see `configure_logging`
    :param owns_process: whether this process does nothing but host. Then all that anybody in it writes to standard
        output and error is written by threads until it ends; and in JSON, all on standard error is: what connectors
        print there, lines of `logging`, warnings, and the errors that nobody has caught
    """
    configure_logging(level, form, process=process)
    log = _host_log
    if log is None:
        raise AssertionError("configure_logging has set it")
    log.writer.start()
    if owns_process:
        _take_over(log)
    try:
        yield
    finally:
        if not owns_process:
            log.writer.stop(_FLUSH_TIMEOUT)


def writes_json() -> bool:
    """Return whether this process is a host's own and logs in JSON."""
    return _host_log is not None and not _host_log.console


def flush_output(seconds: float = _FLUSH_TIMEOUT) -> None:
    """Wait until what was written to standard output and error has reached them, but for `seconds` at most."""
    for writer in _writers:
        writer.flush(seconds)


def keep_logging() -> None:
    """Undo that a connector's module has disabled the lines of `connectrio.rpc`, in a host's own process.

    `logging.config.dictConfig` and `fileConfig` disable every logger that they do not name, unless told not to.
    """
    if _host_log is not None:
        _RPC.disabled = False


class _FromLogging(logging.Handler):
    """Writes what is logged through `logging` as lines of the host.

    A warning or an error that comes again is written once a second at most.
    """

    def __init__(self, log: _HostLog) -> None:
        super().__init__(log.level)
        self._log = log
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            left_out = self._repeats.count((record.name, text)) if record.levelno >= logging.WARNING else 0
            if left_out is None:
                return
            fields: dict[str, Any] = {}
            if record.name == _RPC.name:
                # the mapping that fills in a text of ours has its fields
                given = record.args if isinstance(record.args, dict) else {}
                fields = {
                    name: value if isinstance(value, int | float | list) else text_of(value)
                    for name, value in given.items()
                }
            else:
                fields = {"logger": record.name, **({"stack": record.stack_info} if record.stack_info else {})}
            if left_out:
                fields["left_out"] = left_out
            # structlog knows only these levels
            level = max(10, min(50, record.levelno // 10 * 10))
            self._log.logger.log(level, text, exc_info=record.exc_info, **fields)
        except BaseException:  # noqa: BLE001 - as in _Logger
            count_dropped_lines()


# those of this process, if it is a host's own
_writers: list[Writer] = []


def _take_over(log: _HostLog) -> None:
    """Write from threads what anybody in this process writes to standard output and error, until it ends."""
    output = Writer(sys.stdout, on_drop=lambda _: None)
    output.start()
    _writers[:] = [output, log.writer]
    atexit.register(_end_output)
    unfiltered = log.unfiltered

    def take_line(line: str) -> None:
        try:
            unfiltered.warning(line, logger="stderr")
        except BaseException:  # noqa: BLE001 - as in _Logger
            count_dropped_lines()

    take: Callable[[str], None] = log.writer.offer if log.console else Lines(take_line)
    sys.stdout, sys.stderr = stream_to(output.offer, sys.stdout), stream_to(take, sys.stderr)
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(_FromLogging(log))
    logging.captureWarnings(capture=True)
    sys.excepthook, threading.excepthook, sys.unraisablehook = _process_fails, _thread_fails, _is_ignored


def _end_output() -> None:
    for writer in _writers:
        writer.stop(_FLUSH_TIMEOUT)


_log = get_logger("connectrio")


def _process_fails(_kind: type[BaseException], error: BaseException, _places: TracebackType | None) -> None:
    _log.error("the process ends because of an error", exc_info=error)


def _thread_fails(end: threading.ExceptHookArgs) -> None:
    if end.exc_type is not SystemExit:
        _log.error(
            "a thread ended because of an error",
            thread=None if end.thread is None else end.thread.name,
            exc_info=end.exc_value,
        )


def _is_ignored(ignored: Any) -> None:
    """Log an error that Python cannot raise, such as one in a `__del__`."""
    _log.error(
        "an error was ignored, because nothing could be told of it",
        where=f"{ignored.err_msg or 'in'} {text_of(ignored.object)}",
        exc_info=ignored.exc_value,
    )
