"""The fields that each line of a call has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

__all__ = ["add_line_fields", "line_fields"]

line_fields: ContextVar[Callable[[], Mapping[str, Any]] | None] = ContextVar("connectrio_line_fields", default=None)
"""Returns the fields of each line that is written in this context, such as the execution and the task type of a call.

It is called for lines that are written, not for those below their logger's level. A field that a line has itself is
kept. If the function raises, the line has no such fields.
"""


def add_line_fields(event: MutableMapping[str, Any]) -> None:
    """Add the fields of the context to those of a line that is written."""
    fields_of = line_fields.get()
    if fields_of is None:
        return
    token = line_fields.set(None)  # the function may itself write lines
    try:
        for name, value in fields_of().items():
            event.setdefault(name, value)
    except BaseException:  # noqa: BLE001, S110 - whatever it raises, the line counts
        pass
    finally:
        line_fields.reset(token)
