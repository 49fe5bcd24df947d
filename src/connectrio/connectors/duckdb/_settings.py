"""The settings of the DuckDB connector."""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

__all__ = ["DuckDBSettings"]

_MIB = 2**20
_UNITS = {
    "": 1,
    "kib": 2**10,
    "mib": _MIB,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}


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
    :ivar allow: directories that tasks may use (`CONNECTRIO_DUCKDB_ALLOW`, separated by spaces), in addition to the
        data directory, which is `data` in `home`: `output_prefix` and `database` must be there, and SQL reads and
        writes no other files. None may hold the job store
    :ivar memory_limit: the most bytes of memory for one query (`CONNECTRIO_DUCKDB_MEMORY_LIMIT`, such as 4GiB); by
        default its share of 80 % of the machine's memory. What does not fit is written to the disk where DuckDB can
    :ivar time_limit: the most seconds that a query runs (`CONNECTRIO_DUCKDB_TIME_LIMIT`); then it has FAILED. A task
        may set less with `timeout` in its custom. Six hours, so that an endless query does not keep its place
    :ivar max_queued: the most queries that wait (`CONNECTRIO_DUCKDB_MAX_QUEUED`); further ones are refused with
        RESOURCE_EXHAUSTED
    :ivar unsafe_sql: tasks may use all files that the host can, SQL may load extensions, reach other machines and
        change any setting of DuckDB. `connectrio serve --unsafe-sql` has the same effect
    """

    home: Path = field(default_factory=_default_home)
    max_running: int = 2
    keep: timedelta = timedelta(days=7)
    allow: tuple[Path, ...] = ()
    memory_limit: int | None = None
    time_limit: float = 6 * 3600.0
    max_queued: int = 1000
    unsafe_sql: bool = False

    def __post_init__(self) -> None:
        if self.max_running < 1:
            raise ValueError(f"max_running must be at least 1, not {self.max_running}")
        if self.max_queued < 1:
            raise ValueError(f"max_queued must be at least 1, not {self.max_queued}")
        if not 0 < self.time_limit < float("inf"):
            raise ValueError(f"time_limit must be more than 0, not {self.time_limit}")
        if self.keep <= timedelta(0):
            raise ValueError(f"keep must be more than 0, not {self.keep}")
        if self.memory_limit is not None and self.memory_limit < _MIB:
            raise ValueError(f"memory_limit must be at least {_MIB}, not {self.memory_limit}")

    def allowed(self) -> tuple[Path, ...]:
        """Return the real paths of the directories that tasks may use if SQL is confined. This accesses the disk.

        :raises ValueError: one of them holds the job store, or a part of it
        """
        home = _real_path(self.home)
        data = home / "data"
        places = [_real_path(place) for place in self.allow]
        for place in places:
            if home.is_relative_to(place) or (place.is_relative_to(home) and not place.is_relative_to(data)):
                raise ValueError(
                    f"CONNECTRIO_DUCKDB_ALLOW names {place}, but SQL must not reach the job store in {home}: name"
                    " another directory, or set CONNECTRIO_DUCKDB_HOME to one elsewhere"
                )
        return (data, *places)

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
            except (KeyError, ValueError, OverflowError) as error:
                raise ValueError(f"{variable} must be {expected}, not {text!r}") from error
        return cls(**given)


def _real_path(path: Path) -> Path:
    return Path(os.path.realpath(path.expanduser()))


def _directories(text: str) -> tuple[Path, ...]:
    return tuple(map(Path, text.split()))


def _bytes(text: str) -> int:
    number = text.rstrip(string.ascii_letters)
    return int(float(number) * _UNITS[text[len(number) :].lower()])


def _days(text: str) -> timedelta:
    return timedelta(days=float(text))


# variable → field, conversion, valid values
_VARIABLES: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "CONNECTRIO_DUCKDB_HOME": ("home", Path, "a directory"),
    "CONNECTRIO_DUCKDB_MAX_RUNNING": ("max_running", int, "a whole number of queries, at least 1"),
    "CONNECTRIO_DUCKDB_ALLOW": ("allow", _directories, "directories, separated by spaces"),
    "CONNECTRIO_DUCKDB_MEMORY_LIMIT": ("memory_limit", _bytes, "a size of at least 1MiB, such as 4GiB"),
    "CONNECTRIO_DUCKDB_TIME_LIMIT": ("time_limit", float, "a number of seconds, more than 0"),
    "CONNECTRIO_DUCKDB_MAX_QUEUED": ("max_queued", int, "a whole number of queries, at least 1"),
    "CONNECTRIO_DUCKDB_KEEP_DAYS": ("keep", _days, "a number of days, more than 0"),
}
