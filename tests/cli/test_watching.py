"""Which files are watched, and that no change of one is missed."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import anyio
import pytest

from connectrio.cli.errors import UsageError
from connectrio.cli.watching import Watched, forget_bytecode, watched, watching


@pytest.fixture
def project(tmp_path):
    """A file, and a package of two levels, in the working directory."""
    for name in ("hello.py", "pack/__init__.py", "pack/inner/__init__.py", "pack/inner/connector.py", "data/a.sql"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    return tmp_path


def test_the_folder_of_a_file(project):
    found = watched(["hello.py"], [])
    assert found == Watched(frozenset(), frozenset({project}), frozenset(), frozenset())
    assert str(found) == f"{project}/*.py"
    assert found.has(project / "hello.py")
    assert found.has(project / "new.py")
    for name in (".hello.py", "hello.py~", "hello.txt", "data/new.py"):
        assert not found.has(project / name)


@pytest.mark.parametrize("module", ["pack", "pack.inner.connector", "pack/inner/connector.py"])
def test_the_whole_of_a_package(project, module):
    found = watched([module], [])
    assert found == Watched(frozenset({project / "pack"}), frozenset(), frozenset(), frozenset())
    assert str(found) == f"{project}/pack/**/*.py"
    assert found.has(project / "pack" / "new" / "new.py")
    for name in ("hello.py", "pack/.venv/x.py", "pack/__pycache__/x.py", "pack/node_modules/x.py", "pack/x.json"):
        assert not found.has(project / name)


def test_a_project_below_a_folder_that_is_no_source(tmp_path, monkeypatch):
    """Only what is below the folder that is watched counts."""
    package = tmp_path / "site-packages" / ".x" / "pack"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert watched([str(package / "__init__.py")], []).has(package / "new.py")


def test_further_files_and_folders(project):
    found = watched(["hello.py"], [Path("data"), Path("pack/inner/connector.py")])
    assert str(found) == f"{project}/*.py, {project}/data/**, {project}/pack/inner/connector.py"
    assert found.has(project / "data" / "deep" / "x.sql")
    assert found.has(project / "pack" / "inner" / "connector.py")
    for name in ("data/.x.sql.swp", "data/x.sql~", "pack/inner/other.py"):
        assert not found.has(project / name)


@pytest.mark.parametrize(
    ("modules", "further", "error"),
    [
        (["nope.py"], [], "there is no file nope.py"),
        (["nope.deeper"], [], "there is no module nope.deeper"),
        (["sys"], [], "there is no module sys"),
        (["hello.py"], ["nope"], "--watch nope: there is no such file or directory"),
    ],
)
def test_what_is_not_there(project, modules, further, error):
    with pytest.raises(UsageError, match=error):
        watched(modules, [Path(each) for each in further])


def test_no_module_is_imported(project):
    (project / "pack" / "__init__.py").write_text("raise RuntimeError")
    assert watched(["pack.inner"], []).packages == {project / "pack"}


def overwrite(file: Path) -> None:
    file.write_text("new")


def put_in_place(file: Path) -> None:
    other = file.with_name(".other.tmp")
    other.write_text("new")
    other.replace(file)


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("change", [overwrite, put_in_place, remove])
@pytest.mark.parametrize(
    ("name", "further"), [("hello.py", []), ("pack/inner/connector.py", []), ("data/a.sql", ["data"])]
)
async def test_changes_are_told(project, change, name, further):
    told: set[Path] = set()
    has_come = anyio.Event()

    def note(files: set[Path]) -> None:
        told.update(files)
        has_come.set()

    async with watching(watched(["hello.py", "pack"], [Path(each) for each in further]), note):
        (project / "hello.txt").write_text("is not watched")
        change(project / name)
        await has_come.wait()
    assert told == {project / name}


@pytest.mark.parametrize("name", ["hello.py", "pack"])
async def test_a_directory_that_is_made_anew(tmp_path, monkeypatch, name):
    """As by another branch of a repository that is checked out, and back."""
    folder = tmp_path / "made" / "pack"
    file = folder / ("__init__.py" if name == "pack" else name)
    monkeypatch.chdir(tmp_path)

    def make() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file.touch()

    make()
    if name == "pack":
        monkeypatch.syspath_prepend(folder.parent)
    told: list[set[Path]] = []
    has_come = anyio.Event()

    def note(files: set[Path]) -> None:
        told.append(files)
        has_come.set()

    async def come() -> set[Path]:
        nonlocal has_come
        while not told:
            await has_come.wait()
            has_come = anyio.Event()
        return told.pop(0)

    async with watching(watched([str(file) if name == "hello.py" else name], []), note):
        shutil.rmtree(folder)
        assert await come() == {file}
        make()
        assert await come() == {folder}
        file.write_text("new")
        assert await come() == {file}


def test_old_bytecode_is_forgotten(tmp_path, monkeypatch):
    """Python would take it for the new file: its size and its second are the same."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "bytecode_of_dev.py"

    def value(text: str) -> object:
        file.write_text(text)
        os.utime(file, (1000, 1000))
        spec = importlib.util.spec_from_file_location("bytecode_of_dev", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.X

    assert value("X = 1") == 1
    assert value("X = 2") == 1, "this is what it is for"
    forget_bytecode({file, tmp_path / "not_there.py", tmp_path / "data.sql"})
    assert value("X = 2") == 2
