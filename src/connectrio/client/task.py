"""A task from Python values: the request that creates its job."""

from __future__ import annotations

import copy
import os
import tempfile
import types
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from betterproto2 import Message

from connectrio.idl.flyteidl2.connector import CreateTaskRequest, TaskExecutionMetadata
from connectrio.idl.flyteidl2.core import (
    BlobType,
    BlobTypeBlobDimensionality,
    Connection,
    Identifier,
    LiteralType,
    NodeExecutionIdentifier,
    ResourceType,
    SimpleType,
    Sql,
    SqlDialect,
    StructuredDatasetType,
    TaskExecutionIdentifier,
    TaskTemplate,
    TypedInterface,
    UnionType,
    Variable,
    VariableEntry,
    VariableMap,
    WorkflowExecutionIdentifier,
)
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.idl.google.protobuf import Struct
from connectrio.literals import DataFrame, Dir, File, LiteralError, literal_type_of, python_to_literal_as
from connectrio.rpc.codec import decode

__all__ = [
    "InputError",
    "MissingSecretError",
    "Task",
    "declared_types",
    "literal_type",
    "new_connection",
    "new_execution",
]

M = TypeVar("M", bound=Message)

_SIMPLE = {
    int: SimpleType.INTEGER,
    float: SimpleType.FLOAT,
    str: SimpleType.STRING,
    bool: SimpleType.BOOLEAN,
    datetime: SimpleType.DATETIME,
    timedelta: SimpleType.DURATION,
    type(None): SimpleType.NONE,
    None: SimpleType.NONE,
    dict: SimpleType.STRUCT,
    bytes: SimpleType.BINARY,
}
_BLOBS = {File: BlobTypeBlobDimensionality.SINGLE, Dir: BlobTypeBlobDimensionality.MULTIPART}


class MissingSecretError(LookupError):
    """The environment variable that should hold a secret is not set.

    :ivar secret: the secret's name
    """

    def __init__(self, secret: str) -> None:
        # the variable's name is not repeated: it may be the secret itself, given by mistake
        super().__init__(f"the environment variable that should hold the secret {secret!r} is not set")
        self.secret = secret


class InputError(LiteralError):
    """An input does not fit its type, or Flyte has no type for it.

    :ivar name: the input's name
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"input {name!r}: {problem}")
        self.name = name


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to run, and on what.

    :ivar inputs: input name → Python value
    :ivar types: input name → its declared type, as a Python type such as `int | None` or as a `LiteralType`. By
        default an input has the template's type, or else the type of its value
    :ivar outputs: output name → its type, for connectors that ask which outputs the task declares
    :ivar custom: the task's own configuration
    :ivar sql: the statement, for connectors that run one
    :ivar template: completed by the other fields; it is not changed. It may be protobuf's message of `flyteidl2` too
    :ivar output_prefix: where to write outputs; by default a directory name of its own for each execution
    :ivar secrets: secret name → the environment variable that holds it
    :ivar configs: plain settings, which arrive beside the secrets
    :ivar task_type: by default that of the host's only connector
    :ivar version: the version of the task type; by default the template's, or else that of the only connector
    :ivar execution: the name of the execution; by default a new one. A host takes equal tasks of one execution and
        attempt for one request that was repeated
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

    def request(
        self, task_type: str, version: int = 0, *, project: str = "connectrio", domain: str = "testing"
    ) -> CreateTaskRequest:
        """Return the request that creates the task's job.

        Secrets that the template's configuration names (`custom["secrets"]`, as in flyte-sdk's tasks) are read too.

        :param task_type: used if neither the task nor its template names one
        :param version: likewise
        :param project: the project of the execution
        :param domain: its domain
        :raises InputError: an input does not fit its type, or Flyte has no type for it
        :raises TypeError: Flyte has no type for a declared Python type, or `template` is no TaskTemplate
        :raises MissingSecretError: a secret's environment variable is not set
        """
        given = TaskTemplate(task_type_version=version) if self.template is None else self.template
        template = copy.deepcopy(_own(given, TaskTemplate))
        if template is None:
            raise TypeError(f"template is an object of class {type(given).__qualname__}, not a TaskTemplate")
        template.type = self.task_type or template.type or task_type
        if self.version is not None:
            template.task_type_version = self.version
        template.id = template.id or Identifier(resource_type=ResourceType.TASK, name=template.type)
        if self.sql is not None:
            template.sql = Sql(statement=self.sql, dialect=SqlDialect.ANSI)
        if self.custom:
            known = template.custom.fields if template.custom is not None else {}
            template.custom = Struct(fields={**known, **Struct.from_dict(dict(self.custom)).fields})
        custom = template.custom.to_dict() if template.custom is not None else {}
        named = custom.get("secrets")
        if not isinstance(named, dict) or not all(isinstance(variable, str) for variable in named.values()):
            named = {}
        literals = self._declare(template)
        # only a name: nothing is made
        directory = Path(tempfile.gettempdir()) / f"connectrio-{self.execution or uuid.uuid4().hex[:12]}"
        return CreateTaskRequest(
            inputs=Inputs(literals=literals) if literals else None,
            template=template,
            output_prefix=self.output_prefix or str(directory),
            task_execution_metadata=new_execution(
                template, project=project, domain=domain, name=self.execution, attempt=self.attempt
            ),
            connection=new_connection(template.type, {**named, **self.secrets}, self.configs),
        )

    def _declare(self, template: TaskTemplate) -> list[NamedLiteral]:
        """Declare inputs and outputs in the template's interface, and return the literals of the inputs."""
        template.interface = interface = template.interface or TypedInterface()
        declared = {name: literal_type(declared) for name, declared in self.types.items()}
        outputs = {name: literal_type(declared) for name, declared in self.outputs.items()}
        known = {**declared_types(template), **declared}
        literals = []
        for name, value in self.inputs.items():
            try:
                wanted = known.get(name)
                declared[name] = literal_type_of(value) if wanted is None else wanted
                literals.append(NamedLiteral(name=name, value=python_to_literal_as(value, declared[name])))
            except LiteralError as error:
                raise InputError(name, str(error)) from error
        interface.inputs = _with_declared(interface.inputs, declared)
        interface.outputs = _with_declared(interface.outputs, outputs)
        return literals


