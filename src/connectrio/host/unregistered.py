"""Why a module has registered no connector, and what to do about it."""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from connectrio.connector.registry import Registry
from connectrio.diagnostics import definition_of, text_of

__all__ = ["missing_extra", "why_nothing"]

# the package of a base class → where its registry is imported from
_REGISTRIES = {
    "connectrio": "connectrio",
    "flyte": "flyte.connectors",
    "flytekit": "flytekit.extend.backend.base_connector",
}
_BASES = {"AsyncConnector", "AsyncConnectorBase", "SyncConnectorBase", "AsyncAgentBase", "SyncAgentBase"}
# a package that is missing → the extra of connectrio that brings it
_EXTRAS = {"flyte": "flyte", "flyteidl2": "flyte", "flytekit": "flytekit", "flyteidl": "flytekit"}
# classes and modules that one message names
_MOST_NAMES = 5


def missing_extra(error: BaseException) -> str:
    """Return which extra to install if `error` is about a package that comes with one; else ""."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in _EXTRAS or importlib.util.find_spec(package) is not None:  # only a part of it is missing
        return ""
    return f"; install it: pip install 'connectrio[{_EXTRAS[package]}]'"


def why_nothing(name: str, registry: Registry) -> str:
    """Return why the import of module `name` has added no connector to `registry`; "" if that is in order, because
    the module uses connectors that were registered before."""
    module = sys.modules.get(name)
    if module is None or _uses_registered(module, registry):
        return ""
    forgotten = list(_connector_classes(module))
    if forgotten:
        return "it registers no connector. " + " ".join(_advice(each, module) for each in forgotten[:_MOST_NAMES])
    text = (
        "it registers no connector, and defines none; name a module that calls ConnectorRegistry.register when it is"
        " imported"
    )
    found = [each.name for each in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}.")]
    return f"{text}, perhaps one of this package: {', '.join(found[:_MOST_NAMES])}" if found else text


def _uses_registered(module: ModuleType, registry: Registry) -> bool:
    """Return whether `module` has names for registered connectors, their modules, or what is in these."""
    served = {type(each.connector).__module__ for each in registry.claims()}
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if not isinstance(name, str) or name in _REGISTRIES:  # every connector's module uses these
            continue
        if any(f"{each}.".startswith(f"{name}.") for each in served):
            return True
    return False


def _connector_classes(module: ModuleType) -> Iterator[type[Any]]:
    """Yield the classes of connectors that `module` or a package of that name defines."""
    for value in list(vars(module).values()):
        if not isinstance(value, type) or not f"{value.__module__}.".startswith(f"{module.__name__}."):
            continue
        if _framework(value):
            yield value


def _framework(connector: type[Any]) -> str:
    """Return the package of the base class that makes a class one of a connector; "" if none does."""
    roots = (base.__module__.partition(".")[0] for base in connector.__mro__[1:] if base.__name__ in _BASES)
    return next((root for root in roots if root in _REGISTRIES), "")


def _advice(connector: type[Any], module: ModuleType) -> str:
    name = connector.__qualname__
    text = f"Its class {name} ({definition_of(connector)}) is not registered"
    text += f": add ConnectorRegistry.register({name}()) below it"
    if not hasattr(module, "ConnectorRegistry"):
        text += f", with: from {_REGISTRIES[_framework(connector)]} import ConnectorRegistry"
    missing = sorted(getattr(connector, "__abstractmethods__", ()))
    return text_of(f"{text}; and write its {', '.join(missing)}" if missing else text) + "."
