"""Options that describe a task: its template, its inputs and outputs, and the credentials that it needs.

Some need parsing: `NAME=VALUE`, `@file`, JSON.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from connectrio.cli.errors import UsageError
from connectrio.cli.options.type_names import parse_type
from connectrio.client.task import InputError, MissingSecretError, Task, declared_types, new_connection
from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import Connection, LiteralType, SimpleType, TaskTemplate

__all__ = ["BASE64", "Credentials", "Meta", "TaskOptions", "meta_argument", "read_meta", "read_text"]

Meta = Annotated[str, Parameter(name="RESOURCE_META", allow_leading_hyphen=True)]
"""A resource meta argument, which may be "-"."""

BASE64 = "base64:"
"""What comes before a resource meta that is no text."""

_REPEATABLE = Parameter(show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What the connector needs to reach the other system, sent as the request's connection.

    :param secret: NAME=ENVIRONMENT_VARIABLE, repeatable: a secret for the connector, read from the environment
    :param config: NAME=VALUE, repeatable: a plain setting for the connector
    """

    secret: Annotated[list[str] | None, _REPEATABLE] = None
    config: Annotated[list[str] | None, _REPEATABLE] = None

    @property
    def secrets(self) -> dict[str, str]:
        """Secret name → the environment variable that holds it.

        :raises UsageError: an option is not of this form
        """
        return dict(_split_pair("--secret", text) for text in self.secret or ())

    @property
    def configs(self) -> dict[str, str]:
        """Setting → value.

        :raises UsageError: an option is not of this form
        """
        return dict(_split_pair("--config", text) for text in self.config or ())

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
        variable = secret.upper()
        return UsageError(
            f"--secret {secret}=…: there is no such environment variable",
            hint="secrets are not taken from the command line, where others can read them. Put it into a variable, and"
            f" name that: export {variable}=…, then --secret {secret}={variable}",
        )


_NO_CREDENTIALS = Credentials()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What to run, and on what.

    :param sql: the statement, for connectors that run one; @FILE reads it from a file, - from standard input
    :param template: a file with a TaskTemplate as proto-JSON, which the other options complete
    :param input: NAME=VALUE or NAME:TYPE=VALUE, repeatable. Without a type, the value is JSON, or else text
    :param inputs: a JSON file with an object of such names and their values
    :param output: NAME or NAME=TYPE, repeatable: an output that the task declares, by default a dataframe
    :param custom: KEY=VALUE, repeatable: the task's own configuration; the value is JSON, or else text
    :param output_prefix: a directory or URL to write outputs to; by default a new temporary directory
    :param version: the version of the task type; by default the template's, or else 0
    :param execution: NAME or PROJECT/DOMAIN/NAME: the execution that the job belongs to, by default a new one of
        connectrio/cli. A host takes equal tasks of one execution for one task
    """

    sql: str | None = None
    template: Path | None = None
    input: Annotated[list[str] | None, _REPEATABLE] = None
    inputs: Path | None = None
    output: Annotated[list[str] | None, _REPEATABLE] = None
    custom: Annotated[list[str] | None, _REPEATABLE] = None
    output_prefix: str | None = None
    version: int | None = None
    execution: str | None = None

    def request(self, task_type: str, credentials: Credentials = _NO_CREDENTIALS) -> CreateTaskRequest:
        """Return the request that creates the task's job.

        :raises UsageError: an option, or the file it names, is wrong; an environment variable is not set
        """
        template = None if self.template is None else _read_template(self.template, task_type)
        custom = dict(_split_pair("--custom", text) for text in self.custom or ())
        inputs, types = self._inputs(declared_types(template))
        project, domain, execution = _execution(self.execution)
        prefix = self.output_prefix
        if prefix is not None and "://" not in prefix:
            prefix = str(Path(prefix).absolute())  # the host has another working directory
        task = Task(
            inputs=inputs,
            types=types,
            outputs=dict(map(_output, self.output or ())),
            custom={key: _json_or_text(value) for key, value in custom.items()},
            sql=None if self.sql is None else read_text(self.sql),
            template=template,
            output_prefix=prefix,
            secrets=credentials.secrets,
            configs=credentials.configs,
            task_type=task_type,
            version=self.version,
            execution=execution,
        )
        try:
            return task.request(task_type, project=project, domain=domain)
        except InputError as error:
            raise UsageError(str(error), hint=f"give its type, such as {error.name}:datetime=…") from error
        except MissingSecretError as error:
            if error.secret in task.secrets:
                raise credentials.missing(error.secret) from None
            raise UsageError(
                f"custom['secrets']: {error}", hint=f"export it, or pass the secret: --secret {error.secret}=VARIABLE"
            ) from error

    def _inputs(self, declared: dict[str, LiteralType]) -> tuple[dict[str, Any], dict[str, LiteralType]]:
        """Return the values of the inputs, and the types of those that have one.

        :param declared: the types that the template declares
        """
        values: dict[str, Any] = {}
        types: dict[str, LiteralType] = {}
        for key, value, is_text in self._given_inputs():
            name, _, type_text = key.partition(":")
            types.pop(name, None)
            literal_type = parse_type(type_text) if type_text else declared.get(name)
            if literal_type is not None:
                types[name] = literal_type
            values[name] = _from_text(value, literal_type) if is_text else value
        return values, types

    def _given_inputs(self) -> Iterator[tuple[str, Any, bool]]:
        """Yield `NAME` or `NAME:TYPE`, the value, and whether that is text of the command line, in order."""
        if self.inputs is not None:
            document = _read_json(self.inputs)
            if not isinstance(document, dict):
                raise UsageError(f"{self.inputs} must hold a JSON object of input names and values")
            for key, value in document.items():
                yield key, value, False
        for text in self.input or ():
            yield *_split_pair("--input", text), True


def _read_template(path: Path, task_type: str) -> TaskTemplate:
    document = _read_json(path)
    try:
        template = TaskTemplate.from_dict(document)
    except Exception as error:  # what betterproto raises on a malformed document is not declared
        raise UsageError(f"{path} is no TaskTemplate in proto-JSON: {error}") from error
    if template.type not in ("", task_type):
        raise UsageError(f"{path} is of task type {template.type!r}, not {task_type!r}")
    return template


def _execution(text: str | None) -> tuple[str, str, str | None]:
    """Return project, domain and name; None for a new name.

    :raises UsageError: `text` does not have this form
    """
    if text is None:
        return "connectrio", "cli", None
    parts = text.split("/")
    if len(parts) not in (1, 3) or not all(parts):
        raise UsageError(f"--execution takes NAME or PROJECT/DOMAIN/NAME, got {text!r}")
    project, domain = parts[:2] if len(parts) == 3 else ("connectrio", "cli")
    return project, domain, parts[-1]


def _output(text: str) -> tuple[str, LiteralType]:
    name, _, type_text = text.partition("=")
    if not name:
        raise UsageError(f"--output takes NAME or NAME=TYPE, got {text!r}")
    return name, parse_type(type_text or "dataframe")


def _from_text(text: str, literal_type: LiteralType | None) -> Any:
    """Return the value that `text` stands for, which depends on its type."""
    if literal_type is None:
        return _json_or_text(text)
    if literal_type.simple is SimpleType.BINARY:
        return text.encode()
    is_object = text.lstrip().startswith("{")
    is_reference = literal_type.blob is not None or literal_type.structured_dataset_type is not None
    is_text = literal_type.simple is SimpleType.STRING or literal_type.enum_type is not None
    return text if is_text or (is_reference and not is_object) else _json_or_text(text)


def _split_pair(option: str, text: str) -> tuple[str, str]:
    """Return the two sides of `NAME=VALUE`.

    :raises UsageError: there is no "=", or nothing before it
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} takes NAME=VALUE" + (f", got {text!r}" if option != "--secret" else ""))
    return name, value


