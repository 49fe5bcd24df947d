"""Logging. A process that is a host writes readable lines on a terminal and JSON lines elsewhere, on standard error.

Inside another program, log lines go where that program sends them: to structlog, if it has configured that, and else to
the standard library's `logging`, under names that begin with "connectrio".
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

__all__ = ["LogFormat", "LogLevel", "configure_logging", "get_logger"]

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Logger:
    """Decides at each line where it goes, because the program may configure logging after this module is imported."""

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
        """Whether a line of that level may be written; asking costs less than writing a line for nobody."""
        number = _LEVELS[level]
        if not structlog.is_configured():
            return logging.getLogger(self._name).isEnabledFor(number)
        wrapper = structlog.get_config()["wrapper_class"]
        return wrapper is not _host_wrapper or number >= _host_level

    def __getattr__(self, method: str) -> Any:
        return getattr(self._structlog if structlog.is_configured() else self._logging, method)


# what `configure_logging` has set up; a program's own structlog may replace it
_host_wrapper: type | None = None
_host_level = logging.NOTSET

_render = structlog.processors.KeyValueRenderer(key_order=["event"])


def _to_logging(logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any], dict[str, Any]]:
    """The arguments for a method of `logging`, which formats the traceback itself."""
    exc_info = event.pop("exc_info", None)
    return (_render(logger, method, event),), {"exc_info": exc_info}


def get_logger(name: str) -> Any:
    """A logger with structlog's interface.

    :param name: "connectrio" and the part of it that writes, as `logging` names its loggers
    """
    return _Logger(name)


def configure_logging(level: LogLevel = "info", form: LogFormat = "auto", *, process: int | None = None) -> None:
    """Set up structlog for a process that is a host. A program that embeds one keeps its own set-up.

    :param level: the least severe lines that are written
    :param form: "auto" is "console" on a terminal and "json" elsewhere
    :param process: which of several processes this is; each line says so
    """
    global _host_wrapper, _host_level  # noqa: PLW0603 - as is what structlog.configure sets
    _host_level = _LEVELS[level]
    _host_wrapper = structlog.make_filtering_bound_logger(_host_level)
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if process is None else [_say_process(process)]),
            *(_for_people() if console else _for_machines()),
        ],
        wrapper_class=_host_wrapper,
        # a line and its end in one write: processes that share standard error would write between two
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


def _say_process(number: int) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("process", number)
        return event

    return add


# Both write tracebacks without local variables, which is not structlog's default: they hold tokens and passwords.


def _for_people() -> list[structlog.typing.Processor]:
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]


def _for_machines() -> list[structlog.typing.Processor]:
    traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(traceback), structlog.processors.JSONRenderer()]
