"""Which of several connectors for one task type is served, and which connectors are left out."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectrio.connector.base import AsyncConnector

__all__ = ["ConnectorChoice", "RegisteredConnector", "SourceKind", "check_source"]


class SourceKind(enum.IntEnum):
    """How a connector came to a host. Of two for one task type, the one with the higher origin is served."""

    # with connectrio itself
    INCLUDED = 0
    # with a package that somebody has installed
    INSTALLED = 1
    # by a module that the user names, or by the program that runs the host
    NAMED = 2


@dataclass(frozen=True)
class RegisteredConnector:
    """A connector, and where it was loaded from.

    :ivar source: the same for people: "entry point duckdb (connectrio.connectors.duckdb)", "module my.connectors", …
    :ivar module: the module whose import has registered it; "" if it was registered by a program
    :ivar distribution: the name of the installed package that offers it; "" if none does
    :ivar generation: how many registrations of this task type, this one included, had `override`
    """

    connector: AsyncConnector[Any]
    source: str
    origin: SourceKind = SourceKind.NAMED
    module: str = ""
    distribution: str = ""
    generation: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """The task type and version."""
        return self.connector.task_type_name, self.connector.task_type_version

    def __str__(self) -> str:
        own = type(self.connector)
        text = f"{self.source}, class {own.__module__}.{own.__qualname__}"
        return f"{text}, package {self.distribution}" if self.distribution else text


class ConnectorChoice:
    """What the user has decided: which connectors come before others, and which are left out.

    Each entry is SOURCE, or TYPE=SOURCE for one task type. SOURCE is the name of an installed package, or a module, a
    package or a class by its full name, or a .py file.

    :param prefer: whose connectors are served where there are several; an earlier entry comes before a later one
    :param exclude: whose connectors are left out
    :ivar unused: the entries that no connector has matched yet, by the setting
    """

    def __init__(self, prefer: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self.unused = {"prefer": list(dict.fromkeys(prefer)), "exclude": list(dict.fromkeys(exclude))}
        self._prefer = [(entry, *_parse(entry)) for entry in self.unused["prefer"]]
        self._exclude = [(entry, *_parse(entry)) for entry in self.unused["exclude"]]

    def rank(self, found: RegisteredConnector) -> tuple[int, int, int]:
        """Return what decides between connectors for one task type: the highest is served."""
        places = [
            place
            for place, (entry, task_type, source) in enumerate(reversed(self._prefer))
            if task_type in ("", found.key[0]) and self._matches(entry, "prefer", source, found)
        ]
        return max(places, default=-1), found.origin, found.generation

    def excludes(self, found: RegisteredConnector) -> bool:
        """Return whether a connector is left out."""
        matching = [
            entry
            for entry, task_type, source in self._exclude
            if task_type in ("", found.key[0]) and self._matches(entry, "exclude", source, found)
        ]
        return bool(matching)

    def excludes_all_of(self, module: str, distribution: str) -> bool:
        """Return whether all that a module of an installed package may register is left out."""
        matching = [
            entry
            for entry, task_type, source in self._exclude
            if not task_type and (_is_within(module, source) or _same_distribution(distribution, source))
        ]
        self._use("exclude", matching)
        return bool(matching)

    def _matches(self, entry: str, setting: str, source: str, found: RegisteredConnector) -> bool:
        own = type(found.connector)
        is_match = (
            _is_within(f"{own.__module__}.{own.__qualname__}", source)
            or _is_within(found.module, source)
            or _same_distribution(found.distribution, source)
        )
        self._use(setting, [entry] if is_match else [])
        return is_match

    def _use(self, setting: str, entries: Iterable[str]) -> None:
        for entry in entries:
            if entry in self.unused[setting]:
                self.unused[setting].remove(entry)


def check_source(setting: str, entries: Iterable[str]) -> None:
    """Check the entries of a setting that is given to `ConnectorChoice`.

    :raises ValueError: one is neither SOURCE nor TYPE=SOURCE
    """
    for entry in entries:
        if not entry.rpartition("=")[2] or entry.startswith("="):
            raise ValueError(
                f"{setting} must be SOURCE or TYPE=SOURCE, such as my_connectors or duckdb=my_connectors; got {entry!r}"
            )


def _parse(entry: str) -> tuple[str, str]:
    """Return the task type, "" for all, and the source."""
    task_type, _, source = entry.rpartition("=")
    return task_type, PurePath(source).stem if source.endswith(".py") else source


def _is_within(name: str, source: str) -> bool:
    return f"{name}.".startswith(f"{source}.")


def _same_distribution(name: str, source: str) -> bool:
    # the packaging standards take these names for equal: My_Package, my-package, my.package
    return bool(name) and re.sub("[-_.]+", "-", name).lower() == re.sub("[-_.]+", "-", source).lower()
