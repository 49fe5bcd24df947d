"""Logging to standard error: a host's own process writes readable lines on a terminal, and JSON lines elsewhere.

Inside another program, log lines go to structlog if the program has configured it, else to the standard library's
`logging`, under names that begin with "connectrio". `connectrio.rpc` always logs through `logging`; in a host's own
process its lines are written as the others are.

Each line that is written in a call has the fields of `line_fields`, and what a connector writes there goes through
`line_mask`. A line that cannot be written is dropped and counted, here as there. A host writes its lines from a
thread: a reader of the log that is slow, or has gone, never holds a call.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal

import structlog

from connectrio.diagnostics import count_dropped_lines
from connectrio.logs._fields import add_line_fields, line_fields, line_mask
from connectrio.logs._host_log import RPC, FromLogging, HostLog
from connectrio.logs._levels import LEVELS, Levels, LogLevel
from connectrio.logs._streams import is_terminal, own_output
from connectrio.logs._takeover import TakenOver

__all__ = [
    "Levels",
    "LogFormat",
    "LogLevel",
    "configure_logging",
    "flush_output",
    "get_logger",
    "host_logging",
    "keep_logging",
    "line_fields",
    "line_mask",
    "own_output",
    "tell_left_out",
    "writes_json",
]

LogFormat = Literal["auto", "console", "json"]

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
        if _host_log is not None:
            return LEVELS[level] >= _host_log.levels[self._name]
        if structlog.is_configured():
            return _is_enabled(self._structlog.bind(), LEVELS[level])
        return logging.getLogger(self._name).isEnabledFor(LEVELS[level])

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
                if LEVELS[method] < _host_log.levels[self._name]:
                    return
                target = _host_log.logger
            elif structlog.is_configured():
                target = self._structlog.bind()
                if _is_enabled(target, LEVELS[method]):
                    add_line_fields(fields)
            else:
                target = self._logging
            getattr(target, method)(event, *args, **fields)
        except BaseException:  # noqa: BLE001 - of a handler or a value, SystemExit as well: it must harm nothing else
            count_dropped_lines()


def _is_enabled(bound: Any, level: int) -> bool:
    """Return whether a logger of a program's structlog may write a line of that level."""
    ask = getattr(type(bound), "is_enabled_for", None)
    return ask is None or ask(bound, level)


_render = structlog.processors.KeyValueRenderer(key_order=["event"])


def _to_logging(logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any], dict[str, Any]]:
    """Return the arguments for a method of `logging`, which formats the traceback itself."""
    exc_info = event.pop("exc_info", None)
    add_line_fields(event)
    return (_render(logger, method, event),), {"exc_info": exc_info}


def get_logger(name: str) -> _Logger:
    """Return a logger with structlog's interface, whose methods never raise.

    :param name: the logger's name in `logging`: "connectrio" and the part of it that writes
    """
    return _Logger(name)


# the log of this process, if it is a host's own, and its hold on the process
_host_log: HostLog | None = None
_taken_over: TakenOver | None = None


def configure_logging(
    level: str | Iterable[str] = "info", form: LogFormat = "auto", *, process: int | None = None
) -> None:
    """Set up logging for a process of our own. A program that embeds a host keeps its own set-up.

    :param level: the lowest level that is written, and others by the logger's name: see `Levels.read`
    :param form: "auto" is "console" on a terminal and "json" elsewhere
    :param process: the number of this process among several, for each line
    :raises ValueError: a level is unknown
    """
    global _host_log  # noqa: PLW0603 - as global as the settings of structlog
    console = form == "console" or (form == "auto" and is_terminal(sys.stderr))
    _host_log = HostLog(Levels.read(level), console=console, process=process)
    RPC.setLevel(_host_log.levels[RPC.name])
    RPC.handlers = [FromLogging(_host_log)]
    RPC.propagate = False


@contextmanager
def host_logging(
    level: str | Iterable[str] = "info",
    form: LogFormat = "auto",
    *,
    process: int | None = None,
    owns_process: bool = False,
) -> Iterator[None]:
    """Set up logging for the life of a host, whose lines a thread writes. The end waits a second for it, no longer.

    :param level: see `configure_logging`
    :param form: see `configure_logging`
    :param process: see `configure_logging`
    :param owns_process: whether this process does nothing but host. Then all that anybody in it writes is a line of the
        log until it ends: what connectors print, lines of `logging` and structlog, warnings, and the errors that nobody
        has caught. What is printed in `own_output` is as it is; and all on a terminal, when this block has ended
    :raises ValueError: a level is unknown
    """
    global _taken_over  # noqa: PLW0603 - as above
    configure_logging(level, form, process=process)
    log = _host_log
    if log is None:
        raise AssertionError("configure_logging has set it")
    log.writer.start()
    if owns_process:
        _taken_over = TakenOver(log, _FLUSH_TIMEOUT)
    try:
        yield
    finally:
        log.tell_left_out(at_end=True)
        if owns_process and _taken_over is not None:
            _taken_over.release()
        else:
            log.writer.stop(_FLUSH_TIMEOUT)


def writes_json() -> bool:
    """Return whether this process is a host's own and logs in JSON."""
    return _host_log is not None and not _host_log.console


def tell_left_out() -> None:
    """Say of which lines of connectors some were left out lately. The host calls it every few seconds."""
    if _host_log is not None:
        _host_log.tell_left_out()


def flush_output(seconds: float = _FLUSH_TIMEOUT) -> None:
    """Wait until what was written to standard output and error has reached them, but for `seconds` at most."""
    if _taken_over is not None:
        _taken_over.flush(seconds)


def keep_logging(authors: Iterable[str] = ()) -> None:
    """Undo that connectors' modules have set up `logging` or structlog for themselves, in a host's own process.

    `logging.config.dictConfig` and `fileConfig` disable every logger that they do not name, unless told not to.

    :param authors: the names of the connectors' packages and modules: their loggers have the host's level, also below
        INFO
    """
    if _host_log is not None:
        RPC.disabled = False
        _host_log.keep_structlog()
    if _taken_over is not None:
        _taken_over.keep(list(authors))
