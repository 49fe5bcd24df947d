"""Log levels: one for all loggers, and other ones for some of them by name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Literal

__all__ = ["LEVELS", "Levels", "LogLevel"]

LogLevel = Literal["debug", "info", "warning", "error"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# names whose level is remembered; a connector may make a logger for each of its jobs
_MOST_NAMES = 1000


class Levels(dict[str, int]):
    """The lowest level that each logger writes, by the logger's name.

    A name counts for all loggers below it, as in `logging`: "vendor" for "vendor.client". "root" counts for all that
    are neither named nor ours.

    :ivar default: of loggers without a level by name
    :ivar named: the levels by name
    """

    def __init__(self, default: int, named: Mapping[str, int]) -> None:
        super().__init__()
        self.default = default
        self.named = dict(named)

    @classmethod
    def read(cls, words: str | Iterable[str]) -> Levels:
        """Return the levels that `words` ask for: "info", or ["info", "connectrio.rpc=debug", "httpx=warning"].

        :raises ValueError: a word is no level, or there are two for the same loggers
        """
        text = words if isinstance(words, str) else " ".join(words)
        found: dict[str, int] = {}
        for word in text.replace(",", " ").split():
            name, separator, level = word.rpartition("=")
            if level not in LEVELS or (separator and not name):
                raise ValueError(f"{word!r} is no log level: use {', '.join(LEVELS)}, or NAME=LEVEL for one logger")
            if name in found:
                raise ValueError(f"there are two log levels for {name or 'all loggers'}, the second is {word!r}")
            found[name] = LEVELS[level]
        default = found.pop("", logging.INFO)
        return cls(default, found)

    def __missing__(self, name: str) -> int:
        level = self._find(name)
        if len(self) < _MOST_NAMES:
            self[name] = level
        return level

    def _find(self, name: str) -> int:
        part = name
        while part:
            if part in self.named:
                return self.named[part]
            part = part.rpartition(".")[0]
        is_ours = name == "connectrio" or name.startswith("connectrio.")
        return self.default if is_ours else self.named.get("root", self.default)
