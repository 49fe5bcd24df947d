"""Finds at registration what would fail at the first call of a connector, and says in which line it is.

A host passes all arguments by name. So a parameter that is misspelt gets nothing, and what it should have got ends in
`**kwargs`, or nowhere.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

import msgspec

from connectrio.connector.base import AsyncConnector, ResourceMeta
from connectrio.diagnostics import definition_of, text_of

__all__ = ["misspelt_methods", "problems_of"]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_META = ("resource_meta",)
# method → what the host always passes, and what it passes to parameters of these names
_PASSED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "create": (("task_template", "output_prefix", "inputs", "task_execution_metadata"), ()),
    "get": (_META, ("output_prefix",)),
    "get_many": (("resource_metas",), ()),
    "delete": (_META, ()),
    "get_metrics": (_META, ("queries", "start_time", "end_time", "step")),
    "get_logs": (_META, ("token", "lines")),
}
# which only some methods get, and no secret is called so
_ELSEWHERE = {name for always, _ in _PASSED.values() for name in always}
# how much two names have in common: "inptus" has 0.83 in common with "inputs"
_SIMILAR = 0.82
# those that may have the secrets of a connection
_WITH_SECRETS = ("create", "get", "get_many", "delete")


def problems_of(connector: AsyncConnector[Any]) -> list[str]:
    """Return what is wrong with a connector, a sentence for each, with the line.

    One that converts its inputs itself was written for another framework, whose host has the rules for it.
    """
    found = []
    if not isinstance(getattr(connector, "task_type_name", None), str) or not connector.task_type_name:
        found.append("it does not set task_type_name, the task type that it serves")
    if type(connector.task_type_version) is not int:
        found.append(f"its task_type_version must be an int, got {connector.task_type_version!r}")
    meta = getattr(connector, "metadata_type", None)
    if meta is None:
        found.append("it does not set metadata_type: say what `create` returns, as in AsyncConnector[MyMeta]")
    elif not isinstance(meta, type) or not hasattr(meta, "decode"):
        found.append(f"its metadata_type must be a subclass of ResourceMeta, got {text_of(meta)}")
    elif not connector.converts_inputs:
        found += _problems_of_meta(meta)
    if not connector.converts_inputs:
        for method in _PASSED:
            found += _problems_of_method(connector, method)
        found += _shadowed_secrets(connector)
    return found


def misspelt_methods(connector: AsyncConnector[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the methods that no host calls, and whose names are almost those of methods that this connector lacks.

    Each with the other name and with its line.
    """
    cls = type(connector)
    missing = [
        name for name in (*_PASSED, "is_transient", "lifespan") if getattr(cls, name) is getattr(AsyncConnector, name)
    ]
    for base in cls.__mro__[: cls.__mro__.index(AsyncConnector)]:
        for name, member in vars(base).items():
            if inspect.isfunction(member) and not name.startswith("_") and not hasattr(AsyncConnector, name):
                for nearest in difflib.get_close_matches(name, missing, n=1, cutoff=0.8):
                    yield f"{cls.__qualname__}.{name}", nearest, definition_of(member)


def _parameters(connector: AsyncConnector[Any], method: str) -> dict[str, inspect.Parameter] | None:
    """Return the parameters of a method, without `self`; None if there is none, or nobody can tell."""
    bound = getattr(connector, method)
    if getattr(bound, "__func__", bound) is getattr(AsyncConnector, method) or not callable(bound):
        return None
    try:
        return dict(inspect.signature(bound).parameters)
    except ValueError:  # it is written in C
        return None


