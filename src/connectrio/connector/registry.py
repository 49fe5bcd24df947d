"""Which connector serves which task type."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from connectrio.connector.base import AsyncConnector
from connectrio.connector.choice import ConnectorChoice, RegisteredConnector, SourceKind
from connectrio.connector.failures import LoadFailure
from connectrio.connector.policy import ConnectorPolicy
from connectrio.connector.registration import misspelt_methods, problems_of
from connectrio.diagnostics import definition_of
from connectrio.idl.flyteidl2.connector import Connector, TaskCategory
from connectrio.logs import get_logger

__all__ = ["ConnectorNotFoundError", "ConnectorRegistry", "RegisteredConnector", "Registry"]

log = get_logger("connectrio.connector.registry")

# characters of a name that are compared with others
_LONGEST_NAME = 100


class ConnectorNotFoundError(LookupError):
    """No connector is registered under that task type and version, or under that name."""


class Registry:
    """Connectors by (task type, version).

    The process has one, behind `ConnectorRegistry`, which modules register with when they are imported. A program
    that embeds several hosts gives each a `Registry` of its own.

    If several connectors are registered for one task type and version, all are kept and one is served: that which the
    user prefers (`ConnectorChoice`), else that with the highest `SourceKind`, else that which was registered with
    `override`.

    :ivar absent: by the name of its entry point, each connector of connectrio's own whose extra is not installed. That
        is no failure
    :ivar broken: why the modules that the user names cannot be loaded, of a host that serves without them until they
        can: its health is NOT_SERVING, and calls for unknown task types are answered UNAVAILABLE with this. It is one
        of `failures`
    :ivar registrations: how often a connector was registered, those that are left out included
    """

    def __init__(self) -> None:
        self._by_category: dict[tuple[str, int], RegisteredConnector] = {}
        self._claims: dict[tuple[str, int], list[RegisteredConnector]] = {}
        self._choice = ConnectorChoice()
        # where modules are being loaded from: the arguments of `loading`
        self._source: tuple[str, SourceKind, str, str] | None = None
        self.registrations = 0
        self.failures: list[LoadFailure] = []
        self.absent: dict[str, LoadFailure] = {}
        self.broken: LoadFailure | None = None
        # by (task type, version): the connectors whose lifespan is not open, and why
        self.outages: dict[tuple[str, int], LoadFailure] = {}

    @property
    def choice(self) -> ConnectorChoice:
        """What the user has decided. To set it decides anew between the connectors that are registered already."""
        return self._choice

    @choice.setter
    def choice(self, choice: ConnectorChoice) -> None:
        self._choice = choice
        for key in self._claims:
            self._decide(key)

    def all_failures(self) -> list[LoadFailure]:
        """Return what could not be loaded, and the connectors whose lifespan is not open."""
        return [*self.failures, *self.outages.values()]

    def register(self, connector: AsyncConnector[Any], override: bool = False) -> None:
        """Serve `connector.task_type_name` in `connector.task_type_version` with `connector`.

        :param override: come before what is registered there already with the same `SourceKind`
        :raises ValueError: the same source, or this program, has registered another there already, and nothing decides
            between the two; or a call of the connector would fail, for what the text names with its line: it does not
            say what it serves, has a parameter that the host does not pass, or a meta that cannot be read back
        :raises TypeError: not an `AsyncConnector` instance, or its `policy` is no `ConnectorPolicy`
        """
        if not isinstance(connector, AsyncConnector):
            raise TypeError(f"register() takes an instance of an AsyncConnector subclass, got {connector!r}")
        if problems := problems_of(connector):
            own = f"{type(connector).__qualname__} ({definition_of(type(connector))})"
            raise ValueError(f"{own} cannot be registered: {'; '.join(problems)}")
        for method, nearest, where in misspelt_methods(connector):
            log.warning(
                "no host calls a method whose name is almost right", method=method, nearest=nearest, where=where
            )
        if not isinstance(connector.policy, ConnectorPolicy):
            raise TypeError(
                f"{type(connector).__qualname__}.policy must be a ConnectorPolicy, got {connector.policy!r}"
            )
        key = (connector.task_type_name, connector.task_type_version)
        claims = self._claims.get(key, [])
        generation = max((claim.generation for claim in claims), default=0) + override
        source = self._source or (f"module {type(connector).__module__}", SourceKind.NAMED, "", "")
        new = RegisteredConnector(connector, *source, generation=generation)
        if not self._choice.excludes(new):
            rank = self._choice.rank(new)
            for claim in claims:
                is_equal = self._choice.rank(claim) == rank and not self._choice.excludes(claim)
                if is_equal and (self._source is None or claim.source == new.source):
                    raise ValueError(
                        f"Duplicate connector for task type: {key[0]} and version: {key[1]}"
                        f" (already registered by {claim.source}); pass override=True to replace it"
                    )
        self.registrations += 1
        self._claims[key] = [*(claim for claim in claims if not (override and claim.source == new.source)), new]
        self._decide(key)

    def _decide(self, key: tuple[str, int]) -> None:
        """Serve the best of the connectors for a task type and version."""
        rivals = self.rivals(*key)
        if rivals:
            self._by_category[key] = rivals[0]
        else:
            self._by_category.pop(key, None)

    def rivals(self, task_type_name: str, task_type_version: int = 0) -> list[RegisteredConnector]:
        """Return the connectors for a task type and version between which nothing decides; the first is served."""
        claims = self._claims.get((task_type_name, task_type_version), [])
        ranks = [(self._choice.rank(claim), claim) for claim in claims if not self._choice.excludes(claim)]
        best = max((rank for rank, _ in ranks), default=None)
        return [claim for rank, claim in ranks if rank == best]

    def claims(self) -> list[RegisteredConnector]:
        """Return all connectors, those that are not served included."""
        return [claim for claims in self._claims.values() for claim in claims]

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

    def nearest(self, task_type_name: str) -> str | None:
        """Return the task type that is served and whose name is most like `task_type_name`; None if none is like it."""
        served = {name.lower(): name for name, _ in self._by_category}
        # comparing takes the square of the length, which clients choose
        near = difflib.get_close_matches(task_type_name[:_LONGEST_NAME].lower(), served, n=1, cutoff=0.65)
        return served[near[0]] if near else None

    def registered(self) -> list[RegisteredConnector]:
        """Return the connectors that are served, in the order in which they were registered."""
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
    def loading(
        self, source: str, origin: SourceKind = SourceKind.NAMED, *, module: str = "", distribution: str = ""
    ) -> Iterator[None]:
        """Register here what modules register inside this block.

        :param source: see `RegisteredConnector`, also for the others
        """
        before = self._source, ConnectorRegistry.default
        self._source, ConnectorRegistry.default = (source, origin, module, distribution), self
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
