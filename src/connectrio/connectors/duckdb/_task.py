"""Read a task template: the query, its parameters and the place of its result."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from grpclib.const import Status

from connectrio.connector.custom import read_custom
from connectrio.connector.failures import ConnectorError, InvalidRequestError
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.literals import DataFrame, Dir, File

__all__ = ["IN_MEMORY", "QueryTask", "QueueFullError", "TaskError", "read_task"]

IN_MEMORY = ":memory:"
CUSTOM_KEYS = ("database", "timeout")

# as in `connectrio.client.task`
_CLIENTS_DIRECTORY = re.compile(r"connectrio-[0-9a-f]{12}")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class QueueFullError(ConnectorError):
    """Too many queries wait; the same request may be accepted later."""

    status = Status.RESOURCE_EXHAUSTED


class TaskError(InvalidRequestError):
    """The task cannot run as it is written; a retry would fail as well."""


@dataclass(frozen=True)
class QueryTask:
    """The SQL of a task, its inputs, and the place of its result.

    :ivar inputs: the task's inputs, as DuckDB can bind them
    :ivar refused: why the other inputs have no SQL type, by their names
    :ivar database: the absolute path of a database file, or `IN_MEMORY`
    :ivar timeout: the seconds that it may run; None for as long as the host allows
    :ivar output: the name of the declared output
    :ivar result_uri: `result_path` in the form in which `output_prefix` was given
    """

    statement: str
    inputs: dict[str, Any]
    refused: dict[str, str]
    database: str
    timeout: float | None
    output: str | None
    result_path: Path
    result_uri: str

    @property
    def digest(self) -> str:
        """The first half of the statement's SHA-256, in hexadecimal digits."""
        return sha256(self.statement.encode()).hexdigest()[:32]


def read_task(
    template: TaskTemplate,
    output_prefix: str,
    inputs: Mapping[str, Any] | None,
    allowed: Sequence[Path] | None = None,
) -> QueryTask:
    """Return the task that a template describes. This accesses the disk.

    :param allowed: the directories that it may use, as real paths; None for all
    :raises TaskError: the template or the prefix is not valid; the text says what would be
    """
    if template.sql is None or not template.sql.statement.strip():
        raise TaskError("the task has no SQL: put it in the template's sql.statement")
    output = _declared_output(template)
    directory = _local_path(output_prefix, "output_prefix")
    real_directory = directory if _is_of_client(directory) else _confined(directory, "output_prefix", allowed)
    name = f"{output or 'result'}.parquet"
    custom = _custom(template)
    bindable, refused = _bindable_inputs(inputs or {})
    return QueryTask(
        statement=template.sql.statement,
        inputs=bindable,
        refused=refused,
        database=_database(custom.get("database"), allowed),
        timeout=_timeout(custom.get("timeout")),
        output=output,
        result_path=real_directory / name,
        result_uri=(directory / name).as_uri() if _is_file_url(output_prefix) else str(directory / name),
    )


def _declared_output(template: TaskTemplate) -> str | None:
    interface = template.interface
    outputs = interface.outputs.variables if interface and interface.outputs else []
    names = [output.key for output in outputs]
    if len(names) > 1:
        raise TaskError(f"a DuckDB task has one result, but this one declares {len(names)} outputs: {', '.join(names)}")
    if not names:
        return None
    if not names[0] or "/" in names[0] or "\0" in names[0]:
        raise TaskError(f"{names[0]!r} cannot be the name of an output: it is no valid file name")
    return names[0]


def _custom(template: TaskTemplate) -> dict[str, Any]:
    custom = read_custom(template)
    unknown = sorted(custom.keys() - set(CUSTOM_KEYS))
    if unknown:
        keys = ", ".join(map(repr, unknown))
        raise TaskError(f"the task's custom has {keys}, but DuckDB tasks support only: {', '.join(CUSTOM_KEYS)}")
    return custom


