"""Lines of connectors' code: where a call has failed, where it waits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType, TracebackType

from connectrio.diagnostics import framework_of, place_of
from connectrio.rpc.exceptions import only_leaf

__all__ = ["code_of", "failed_in", "home_of", "place_of"]

# causes of an error that are looked at
_MOST_CAUSES = 10


def code_of(connector: object) -> str:
    """Return where the class of a connector begins, as "/path/my_connector.py:12"; "" if that is not known."""
    cls = type(connector)
    file = _file_of(sys.modules.get(cls.__module__))
    if not file:
        return ""
    lines = [code.co_firstlineno for code in _codes(cls) if code.co_filename == file]
    return f"{file}:{min(lines)}" if lines else file


def _file_of(module: object) -> str:
    """Return the path of a module's file; "" if it has none. What stands for a module can be any object."""
    try:
        file = getattr(module, "__file__", None)
    except BaseException:  # noqa: BLE001 - a diagnostic harms nothing
        return ""
    return file if type(file) is str else ""


def _codes(cls: type) -> Iterator[CodeType]:
    for value in vars(cls).values():
        if isinstance(value, FunctionType):
            yield value.__code__


def home_of(connector: object) -> str:
    """Return the beginning of the paths of a connector's code: its package's directory, or its file; "" if unknown."""
    return _home(type(connector).__module__)


@cache
def _home(module_name: str) -> str:
    module = sys.modules.get(module_name)
    file = _file_of(module)
    if not file:
        return ""
    try:
        is_package = bool(getattr(module, "__package__", ""))
    except BaseException:  # noqa: BLE001 - as above
        is_package = False
    return f"{Path(file).parent}{os.sep}" if is_package else file


def failed_in(
    error: BaseException, connector: object, in_thread: Callable[[FrameType], Iterable[FrameType]] = lambda _: ()
) -> str:
    """Return the innermost line of the connector's code that `error` passed, or else of others'; "" if there is none.

    Lines of the host and of what it runs on do not count.

    Raises nothing. An error that was raised because of another one passed where that one did.

    :param in_thread: returns the frames of the thread that a frame waits for, the innermost first
    """
    try:
        home = home_of(connector)
        found = ""
        current: BaseException | None = only_leaf(error)
        for _ in range(_MOST_CAUSES):
            if current is None:
                break
            own, innermost = _innermost(current.__traceback__, home, in_thread)
            if own:
                return own
            found = found or innermost
            current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    except BaseException:  # noqa: BLE001 - attributes of a foreign error; a diagnostic harms nothing
        return ""
    return found


def _innermost(
    places: TracebackType | None, home: str, in_thread: Callable[[FrameType], Iterable[FrameType]]
) -> tuple[str, str]:
    """Return the innermost line in files that begin with `home`, and the innermost that is not the host's."""
    own = innermost = ""
    while places is not None:
        frame = places.tb_frame
        if not framework_of(frame):
            innermost = place_of(frame, places.tb_lineno)
        if home and frame.f_code.co_filename.startswith(home):
            own = place_of(frame, places.tb_lineno)
        for inner in in_thread(frame):
            if home and inner.f_code.co_filename.startswith(home):
                own = place_of(inner)
                break
        places = places.tb_next
    return own, innermost
