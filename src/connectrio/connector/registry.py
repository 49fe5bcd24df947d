"""Which connector serves which task type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from connectrio.connector.base import AsyncConnector
from connectrio.connector.failures import LoadFailure
from connectrio.connector.policy import ConnectorPolicy
from connectrio.idl.flyteidl2.connector import Connector, TaskCategory

__all__ = ["ConnectorNotFoundError", "ConnectorRegistry", "RegisteredConnector", "Registry"]


class ConnectorNotFoundError(LookupError):
    """No connector is registered under that task type and version, or under that name."""


@dataclass(frozen=True)
class RegisteredConnector:
    """A connector, and the source that it was loaded from ("entry point duckdb", "module my.connectors", …)."""

    connector: AsyncConnector[Any]
    source: str


class Registry:
    """Connectors by (task type, version).

    The process has one, behind `ConnectorRegistry`, which modules register with when they are imported. A program
    that embeds several hosts gives each a `Registry` of its own.
    """

    def __init__(self) -> None:
        self._by_category: dict[tuple[str, int], RegisteredConnector] = {}
        self._source: str | None = None
        self.failures: list[LoadFailure] = []
        # by (task type, version): the connectors whose lifespan is not open, and why
        self.outages: dict[tuple[str, int], LoadFailure] = {}

    def all_failures(self) -> list[LoadFailure]:
        """Return what could not be loaded, and the connectors whose lifespan is not open."""
        return [*self.failures, *self.outages.values()]

    def register(self, connector: AsyncConnector[Any], override: bool = False) -> None:
        """Serve `connector.task_type_name` in `connector.task_type_version` with `connector`.

        :param override: replace what is registered there already
        :raises ValueError: something is registered there already, or the connector does not say what it serves
        :raises TypeError: not an `AsyncConnector` instance, or its `policy` is no `ConnectorPolicy`
        """
        if not isinstance(connector, AsyncConnector):
            raise TypeError(f"register() takes an instance of an AsyncConnector subclass, got {connector!r}")
        for attribute in ("task_type_name", "metadata_type"):
            if not hasattr(connector, attribute):
                raise ValueError(f"{type(connector).__qualname__} does not set {attribute}")
        if not isinstance(connector.policy, ConnectorPolicy):
            raise TypeError(
                f"{type(connector).__qualname__}.policy must be a ConnectorPolicy, got {connector.policy!r}"
            )
        key = (connector.task_type_name, connector.task_type_version)
        if key in self._by_category and not override:
            raise ValueError(
                f"Duplicate connector for task type: {key[0]} and version: {key[1]}"
                f" (already registered by {self._by_category[key].source}); pass override=True to replace it"
            )
        source = self._source or f"module {type(connector).__module__}"
        self._by_category[key] = RegisteredConnector(connector, source)

    def get_connector(self, task_type_name: str, task_type_version: int = 0) -> AsyncConnector[Any]:
        """Return the connector for that task type in exactly that version.

        :raises ConnectorNotFoundError: there is none
        """
        try:
            return self._by_category[task_type_name, task_type_version].connector
        except KeyError:
            raise ConnectorNotFoundError(
                f"Cannot find connector for task type: {task_type_name} and version: {task_type_version}"
            ) from None

    def has(self, task_type_name: str, task_type_version: int = 0) -> bool:
        """Return whether there is a connector for that task type in exactly that version."""
        return (task_type_name, task_type_version) in self._by_category

    def registered(self) -> list[RegisteredConnector]:
        """Return all connectors, in the order in which they were registered."""
        return list(self._by_category.values())

    def describe(self) -> list[Connector]:
        """Return all connectors as Flyte lists them: one entry for each name, with every task type that it serves."""
        by_name: dict[str, Connector] = {}
        for name, version in self._by_category:
            connector = self._by_category[name, version].connector
            entry = by_name.setdefault(connector.name, Connector(name=connector.name))
            entry.supported_task_categories.append(TaskCategory(name=name, version=version))
        return list(by_name.values())

    def describe_one(self, name: str) -> Connector:
        """Return the entry of `describe` with that name.

        :raises ConnectorNotFoundError: there is none
        """
        for entry in self.describe():
            if entry.name == name:
                return entry
        raise ConnectorNotFoundError(f"Cannot find connector for name: {name}.")

    @contextmanager
    def loading(self, source: str) -> Iterator[None]:
        """Register here what modules register inside this block, with `source` as its source."""
        before = self._source, ConnectorRegistry.default
        self._source, ConnectorRegistry.default = source, self
        try:
            yield
        finally:
            self._source, ConnectorRegistry.default = before


class ConnectorRegistry:
    """The registry of the process, with flyte-sdk's names: `ConnectorRegistry.register(MyConnector())`."""

    default: ClassVar[Registry] = Registry()

    @staticmethod
    def register(connector: AsyncConnector[Any], override: bool = False) -> None:
        """Serve a task type with `connector` in this process; the arguments and errors are `Registry.register`'s."""
        ConnectorRegistry.default.register(connector, override)

    @staticmethod
    def get_connector(task_type_name: str, task_type_version: int = 0) -> AsyncConnector[Any]:
        """Return the connector of this process for a task type; it raises as `Registry.get_connector` does."""
        return ConnectorRegistry.default.get_connector(task_type_name, task_type_version)
