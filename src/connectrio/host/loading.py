"""Load connectors from installed entry points and from modules named by the user."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from connectrio.connector.choice import RegisteredConnector, SourceKind
from connectrio.connector.failures import LoadFailure
from connectrio.connector.registry import Registry
from connectrio.host import frameworks
from connectrio.host.frameworks import FLYTEKIT_GROUP
from connectrio.host.load_errors import ModuleLoadError, failed_import, place_in
from connectrio.host.unregistered import missing_extra, why_nothing
from connectrio.logs import get_logger
from connectrio.masking.credentials import describe_error, format_traceback

log = get_logger("connectrio.host.loading")

__all__ = [
    "ENTRY_POINT_GROUP",
    "ModuleLoadError",
    "host_built_in",
    "host_registered",
    "load_entry_points",
    "load_modules",
    "report_choice",
]

ENTRY_POINT_GROUP = "flyte.connectors"


def load_entry_points(registry: Registry) -> None:
    """Import every installed entry point of the groups `flyte.connectors` and `flytekit.plugins`, except those that the
    user leaves out.

    A failure is logged and recorded in `registry.failures`; the other entry points are still loaded.
    """
    _load_each(registry, entry_points(group=ENTRY_POINT_GROUP))
    _load_each(registry, entry_points(group=FLYTEKIT_GROUP))


def _load_each(registry: Registry, found: Iterable[EntryPoint]) -> None:
    for entry_point in sorted(found, key=lambda each: (each.name, _distribution(each), each.value)):
        if registry.choice.excludes_all_of(entry_point.module, _distribution(entry_point)):
            continue
        source = f"entry point {entry_point.name} ({entry_point.value})"
        try:
            _load_entry_point(entry_point, source, registry)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit, and what event loops raise, end no host
            if _lacks_extra(entry_point, error):
                absent = registry.absent[entry_point.name] = _failure(source, error)
                log.debug("connectrio's own connector is not served: its extra is not installed", error=absent.error)
                continue
            where = place_in(entry_point.module, error)
            _note_failure(registry, source, error, "an entry point failed to load", where)


def _distribution(entry_point: EntryPoint) -> str:
    return "" if entry_point.dist is None else entry_point.dist.name


def _is_ours(entry_point: EntryPoint) -> bool:
    return entry_point.module.partition(".")[0] == __name__.partition(".")[0]


def _lacks_extra(entry_point: EntryPoint, error: BaseException) -> bool:
    """Return whether a connector of connectrio's own needs a package that the user has not chosen to install."""
    package = error.name if isinstance(error, ImportError) and _is_ours(entry_point) else None
    return package is not None and importlib.util.find_spec(package.partition(".")[0]) is None


def _load_entry_point(entry_point: EntryPoint, source: str, registry: Registry) -> None:
    name, distribution = entry_point.module, _distribution(entry_point)
    origin = SourceKind.INCLUDED if _is_ours(entry_point) else SourceKind.INSTALLED
    is_first_import = name not in sys.modules
    before = registry.registrations
    with _loading(registry, source, origin, module=name, distribution=distribution):
        entry_point.load()
    is_expected = entry_point.group == ENTRY_POINT_GROUP and is_first_import and registry.registrations == before
    if is_expected and (why := why_nothing(name, registry)):
        raise ModuleLoadError(why)


def host_registered(registry: Registry) -> None:
    """Host the connectors of flyte-sdk's and flytekit's registries in this process that `registry` does not have yet.

    Where `registry` has another connector for the same task type and version, that one stays, and the failure is logged
    and recorded.
    """
    try:
        with frameworks.hosting(registry, earlier=True):
            pass
    except ValueError as error:
        source = "the ConnectorRegistry of flyte-sdk or flytekit"
        _note_failure(registry, source, error, "a connector that is registered with another framework cannot be hosted")


def host_built_in(registry: Registry) -> None:
    """Host flytekit's own connectors, where `registry` has others for flytekit, as flytekit's service does.

    A failure is logged and recorded in `registry.failures`.
    """
    try:
        frameworks.host_built_in(registry)
    except ValueError as error:
        _note_failure(registry, "flytekit", error, "a connector of flytekit's own cannot be hosted")


