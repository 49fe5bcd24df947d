"""A sample task for a connector, guessed from the source of its methods: what they read of `inputs`, and their secrets.

It is advice for the author, who reads it on the terminal: a wrong guess costs a second look, and nothing else.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from typing import Any, get_type_hints, is_typeddict

from connectrio.connector.choice import RegisteredConnector, SourceKind
from connectrio.connector.registry import Registry

__all__ = ["Sample", "samples_of"]

# arguments that a host gives, in place of secrets and configs
_OF_HOST = {
    "self", "task_template", "output_prefix", "inputs", "task_execution_metadata", "resource_meta", "resource_metas",
}  # fmt: skip
_METHODS = ("create", "get", "delete")
# values for inputs of these types; of any other, their name in capitals
_VALUES = {"int": "1", "float": "1.5", "bool": "true", "list": "[]", "dict": "{}"}


@dataclass(frozen=True)
class Sample:
    """The command-line options of a sample task.

    :ivar module: the module or .py file that the connector comes from
    """

    task_type: str
    version: int
    module: str
    options: list[str]


def samples_of(registry: Registry) -> list[Sample]:
    """Return a sample task for each connector that comes from a module which the user has named."""
    return [_sample(each) for each in registry.registered() if each.origin is SourceKind.NAMED]


def _sample(registered: RegisteredConnector) -> Sample:
    task_type, version = registered.key
    # a connector that is hosted for another framework holds the author's
    held: Any = getattr(registered.connector, "connector", None)
    author = held if hasattr(held, "create") else registered.connector
    options: list[str] = ["--version", str(version)] if version else []
    inputs: dict[str, str] = {}
    with suppress(Exception):  # the source may be away
        tree = ast.parse(textwrap.dedent(inspect.getsource(author.create)))
        options += ["--sql", "select 1"] if _reads_sql(tree) else []
        inputs |= _read_inputs(tree)
    with suppress(Exception):  # an annotation may name what is not there
        inputs |= _declared_inputs(author)
    for name, value in inputs.items():
        options += ["--input", f"{name}={value}"]
    for name in _secrets(author):
        options += ["--secret", f"{name}={name.upper()}"]
    return Sample(task_type, version, registered.source.removeprefix("module "), options)


def _reads_sql(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr == "sql" for node in ast.walk(tree))


def _read_inputs(tree: ast.AST) -> dict[str, str]:
    """Return the inputs that are read by `inputs["name"]` or `inputs.get("name")`, and values of the types that they
    are converted to."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=kind), args=[argument, *_]) if kind in _VALUES and (name := _key(argument)):
                found[name] = _VALUES[kind]
            case ast.expr() if name := _key(node):
                found.setdefault(name, name.upper())
    return found


def _key(node: ast.expr) -> str:
    """Return the name of the input that an expression reads; "" if it reads none."""
    match node:
        case ast.Subscript(value=ast.Name(id="inputs"), slice=ast.Constant(value=str(name))):
            return name
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="inputs"), attr="get"), args=[ast.Constant(value=str(name)), *_]
        ):
            return name
        case _:
            return ""


def _declared_inputs(connector: Any) -> dict[str, str]:
    """Return the inputs of a TypedDict or a dataclass that `create` declares for `inputs`."""
    kind = get_type_hints(connector.create).get("inputs")
    if kind is None or not (is_typeddict(kind) or is_dataclass(kind)):
        return {}
    return {
        name: _VALUES.get(getattr(hint, "__name__", ""), name.upper()) for name, hint in get_type_hints(kind).items()
    }


def _secrets(connector: Any) -> Iterator[str]:
    """Yield the arguments without a default that a host takes from a request's connection."""
    found: dict[str, None] = {}
    for method in _METHODS:
        try:
            parameters = inspect.signature(getattr(connector, method)).parameters.values()
        except (TypeError, ValueError, AttributeError):
            continue
        found |= {
            each.name: None
            for each in parameters
            if each.name not in _OF_HOST
            and each.default is each.empty
            and each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)
        }
    yield from found
