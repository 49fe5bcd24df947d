"""What the context of a line says: the fields that each line of a call has, and the secrets that none may show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

from connectrio.diagnostics import type_name

__all__ = ["CALL_FIELDS", "add_line_fields", "line_fields", "line_mask", "masked", "whose_line"]

line_fields: ContextVar[Callable[[], Mapping[str, Any]] | None] = ContextVar("connectrio_line_fields", default=None)
"""Returns the fields of each line that is written in this context, such as the execution and the task type of a call.

It is called for lines that are written, not for those below their logger's level. A field that a line has itself is
kept. If the function raises, the line has no such fields.
"""

line_mask: ContextVar[Callable[[str], str] | None] = ContextVar("connectrio_line_mask", default=None)
"""Returns a text that code of a connector writes in this context without the secrets of the call, cut to a log line's.

It is called for texts that are written. If it raises, the text is withheld, and the rest of the line is written.
"""

CALL_FIELDS = frozenset({
    "operation", "task_type", "task_type_version", "project", "domain", "execution", "node", "attempt", "key", "job",
    "output_prefix", "peer", "rpc", "trace_id", "span_id", "connector", "process",
})  # fmt: skip
"""Fields that say which call a line is of: a connector's own values of these names are put into the field `extra`."""


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


def whose_line() -> tuple[object, ...]:
    """Return what tells the lines of one job from those of another in the fields of the context."""
    fields: dict[str, Any] = {}
    add_line_fields(fields)
    return tuple(map(fields.get, ("operation", "connector", "execution", "node", "attempt", "job", "key")))


def masked(text: str) -> str:
    """Return `text` without the secrets of the context's call."""
    mask = line_mask.get()
    if mask is None:
        return text
    token = line_mask.set(None)  # as above
    try:
        return mask(text)
    except BaseException as error:  # noqa: BLE001 - whatever it raises, the line counts
        return f"[text withheld: {type_name(error)} while its secrets were looked for]"
    finally:
        line_mask.reset(token)
