"""Finding connectors: installed entry points, and modules named by the user."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from connectrio.connector.load_failure import LoadFailure
from connectrio.connector.registry import Registry
from connectrio.logs import get_logger

ENTRY_POINT_GROUP = "flyte.connectors"

log = get_logger("connectrio.host.loading")

__all__ = ["ENTRY_POINT_GROUP", "ModuleLoadError", "host_registered", "load_entry_points", "load_modules"]

_FLYTE_SDK = "flyte.connectors"


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
            _note_failure(registry, source, error)
            log.warning("an entry point failed to load", source=source, exc_info=error)


def _note_failure(registry: Registry, source: str, error: BaseException) -> None:
    failure = LoadFailure(source, f"{type(error).__name__}: {error}")
    if failure not in registry.failures:
        registry.failures.append(failure)


def _load_entry_point(entry_point: EntryPoint, source: str, registry: Registry) -> None:
    is_first_import = entry_point.module not in sys.modules
    before = len(registry.registered())
    with _loading(registry, source):
        entry_point.load()
    if is_first_import and len(registry.registered()) == before:
        raise ModuleLoadError("it registered no connector with connectrio.ConnectorRegistry, nor with flyte-sdk's")


def host_registered(registry: Registry) -> None:
    """Host what this process has registered with flyte-sdk's own registry, and `registry` does not have yet.

    Where `registry` has another connector for the same task type and version, that one stays, and the failure is logged
    and recorded.
    """
    source = "flyte-sdk's ConnectorRegistry"
    try:
        _host_new(registry, {})
    except ValueError as error:
        _note_failure(registry, source, error)
        log.warning("a connector that is registered with flyte-sdk cannot be hosted", source=source, exc_info=error)


@contextmanager
def _loading(registry: Registry, source: str) -> Iterator[None]:
    """What modules register in this block comes to `registry`, whether they do so with us or with flyte-sdk."""
    with registry.loading(source):
        before = _registered_with_flyte_sdk()
        yield
        _host_new(registry, before)


def _registered_with_flyte_sdk() -> dict[Any, Any]:
    """Empty also where flyte-sdk is not installed: it is big, and loaded only once some connector has loaded it."""
    module = sys.modules.get(_FLYTE_SDK)
    # not public, but there is no other way to list them
    return {} if module is None else dict(module.ConnectorRegistry._REGISTRY)  # noqa: SLF001


def _host_new(registry: Registry, before: dict[Any, Any]) -> None:
    if _registered_with_flyte_sdk() != before:
        from connectrio.flyte import adopt

        adopt(registry, before)


def load_modules(registry: Registry, modules: Iterable[str]) -> None:
    """Import modules by name, or .py files by path. The working directory joins `sys.path`, as for a script.

    :raises ModuleLoadError: one cannot be imported
    """
    working_directory = str(Path.cwd())
    if working_directory not in sys.path and "" not in sys.path:
        sys.path.append(working_directory)
    for module in modules:
        _load_module(module, registry)


def _load_module(module: str, registry: Registry) -> None:
    try:
        with _loading(registry, f"module {module}"):
            _import_module(module)
    except BaseException as error:
        if not isinstance(error, Exception | SystemExit):
            raise
        raise ModuleLoadError(f"cannot load connectors from {module!r}: {type(error).__name__}: {error}") from error


def _import_module(module: str) -> None:
    if module.endswith(".py"):
        _import_file(Path(module))
    else:
        importlib.import_module(module)


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
