"""Finding connectors: installed entry points, and modules named by the user."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from connectrio.logs import get_logger
from connectrio.registry import LoadFailure, Registry

ENTRY_POINT_GROUP = "flyte.connectors"

log = get_logger("connectrio.loading")

__all__ = ["ENTRY_POINT_GROUP", "ModuleLoadError", "load_entry_points", "load_modules"]


class ModuleLoadError(Exception):
    """A module that the user asked for cannot be loaded."""


def load_entry_points(registry: Registry) -> None:
    """Import every installed entry point of the group `flyte.connectors`.

    One that fails is logged and recorded in `registry.failures`; the others are loaded all the same.
    """
    for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda found: found.name):
        source = f"entry point {entry_point.name} ({entry_point.value})"
        try:
            _load_entry_point(entry_point, source, registry)
        except BaseException as error:
            if not isinstance(error, Exception | SystemExit):
                raise
            failure = LoadFailure(source, f"{type(error).__name__}: {error}")
            if failure not in registry.failures:
                registry.failures.append(failure)
            log.warning("an entry point failed to load", source=source, exc_info=error)


def _load_entry_point(entry_point: EntryPoint, source: str, registry: Registry) -> None:
    is_first_import = entry_point.module not in sys.modules
    before = len(registry.registered())
    with registry.loading(source):
        entry_point.load()
    if is_first_import and len(registry.registered()) == before:
        raise ModuleLoadError("it registered no connector with connectrio.ConnectorRegistry")


def load_modules(registry: Registry, modules: Iterable[str]) -> None:
    """Import modules by name, or .py files by path. The working directory joins `sys.path`, as for a script.

    :raises ModuleLoadError: one cannot be imported
    """
    working_directory = str(Path.cwd())
    if working_directory not in sys.path and "" not in sys.path:
        sys.path.append(working_directory)
    for module in modules:
        with registry.loading(f"module {module}"):
            _load_module(module)


def _load_module(module: str) -> None:
    try:
        if module.endswith(".py"):
            _import_file(Path(module))
        else:
            importlib.import_module(module)
    except BaseException as error:
        if not isinstance(error, Exception | SystemExit):
            raise
        raise ModuleLoadError(f"cannot load connectors from {module!r}: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(path.resolve()):
            return
        raise ImportError(f"a module named {name!r} is loaded already, from {getattr(known, '__file__', None)}")
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
