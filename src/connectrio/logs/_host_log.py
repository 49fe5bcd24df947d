"""The log of a host's own process, and what gets into it: our lines, and those of structlog and `logging`."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from contextvars import copy_context
from functools import partialmethod
from typing import Any

import structlog

from connectrio.diagnostics import Repeats, count_dropped_lines, text_of, type_name
from connectrio.logs._fields import masked, whose_line
from connectrio.logs._levels import Levels
from connectrio.logs._processors import processors
from connectrio.logs._writer import Writer

__all__ = ["RPC", "FromLogging", "HostLog"]

RPC = logging.getLogger("connectrio.rpc")

# the levels of structlog's methods
_METHODS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
# what makes text of a line or of its error in a connector's own set-up of structlog; the host's chain does both
_RENDERERS = (
    structlog.processors.JSONRenderer,
    structlog.processors.KeyValueRenderer,
    structlog.processors.LogfmtRenderer,
    structlog.processors.ExceptionRenderer,
    structlog.processors.EventRenamer,
    structlog.dev.ConsoleRenderer,
)
# the fields of each line; other names are free for who writes it
_RESERVED = {"event", "level", "timestamp", "logger", "exc_info"}
# an attribute of records that are written: two handlers may get the same one
_WRITTEN = "_connectrio_written"
# lines of one sort that a connector may write within so many seconds
_BURST = 20
_BURST_SECONDS = 5.0
_number = re.compile(r"\d+")


class HostLog:
    """The log of a host's own process.

    It does not depend on the global settings of structlog and `logging`, which connectors may change.

    :ivar logger: writes lines of any level; who uses it asks `levels` before
    """

    def __init__(self, levels: Levels, *, console: bool, process: int | None) -> None:
        self.levels = levels
        self.console = console
        self._repeats = Repeats(_BURST_SECONDS, burst=_BURST)
        self.writer = Writer(sys.stderr, on_gap=self._tell_of_gap)
        self._chain: list[structlog.typing.Processor] = [*processors(console=console, process=process), _rendered]
        every_level = structlog.make_filtering_bound_logger(logging.NOTSET)
        self.logger = structlog.wrap_logger(_Named(self, ""), processors=self._chain, wrapper_class=every_level).bind()
        self._factory = _Factory(self)
        # for connectors that use structlog
        structlog.configure(
            processors=[_of_author, *self._chain],
            wrapper_class=structlog.make_filtering_bound_logger(min(levels.default, *levels.named.values(), 50)),
            logger_factory=self._factory,
        )

    def keep_structlog(self) -> None:
        """Write lines of structlog as lines of the host, although a connector has set up structlog for itself.

        Its own processors stay, but for those that make text.
        """
        config = structlog.get_config()
        factory = config["logger_factory"]
        if config["processors"][-1:] == [_rendered]:
            return
        own = [each for each in config["processors"] if not isinstance(each, _RENDERERS)]
        if isinstance(factory, structlog.stdlib.LoggerFactory):
            wrap = structlog.stdlib.ProcessorFormatter.wrap_for_formatter
            if isinstance(config["processors"][-1], _RENDERERS):
                structlog.configure(**{**config, "processors": [*own, wrap]})
            return
        structlog.configure(
            **{**config, "processors": [*own, _of_author, *self._chain], "logger_factory": self._factory}
        )

    def left_out(self, level: int, logger: str, text: str, values: str = "", *, is_printed: bool = False) -> int | None:
        """Return None if a connector's line is one too many of its sort, else how many like it were left out before.

        Lines of a sort have the logger, the level, the whole text and the job in common: what tells something new is
        written. For warnings, the job, and numbers in the text, make no difference: a system that fails does so in all
        jobs.

        :param text: of warnings, without its values
        :param values: the fields of the line
        :param is_printed: it was printed, so that its level says nothing
        """
        if self.levels[logger] <= logging.DEBUG:  # somebody wants to see all
            return 0
        if level >= logging.WARNING and not is_printed:
            sort: tuple[object, ...] = (_number.sub("0", text),)
        else:
            sort = (text, values, whose_line())
        # the text as the call's secrets are known now
        return self._repeats.count((level, logger, sort), lambda: (copy_context(), level, logger, masked(text)))

    def tell_left_out(self, *, at_end: bool = False) -> None:
        """Write a line for each sort of which lines were left out and no later one has told so. This raises nothing."""
        for about, lines in self._repeats.untold(at_end=at_end):
            try:
                context, level, logger, text = about
                fields = {"logger": logger, "like": text, "left_out": lines}
                context.run(self.logger.log, level, "lines like this were left out", **fields)
            except BaseException:  # noqa: BLE001 - of a handler or a value, SystemExit as well: it must harm nothing else
                count_dropped_lines()

    def _tell_of_gap(self, lines: int) -> None:
        self.logger.warning("log lines are missing here: standard error did not take them", lines=lines)


class _Line(str):
    """A line that the host's chain has rendered."""

    __slots__ = ()


def _rendered(_logger: Any, _method: str, text: Any) -> _Line:
    return _Line(text)