def _timeout(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
        raise TaskError(f"the task's custom has timeout={timeout!r}; it must be a number of seconds, more than 0")
    return float(timeout)


def _database(database: Any, allowed: Sequence[Path] | None) -> str:
    if database is None or database == IN_MEMORY:
        return IN_MEMORY
    if not isinstance(database, str):
        raise TaskError(f"the task's custom has database={database!r}; it must be a file's path or {IN_MEMORY!r}")
    path = _confined(_local_path(database, "database"), "database", allowed)
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - they raise nothing
        raise TaskError(f"the task's custom has database={database!r}, which is no regular file")
    return str(path)


def _confined(path: Path, what: str, allowed: Sequence[Path] | None) -> Path:
    """Return the real path, with all symbolic links resolved.

    :raises TaskError: it is in none of the allowed directories
    """
    real = Path(os.path.realpath(path))
    if allowed is not None and not any(real.is_relative_to(place) for place in allowed):
        raise TaskError(
            f"{what} is {str(path)!r}, but DuckDB tasks on this host may use only {', '.join(map(str, allowed))}:"
            " CONNECTRIO_DUCKDB_ALLOW adds directories, connectrio serve --unsafe-sql allows all"
        )
    return real


def _is_of_client(directory: Path) -> bool:
    """Return whether connectrio's client has made up the name of this directory, because its user gave no prefix."""
    real = Path(os.path.realpath(directory))
    parent = Path(os.path.realpath(tempfile.gettempdir()))
    return real.parent == parent and _CLIENTS_DIRECTORY.fullmatch(real.name) is not None


def _bindable_inputs(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the inputs as DuckDB can bind them, and why it cannot bind the others."""
    bindable, refused = {}, {}
    for name, value in inputs.items():
        try:
            bindable[name] = _bindable(name, value)
        except TaskError as error:
            refused[name] = str(error)
    return bindable, refused


def _bindable(name: str, value: Any) -> Any:
    match value:
        case File() | Dir():
            return _path_or_url(value.path, f"input {name!r}")
        case DataFrame():
            return _path_or_url(value.uri, f"input {name!r}")
        case None | bool() | int() | float() | bytes() | Decimal() | date() | datetime() | timedelta():
            return value
        case str():
            return str.__str__(value)  # the value of a string enum's member, not its name
        case list() | tuple():
            return [_bindable(name, item) for item in value]
        case Mapping():
            return {str(key): _bindable(name, item) for key, item in value.items()}
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: _bindable(name, getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TaskError(f"input {name!r} is of type {type(value).__name__}, which has no SQL type")


def _is_file_url(location: str) -> bool:
    return location[:7].lower() == "file://"


def _local_path(location: str, what: str) -> Path:
    """Return the absolute path of a path or `file://` URL.

    :param what: the name of the location, for the error: "output_prefix"
    :raises TaskError: `location` is neither
    """
    if not location:
        raise TaskError(f"{what} is empty; the DuckDB connector needs a path or a file:// URL there")
    if _is_file_url(location):
        location = _file_path(location, what)
    elif _URL.match(location):
        raise TaskError(
            f"{what} is {location!r}, but the DuckDB connector writes to its host's files only:"
            " give it a path or a file:// URL (on a volume that the readers mount as well)"
        )
    if "\0" in location:
        raise TaskError(f"{what} holds a NUL character: {location!r}")
    return Path(os.path.abspath(location))  # noqa: PTH100 - resolves ".." as a shell does, and touches no file


def _path_or_url(location: str, what: str) -> str:
    """Return `location` for DuckDB, which does not decode the percent-escapes of `file://` URLs."""
    return _file_path(location, what) if _is_file_url(location) else location


def _file_path(url: str, what: str) -> str:
    # not urlsplit: it would cut names at "?" and "#", which people do not escape in file URLs
    host, slash, rest = url[7:].partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise TaskError(f"{what} is {url!r}: the path of a file:// URL begins after three slashes, file:///path")
    try:
        return "/" + unquote(rest, errors="strict")
    except UnicodeDecodeError as error:
        raise TaskError(f"{what} is {url!r}, whose escapes are not UTF-8") from error
