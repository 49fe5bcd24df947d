"""`connectrio new`: the names and files that it writes, and that each written package passes its own checks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from connectrio.cli.commands.new import TEMPLATES, Template
from type_checks.checkers import why_no_pyright

RUFF = Path(sys.executable).with_name("ruff")
every_template = pytest.mark.parametrize("template", get_args(Template))


@pytest.fixture
def shell(tmp_path):
    """Runs a line of bash in the package's directory, with the programs of this environment; it must not fail."""
    source = tmp_path / "acme-reports"
    programs = Path(sys.executable).parent

    def run(line: str) -> str:
        environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": f"{source}/src",
            "MYPYPATH": f"{source}/src",
            "TMPDIR": str(tmp_path),
            "PYTEST_ADDOPTS": "",
        }
        ran = subprocess.run(
            ["bash", "-c", line], cwd=source, env=environment, check=False, capture_output=True, text=True, timeout=170
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    return run


def written(directory: Path) -> dict[str, str]:
    """The text of each file below `directory`."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def test_every_template_is_offered():
    assert sorted(path.parent.name for path in TEMPLATES.glob("*/template.toml")) == sorted(get_args(Template))


@every_template
def test_the_files(run, tmp_path, template):
    outcome = run("new", "acme-reports", "--template", template, "--task-type", "report.v2")
    assert (outcome.code, outcome.err) == (0, "")
    files = written(tmp_path / "acme-reports")
    assert [line.removeprefix("acme-reports/") for line in outcome.out.split("\n\n")[0].splitlines()] == sorted(
        files, key=outcome.out.index
    )
    assert {".gitignore", ".github/workflows/ci.yml", "README.md", "src/acme_reports/py.typed"} <= files.keys()
    assert {"src/acme_reports/__init__.py", "tests/test_acme_reports.py"} <= files.keys()
    for name, text in files.items():
        assert not re.search(r"my.?connector|my_task|\{\{\w+\}\}", text, re.IGNORECASE), name
    assert 'name = "Acme Reports"\n    task_type_name = "report.v2"' in files["src/acme_reports/__init__.py"]
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "acme-reports"
    assert project["entry-points"] == {"flyte.connectors": {"acme-reports": "acme_reports"}}


@every_template
@pytest.mark.parametrize("name", ["a", "z", "the-longest-names-have-32-letter"])
def test_the_style_whatever_the_name(run, tmp_path, template, name):
    assert run("new", name, "--template", template).code == 0
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        ran = subprocess.run([RUFF, *command], cwd=tmp_path / name, check=False, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@every_template
def test_what_is_written_passes_its_own_tests(run, shell, template):
    run("new", "acme-reports", "--template", template)
    report = shell("python -m pytest -q -p no:cacheprovider")
    assert re.search(r"^\d+ passed", report, re.MULTILINE)
    assert "asyncio" in (listed := shell("python -m pytest -q -p no:cacheprovider --collect-only"))
    assert "trio" in listed


@pytest.mark.parametrize(
    ("name", "template"), [("job", "http"), ("task", "http"), ("query", "sql"), ("job", "subprocess")]
)
def test_a_name_that_the_files_use_for_something_else(run, shell, template, name):
    run("new", name, "--template", template, "--directory", "acme-reports")
    assert f"class {name.capitalize()}Connector(" in Path("acme-reports", "src", name, "__init__.py").read_text()
    assert re.search(r"^\d+ passed", shell("python -m pytest -q -p no:cacheprovider"), re.MULTILINE)


@every_template
def test_its_types(run, shell, template):
    run("new", "acme-reports", "--template", template)
    shell("mypy")
    if reason := why_no_pyright():
        pytest.skip(reason)
    shell(f"pyright --pythonpath {sys.executable}")


@every_template
def test_it_keeps_the_rules_by_the_command_that_is_printed(run, shell, template):
    outcome = run("new", "acme-reports", "--template", template)
    [command] = re.findall(r"^  (.*connectrio check.*)", outcome.out, re.MULTILINE)
    assert ": no findings, " in shell(command.replace("uv run ", ""))
    for name in ("README.md", ".github/workflows/ci.yml"):
        assert command in Path("acme-reports", name).read_text()


def test_what_to_do_next(run):
    outcome = run("new", "acme-reports", "--template", "sql", "--directory", "elsewhere/reports")
    assert outcome.out.partition("== Try next\n")[2].splitlines() == [
        "  cd elsewhere/reports",
        "  uv sync",
        "  uv run pytest",
        "  uv run connectrio check acme_reports --sql 'select :n * 2 as twice' --input n=21",
        "  uv run connectrio dev acme_reports",
    ]


def test_the_directory_is_shown_as_it_was_given(run):
    outcome = run("new", "q", "--directory", "my_connector of mine")
    assert "\n  cd 'my_connector of mine'\n" in outcome.out


def test_an_empty_directory_is_filled(run, tmp_path):
    (tmp_path / "q").mkdir()
    assert run("new", "q").code == 0


def test_nothing_is_overwritten(run, tmp_path):
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "README.md").write_text("mine")
    outcome = run("new", "q")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "error: q is not empty, and nothing is overwritten\nhint: choose another --directory\n"
    assert written(tmp_path / "q") == {"README.md": "mine"}


def test_a_place_where_nothing_can_be_written(run, tmp_path):
    (tmp_path / "file").touch()
    outcome = run("new", "q", "--directory", "file/q")
    assert (outcome.code, outcome.err) == (1, "error: cannot write the package to file/q: Not a directory\n")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Reports", "the name 'Reports' must be lower-case letters, digits and single - or _ between them"),
        ("2much", "the name '2much' must be"),
        ("a--b", "the name 'a--b' must be"),
        ("../up", "the name '../up' must be"),
        ("x" * 33, "32 at most"),
        ("class", "the name 'class' is taken by Python itself"),
        ("select", "the name 'select' is taken by Python itself"),
        ("connectrio", "a module 'connectrio' is installed already, at "),
        ("tests", "the name 'tests' is one of the package's tests"),
        ("test-bed", "the name 'test-bed' is one of the package's tests"),  # pytest would collect its class
        ("fake-service", "the name 'fake-service' is one of the package's tests"),
    ],
)
def test_names_that_are_refused(run, tmp_path, name, problem):
    outcome = run("new", name)
    assert (outcome.code, outcome.out) == (2, "")
    assert problem in outcome.err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("task_type", ["", "two words", 'a"b', "x" * 33])
def test_task_types_that_are_refused(run, tmp_path, task_type):
    outcome = run("new", "q", "--task-type", task_type)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: --task-type {task_type!r} must be letters, digits and single - _ . between")
    assert not any(tmp_path.iterdir())


def test_caches_are_left_out(run, tmp_path, monkeypatch):
    """pip compiles each file that it installs."""
    shutil.copytree(TEMPLATES, tmp_path / "templates")
    (tmp_path / "templates" / "sql" / "tests" / "__pycache__").mkdir()
    (tmp_path / "templates" / "sql" / "tests" / "__pycache__" / "test.pyc").write_bytes(b"\xff")
    monkeypatch.setattr("connectrio.cli.commands.new.TEMPLATES", tmp_path / "templates")
    assert run("new", "q", "--template", "sql").code == 0
    assert not list((tmp_path / "q").rglob("*.pyc"))
