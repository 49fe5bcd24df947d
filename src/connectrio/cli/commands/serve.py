"""The commands `connectrio serve` and `flyte-connector c0`, and the sources of their settings.

A source only fills in what no source before it has set: flag, environment, TOML file, default.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from cyclopts import App, Argument, ArgumentCollection, Group, Parameter, Token
from cyclopts.config import Dict, Env

from connectrio.cli.errors import UsageError
from connectrio.cli.hosting import DEFAULT_FILE, LogFormat, host, variable
from connectrio.cli.options.log_level import LogLevel
from connectrio.cli.settings_help import GROUPS, settings_help
from connectrio.host.settings import Backend, HostSettings

__all__ = ["c0_app", "read_toml", "serve", "serve_app", "settings_app"]

_SETTINGS = HostSettings()
_LOG_LEVEL = ["info"]


def serve(
    *,
    settings: Annotated[HostSettings, Parameter(name="*", consume_multiple=True)] = _SETTINGS,
    backend: Backend | None = None,
    processes: int = 1,
    log_level: LogLevel = _LOG_LEVEL,
    log_format: LogFormat = "auto",
    config: Path | None = None,  # noqa: ARG001 - TomlFile reads it, before the others have their values
) -> None:
    """Host the installed connectors, and those of --modules, until SIGTERM or Ctrl-C; a second one stops at once.

    A terminal that hangs up (SIGHUP) has the effect of SIGTERM. Certificates are read again when they change, without a
    signal.

    Every option can also be set by an environment variable or in a TOML file (port = 8000). A flag comes before the
    environment, the environment before the file. The reason for each default is in the documentation, under Settings.

    :param backend: the event loop to run on; uvloop where it is installed, else asyncio
    :param processes: that host on the one port, each new connection with one of them; limits are for each process
    :param log_level: the least severe log lines that are written, to standard error: debug, info, warning or error; and
        NAME=LEVEL for the logger of that name and those below it (info connectrio.rpc=debug httpx=warning)
    :param log_format: auto is console on a terminal and json elsewhere
    :param config: the TOML file; by default connectrio.toml in the working directory, if there is one
    """
    host(settings, backend=backend, processes=processes, log_level=log_level, log_format=log_format)


def _key(argument: Argument) -> str:
    """Return the setting's name in TOML; "" for an argument that only holds settings."""
    return argument.name.removeprefix("--").replace("-", "_") if argument.name.startswith("--") else ""


class Environment(Env):
    """`CONNECTRIO_PORT` for `--port`, and so on; lists are separated by spaces. An empty variable counts as none."""

    def __init__(self) -> None:
        super().__init__(variable(""), command=False)

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:  # noqa: ARG002 - cyclopts' interface
        """Fill in the arguments that have variables."""
        for argument in arguments:
            name = variable(_key(argument))
            value = os.environ.get(name, "")
            # Kubernetes sets CONNECTRIO_PORT=tcp://10.0.0.1:8000 in each pod beside a Service named "connectrio", and
            # CONNECTRIO_PROMETHEUS_PORT beside one named "connectrio-prometheus"
            is_kubernetes_link = name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
            if argument.tokens or not value or is_kubernetes_link:
                continue
            with suppress(msgspec.ValidationError):  # cyclopts says it, too
                _check(_key(argument), msgspec.convert(value, argument.hint, strict=False), name)
            for index, part in enumerate(argument.env_var_split(value)):
                argument.append(Token(keyword=name, value=part, source="environment", index=index))


class TomlFile:
    """The file of `--config`; without that, `connectrio.toml` in the working directory, if there is one."""

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Fill in the arguments that the file has.

        :raises UsageError: it cannot be read, has a key that is no setting, or a value of the wrong type
        """
        chosen = arguments["--config"].tokens
        path = Path(chosen[-1].value if chosen else DEFAULT_FILE)
        if not chosen and not path.is_file():
            return
        settings = {key.replace("-", "_"): (key, value) for key, value in read_toml(path).items()}
        known = {key: argument for argument in arguments if (key := _key(argument)) and key != "config"}
        for name, (key, _) in settings.items():
            if name not in known:
                similar = difflib.get_close_matches(name, known, n=1)
                raise UsageError(
                    f"{path}: there is no setting {key!r}" + (f"; did you mean {similar[0]!r}?" if similar else ""),
                    hint="a key is a flag without its --; all of them: connectrio serve --help",
                )
        for name, (_, value) in settings.items():
            try:
                if not (name == "log_level" and isinstance(value, str)):  # one level needs no list
                    msgspec.convert(value, known[name].hint, dec_hook=_convert_path)
            except msgspec.ValidationError as error:
                raise UsageError(f"{path}: {name} is {value!r}: {error}") from error
            _check(name, value, str(path))
        values = {name: value for name, (_, value) in settings.items()}
        Dict(values, source=str(path), use_commands_as_keys=False)(app, commands, arguments)


def _check(name: str, value: Any, source: str) -> None:
    """Check the value of a single setting.

    :raises UsageError: it is refused; the text names the variable or the file that it comes from
    """
    try:
        HostSettings(**{name: value})
    except ValueError as error:
        if str(error).startswith(f"{name} must "):  # others are about several settings, which may come from anywhere
            raise UsageError(f"{source}: {error}") from error
    except TypeError:  # it is no setting of the host itself
        return


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    :raises UsageError: it cannot be read, or is no TOML
    """
    import tomllib  # most hosts have no file

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _convert_path(expected: type, value: Any) -> Any:
    """Convert a path, the only type of a setting that msgspec does not know."""
    if expected is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `{expected.__name__}`, got `{type(value).__name__}`")


class _SettingsApp(App):
    """Sorts the many options into groups, and says one sentence of each."""

    def assemble_argument_collection(
        self, *, default_parameter: Parameter | None = None, parse_docstring: bool = False
    ) -> ArgumentCollection:
        """Return the options; cyclopts asks with `parse_docstring` for the help."""
        arguments = super().assemble_argument_collection(
            default_parameter=default_parameter, parse_docstring=parse_docstring
        )
        if parse_docstring:
            groups = {title: Group(title, sort_key=place) for place, title in enumerate(GROUPS)}
            command = cast("Callable[..., object]", self.default_command)
            known = settings_help(command)
            for argument in arguments:
                if setting := known.get(_key(argument)):
                    described = Parameter(group=(groups[setting.group],), help=setting.flag_help)
                    argument.parameter = Parameter.combine(argument.parameter, described)
            order = list(known)
            arguments.sort(key=lambda argument: order.index(_key(argument)) if _key(argument) in known else -1)
        return arguments


def settings_app(name: str, command: Callable[..., None], example: str) -> App:
    """Return the app of a command whose options come from flags, variables and the TOML file."""
    app = _SettingsApp(
        name=name,
        config=(Environment(), TomlFile()),
        help_epilogue=f"Examples:\n  {example}",
        version_flags=(),
    )
    app.default(command)
    return app


serve_app = settings_app(
    "serve", serve, "connectrio serve --modules my_connector.py\n  CONNECTRIO_GRACE=10 connectrio serve --port 8000"
)
c0_app = settings_app(
    "c0", serve, "flyte-connector c0 --port 8000 --prometheus_port 9090 --worker 10 --modules my_connector"
)
