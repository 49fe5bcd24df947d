"""What a task template asks the DuckDB connector to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from connectrio.connector.failures import InvalidRequestError
from connectrio.connectors.duckdb._locations import in_same_form, local_path, path_or_url
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.literals import DataFrame, Dir, File

__all__ = ["IN_MEMORY", "QueryTask", "TaskError", "read_task", "select_parameters"]

IN_MEMORY = ":memory:"
CUSTOM_KEYS = ("database",)


class TaskError(InvalidRequestError):
    """The task cannot run as it is written; trying again would not help."""


@dataclass(frozen=True)
class QueryTask:
    """SQL to run, and where its result goes.

    :ivar inputs: the task's inputs, as the host has decoded them
    :ivar database: the absolute path of a database file, or `IN_MEMORY`
    :ivar output: the name of the declared output
    :ivar result_uri: `result_path` in the form in which `output_prefix` was given
    """

    statement: str
    inputs: Mapping[str, Any]
    database: str
    output: str | None
    result_path: Path
    result_uri: str

    @property
    def digest(self) -> str:
        """The first half of the statement's SHA-256."""
        return sha256(self.statement.encode()).hexdigest()[:32]


def read_task(template: TaskTemplate, output_prefix: str, inputs: Mapping[str, Any] | None) -> QueryTask:
    """The task that a template describes.

    :raises TaskError: the template or the prefix is not one this connector can serve; the text says what would be
    """
    if template.sql is None or not template.sql.statement.strip():
        raise TaskError("the task has no SQL: put it in the template's sql.statement")
    output = _declared_output(template)
    try:
        result = local_path(output_prefix, "output_prefix") / f"{output or 'result'}.parquet"
        database = _database(template)
    except ValueError as error:
        raise TaskError(str(error)) from error
    uri = in_same_form(result, output_prefix)
    return QueryTask(template.sql.statement, dict(inputs or {}), database, output, result, uri)


def _declared_output(template: TaskTemplate) -> str | None:
    interface = template.interface
    outputs = interface.outputs.variables if interface and interface.outputs else []
    names = [output.key for output in outputs]
    if len(names) > 1:
        raise TaskError(f"a DuckDB task has one result, but this one declares {len(names)} outputs: {', '.join(names)}")
    if not names:
        return None
    if not names[0] or "/" in names[0] or "\0" in names[0]:
        raise TaskError(f"{names[0]!r} is no name for an output: its file could not be called that")
    return names[0]


def _database(template: TaskTemplate) -> str:
    custom = template.custom.to_dict() if template.custom else {}
    unknown = sorted(custom.keys() - set(CUSTOM_KEYS))
    if unknown:
        keys = ", ".join(map(repr, unknown))
        raise TaskError(f"the task's custom has {keys}, but the DuckDB connector knows only: {', '.join(CUSTOM_KEYS)}")
    database = custom.get("database")
    if database is None or database == IN_MEMORY:
        return IN_MEMORY
    if not isinstance(database, str):
        raise TaskError(f"the task's custom has database={database!r}; it must be a file's path or {IN_MEMORY!r}")
    return str(local_path(database, "database"))


def select_parameters(names: set[str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The values for a statement's parameters, as DuckDB can bind them.

    SQL does not tell upper case from lower, so an input whose name differs in that alone will do.

    :raises TaskError: a parameter has no input, or a value that has no SQL form
    """
    folded = {name.casefold(): name for name in inputs}
    chosen = {name: name if name in inputs else folded.get(name.casefold()) for name in sorted(names)}
    missing = [f"${name}" for name, source in chosen.items() if source is None]
    if missing:
        known = ", ".join(sorted(inputs)) or "none"
        raise TaskError(f"the statement uses {', '.join(missing)}, but the task has no such input; its inputs: {known}")
    return {name: _bindable(source, inputs[source]) for name, source in chosen.items() if source is not None}


def _bindable(name: str, value: Any) -> Any:
    match value:
        case File() | Dir():
            return _location(name, value.path)
        case DataFrame():
            return _location(name, value.uri)
        case None | bool() | int() | float() | bytes() | Decimal() | date() | datetime() | timedelta():
            return value
        case str():
            return str.__str__(value)  # of an enum's member, too, its text
        case list() | tuple():
            return [_bindable(name, item) for item in value]
        case Mapping():
            return {str(key): _bindable(name, item) for key, item in value.items()}
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: _bindable(name, getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TaskError(f"input {name!r} is of type {type(value).__name__}, which has no form in SQL")


def _location(name: str, location: str) -> str:
    try:
        return path_or_url(location, f"input {name!r}")
    except ValueError as error:
        raise TaskError(str(error)) from error
