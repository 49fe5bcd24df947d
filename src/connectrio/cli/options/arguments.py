"""Arguments that are more than a word: `NAME=VALUE`, `@file`, JSON, credentials, resource metas."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from connectrio.cli.errors import UsageError
from connectrio.idl.flyteidl2.core import Connection

__all__ = [
    "Credentials",
    "Meta",
    "json_or_text",
    "read_json",
    "read_text",
    "resource_meta",
    "resource_meta_text",
    "split_pair",
]

Meta = Annotated[str, Parameter(name="RESOURCE_META", allow_leading_hyphen=True)]
"""A resource meta argument, which may be "-"."""

_BASE64 = "base64:"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What the connector needs to reach the other system, sent as the request's connection.

    :param secret: NAME=ENVIRONMENT_VARIABLE, repeatable: a secret, read from the environment and never shown
    :param config: NAME=VALUE, repeatable: a plain setting
    """

    secret: Annotated[list[str] | None, Parameter(show_default=False)] = None
    config: Annotated[list[str] | None, Parameter(show_default=False)] = None

    def connection(self, task_type: str) -> Connection | None:
        """The connection of a request; None if there is nothing in it.

        :raises UsageError: a variable is not set
        """
        if not self.secret and not self.config:
            return None
        return Connection(
            task_type=task_type,
            secrets={name: _from_environment(name, variable) for name, variable in _pairs("--secret", self.secret)},
            configs=dict(_pairs("--config", self.config)),
        )


def _from_environment(name: str, variable: str) -> str:
    try:
        return os.environ[variable]
    except KeyError:
        # the text behind "=" is not repeated: it may be the secret itself, given by mistake
        raise UsageError(
            f"--secret {name}=…: there is no such environment variable",
            hint="secrets are not taken from the command line, where others can read them: export it and name it here",
        ) from None


def _pairs(option: str, texts: Iterable[str] | None) -> list[tuple[str, str]]:
    return [split_pair(option, text) for text in texts or ()]


def split_pair(option: str, text: str) -> tuple[str, str]:
    """The two sides of `NAME=VALUE`.

    :raises UsageError: there is no "=", or nothing before it
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} takes NAME=VALUE" + (f", got {text!r}" if option != "--secret" else ""))
    return name, value


def json_or_text(text: str) -> Any:
    """What `text` means as JSON; itself if it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def read_text(argument: str) -> str:
    """The argument itself, the content of a file for `@file`, standard input for `-`.

    :raises UsageError: there is no such file, or it is not UTF-8
    """
    if argument == "-":
        return sys.stdin.read()
    return _read_file(Path(argument[1:])) if argument.startswith("@") else argument


def read_json(path: Path) -> Any:
    """The JSON document in a file; standard input for `-`.

    :raises UsageError: there is no such file, or it is not JSON
    """
    text = sys.stdin.read() if str(path) == "-" else _read_file(path)
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text") from error


def resource_meta(argument: str) -> bytes:
    """The resource meta that `argument` holds or names (see `read_text`), as text or as "base64:…".

    :raises UsageError: it is empty, or no base64
    """
    text = read_text(argument).strip()
    if not text:
        raise UsageError(
            "the resource meta is empty", hint="pass what `connectrio create` printed, @FILE, or - for standard input"
        )
    if not text.startswith(_BASE64):
        return text.encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(text.removeprefix(_BASE64), validate=True)
    except ValueError as error:
        raise UsageError(f"the resource meta is not base64: {error}") from error


def resource_meta_text(meta: bytes) -> str:
    """`meta` as `resource_meta` takes it."""
    try:
        return meta.decode()
    except UnicodeDecodeError:
        return _BASE64 + base64.b64encode(meta).decode()
