"""Load connectors from installed entry points and from modules named by the user."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from connectrio.connector.failures import LoadFailure
from connectrio.connector.registry import Registry
from connectrio.diagnostics import is_of_author
from connectrio.host.lifecycle import HostError
from connectrio.logs import get_logger
from connectrio.masking.credentials import describe_error, format_traceback

log = get_logger("connectrio.host.loading")

__all__ = ["ENTRY_POINT_GROUP", "ModuleLoadError", "host_registered", "load_entry_points", "load_modules"]

ENTRY_POINT_GROUP = "flyte.connectors"
_FLYTE_SDK = "flyte.connectors"


class ModuleLoadError(HostError):
    """A module that the user has named cannot be loaded.

    :ivar traceback: where its code has failed, masked; "" if none of its code has run
    """

    traceback = ""


def load_entry_points(registry: Registry) -> None:
    """Import every installed entry point of the group `flyte.connectors`.

    A failure is logged and recorded in `registry.failures`; the other entry points are still loaded.
    """
    for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda found: found.name):
        source = f"entry point {entry_point.name} ({entry_point.value})"
        try:
            _load_entry_point(entry_point, source, registry)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit, and what event loops raise, end no host
            where = _place_in(entry_point.module, error)
            if isinstance(error, SyntaxError):
                where = f"{error.filename}, line {error.lineno}"
            _note_failure(registry, source, error, "an entry point failed to load", where)


def _load_entry_point(entry_point: EntryPoint, source: str, registry: Registry) -> None:
    is_first_import = entry_point.module not in sys.modules
    before = registry.registered()
    with _loading(registry, source):
        entry_point.load()
    if is_first_import and registry.registered() == before:
        raise ModuleLoadError(
            "it registered no connector with connectrio.ConnectorRegistry, nor with flyte-sdk's; call"
            " ConnectorRegistry.register in it"
        )


def host_registered(registry: Registry) -> None:
    """Host the connectors of flyte-sdk's own registry in this process that `registry` does not have yet.

    Where `registry` has another connector for the same task type and version, that one stays, and the failure is logged
    and recorded.
    """
    source = "flyte-sdk's ConnectorRegistry"
    try:
        _host_new(registry, {})
    except ValueError as error:
        _note_failure(registry, source, error, "a connector that is registered with flyte-sdk cannot be hosted")


def _note_failure(registry: Registry, source: str, error: BaseException, event: str, where: str = "") -> None:
    """Log the failure, and record it in `registry.failures`, with credentials in its texts masked.

    :param where: the line that has raised it
    """
    failure = LoadFailure(source, type(error).__name__, describe_error(error))
    fields = {"where": where} if where else {}
    log.warning(event, source=source, error=failure.error, **fields, exception=format_traceback(error))
    if failure not in registry.failures:
        registry.failures.append(failure)


@contextmanager
def _loading(registry: Registry, source: str) -> Iterator[None]:
    """Add to `registry` what modules register in this block, with connectrio or with flyte-sdk."""
    with registry.loading(source):
        before = _registered_with_flyte_sdk()
        yield
        _host_new(registry, before)


def _registered_with_flyte_sdk() -> dict[Any, Any]:
    """Return flyte-sdk's registry; it is empty as long as no connector has imported flyte-sdk, which is big."""
    module = sys.modules.get(_FLYTE_SDK)
    # not public, but the only way to list them
    return {} if module is None else dict(module.ConnectorRegistry._REGISTRY)  # noqa: SLF001


def _host_new(registry: Registry, before: dict[Any, Any]) -> None:
    if _registered_with_flyte_sdk() != before:
        from connectrio.flyte import adopt

        adopt(registry, before)


def load_modules(registry: Registry, modules: Iterable[str]) -> None:
    """Import modules by name, or .py files by path. The working directory joins `sys.path`, as for a script.

    A module that registers no connector is logged: it may have another purpose.

    :raises ModuleLoadError: a module cannot be imported
    """
    working_directory = str(Path.cwd())
    if working_directory not in sys.path and "" not in sys.path:
        sys.path.append(working_directory)
    for module in modules:
        name = Path(module).stem if module.endswith(".py") else module
        is_first_import = name not in sys.modules
        before = registry.registered()
        try:
            with _loading(registry, f"module {module}"):
                if module.endswith(".py"):
                    _import_file(Path(module), name)
                else:
                    importlib.import_module(module)
        except (Exception, SystemExit) as error:
            where = _place_in(name, error)
            place = f" ({where})" if where else ""
            failure = ModuleLoadError(f"cannot load connectors from {module!r}: {describe_error(error)}{place}")
            failure.traceback = format_traceback(error) if is_of_author(error) else ""
            raise failure from error
        if is_first_import and registry.registered() == before:
            log.warning("a module registered no connector; call ConnectorRegistry.register in it", module=module)


def _place_in(name: str, error: BaseException) -> str:
    """Return the innermost line that raised `error` in module `name` or a package around it: "one.py, line 3"."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if f"{name}.".startswith(f"{frame.f_globals.get('__name__')}."):
            place = f"{frame.f_code.co_filename}, line {line}"
    return place


def _import_file(path: Path, name: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(path.resolve()):
            return
        raise ImportError(
            f"a module named {name!r} is loaded already, from {getattr(known, '__file__', None)}; rename one of them"
        )
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
