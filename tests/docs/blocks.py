"""The fenced blocks of a document, and the marks in comments that say how they are tried."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_PART = re.compile(
    r"^(?P<indent> *)(?P<fence>```+) *(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)(?P=fence) *$"
    r"|^ *<!-- (?P<mark>keeps running|exits|not run|stops)(?:: (?P<value>.*?))? -->$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    :ivar place: page:line, of the line that opens it
    :ivar title: the file that it is, or ""
    :ivar marks: of the comments before it, with their texts
    """

    place: str
    language: str
    title: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stop:
    """The mark that stops the program of a session, whose command begins so."""

    place: str
    command: str


def place(page: Path, line: int) -> str:
    """Return how a line of a page is written."""
    return f"{page.relative_to(ROOT)}:{line}"


def parts(page: Path) -> Iterator[Block | Stop]:
    """Yield the blocks of a page and what stops its programs, in order."""
    text = page.read_text(encoding="utf-8")
    marks: dict[str, str] = {}
    for found in _PART.finditer(text):
        at = place(page, text.count("\n", 0, found.start()) + 1)
        if found["mark"] == "stops":
            yield Stop(at, found["value"] or "")
        elif found["mark"]:
            marks[found["mark"]] = found["value"] or ""
            assert text[found.end() :].lstrip().startswith(("```", "<!--")), f"{at}: no block follows this mark"
        else:
            language, _, options = found["info"].strip().partition(" ")
            title = re.search(r'title="([^"]+)"', options)
            yield Block(at, language, title[1] if title else "", textwrap.dedent(found["body"]), marks)
            marks = {}


@dataclass(frozen=True)
class Command:
    """A command of a session, and the lines that it shows."""

    place: str
    text: str
    shown: list[str]


def commands(block: Block) -> list[Command]:
    """Return the commands of a session."""
    page, _, first = block.place.rpartition(":")
    found: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), int(first) + 1):
        if line.startswith("$ "):
            found.append(Command(f"{page}:{number}", line[2:], []))
            continue
        assert found, f"{page}:{number}: a session begins with a command: $ …"
        last = found[-1]
        if line.startswith("> ") and not last.shown:
            found[-1] = Command(last.place, f"{last.text}\n{line[2:]}", [])
        else:
            last.shown.append(line.rstrip())
    return found
