"""Arguments that need parsing: `NAME=VALUE`, `@file`, JSON, credentials, resource metas."""

from __future__ import annotations

import base64
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from connectrio.cli.errors import UsageError
from connectrio.client.task import MissingSecretError, new_connection
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

    :param secret: NAME=ENVIRONMENT_VARIABLE, repeatable: a secret for the connector, read from the environment
    :param config: NAME=VALUE, repeatable: a plain setting for the connector
    """

    secret: Annotated[list[str] | None, Parameter(show_default=False)] = None
    config: Annotated[list[str] | None, Parameter(show_default=False)] = None

    @property
    def secrets(self) -> dict[str, str]:
        """Secret name → the environment variable that holds it.

        :raises UsageError: an option is not of this form
        """
        return dict(split_pair("--secret", text) for text in self.secret or ())

    @property
    def configs(self) -> dict[str, str]:
        """Setting → value.

        :raises UsageError: an option is not of this form
        """
        return dict(split_pair("--config", text) for text in self.config or ())

    def connection(self, task_type: str) -> Connection | None:
        """Return the connection of a request; None if it would be empty.

        :raises UsageError: an option is wrong, or a variable is not set
        """
        try:
            return new_connection(task_type, self.secrets, self.configs)
        except MissingSecretError as error:
            raise self.missing(error.secret) from None

    def missing(self, secret: str) -> UsageError:
        """Return the error that says that a secret's variable is not set."""
        # the text behind "=" is not repeated: it may be the secret itself, given by mistake
        return UsageError(
            f"--secret {secret}=…: there is no such environment variable",
            hint="secrets are not taken from the command line, where others can read them: export it and name it here",
        )


def split_pair(option: str, text: str) -> tuple[str, str]:
    """Return the two sides of `NAME=VALUE`.

    :raises UsageError: there is no "=", or nothing before it
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} takes NAME=VALUE" + (f", got {text!r}" if option != "--secret" else ""))
    return name, value


def json_or_text(text: str) -> Any:
    """Return the value of `text` as JSON; `text` itself if it is not JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def read_text(argument: str) -> str:
    """Return the content of a file for `@file`, standard input for `-`, else the argument itself.

    :raises UsageError: there is no such file, or it is not UTF-8
    """
    if argument == "-":
        return sys.stdin.read()
    return _read_file(Path(argument[1:])) if argument.startswith("@") else argument


def read_json(path: Path) -> Any:
    """Return the JSON document in a file; from standard input for `-`.

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
    """Return the resource meta that `argument` holds or names (see `read_text`), as text or as "base64:…".

    :raises UsageError: it is empty, or not base64
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
    """Return `meta` as text that `resource_meta` accepts."""
    try:
        return meta.decode()
    except UnicodeDecodeError:
        return _BASE64 + base64.b64encode(meta).decode()
