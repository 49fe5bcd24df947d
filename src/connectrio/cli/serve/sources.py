"""Where the settings of `connectrio serve` come from beside flags: the environment, then a TOML file.

Both only fill in what no source before them has set: flag, environment, TOML, default.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from cyclopts import App, Argument, ArgumentCollection, Token
from cyclopts.config import Dict, Env

from connectrio.cli.errors import UsageError
from connectrio.cli.serve.variables import DEFAULT_FILE, variable

__all__ = ["Environment", "TomlFile"]

# settings about settings, which no file can hold
_NOT_IN_FILES = {"config"}


def _key(argument: Argument) -> str:
    """The setting's name in TOML; "" for what only holds settings."""
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
            if argument.tokens or not value or _is_kubernetes_link(name, value):
                continue
            for index, part in enumerate(argument.env_var_split(value)):
                argument.append(Token(keyword=name, value=part, source="environment", index=index))


def _is_kubernetes_link(name: str, value: str) -> bool:
    """Kubernetes tells every pod beside a Service named "connectrio" CONNECTRIO_PORT=tcp://10.0.0.1:8000."""
    return name == variable("port") and value.startswith("tcp://")


class TomlFile:
    """The file of `--config`; without that, `connectrio.toml` in the working directory, if there is one."""

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Fill in the arguments that the file has.

        :raises UsageError: it cannot be read, has a key that is no setting, or a value of the wrong type
        """
        path = _chosen(arguments)
        if path is None:
            return
        settings = _read(path)
        by_key = {key: argument for argument in arguments if (key := _key(argument)) and key not in _NOT_IN_FILES}
        values = {_checked_key(path, key, by_key): value for key, value in settings.items()}
        for key, value in values.items():
            _check_value(path, key, value, by_key[key])
        Dict(values, source=str(path), use_commands_as_keys=False)(app, commands, arguments)


def _chosen(arguments: ArgumentCollection) -> Path | None:
    tokens = arguments["--config"].tokens
    if tokens:
        return Path(tokens[-1].value)
    default = Path(DEFAULT_FILE)
    return default if default.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _checked_key(path: Path, key: str, known: dict[str, Argument]) -> str:
    name = key.replace("-", "_")
    if name in known:
        return name
    similar = difflib.get_close_matches(name, known, n=1)
    raise UsageError(
        f"{path}: there is no setting {key!r}" + (f"; did you mean {similar[0]!r}?" if similar else ""),
        hint=f"settings: {' '.join(known)}",
    )


def _check_value(path: Path, key: str, value: Any, argument: Argument) -> None:
    try:
        msgspec.convert(value, argument.hint, dec_hook=_convert_path)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {key} is {value!r}: {error}") from error


def _convert_path(expected: type, value: Any) -> Any:
    """For the one type of settings that msgspec does not know."""
    if expected is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `{expected.__name__}`, got `{type(value).__name__}`")
