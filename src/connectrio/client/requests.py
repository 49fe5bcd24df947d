"""The parts of a request for a job: the template and what it declares, the execution, the secrets."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from connectrio.idl.flyteidl2.connector import CreateTaskRequest, TaskCategory, TaskExecutionMetadata
from connectrio.idl.flyteidl2.core import (
    Connection,
    LiteralType,
    NodeExecutionIdentifier,
    TaskExecutionIdentifier,
    TaskTemplate,
    TypedInterface,
    Variable,
    VariableEntry,
    VariableMap,
    WorkflowExecutionIdentifier,
)

__all__ = [
    "MissingSecretError",
    "category_of",
    "declare",
    "declared_types",
    "interface_of",
    "new_execution",
    "new_output_prefix",
    "read_secrets",
    "with_named_secrets",
]


class MissingSecretError(LookupError):
    """A secret is to be read from an environment variable that is not set.

    :ivar secret: the secret's name
    """

    def __init__(self, secret: str) -> None:
        # the variable's name is not repeated: it may be the secret itself, given by mistake
        super().__init__(f"the environment variable that the secret {secret!r} is to be read from is not set")
        self.secret = secret


def category_of(request: CreateTaskRequest) -> TaskCategory:
    """The task type and version that `request` is for."""
    template = request.template or TaskTemplate()
    return TaskCategory(name=template.type, version=template.task_type_version)


def interface_of(template: TaskTemplate) -> TypedInterface:
    """The template's interface, which it has from now on."""
    if template.interface is None:
        template.interface = TypedInterface()
    return template.interface


def declared_types(variables: VariableMap | None) -> dict[str, LiteralType]:
    """The type of each variable that has one."""
    entries = () if variables is None else variables.variables
    return {entry.key: literal_type for entry in entries if (literal_type := _type_of(entry)) is not None}


def declare(variables: VariableMap | None, types: Mapping[str, LiteralType]) -> VariableMap | None:
    """`variables` with those of `types` added or replaced."""
    known = {} if variables is None else {entry.key: entry for entry in variables.variables}
    for name, literal_type in types.items():
        if name not in known or _type_of(known[name]) != literal_type:
            known[name] = VariableEntry(key=name, value=Variable(type=literal_type))
    return VariableMap(variables=list(known.values())) if known else variables


def _type_of(entry: VariableEntry) -> LiteralType | None:
    return None if entry.value is None else entry.value.type


def new_execution(
    template: TaskTemplate, *, domain: str, name: str | None = None, attempt: int = 0
) -> TaskExecutionMetadata:
    """Identifiers of a task that runs under no workflow.

    :param name: of the execution; a new one by default, as hosts take requests with equal identifiers for one
    :param attempt: which of the execution's attempts this is, from 0
    """
    execution = WorkflowExecutionIdentifier(project="connectrio", domain=domain, name=name or uuid.uuid4().hex)
    node = NodeExecutionIdentifier(node_id="n0", execution_id=execution)
    identifier = TaskExecutionIdentifier(task_id=template.id, node_execution_id=node, retry_attempt=attempt)
    return TaskExecutionMetadata(task_execution_id=identifier, max_attempts=attempt + 1)


def new_output_prefix(execution: str | None = None) -> str:
    """A name for a directory among the temporary ones, which is not made.

    :param execution: whose directory it is; a new one by default
    """
    return str(Path(tempfile.gettempdir()) / f"connectrio-{execution or uuid.uuid4().hex[:12]}")


def read_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """Secrets by name, from the environment.

    :param variables: secret name → the environment variable that holds it
    :raises MissingSecretError: one is not set
    """
    secrets = {}
    for name, variable in variables.items():
        value = os.environ.get(variable)
        if value is None:
            raise MissingSecretError(name)
        secrets[name] = value
    return secrets


def with_named_secrets(template: TaskTemplate, connection: Connection | None) -> Connection | None:
    """`connection`, and the secrets that the template's configuration names.

    flyte-sdk's tasks say in `custom["secrets"]` which environment variable holds which secret, for local runs.

    :raises MissingSecretError: a variable is not set, and `connection` has no such secret either
    """
    custom = template.custom.to_dict() if template.custom is not None else {}
    named = custom.get("secrets")
    if not isinstance(named, dict) or not all(isinstance(variable, str) for variable in named.values()):
        return connection
    given = {} if connection is None else connection.secrets
    missing = {name: variable for name, variable in named.items() if name not in given}
    if not missing:
        return connection
    configs = {} if connection is None else connection.configs
    return Connection(task_type=template.type, secrets={**read_secrets(missing), **given}, configs=configs)
