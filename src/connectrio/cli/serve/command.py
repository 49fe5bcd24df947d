"""`connectrio serve`: a host as a process."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, TypeVar

import cyclopts
from cyclopts import Parameter

from connectrio.cli.serve.run import LogFormat, LogLevel, host
from connectrio.cli.serve.sources import Environment, TomlFile
from connectrio.host.settings import Backend, HostSettings

__all__ = ["c0_app", "serve", "serve_app"]

F = TypeVar("F", bound=Callable[..., object])

_IVAR = re.compile(r":ivar (\w+): (.*?)(?=\n *:ivar |\Z)", re.DOTALL)
_UNITS = {"float": "seconds", "float | None": "seconds"}
_SIZES = (
    "max_receive_message_size",
    "max_header_list_size",
    "stream_window",
    "connection_window",
    "write_buffer",
    "max_control_backlog",
)
_SETTINGS = HostSettings()


def _with_help_of_settings(command: F) -> F:
    """Add what `HostSettings` says of its fields to the help of `command`, where its parameter is `settings`."""
    units = {field.name: _UNITS.get(str(field.type), "") for field in fields(HostSettings)}
    units |= dict.fromkeys(_SIZES, "bytes")
    lines = [inspect.cleandoc(command.__doc__ or "")]
    for name, text in (found for layer in HostSettings.__mro__ for found in _IVAR.findall(layer.__doc__ or "")):
        unit = f" ({units[name]})" if units.get(name) else ""
        lines.append(f":param settings.{name}: {' '.join(text.split())}{unit}")
    command.__doc__ = "\n".join(lines)
    return command


@_with_help_of_settings
def serve(
    *,
    settings: Annotated[HostSettings, Parameter(name="*", consume_multiple=True)] = _SETTINGS,
    backend: Backend | None = None,
    processes: int = 1,
    log_level: LogLevel = "info",
    log_format: LogFormat = "auto",
    config: Path | None = None,  # noqa: ARG001 - read by TomlFile, before the others have their values
) -> None:
    """Host the installed connectors, and those of --modules, until SIGTERM or Ctrl-C; a second one stops at once.

    Every option can also be set by an environment variable or in a TOML file (port = 8000). A flag counts before the
    environment, the environment before the file.

    :param backend: the event loop to run on; uvloop where it is installed, else asyncio
    :param processes: that host on the one port, each new connection with one of them; limits are for each process
    :param log_level: the least severe log lines that are written, to standard error
    :param log_format: auto is console on a terminal and json elsewhere
    :param config: the TOML file; by default connectrio.toml in the working directory, if there is one
    """
    host(settings, backend=backend, processes=processes, log_level=log_level, log_format=log_format)


def _app(name: str, example: str) -> cyclopts.App:
    app = cyclopts.App(
        name=name,
        config=(Environment(), TomlFile()),
        help_epilogue=f"Examples:\n  {example}",
        version_flags=(),
    )
    app.default(serve)
    return app


serve_app = _app(
    "serve", "connectrio serve --modules my_connector.py\n  CONNECTRIO_GRACE=10 connectrio serve --port 8000"
)
c0_app = _app("c0", "flyte-connector c0 --port 8000 --prometheus_port 9090 --worker 10 --modules my_connector")
