"""What is told of a module that cannot be loaded: the error, its place, the line of source, and the author's frames."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from types import TracebackType

from connectrio.diagnostics import framework_of
from connectrio.host.lifecycle import HostError
from connectrio.host.unregistered import missing_extra
from connectrio.masking.credentials import describe_error, format_traceback, mask_credentials

__all__ = ["ModuleLoadError", "failed_import", "place_in"]


class ModuleLoadError(HostError):
    """A module that the user has named cannot be loaded."""


def failed_import(module: str, name: str, error: BaseException) -> ModuleLoadError:
    """Return the error for a module whose import has raised `error`, with its place and its picture, masked.

    :param module: as the user has named it
    :param name: its name in `sys.modules`
    """
    place = place_in(name, error)
    text = describe_error(error)
    if isinstance(error, SyntaxError) and place:
        text = f"{type(error).__name__}: {mask_credentials(error.msg)}"  # without its place
    extra = missing_extra(error)
    at = f" ({place})" if place else ""
    failure = ModuleLoadError(f"cannot load connectors from {module!r}: {text}{extra}{at}")
    if place and not extra:
        failure.picture = "\n".join(filter(None, (mask_credentials(_source(place, error)), _own_traceback(error))))
    return failure


def place_in(name: str, error: BaseException) -> str:
    """Return the innermost line that raised `error` in module `name` or a package around it, as "one.py:3".

    Of a SyntaxError, return the line that is wrong, in whichever file; "" if there is none.
    """
    if isinstance(error, SyntaxError) and error.lineno and Path(str(error.filename)).is_file():
        return f"{error.filename}:{error.lineno}"
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if f"{name}.".startswith(f"{frame.f_globals.get('__name__')}."):
            place = f"{frame.f_code.co_filename}:{line}"
    return place


def _source(place: str, error: BaseException) -> str:
    """Return the line of source at `place` with its number, and the mark under it if the syntax error is there."""
    file, _, number = place.rpartition(":")
    line = linecache.getline(file, int(number)).rstrip().replace("\t", " ")
    shown = f"{number:>4} | {line}"
    if isinstance(error, SyntaxError) and error.offset and place == f"{error.filename}:{error.lineno}":
        ends_here = error.end_lineno == error.lineno and error.end_offset is not None
        width = max(1, (error.end_offset or 0) - error.offset) if ends_here else 1
        shown += f"\n     | {' ' * (error.offset - 1)}{'^' * width}"
    return shown


def _own_traceback(error: BaseException) -> str:
    """Return the traceback without frames of connectrio and of what it runs on; "" if it says no more than the line."""
    links: list[TracebackType] = []
    link = error.__traceback__
    while link is not None:
        links.append(link)
        link = link.tb_next
    own: TracebackType | None = None
    frames = 0
    for each in reversed(links):
        if not framework_of(each.tb_frame):
            own = TracebackType(own, each.tb_frame, each.tb_lasti, each.tb_lineno)
            frames += 1
    BaseException.with_traceback(error, own)
    text = format_traceback(error)
    is_chain = text.count("Traceback (most recent call last):") > 1
    return text if frames > 1 or is_chain or (frames and isinstance(error, SyntaxError)) else ""
