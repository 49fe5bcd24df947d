"""The option --log-level, of all commands that host connectors."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from connectrio.logs import Levels

__all__ = ["LogLevel"]


def _check(_kind: object, words: list[str] | None) -> None:
    """Check the value; cyclopts names the option, or the variable, in the error.

    :raises ValueError: a word is no level
    """
    Levels.read(words or ())


LogLevel = Annotated[list[str], Parameter(consume_multiple=True, validator=_check)]
"""See `connectrio.logs.Levels.read`."""
