"""The task of a test."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connectrio.client.requests import (
    declare,
    declared_types,
    interface_of,
    new_execution,
    new_output_prefix,
    read_secrets,
    with_named_secrets,
)
from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import Connection, Identifier, ResourceType, Sql, SqlDialect, TaskTemplate
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.idl.google.protobuf import Struct
from connectrio.literals import LiteralError, literal_type_of, python_to_literal_as
from connectrio.testing._types import literal_type

__all__ = ["Task"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to run, and on what.

    :ivar inputs: input name → Python value
    :ivar types: input name → its declared type, as a Python type such as `int | None` or as a `LiteralType`. An input
        without one has the template's type, or else the type of its value
    :ivar outputs: output name → its type, for connectors that ask which outputs the task declares
    :ivar custom: the task's own configuration
    :ivar sql: the statement, for connectors that run one
    :ivar template: what the other fields complete; it is not changed
    :ivar output_prefix: where outputs are to be written; by default a name for a directory, of each execution its own
    :ivar secrets: secret name → the environment variable that holds it
    :ivar configs: plain settings, which arrive beside the secrets
    :ivar task_type: by default that of the host's only connector
    :ivar version: the version of the task type; by default the template's, or else that of the only connector
    :ivar execution: the name of the execution. Equal tasks of one execution and attempt are, to a host, one request
        that was repeated; by default each is new
    :ivar attempt: which of the execution's attempts this is, from 0
    """

    inputs: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    custom: Mapping[str, Any] = field(default_factory=dict)
    sql: str | None = None
    template: TaskTemplate | None = None
    output_prefix: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)
    task_type: str | None = None
    version: int | None = None
    execution: str | None = None
    attempt: int = 0

    def request(self, task_type: str, version: int) -> CreateTaskRequest:
        """The request for the task's job.

        :param task_type: where neither the task nor its template says it
        :param version: likewise
        :raises LiteralError: an input does not fit its type, or Flyte has no type for it
        :raises MissingSecretError: a secret's environment variable is not set
        """
        template = self._template(task_type, version)
        literals = self._declare(template)
        return CreateTaskRequest(
            inputs=Inputs(literals=literals) if literals else None,
            template=template,
            output_prefix=self.output_prefix or new_output_prefix(self.execution),
            task_execution_metadata=new_execution(
                template, domain="testing", name=self.execution, attempt=self.attempt
            ),
            connection=self._connection(template),
        )

    def _template(self, task_type: str, version: int) -> TaskTemplate:
        template = TaskTemplate(task_type_version=version) if self.template is None else copy.deepcopy(self.template)
        template.type = self.task_type or template.type or task_type
        if self.version is not None:
            template.task_type_version = self.version
        template.id = template.id or Identifier(resource_type=ResourceType.TASK, name=template.type)
        if self.sql is not None:
            template.sql = Sql(statement=self.sql, dialect=SqlDialect.ANSI)
        if self.custom:
            known = template.custom.fields if template.custom is not None else {}
            template.custom = Struct(fields={**known, **Struct.from_dict(dict(self.custom)).fields})
        return template

    def _declare(self, template: TaskTemplate) -> list[NamedLiteral]:
        """The literals of the inputs; the template declares them and the outputs afterwards."""
        interface = interface_of(template)
        types = {
            **declared_types(interface.inputs),
            **{name: literal_type(declared) for name, declared in self.types.items()},
        }
        outputs = {name: literal_type(declared) for name, declared in self.outputs.items()}
        literals = []
        for name, value in self.inputs.items():
            try:
                types[name] = types.get(name) or literal_type_of(value)
                literals.append(NamedLiteral(name=name, value=python_to_literal_as(value, types[name])))
            except LiteralError as error:
                raise LiteralError(f"input {name!r}: {error}") from error
        interface.inputs = declare(interface.inputs, types)
        interface.outputs = declare(interface.outputs, outputs)
        return literals

    def _connection(self, template: TaskTemplate) -> Connection | None:
        connection = None
        if self.secrets or self.configs:
            connection = Connection(
                task_type=template.type, secrets=read_secrets(self.secrets), configs=dict(self.configs)
            )
        return with_named_secrets(template, connection)
