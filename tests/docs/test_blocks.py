"""What no test runs is right as far as that can be seen: syntax, commands and their options, extras."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import tomllib
from functools import cache

import cyclopts
import pytest
import yaml

from connectrio.cli.app import connectrio_app, flyte_connector_app
from docs.blocks import PAGES, ROOT, Block, commands, parts
from test_docs import DOCUMENTS, code_in

BLOCKS = [part for page in PAGES for part in parts(page) if isinstance(part, Block)]
LANGUAGES = {
    "bash", "console", "dockerfile", "json", "jsonc", "makefile", "promql", "proto", "python", "sh", "sql", "text",
    "toml", "yaml",
    "nginx",  # tests/drills/test_rolling.py runs it
}  # fmt: skip
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def in_language(*names: str) -> pytest.MarkDecorator:
    chosen = [block for block in BLOCKS if block.language in names]
    return pytest.mark.parametrize("block", chosen, ids=[block.place for block in chosen])


def test_every_block_has_a_language_that_is_tried_or_checked():
    assert [f"{block.place}: {block.language!r}" for block in BLOCKS if block.language.lower() not in LANGUAGES] == []


def test_only_command_lines_are_indented_without_a_fence():
    """A program in an indented block would be neither run nor checked."""
    program = re.compile(
        r"^\n    (?:(?:async )?def |class |from |import |return |@|[A-Z]+ [A-Z]+ |\w+ = )", re.MULTILINE
    )
    fenced = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
    pages = [page for page in DOCUMENTS if page.name not in ("CHANGELOG.md", "cli.md")]
    assert [page.name for page in pages if program.search(fenced.sub("", page.read_text()))] == []


@in_language("python")
def test_python_compiles(block):
    ast.parse(block.text, filename=block.place)


@in_language("toml", "yaml", "json")
def test_data_can_be_read(block):
    read = {"toml": tomllib.loads, "json": json.loads, "yaml": lambda text: list(yaml.safe_load_all(text))}
    read[block.language](block.text)


@in_language("bash", "sh", "console")
def test_bash_understands_it(block):
    script = block.text if block.language != "console" else "\n".join(each.text for each in commands(block))
    subprocess.run(["bash", "-n"], input=script, check=True, text=True, timeout=30)


def lines_of_commands() -> list[tuple[str, str]]:
    """The command lines of all documents, each with its place."""
    found = [(each.place, each.text) for block in BLOCKS if block.language == "console" for each in commands(block)]
    found += [
        (block.place, line)
        for block in BLOCKS
        if block.language in ("bash", "sh")
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    for document in DOCUMENTS:
        found += [(str(document.relative_to(ROOT)), code) for code in code_in(document.read_text())]
    return found


@cache
def app_of(program: str) -> cyclopts.App:
    return connectrio_app() if program == "connectrio" else flyte_connector_app()


def unknown(program: str, words: list[str]) -> list[str]:
    """Return the options of a command line that its command does not have; [its name] if there is no such command."""
    app, rest = app_of(program), list(words)
    while app.default_command is None and rest and not rest[0].startswith("-"):
        if rest[0] not in app:
            return [rest[0]]
        app = app[rest.pop(0)]
    known = {*app.help_flags, *app.version_flags}
    if app.default_command is not None:
        default = app_of(program).default_parameter
        known |= {name for each in app.assemble_argument_collection(default_parameter=default) for name in each.names}
    options = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    return [option for option in options if option.replace("_", "-") not in known]


def words_after(program: str, line: str) -> list[str] | None:
    """Return the arguments of a program in a command line; None if the line does not begin with it."""
    command = re.search(rf"(?:^|[|&;(] *|^(?:\w+=(?:\"[^\"]*\"|\S)*\s+)+|uv run ){program} ([^|&;)]*)", line)
    if command is None:
        return None
    try:
        return shlex.split(command[1], comments=True)
    except ValueError:
        return command[1].split()


@pytest.mark.parametrize("program", ["connectrio", "flyte-connector"])
def test_commands_and_their_options_exist(program):
    wrong = []
    for at, line in lines_of_commands():
        words = words_after(program, line)
        # some documents list commands, and name peers of a measurement "connectrio uvloop"
        if words and not words[0].endswith(",") and words[0] not in ("asyncio", "uvloop", "trio"):
            wrong += [f"{at}: {line}: {name}" for name in unknown(program, words)]
    assert wrong == []


def test_options_that_do_not_exist_are_found():
    assert unknown("connectrio", ["serve", "--prot", "1"]) == ["--prot"]
    assert unknown("connectrio", ["serv"]) == ["serv"]
    assert unknown("flyte-connector", ["c0", "--prometheus_port", "9090", "--no-entry-points"]) == []


def test_every_extra_exists():
    for document in DOCUMENTS:
        for extras in re.findall(r"connectrio\[([\w,]+)\]", document.read_text()):
            assert set(extras.split(",")) <= EXTRAS.keys(), f"{document.relative_to(ROOT)}: connectrio[{extras}]"
