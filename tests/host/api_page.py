"""The part of docs/reference/http.md that is made from the documents' docstrings: python tests/host/api_page.py"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from connectrio.telemetry import report
from connectrio.telemetry.search import JobDetails

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"
BEGIN = "## The documents\n"

_IVAR = re.compile(r":ivar (\w+): (.*?)(?=\n *:ivar |\Z)", re.DOTALL)
# the first ones are those that others are part of
_FIRST = ("HostReport", "JobReport", "JobDetails")


def generated() -> str:
    """The tables of all documents, to the end of the page."""
    kinds = {name: getattr(report, name) for name in report.__all__} | {"JobDetails": JobDetails}
    names = [*_FIRST, *sorted(kinds.keys() - set(_FIRST))]
    return "\n".join([BEGIN, *(line for name in names for line in _table(name, kinds[name]))]).rstrip() + "\n"


def _table(name: str, kind: type[msgspec.Struct]) -> Iterator[str]:
    text = inspect.getdoc(kind) or ""
    meanings = {field: " ".join(meaning.split()) for field, meaning in _IVAR.findall(text)}
    yield f"### {name}\n"
    yield f"{' '.join(text.partition(':ivar')[0].split())}\n"
    yield "| field | type | meaning |"
    yield "|---|---|---|"
    for field in msgspec.structs.fields(kind):
        yield f"| `{field.name}` | {_type(kind.__annotations__[field.name])} | {_cell(meanings.get(field.name, ''))} |"
    yield ""


def _type(annotation: str) -> str:
    """What JSON has for a type of Python."""
    if annotation.endswith(" | None"):
        return f"{_type(annotation.removesuffix(' | None'))} or null"
    if annotation.startswith("list["):
        return f"list of {_type(annotation[5:-1])}"
    if annotation.startswith("tuple[") and annotation.endswith(", ...]"):
        return f"list of {_type(annotation[6:-6])}"
    if annotation.startswith("tuple["):
        return f"[{', '.join(_type(each) for each in annotation[6:-1].split(', '))}]"
    if annotation.startswith("dict["):
        return f"object of {_type(annotation.partition(', ')[2][:-1])}"
    names = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
    return names.get(annotation) or f"[{annotation}](#{annotation.lower()})"


def _cell(meaning: str) -> str:
    return meaning.replace("|", "\\|")


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(page[: page.index(BEGIN)] + generated())
