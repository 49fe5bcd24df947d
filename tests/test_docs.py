"""What the documents name exists: links, files, modules, settings, classes, and the rooms of the package."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from connectrio.connector.policy import ConnectorPolicy
from connectrio.host.settings import HostSettings
from syntax import parsed
from test_layers import MAY_IMPORT

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "connectrio"
DECISIONS = ROOT / "docs" / "explanation" / "decisions"
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))

# where the documents' paths begin: `tests/bench`, `rpc/_http2/stream.py` and `rpc/http2/test_fuzz` are all plain
BASES = (ROOT, PACKAGE, ROOT / "tests")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def without_blocks(text: str) -> str:
    """A document without its fenced blocks, which show programs and sessions."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def code_in(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def anchors(document: Path) -> set[str]:
    """The fragments that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def names_in(file: Path) -> frozenset[str]:
    """What a module defines and assigns, in its classes too."""
    found = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
    return frozenset(found)


def names_of_the_package() -> set[str]:
    return set().union(*(names_in(file) for file in PACKAGE.rglob("*.py") if "idl" not in file.parts))


def exists(path: str) -> bool:
    return any((base / (path + suffix)).exists() for base in BASES for suffix in ("", ".py"))


@each_document
def test_every_link_leads_somewhere(document: Path):
    for target, _, fragment in re.findall(r"\]\((?!https?://)([^)#]*)(#([^)]*))?\)", document.read_text()):
        linked = document.parent / target if target else document
        assert linked.exists(), target
        assert not fragment or fragment in anchors(linked), f"{target}#{fragment}"


@each_document
def test_nothing_was_doubled_by_a_merge(document: Path):
    """A merge that keeps both sides can leave a heading inside a paragraph, and a paragraph or a row twice."""
    text = without_blocks(document.read_text())
    assert re.findall(r"^(?:<{7}|>{7}) .*", text, re.MULTILINE) == []
    assert re.findall(r"\S\n(#+ .*)", text) == []
    paragraphs = [" ".join(each.split()) for each in re.split(r"\n\n|\n(?=[-|#])", text)]
    begun = [each[:40] for each in paragraphs if len(each) >= 40 and not each.startswith("|")]
    assert {each for each in begun if begun.count(each) > 1} == set()
    for table in re.findall(r"^\| field \|.*\n\|[-:| ]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        names = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]
        assert {name for name in names if names.count(name) > 1} <= {"key", "job"}, "a field has two rows"


@each_document
def test_every_path_exists(document: Path):
    roots = {path.name for base in BASES for path in base.iterdir() if path.is_dir()}
    for code in code_in(document.read_text()):
        for path in re.findall(r"(?<![\w/.:=-])\.?[\w-]+(?:/[\w.-]*)+", code):
            if path.split("/")[0] in roots:
                assert exists(path.rstrip("/.")), path


@each_document
def test_every_module_and_its_names_exist(document: Path):
    for code in code_in(document.read_text()):
        for name in re.findall(r"(?<![\w./-])connectrio(?:\.\w+)+", code):
            module, missing = PACKAGE, name.split(".")[1:]
            while missing and (module / missing[0]).is_dir():
                module /= missing.pop(0)
            if missing and (module / f"{missing[0]}.py").exists():
                file = module / f"{missing.pop(0)}.py"
            else:
                file = module / "__init__.py"
            assert not missing or missing[0] in names_in(file) or name == "connectrio.toml", name


def test_the_architecture_names_what_exists():
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    drawings = " ".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL))
    known = names_of_the_package()
    # ours are written like this: two words or more in one, as in ServerCall
    named = set(re.findall(r"\b(?:[A-Z]+[a-z]+){2,}\b", drawings))
    for code in code_in(text):
        named |= set(re.findall(r"\b[A-Za-z_]\w*", code)) if re.fullmatch(r"[\w.]+", code) else set()
    named -= {path.stem for path in (ROOT / "src").rglob("*")} | {"connectrio", "src", "def", "await", "py", "md"}
    # of Python, anyio and gRPC
    named -= {"CancelledError", "CancelScope", "SystemExit"}
    assert named - known == set()


def test_the_architecture_names_every_file_that_it_draws():
    architecture = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    drawing = re.search(r"```text\n(.*?)```", architecture, re.DOTALL)
    assert drawing is not None
    paths = re.findall(r"\b(?:rpc|service|host)/[\w/]+\.py", drawing[1])
    assert len(paths) > 5
    for path in paths:
        assert (PACKAGE / path).exists(), path


def test_the_map_of_the_house_is_the_one_that_is_enforced():
    """The table of CONTRIBUTING.md beside the table of test_layers.py."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("| room | what it holds | may import |") : text.index("Inside `rpc/`:")]
    rows = re.findall(r"^\| `(\w+)/?` \|.*\| ([^|]+) \|$", table, re.MULTILINE)
    every = MAY_IMPORT.keys() - {"__init__", "__main__"}
    mapped = {}
    for room, allowed in rows:
        names = set(re.findall(r"`(\w+)`", allowed))
        mapped[room] = every - names - {room} if allowed.startswith("every room but") else names
    assert mapped == {room: MAY_IMPORT[room] for room in every}


def test_the_index_of_decisions_has_every_page():
    linked = set(re.findall(r"^\| \[[^]]+\]\((\S+)\)", (DECISIONS / "README.md").read_text(), re.MULTILINE))
    assert linked == {path.name for path in DECISIONS.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", sorted(DECISIONS.glob("*.md")), ids=lambda path: path.stem)
def test_a_decision_has_its_five_headings(page: Path):
    if page.name != "README.md":
        headings = re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE)
        assert headings == ["Question", "Decision", "Reasons", "Costs", "Decide again when"]


@each_document
def test_every_variable_is_a_setting(document: Path):
    settings = {field.name.upper() for field in fields(HostSettings)}
    settings |= {"BACKEND", "PROCESSES", "LOG_LEVEL", "LOG_FORMAT", "CONFIG"}
    settings |= {"URL", "TARGET", "TOKEN"}  # of the commands that ask a host
    of_others = {"DUCKDB", "REFERENCE"}  # CONNECTRIO_DUCKDB_…, CONNECTRIO_REFERENCE of the tests
    for name in re.findall(r"\bCONNECTRIO_([A-Z][A-Z_]*)", document.read_text()):
        assert name in settings or name.split("_")[0] in of_others, name


@each_document
def test_every_number_beside_a_setting_is_its_default(document: Path):
    """As in "`grace` seconds (25)", and in tables that begin with a setting and its default."""
    defaults = {field.name: field.default for field in fields(HostSettings)}
    named = re.findall(r"`(?:--)?([\w-]+)`(?: seconds)?(?: \(| \| )(\d[\d,]*)\b", document.read_text())
    for name, number in named:
        setting = name.replace("-", "_")
        assert setting not in defaults or float(number.replace(",", "")) == defaults[setting], name


def test_the_table_of_options_has_every_option_and_its_default():
    rows = re.findall(r"^\| `(\w+)` \| ([^|,]+)", (ROOT / "docs" / "how-to" / "vendor.md").read_text(), re.MULTILINE)
    words = {(): "none", ("*",): "`*`", False: "false"}
    policy = ConnectorPolicy()
    defaults = {each.name: getattr(policy, each.name) for each in fields(policy)}
    assert {name: text.strip() for name, text in rows} == {
        name: words[value] if isinstance(value, bool | tuple) else f"{value:g}" for name, value in defaults.items()
    }
