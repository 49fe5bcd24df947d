"""The task that a command line describes: template, inputs, where outputs go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from connectrio.cli.errors import UsageError
from connectrio.cli.options.arguments import json_or_text, read_json, read_text, split_pair
from connectrio.cli.options.type_names import parse_type
from connectrio.client.requests import (
    MissingSecretError,
    declare,
    declared_types,
    interface_of,
    new_execution,
    new_output_prefix,
    with_named_secrets,
)
from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import (
    Connection,
    Identifier,
    Literal,
    LiteralType,
    ResourceType,
    SimpleType,
    Sql,
    SqlDialect,
    TaskTemplate,
)
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.idl.google.protobuf import Struct
from connectrio.literals import LiteralError, literal_type_of, python_to_literal_as

__all__ = ["Task"]

_REPEATABLE = Parameter(show_default=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Task:
    """What to run, and on what.

    :param sql: the statement, for connectors that run one; @FILE reads a file, - standard input
    :param template: a file with a TaskTemplate as proto-JSON, which the other options complete
    :param input: NAME=VALUE or NAME:TYPE=VALUE, repeatable. Without a type, the value is JSON, or else text
    :param inputs: a JSON file with an object of such names and their values
    :param output: NAME or NAME=TYPE, repeatable: an output that the task declares, by default a dataframe
    :param custom: KEY=VALUE, repeatable: the task's own configuration; the value is JSON, or else text
    :param output_prefix: where outputs are written: a directory or a URL; by default a new temporary directory
    :param version: the version of the task type; by default the template's, or else 0
    """

    sql: str | None = None
    template: Path | None = None
    input: Annotated[list[str] | None, _REPEATABLE] = None
    inputs: Path | None = None
    output: Annotated[list[str] | None, _REPEATABLE] = None
    custom: Annotated[list[str] | None, _REPEATABLE] = None
    output_prefix: str | None = None
    version: int | None = None

    def request(self, task_type: str, connection: Connection | None = None) -> CreateTaskRequest:
        """The request that creates the task's job.

        Secrets that the template's configuration names, as flyte-sdk's tasks do, join those of `connection`.

        :raises UsageError: an option, or what it names, cannot be understood; an environment variable is not set
        """
        template = self._template(task_type)
        literals = self._declare_inputs(template)
        self._declare_outputs(template)
        return CreateTaskRequest(
            inputs=Inputs(literals=literals) if literals else None,
            template=template,
            output_prefix=self._output_prefix(),
            task_execution_metadata=new_execution(template, domain="cli"),
            connection=_with_named_secrets(template, connection),
        )

    def _template(self, task_type: str) -> TaskTemplate:
        template = TaskTemplate() if self.template is None else _read_template(self.template)
        if template.type not in ("", task_type):
            raise UsageError(f"{self.template} is of task type {template.type!r}, not {task_type!r}")
        template.type = task_type
        template.id = template.id or Identifier(resource_type=ResourceType.TASK, name=task_type)
        if self.version is not None:
            template.task_type_version = self.version
        if self.sql is not None:
            template.sql = Sql(statement=read_text(self.sql), dialect=SqlDialect.ANSI)
        if self.custom:
            pairs = (split_pair("--custom", text) for text in self.custom)
            added = Struct.from_dict({key: json_or_text(value) for key, value in pairs})
            template.custom = Struct(fields={**(template.custom.fields if template.custom else {}), **added.fields})
        return template

    def _declare_inputs(self, template: TaskTemplate) -> list[NamedLiteral]:
        """The literals of the inputs, each of which the template declares afterwards."""
        interface = interface_of(template)
        declared = declared_types(interface.inputs)
        types: dict[str, LiteralType] = {}
        literals: dict[str, Literal] = {}
        for key, given in self._given_inputs():
            name, _, type_text = key.partition(":")
            try:
                types[name], value = _typed(given, type_text, declared.get(name))
                literals[name] = python_to_literal_as(value, types[name])
            except LiteralError as error:
                raise UsageError(
                    f"input {name!r}: {error}", hint=f"say of which type it is, such as {name}:datetime=…"
                ) from error
        interface.inputs = declare(interface.inputs, types)
        return [NamedLiteral(name=name, value=literal) for name, literal in literals.items()]

    def _given_inputs(self) -> Iterator[tuple[str, Any]]:
        """`NAME` or `NAME:TYPE`, and the value: a `_Text` from the command line, data from a file."""
        if self.inputs is not None:
            document = read_json(self.inputs)
            if not isinstance(document, dict):
                raise UsageError(f"{self.inputs} must hold a JSON object of input names and values")
            yield from document.items()
        for text in self.input or ():
            key, value = split_pair("--input", text)
            yield key, _Text(value)

    def _declare_outputs(self, template: TaskTemplate) -> None:
        outputs = {}
        for text in self.output or ():
            name, _, type_text = text.partition("=")
            if not name:
                raise UsageError(f"--output takes NAME or NAME=TYPE, got {text!r}")
            outputs[name] = parse_type(type_text or "dataframe")
        interface = interface_of(template)
        interface.outputs = declare(interface.outputs, outputs)

    def _output_prefix(self) -> str:
        if self.output_prefix is None:
            return new_output_prefix()
        # the host has another working directory
        return self.output_prefix if "://" in self.output_prefix else str(Path(self.output_prefix).absolute())


@dataclass(frozen=True)
class _Text:
    """A value as the command line has it: what it means depends on its type."""

    text: str


def _typed(value: Any, type_text: str, declared: LiteralType | None) -> tuple[LiteralType, Any]:
    """The type of an input, and its value as that type's codec takes it.

    :raises LiteralError: Flyte has no type for the value
    """
    literal_type = parse_type(type_text) if type_text else declared
    if literal_type is None:
        value = json_or_text(value.text) if isinstance(value, _Text) else value
        return literal_type_of(value), value
    return literal_type, _meant(value.text, literal_type) if isinstance(value, _Text) else value


def _meant(text: str, literal_type: LiteralType) -> Any:
    if literal_type.simple is SimpleType.BINARY:
        return text.encode()
    is_object = text.lstrip().startswith("{")
    is_reference = literal_type.blob is not None or literal_type.structured_dataset_type is not None
    is_text = literal_type.simple is SimpleType.STRING or literal_type.enum_type is not None
    return text if is_text or (is_reference and not is_object) else json_or_text(text)


def _with_named_secrets(template: TaskTemplate, connection: Connection | None) -> Connection | None:
    try:
        return with_named_secrets(template, connection)
    except MissingSecretError as error:
        raise UsageError(
            f"custom['secrets']: {error}", hint=f"export it, or give the secret with --secret {error.secret}=VARIABLE"
        ) from error


def _read_template(path: Path) -> TaskTemplate:
    document = read_json(path)
    try:
        return TaskTemplate.from_dict(document)
    except Exception as error:  # what betterproto raises on a malformed document is not declared
        raise UsageError(f"{path} is no TaskTemplate in proto-JSON: {error}") from error
