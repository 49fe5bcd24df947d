"""Finds the lines that the package writes itself, in its source: text, level, logger and fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import connectrio

SOURCE = Path(connectrio.__file__).parent
LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "repeated_warning": "warning",
    "error": "error",
    "exception": "error",
    "_fails": "error",
}
BY_CASE = "by case"
# what loggers and their methods are called
NAMES = {"log", "logger", "_log", "_logger", "write"}
# lines whose text or level is not in the call itself: module, what is written there → text, level
WRITTEN_ELSEWHERE = {
    ("logs/_takeover.py", "event"): [],  # the texts are those of `_fails`
    ("host/host.py", "danger"): [("what an unsafe setting allows: `HostSettings.dangers`", "warning")],
    ("host/signals.py", "stopping"): [("stopping at once: a second SIGTERM", "warning")],
    ("telemetry/incidents.py", "event"): [
        ("an incident began: the other system fails", "warning"),
        ("an incident goes on", "warning"),
    ],
    ("host/loading.py", "event"): [
        ("an entry point failed to load", "warning"),
        ("a connector that is registered with another framework cannot be hosted", "warning"),
        ("a connector of flytekit's own cannot be hosted", "warning"),
    ],
}


@dataclass(frozen=True)
class Event:
    """A line.

    :ivar fields: those that the call names; more may come from a mapping
    :ivar where: the module and the line of its source
    """

    text: str
    level: str
    logger: str
    fields: frozenset[str]
    where: str


def events() -> Iterator[Event]:
    """Yield the lines of all modules."""
    for path in sorted(SOURCE.rglob("*.py")):
        if "idl" not in path.parts:
            yield from _events_of(path)


def _events_of(path: Path) -> Iterator[Event]:
    tree = ast.parse(path.read_text())
    module = str(path.relative_to(SOURCE))
    constants = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    name = next(
        (
            str(value.args[0].value)
            for value in constants.values()
            if isinstance(value, ast.Call) and getattr(value.func, "id", "") in ("get_logger", "SafeLogger")
        ),
        "connectrio.rpc" if module.startswith("rpc/") else "connectrio",
    )
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        levels = _levels(node.func)
        text = constants.get(node.args[0].id) if isinstance(node.args[0], ast.Name) else node.args[0]
        given = [keyword.arg for keyword in node.keywords if keyword.arg]
        fields = {field for field in given if field != "exc_info"}
        if "exc_info" in given or getattr(node.func, "attr", "") == "exception":
            fields.add("exception")
        place = f"{module}:{node.lineno}"
        for level in levels:
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                fields |= set(re.findall(r"%\((\w+)\)", text.value))
                yield Event(text.value, level, name, frozenset(fields), place)
            elif isinstance(node.func, ast.Attribute):
                for known, known_level in WRITTEN_ELSEWHERE[module, ast.unparse(node.args[0])]:
                    yield Event(known, known_level, name, frozenset(fields), place)


def _levels(function: ast.expr) -> list[str]:
    """The levels of a call that writes a line; none for other calls."""
    if isinstance(function, ast.Attribute) and function.attr in LEVELS:
        owner = function.value
        owned = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        return [LEVELS[function.attr]] if owned in NAMES or function.attr == "_fails" else []
    if isinstance(function, ast.Name) and function.id in NAMES:
        return [BY_CASE]
    is_chosen = isinstance(function, ast.Call) and getattr(function.func, "id", "") == "getattr"
    return [BY_CASE] if is_chosen and getattr(function.args[0], "id", "") in NAMES else []