def literal_type(declared: Any) -> LiteralType:
    """Return Flyte's type for a Python type such as `int`, `list[float]`, `dict[str, bool]`, `int | None`, `File`.

    A `LiteralType` is returned as it is, protobuf's as connectrio's.

    :raises TypeError: Flyte has no such type
    """
    if (own := _own(declared, LiteralType)) is not None:
        return own
    if declared in _SIMPLE:
        return LiteralType(simple=_SIMPLE[declared])
    if declared in _BLOBS:
        return LiteralType(blob=BlobType(dimensionality=_BLOBS[declared]))
    if declared is DataFrame:
        return LiteralType(structured_dataset_type=StructuredDatasetType())
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is list:
        return LiteralType(collection_type=literal_type(arguments[0]))
    if origin is dict and arguments[0] is str:
        return LiteralType(map_value_type=literal_type(arguments[1]))
    if origin in (types.UnionType, Union):
        return LiteralType(union_type=UnionType(variants=[literal_type(variant) for variant in arguments]))
    raise TypeError(f"Flyte has no type for {declared!r}; give a LiteralType")


def _own(message: Any, cls: type[M]) -> M | None:
    """Return `message` if it is a `cls`, or the `cls` that protobuf's message of that name is; else None."""
    if isinstance(message, cls):
        return message
    descriptor = getattr(type(message), "DESCRIPTOR", None)
    if getattr(descriptor, "full_name", None) != f"flyteidl2.core.{cls.__name__}":
        return None
    made: M = decode(message.SerializeToString(), cls)
    return made


def declared_types(template: TaskTemplate | None) -> dict[str, LiteralType]:
    """Return the types of the inputs that `template` declares."""
    variables = template.interface.inputs if template is not None and template.interface is not None else None
    entries = variables.variables if variables is not None else ()
    return {entry.key: declared for entry in entries if (declared := _type_of(entry)) is not None}


def _with_declared(variables: VariableMap | None, declared: Mapping[str, LiteralType]) -> VariableMap | None:
    """Return `variables` with those of `declared` added or replaced. Equal ones keep their descriptions."""
    known = {} if variables is None else {entry.key: entry for entry in variables.variables}
    for name, wanted in declared.items():
        if name not in known or _type_of(known[name]) != wanted:
            known[name] = VariableEntry(key=name, value=Variable(type=wanted))
    return VariableMap(variables=list(known.values())) if known else variables


def _type_of(entry: VariableEntry) -> LiteralType | None:
    return None if entry.value is None else entry.value.type


def new_connection(task_type: str, secrets: Mapping[str, str], configs: Mapping[str, str]) -> Connection | None:
    """Return the connection of a request; None if it would be empty.

    :param secrets: secret name → the environment variable that holds it
    :param configs: setting → value
    :raises MissingSecretError: a secret's environment variable is not set
    """
    for name, variable in secrets.items():
        if variable not in os.environ:
            raise MissingSecretError(name)
    if not secrets and not configs:
        return None
    values = {name: os.environ[variable] for name, variable in secrets.items()}
    return Connection(task_type=task_type, secrets=values, configs=dict(configs))


def new_execution(
    template: TaskTemplate, *, domain: str, project: str = "connectrio", name: str | None = None, attempt: int = 0
) -> TaskExecutionMetadata:
    """Return the identifiers of a task that runs outside of any workflow.

    :param name: of the execution; by default a new one, because hosts take requests with equal identifiers for one
    :param attempt: which of the execution's attempts this is, from 0
    """
    execution = WorkflowExecutionIdentifier(project=project, domain=domain, name=name or uuid.uuid4().hex)
    node = NodeExecutionIdentifier(node_id="n0", execution_id=execution)
    identifier = TaskExecutionIdentifier(task_id=template.id, node_execution_id=node, retry_attempt=attempt)
    return TaskExecutionMetadata(task_execution_id=identifier, max_attempts=attempt + 1)