def _problems_of_method(connector: AsyncConnector[Any], method: str) -> Iterator[str]:
    parameters = _parameters(connector, method)
    if parameters is None:
        if not callable(getattr(connector, method)):
            yield f"its {method} is {text_of(getattr(connector, method))}, which cannot be called"
        return
    always, further = _PASSED[method]
    own = f"its {method} ({definition_of(getattr(connector, method))})"
    named = {name: each for name, each in parameters.items() if each.kind in _NAMED}
    absent = [name for name in (*always, *further) if name not in named]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for position, (name, each) in enumerate(parameters.items()):
        if each.kind is each.POSITIONAL_ONLY:
            yield f"{own} takes {name!r} by position only, and the host passes arguments by name"
            absent = [other for other in absent if other != name]
        if name not in named or name in always or name in further:
            continue
        is_required = each.default is each.empty
        near = difflib.get_close_matches(name, absent, n=1, cutoff=_SIMILAR)
        if not near and position == 0 and is_required and each.kind is each.POSITIONAL_OR_KEYWORD:
            near = [always[0]] if always[0] in absent else []  # "meta" is the resource_meta
        if near:
            absent.remove(near[0])
            yield f"{own} has the parameter {name!r}, which the host does not know: rename it to {near[0]!r}"
        elif is_required and name in _ELSEWHERE:
            yield f"{own} needs {name!r}, which the host does not pass to {method}"
    lost = [repr(name) for name in absent if name in always]
    if lost and not takes_any:
        yield f"{own} does not take {', '.join(lost)}, which the host passes: add it, or **kwargs"


def _shadowed_secrets(connector: AsyncConnector[Any]) -> Iterator[str]:
    """Yield the secrets whose names have another meaning in logs and metrics, such as "token", where a page begins."""
    for method in ("get_logs", "get_metrics"):
        for name in sorted({*(_parameters(connector, method) or ())} & {*_PASSED[method][1]}):
            for other in _WITH_SECRETS:
                if name in (_parameters(connector, other) or ()):
                    yield (
                        f"its {other} ({definition_of(getattr(connector, other))}) takes a secret named {name!r}, and"
                        f" its {method} ({definition_of(getattr(connector, method))}) gets something else of that name"
                        f" from the host{', where the page of the log begins' if name == 'token' else ''}: rename the"
                        f" secret, for example to 'api_{name}', here and in the tasks"
                    )
                    break


def _problems_of_meta(meta: type[Any]) -> Iterator[str]:
    """Yield why the host could not read a job's meta back; a class that decodes it itself is left alone."""
    if not issubclass(meta, ResourceMeta) or meta.decode.__func__ is not ResourceMeta.decode.__func__:  # type: ignore[attr-defined]  # they are methods
        return
    for cls in meta.__mro__[: meta.__mro__.index(ResourceMeta)]:
        if "__dataclass_fields__" not in vars(cls) and (names := _annotated(cls)):
            own = f"{cls.__qualname__} ({definition_of(cls)})"
            yield f"{own} has the fields {', '.join(names)}, and is no dataclass: write @dataclass above it"
            return
    own = f"{meta.__qualname__} ({definition_of(meta)})"
    try:
        info: Any = msgspec.inspect.type_info(meta)
    except Exception as error:  # noqa: BLE001 - a name that cannot be resolved, or a type that msgspec refuses
        yield f"{own} cannot be read from JSON: {type(error).__name__}: {text_of(error)}"
        return
    for field in info.fields:
        for foreign in _foreign_types(field.type, set()):
            yield f"{own} has the field {field.name!r} of type {foreign.__name__}, which JSON cannot hold"


def _annotated(cls: type) -> list[str]:
    """Return the names that a class annotates as fields, in its own body."""
    try:
        annotations = inspect.get_annotations(cls)
    except NameError:  # from Python 3.14 on, of a type that is only imported for type checkers
        return ["…"]
    return [name for name, kind in annotations.items() if "ClassVar" not in str(kind)]


def _foreign_types(info: Any, seen: set[int]) -> Iterator[type]:
    """Yield the classes in the description of a type that msgspec cannot make of JSON."""
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        yield info.cls
    elif isinstance(info, tuple | list):
        for each in info:
            yield from _foreign_types(each, seen)
    elif isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        for name in info.__struct_fields__:
            yield from _foreign_types(getattr(info, name), seen)
