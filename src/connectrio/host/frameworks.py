"""The registries of flyte-sdk and flytekit: what modules register with them is hosted in ours."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from connectrio.connector.choice import SourceKind
from connectrio.connector.registry import Registry

__all__ = ["FLYTEKIT_GROUP", "host_built_in", "hosting"]

# the entry points of flytekit's plugins; some have connectors, most have types or stores
FLYTEKIT_GROUP = "flytekit.plugins"

_Key = tuple[str, int]
"""A task type and its version."""


@dataclass(frozen=True)
class _Framework:
    """A framework for connectors.

    :ivar registry_module: the module with its registry, which is empty as long as no connector has imported the module:
        that is big
    :ivar room: the package of connectrio that hosts its connectors
    :ivar key: returns the task type and the version of one of its connectors
    """

    registry_module: str
    room: str
    key: Callable[[Any], _Key]

    @property
    def registry(self) -> Any:
        """Its registry; None as long as it is not imported."""
        module = sys.modules.get(self.registry_module)
        return None if module is None else module.ConnectorRegistry

    def registered(self) -> dict[Any, Any]:
        """Return what is registered; this is not public, but the only way to list it."""
        return {} if self.registry is None else dict(self.registry._REGISTRY)  # noqa: SLF001


_FRAMEWORKS = (
    _Framework("flyte.connectors", "connectrio.flyte", attrgetter("task_type_name", "task_type_version")),
    _Framework(
        "flytekit.extend.backend.base_connector",
        "connectrio.flytekit",
        attrgetter("task_category.name", "task_category.version"),
    ),
)


@contextmanager
def hosting(registry: Registry, *, earlier: bool = False) -> Iterator[None]:
    """Host in `registry` what is registered with other frameworks in this block.

    :param earlier: and what was registered before
    :raises ValueError: `registry` does not take one, see `Registry.register`. The others are hosted
    """
    found = [_Before(each, {} if earlier else each.registered()) for each in _FRAMEWORKS]
    with _without_plugins(), ExitStack() as stack:
        for before in found:
            stack.enter_context(_accepting_rivals(before))
        yield
    for before in found:
        if before.framework.registered() != before.registered:
            adopt = importlib.import_module(before.framework.room).adopt
            adopt(registry, before.registered, before.overriding)


@dataclass
class _Before:
    """A framework before a block.

    :ivar overriding: the keys of connectors that have asked for `override` since
    """

    framework: _Framework
    registered: Mapping[Any, Any]
    overriding: set[_Key] = field(default_factory=set)


@contextmanager
def _accepting_rivals(before: _Before) -> Iterator[None]:
    """Let connectors register in this block where others did before it: our registry decides between them."""
    theirs, key_of = before.framework.registry, before.framework.key
    if theirs is None:  # it is empty
        yield
        return
    original = theirs.register
    taken = {key_of(connector) for connector in before.framework.registered().values()}

    def register(connector: Any, override: bool = False) -> None:
        key = key_of(connector)
        original(connector, override or key in taken)
        taken.discard(key)
        if override:
            before.overriding.add(key)

    theirs.register = staticmethod(register)
    try:
        yield
    finally:
        theirs.register = staticmethod(original)


@contextmanager
def _without_plugins() -> Iterator[None]:
    """Let flytekit load no plugin if it is imported in this block.

    It would load all plugins that are installed, and one that fails would fail the import of flytekit, and so all
    connectors for it.
    """
    metadata: Any = importlib.metadata
    original = metadata.entry_points

    def without_plugins(**selection: Any) -> Any:
        return () if selection.get("group") == FLYTEKIT_GROUP else original(**selection)

    metadata.entry_points = without_plugins
    try:
        yield
    finally:
        metadata.entry_points = original
        flytekit: Any = sys.modules.get("flytekit")
        if getattr(flytekit, "entry_points", None) is without_plugins:
            flytekit.entry_points = original


def host_built_in(registry: Registry, *, always: bool = False) -> None:
    """Host flytekit's own connectors, for sensors and webhooks, if `registry` has other connectors for flytekit.

    :param always: also if it has none
    :raises ValueError: as `hosting`
    """
    if _FRAMEWORKS[1].registry is not None:
        from connectrio.flytekit import adopt_built_in

        with registry.loading("flytekit", SourceKind.INSTALLED, module="flytekit", distribution="flytekit"):
            adopt_built_in(registry, always=always)
