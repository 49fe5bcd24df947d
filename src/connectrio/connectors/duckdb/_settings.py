"""The settings of the DuckDB connector."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

__all__ = ["DuckDBSettings"]


def _default_home() -> Path:
    """Return the directory for state that outlives a restart, after the XDG Base Directory Specification."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path("~/.local/state")  # the specification ignores relative paths
    return base / "connectrio" / "duckdb"


@dataclass(frozen=True, kw_only=True)
class DuckDBSettings:
    """How a host runs DuckDB tasks.

    :ivar home: the directory of the job store, created if it is missing (`CONNECTRIO_DUCKDB_HOME`). On a volume that
        outlives the host, finished jobs outlive it as well
    :ivar max_running: the most queries that run at once (`CONNECTRIO_DUCKDB_MAX_RUNNING`); the others are QUEUED. One
        query uses every core, so more at once are not faster; with two, a short one can pass a long one. Each gets an
        equal share of DuckDB's default memory limit. If a host has several processes, this is for each of them
    :ivar keep: the time for which jobs are kept after their end (`CONNECTRIO_DUCKDB_KEEP_DAYS`); a week, so that
        Friday's failures are there on Monday. Results belong to the user and are never removed
    """

    home: Path = field(default_factory=_default_home)
    max_running: int = 2
    keep: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        if self.max_running < 1:
            raise ValueError(f"max_running must be at least 1, not {self.max_running}")
        if self.keep <= timedelta(0):
            raise ValueError(f"keep must be more than 0, not {self.keep}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Return the settings of the environment variables; defaults where one is unset or empty.

        :param environment: instead of `os.environ`
        :raises ValueError: a variable has an invalid value; the text names it
        """
        environment = os.environ if environment is None else environment
        given: dict[str, Any] = {}
        for variable, (name, convert, expected) in _VARIABLES.items():
            text = environment.get(variable, "")
            if not text:
                continue
            try:
                given[name] = convert(text)
                cls(**{name: given[name]})  # refuses a value that is out of range
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{variable} must be {expected}, not {text!r}") from error
        return cls(**given)


def _days(text: str) -> timedelta:
    return timedelta(days=float(text))


# variable → field, conversion, valid values
_VARIABLES: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "CONNECTRIO_DUCKDB_HOME": ("home", Path, "a directory"),
    "CONNECTRIO_DUCKDB_MAX_RUNNING": ("max_running", int, "a whole number of queries, at least 1"),
    "CONNECTRIO_DUCKDB_KEEP_DAYS": ("keep", _days, "a number of days, more than 0"),
}