def _json_or_text(text: str) -> Any:
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


def read_meta(argument: str) -> bytes:
    """Return the resource meta that `argument` holds or names (see `read_text`).

    It may be the text of the meta, "base64:…", what `create` or `run` print with --json, or the value of
    `resource_meta_base64` in that (see `_was_encoded`).

    :raises UsageError: it is empty, or not base64
    """
    text = read_text(argument).strip()
    if not text:
        raise UsageError(
            "the resource meta is empty", hint="pass what `connectrio create` printed, @FILE, or - for standard input"
        )
    document = _json_or_text(text)
    if isinstance(document, dict) and {"resource_meta", "resource_meta_base64"} <= document.keys():
        text = f"{BASE64}{document['resource_meta_base64']}"
    if text.startswith(BASE64):
        try:
            return base64.b64decode(text.removeprefix(BASE64), validate=True)
        except ValueError as error:
            raise UsageError(f"the resource meta is not base64: {error}") from error
    try:
        meta = base64.b64decode(text, validate=True)
    except ValueError:
        meta = b""
    return meta if _was_encoded(text, meta) else text.encode("utf-8", "surrogateescape")


def meta_argument(meta: bytes) -> str:
    """Return `meta` as an argument for `read_meta`: as its text, or else as "base64:…"."""
    with suppress(ValueError, UsageError):
        text = meta.decode()
        # others could control the terminal that this is printed on
        if text.isprintable() and text != "-" and not text.startswith("@") and read_meta(text) == meta:
            return text
    return BASE64 + base64.b64encode(meta).decode()


def _was_encoded(text: str, meta: bytes) -> bool:
    """Return whether `text` stands for `meta`, which it is as base64, and not for itself.

    A resource meta may be a text that looks like base64, such as the name of a job. So `meta` has to be an object in
    JSON, a pickle, or a message: bytes with control characters, which base64 has filled up with "=" as no name is, or
    which are otherwise text. A name decodes to bytes that are none.
    """
    is_pickle = meta.startswith(b"\x80") and meta.endswith(b".")
    try:
        return is_pickle or isinstance(msgspec.json.decode(meta), dict)
    except (ValueError, msgspec.DecodeError):
        pass
    has_padding = text.endswith("=")
    try:
        return (has_padding or len(meta) >= _NO_CHANCE) and not meta.decode().isprintable()
    except UnicodeDecodeError:
        return has_padding


# if a name decodes to fewer bytes, these may be UTF-8 by chance
_NO_CHANCE = 16


def _read_json(path: Path) -> Any:
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