def _failure(source: str, error: BaseException) -> LoadFailure:
    return LoadFailure(source, type(error).__name__, f"{describe_error(error)}{missing_extra(error)}")


def _note_failure(registry: Registry, source: str, error: BaseException, event: str, where: str = "") -> None:
    """Log the failure, and record it in `registry.failures`, with credentials in its texts masked.

    :param where: the line that has raised it
    """
    failure = _failure(source, error)
    fields = {"where": where} if where else {}
    log.warning(event, source=source, error=failure.error, **fields, exception=format_traceback(error))
    if failure not in registry.failures:
        registry.failures.append(failure)


@contextmanager
def _loading(
    registry: Registry, source: str, origin: SourceKind = SourceKind.NAMED, *, module: str, distribution: str = ""
) -> Iterator[None]:
    """Add to `registry` what modules register in this block, with connectrio, flyte-sdk or flytekit."""
    with registry.loading(source, origin, module=module, distribution=distribution), frameworks.hosting(registry):
        yield
    if module.partition(".")[0] == "flytekit":  # the user asks for its own connectors
        frameworks.host_built_in(registry, always=True)


def load_modules(registry: Registry, modules: Iterable[str]) -> None:
    """Import modules by name, or .py files by path. The working directory joins `sys.path`, as for a script.

    :raises ModuleLoadError: a module cannot be imported, or registers no connector; or two serve the same task type,
        and nothing decides between them
    """
    working_directory = str(Path.cwd())
    if working_directory not in sys.path and "" not in sys.path:
        sys.path.append(working_directory)
    for module in modules:
        name = Path(module).stem if module.endswith(".py") else module
        is_first_import = name not in sys.modules
        before = registry.registrations
        try:
            with _loading(registry, f"module {module}", module=name):
                if module.endswith(".py"):
                    _import_file(Path(module), name)
                else:
                    importlib.import_module(module)
        except (Exception, SystemExit) as error:
            raise failed_import(module, name, error) from error
        if is_first_import and registry.registrations == before and (why := why_nothing(name, registry)):
            raise ModuleLoadError(f"cannot load connectors from {module!r}: {why}")
    for key in {claim.key for claim in registry.claims()}:
        rivals = registry.rivals(*key)
        if len(rivals) > 1 and rivals[0].origin is SourceKind.NAMED:
            raise ModuleLoadError(_clash(rivals))


def report_choice(registry: Registry) -> None:
    """Log how it was decided which of several connectors serves a task type. Where nothing decides, record that.

    An entry of the user's choice that no connector has matched is logged, too.
    """
    by_key: dict[tuple[str, int], list[RegisteredConnector]] = {}
    for claim in registry.claims():
        by_key.setdefault(claim.key, []).append(claim)
    for key, claims in by_key.items():
        rivals = registry.rivals(*key)
        if len(rivals) > 1:
            failure = LoadFailure(rivals[1].source, "Clash", f"{_clash(rivals)}. Until then, the first one is served")
            if failure not in registry.failures:
                registry.failures.append(failure)
                log.warning("several connectors serve one task type", source=failure.source, error=failure.error)
        elif len(claims) > 1:
            log.info(
                "several connectors serve one task type, and one is chosen",
                task_type=key[0],
                task_type_version=key[1],
                chosen=[str(each) for each in rivals],
                others=[str(each) for each in claims if each not in rivals],
            )
    for setting, entries in registry.choice.unused.items():
        for entry in entries:
            log.warning("a setting names a source that has no connector", setting=setting, value=entry)


def _clash(rivals: Sequence[RegisteredConnector]) -> str:
    """Return which connectors are for one task type, and how to choose one."""
    task_type, version = rivals[0].key
    listed = "; ".join(f"({number}) {rival}" for number, rival in enumerate(rivals, 1))
    return (
        f"{len(rivals)} connectors serve the task type {task_type} in version {version}: {listed}. Choose one with the"
        f" setting prefer ({task_type}=SOURCE), or leave the others out with exclude; SOURCE is the name of a package,"
        " module or class in this list"
    )


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
