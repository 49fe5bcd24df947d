"""Logging to standard error: a host's own process writes readable lines on a terminal, and JSON lines elsewhere.

Inside another program, log lines go to structlog if the program has configured it, else to the standard library's
`logging`, under names that begin with "connectrio". `connectrio.rpc` always logs through `logging`; in a host's own
process its lines are written as the others are.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

__all__ = ["LogFormat", "LogLevel", "configure_logging", "get_logger", "keep_logging"]

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Logger:
    """Chooses structlog or `logging` for each line: the program may configure them after this module is imported."""

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
        if not structlog.is_configured():
            return logging.getLogger(self._name).isEnabledFor(number)
        wrapper = structlog.get_config()["wrapper_class"]
        return wrapper is not _host_wrapper or number >= _host_level

    def __getattr__(self, method: str) -> Any:
        return getattr(self._structlog if structlog.is_configured() else self._logging, method)


_RPC = logging.getLogger("connectrio.rpc")

# set by `configure_logging`; a program's own structlog may replace it
_host_wrapper: type | None = None
_host_level = logging.NOTSET

_render = structlog.processors.KeyValueRenderer(key_order=["event"])


def _to_logging(logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any], dict[str, Any]]:
    """Return the arguments for a method of `logging`, which formats the traceback itself."""
    exc_info = event.pop("exc_info", None)
    return (_render(logger, method, event),), {"exc_info": exc_info}


def get_logger(name: str) -> Any:
    """Return a logger with structlog's interface.

    :param name: the logger's name in `logging`: "connectrio" and the part of it that writes
    """
    return _Logger(name)


def configure_logging(level: LogLevel = "info", form: LogFormat = "auto", *, process: int | None = None) -> None:
    """Set up structlog for a host's own process. A program that embeds a host keeps its own set-up.

    :param level: the lowest level that is written
    :param form: "auto" is "console" on a terminal and "json" elsewhere
    :param process: the number of this process among several, for each line
    """
    global _host_wrapper, _host_level  # noqa: PLW0603 - as global as the settings of structlog
    _host_level = _LEVELS[level]
    _host_wrapper = structlog.make_filtering_bound_logger(_host_level)
    # tracebacks without local variables, unlike structlog's default: they hold tokens and passwords
    renderers: list[structlog.typing.Processor]
    if form == "console" or (form == "auto" and sys.stderr.isatty()):
        renderers = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderers = [structlog.processors.ExceptionRenderer(traceback), structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if process is None else [_add_process(process)]),
            *renderers,
        ],
        wrapper_class=_host_wrapper,
        # writes a line and its end at once: several processes share standard error
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    _RPC.setLevel(_host_level)
    _RPC.handlers = [_ToStructlog()]
    _RPC.propagate = False


def keep_logging() -> None:
    """Undo that a connector's module has disabled the lines of `connectrio.rpc`, in a host's own process.

    `logging.config.dictConfig` and `fileConfig` disable every logger that they do not name, unless told not to.
    """
    if _host_wrapper is not None:
        _RPC.disabled = False


class _ToStructlog(logging.Handler):
    """Writes what `connectrio.rpc` logs as lines of the host. The mapping that fills in a text becomes its fields."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            given = record.args if isinstance(record.args, dict) else {}
            fields = {
                name: value if isinstance(value, int | float | list) else str(value) for name, value in given.items()
            }
            write = getattr(structlog.get_logger(record.name), record.levelname.lower())
            write(record.getMessage(), exc_info=record.exc_info, **fields)
        except Exception:  # noqa: BLE001 - a line that cannot be written must not hurt what it tells of
            self.handleError(record)


def _add_process(number: int) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("process", number)
        return event

    return add