class _Named:
    """What structlog's loggers write to, with the methods of all their levels.

    :param host_log: what they are lines of
    :param name: of the logger; "" for ours
    """

    def __init__(self, host_log: HostLog, name: str) -> None:
        self.host_log = host_log
        self.name = name

    def write(self, level: int, line: Any) -> None:
        """Write a line; if something else than the host's chain has rendered it, as the text of one."""
        if type(line) is _Line:
            self.host_log.writer.offer(f"{line}\n")
        else:
            text = line.decode("utf-8", "replace") if isinstance(line, bytes) else text_of(line)
            self.host_log.logger.log(level, text, logger=self.name or "structlog")


for _method, _level in _METHODS.items():
    setattr(_Named, _method, partialmethod(_Named.write, _level))


class _Factory:
    """Makes what the loggers of connectors write to; its arguments are those of `structlog.get_logger`."""

    def __init__(self, log: HostLog) -> None:
        self._log = log

    def __call__(self, *args: Any) -> _Named:
        return _Named(self._log, text_of(args[0]) if args and args[0] else "")


def _of_author(logger: _Named, method: str, event: Any) -> MutableMapping[str, Any]:
    """Check the level of a connector's line, and name its logger. A line that is text already becomes its event."""
    name = logger.name or "structlog"
    level = _METHODS.get(method, logging.INFO)
    if level < logger.host_log.levels[name]:
        raise structlog.DropEvent
    if not isinstance(event, MutableMapping):
        event = {"event": event.decode("utf-8", "replace") if isinstance(event, bytes) else text_of(event)}
    event.setdefault("logger", name)
    left_out = logger.host_log.left_out(level, name, text_of(event.get("event")), text_of(event))
    if left_out is None:
        raise structlog.DropEvent
    if left_out:
        event["left_out"] = left_out
    line: MutableMapping[str, Any] = event
    return line


def _message(record: logging.LogRecord) -> str:
    """Return the text of a record; if its arguments do not fit, or fail, the text without them."""
    try:
        return record.getMessage()
    except BaseException as error:  # noqa: BLE001 - of a value, SystemExit as well; the line counts
        return f"{text_of(record.msg)} ({type_name(error)} in its arguments)"


class FromLogging(logging.Handler):
    """Writes what is logged through `logging` as lines of the host. Lines that come again and again are left out."""

    def __init__(self, log: HostLog) -> None:
        super().__init__()
        self._log = log
        # what each record has, by the factory of records that was asked
        self._plain: tuple[object, frozenset[str]] = None, frozenset()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless it is written already. This raises nothing."""
        try:
            given = record.__dict__
            if record.levelno < self._log.levels[record.name] or _WRITTEN in given:
                return
            given[_WRITTEN] = True
            text, fields = self._read(record)
            # structlog knows only these levels
            level = max(10, min(50, record.levelno // 10 * 10))
            is_own = record.name == RPC.name
            about = _format_of(record) if level >= logging.WARNING else text
            left_out = 0 if is_own else self._log.left_out(level, record.name, about, text_of(fields))
            if left_out is None:
                return
            if left_out:
                fields["left_out"] = left_out
            self._log.logger.log(level, text.rstrip(), **fields)
        except BaseException:  # noqa: BLE001 - of a handler or a value, SystemExit as well: it must harm nothing else
            count_dropped_lines()

    def _read(self, record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
        """Return the text of a record, and its fields."""
        fields: dict[str, Any] = {} if record.exc_info is None else {"exc_info": record.exc_info}
        if record.name == RPC.name:
            # the mapping that fills in a text of ours has its fields
            given = record.args if isinstance(record.args, dict) else {}
            fields |= {
                name: value if isinstance(value, int | float | list) else text_of(value)
                for name, value in given.items()
            }
            return record.getMessage(), fields
        if isinstance(record.msg, dict) and "event" in record.msg:  # a line of structlog, not rendered yet
            more = record.msg
            text = text_of(record.msg["event"])
            fields |= {"exc_info": more["exc_info"]} if "exc_info" in more else {}
        else:
            plain = self._plain_attributes()
            more = {name: value for name, value in record.__dict__.items() if name not in plain}
            text = _message(record)
        fields["logger"] = record.name
        if record.stack_info:
            fields["stack"] = record.stack_info
        fields |= {name: value for name, value in more.items() if name not in _RESERVED and not name.startswith("_")}
        return text, fields

    def _plain_attributes(self) -> frozenset[str]:
        """Return the names of the attributes that each record has; all others were given as `extra`."""
        factory = logging.getLogRecordFactory()
        if self._plain[0] is not factory:
            empty = logging.makeLogRecord({})
            self._plain = factory, frozenset({*empty.__dict__, "message", "asctime", "taskName"})
        return self._plain[1]


def _format_of(record: logging.LogRecord) -> str:
    """Return the text of a record, before its values are filled in."""
    return text_of(record.msg["event"] if isinstance(record.msg, dict) and "event" in record.msg else record.msg)
