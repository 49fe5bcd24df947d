"""What can be set about the DuckDB connector of a host."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

__all__ = ["DuckDBSettings"]


def _default_home() -> Path:
    """The place the XDG base directory specification gives to state that outlives a restart."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path("~/.local/state")  # it says to ignore relative ones
    return base / "connectrio" / "duckdb"


@dataclass(frozen=True, kw_only=True)
class DuckDBSettings:
    """How a host runs DuckDB tasks.

    :ivar home: the directory of the job store, made if need be (`CONNECTRIO_DUCKDB_HOME`). On a volume that outlives
        the host, finished jobs do too
    :ivar max_running: how many queries run at once (`CONNECTRIO_DUCKDB_MAX_RUNNING`); the others are QUEUED. A query
        alone uses every core, so more at once makes none of them faster; two let a short one pass a long one. Each gets
        an equal share of the memory DuckDB would take. Of a host of several processes, each process runs so many
    :ivar keep: how long jobs are remembered once they have ended (`CONNECTRIO_DUCKDB_KEEP_DAYS`). A week lets Monday
        look at Friday's failures. Results are the user's and are never removed
    """

    home: Path = field(default_factory=_default_home)
    max_running: int = 2
    keep: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        if self.max_running < 1:
            raise ValueError(f"max_running must be at least 1, not {self.max_running}")
        if self.keep <= timedelta(0):
            raise ValueError(f"keep must be more than nothing, not {self.keep}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """The settings that the environment variables make; those unset or empty leave the defaults.

        :param environment: instead of `os.environ`
        :raises ValueError: a variable does not hold what it should; the text names it
        """
        environment = os.environ if environment is None else environment
        given: dict[str, Any] = {}
        for variable, (name, convert, expected) in _VARIABLES.items():
            text = environment.get(variable, "")
            if not text:
                continue
            try:
                given[name] = convert(text)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{variable} must be {expected}, not {text!r}") from error
        return cls(**given)


def _positive_count(text: str) -> int:
    if (count := int(text)) < 1:
        raise ValueError(text)
    return count


def _days(text: str) -> timedelta:
    if not (days := timedelta(days=float(text))) > timedelta(0):
        raise ValueError(text)
    return days


# variable → field, conversion, what it must be
_VARIABLES: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "CONNECTRIO_DUCKDB_HOME": ("home", Path, "a directory"),
    "CONNECTRIO_DUCKDB_MAX_RUNNING": ("max_running", _positive_count, "a whole number of queries, at least 1"),
    "CONNECTRIO_DUCKDB_KEEP_DAYS": ("keep", _days, "a number of days, more than 0"),
}
