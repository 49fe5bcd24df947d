"""`just release`: what it refuses and writes; that its files work, are pure Python, and are the same each time."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import pythons
import release
from release import PLACES, ReleaseError

from ci.harness import ROOT, commit, copy_tree, git, make_repository, tracked_files

NEW = "99.0.0"
CHANGES = "# Changelog\n\n## 2.1.0 (unreleased)\n\n### Added\n\n- One thing.\n\n## 2.0.0 (2025-01-01)\n\n- Another.\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with the least that a release looks at before it builds."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "src" / "connectrio").mkdir(parents=True)
    (tmp_path / "src" / "connectrio" / "_version.py").write_text('__version__ = "2.1.0"\n')
    (tmp_path / "README.md").write_text("connectrio 2.1.0 is serving\n")
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    make_repository(tmp_path)
    return tmp_path


def state(repository: Path) -> tuple[str, ...]:
    """What a release may change."""
    return (
        git(repository, "status", "--porcelain", "--ignored"),
        git(repository, "rev-parse", "HEAD"),
        git(repository, "for-each-ref"),
        git(repository, "stash", "list"),
    )


def test_other_branches_and_changes_are_refused(small):
    release.check_repository(small)
    (small / "README.md").write_text("connectrio 2.1.0 is serving…\n")
    with pytest.raises(ReleaseError, match=r"has changes that are not committed(.|\n)*README\.md"):
        release.check_repository(small)
    commit(small)
    (small / "new.txt").touch()
    with pytest.raises(ReleaseError, match=r"new\.txt"):
        release.check_repository(small)
    commit(small)
    git(small, "switch", "--quiet", "--create", "other")
    with pytest.raises(ReleaseError, match="is on the branch other; releases are made of main: git switch main"):
        release.check_repository(small)


def test_a_committer_without_a_name_is_told_at_once(small, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    git(small, "config", "--unset", "user.email")
    with pytest.raises(ReleaseError, match=r"does not know user\.email"):
        release.check_repository(small)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("2.1", "is not a version like"),
        ("v2.1.0", "is not a version like"),
        ("2.1.0.dev1", "is not a version like"),
        ("2.1.0+local", "is not a version like"),
        ("2.1.0-rc.1", "is not a version like"),
        ("2.0.0", r"is not newer than 2\.0\.0, which is released"),
        ("1.9.9", "is not newer"),
        ("2.0.0rc1", "is not newer"),
        ("2.0.1", r"is older than 2\.1\.0 in src/connectrio/_version.py"),
        ("2.1.0rc1", "is older than"),
    ],
)
def test_a_version_that_is_none_or_not_newer_is_refused(small, version, reason):
    with pytest.raises(ReleaseError, match=reason):
        release.check_version(small, version)


def test_a_version_is_newer_than_all_tags(small):
    for version in ("2.1.0", "2.2.0a1", "3.0.0"):
        release.check_version(small, version)
    git(small, "tag", "v2.2.0")
    git(small, "tag", "very-old")
    with pytest.raises(ReleaseError, match=r"2\.2\.0rc1 is not newer than 2\.2\.0"):
        release.check_version(small, "2.2.0rc1")
    release.check_version(small, "2.2.1")


def test_the_changelog_gets_version_and_date():
    dated = release.dated_changelog(CHANGES, "2.1.1", "2026-01-02")
    assert dated == CHANGES.replace("2.1.0 (unreleased)", "2.1.1 (2026-01-02)")
    bare = CHANGES.replace("## 2.1.0 (unreleased)", "## (unreleased)")
    assert release.dated_changelog(bare, "2.1.1", "2026-01-02") == dated


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ("# Changelog\n", "the first section is not"),
        ("# Changelog\n\n## 2.0.0 (2025-01-01)\n\n- A.\n\n## 1.0.0 (unreleased)\n\n- B.\n", "the first section is not"),
        ("# Changelog\n\n## 2.1.0 (unreleased)\n\n## 2.0.0 (2025-01-01)\n\n- A.\n", "has no entries"),
        ("# Changelog\n\n## 2.1.0 (unreleased)\n", "has no entries"),
    ],
)
def test_a_changelog_without_news_is_refused(changes, reason):
    with pytest.raises(ReleaseError, match=rf"CHANGELOG\.md: .*{reason}"):
        release.dated_changelog(changes, "2.1.0", "2026-01-02")


def test_helm_gets_semantic_versions():
    versions = ["1.2.3", "1.2.3a1", "1.2.3b2", "1.2.3rc10"]
    assert [release.semver(each) for each in versions] == ["1.2.3", "1.2.3-alpha.1", "1.2.3-beta.2", "1.2.3-rc.10"]


def test_the_version_stands_nowhere_but_where_a_release_changes_it():
    release.check_places(ROOT, tracked_files(), release.current_version(ROOT))


def test_every_place_has_the_version():
    version = release.current_version(ROOT)
    for place in PLACES:
        assert place.shown(version) in (ROOT / place.file).read_text(), place


def test_a_version_at_another_place_is_refused(small):
    (small / "page.md").write_text("first\nimage: connectrio:2.1.0\nof others: 2.1.0.1, 12.1.0, 2.1.01, 2.1.0rc1\n")
    (small / "picture.png").write_bytes(b"\x89PNG\xff2.1.0")
    files = ["page.md", "picture.png", "README.md", "src/connectrio/_version.py", "CHANGELOG.md"]
    with pytest.raises(ReleaseError, match=r"page\.md:2; add the place to PLACES") as refused:
        release.check_places(small, files, "2.1.0")
    assert "page.md:3" not in str(refused.value)


def test_all_places_are_written(small):
    release.write_version(small, "2.1.0", "2.2.0rc1")
    assert release.current_version(small) == "2.2.0rc1"
    assert (small / "README.md").read_text() == "connectrio 2.2.0rc1 is serving\n"
    (small / "README.md").write_text("connectrio is serving\n")
    with pytest.raises(ReleaseError, match=r"README\.md has no 'connectrio 2\.2\.0rc1 is serving'"):
        release.write_version(small, "2.2.0rc1", "2.2.0")


def test_the_supported_pythons_are_those_of_the_classifiers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = pythons.supported()
    assert versions == sorted(versions, key=lambda each: int(each.partition(".")[2]))
    assert project["requires-python"] == f">={versions[0]}"
    assert (
        re.search(r"^Python ≥ (\S+) is all", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)[1] == versions[0]
    )


# with real builds


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """This tree, committed, with something to release."""
    directory = copy_tree(tmp_path_factory.mktemp("repository"))
    changelog = directory / "CHANGELOG.md"
    head, _, sections = changelog.read_text().partition("\n## ")
    changelog.write_text(f"{head}\n## {NEW} (unreleased)\n\n### Added\n\n- A trial.\n\n## {sections}")
    make_repository(directory)
    return directory


@pytest.fixture(scope="module")
def built(repository, tmp_path_factory) -> tuple[Path, Path]:
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed; get it with: pip install uv")
    return release.build(repository, tmp_path_factory.mktemp("dist"))


def test_the_wheel_is_pure_and_the_sdist_is_what_git_has(built, repository):
    wheel, sdist = built
    release.check_wheel(wheel, release.current_version(repository))
    release.check_sdist(sdist, git(repository, "ls-files").splitlines())
    with zipfile.ZipFile(wheel) as files:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files.namelist())


def test_git_has_nothing_that_was_built_or_downloaded():
    tracked = [ROOT / name for name in tracked_files()]
    assert [path for path in tracked if path.suffix in {".whl", ".so", ".pyc", ".gz", ".zip"}] == []
    assert [path for path in tracked if path.stat().st_size > 1_000_000] == []


def test_another_build_of_the_commit_has_the_same_bytes(built, repository, tmp_path):
    other = tmp_path / "elsewhere"
    git(repository, "clone", "--quiet", str(repository), str(other))
    for path in other.rglob("*"):
        os.utime(path, (1e9, 1e9))
    before = os.umask(0o077)
    try:
        again = release.build(other, tmp_path / "dist")
    finally:
        os.umask(before)
    assert [release.sha256(each) for each in again] == [release.sha256(each) for each in built]


def test_an_sdist_with_more_or_less_than_git_has_is_refused(tmp_path):
    sdist = tmp_path / "connectrio-2.1.0.tar.gz"
    for name in ("PKG-INFO", "secret.env", "README.md"):
        (tmp_path / name).touch()
    with tarfile.open(sdist, "w:gz") as archive:
        for name in ("PKG-INFO", "secret.env", "README.md"):
            archive.add(tmp_path / name, f"connectrio-2.1.0/{name}")
    with pytest.raises(ReleaseError, match=r"lacks \['LICENSE'\], and has besides \['secret.env'\]"):
        release.check_sdist(sdist, ["README.md", "LICENSE"])


@pytest.mark.parametrize(
    ("name", "purelib", "file"),
    [
        ("connectrio-2.1.0-cp311-cp311-linux_x86_64.whl", "true", "connectrio/a.py"),
        ("connectrio-2.1.1-py3-none-any.whl", "true", "connectrio/a.py"),
        ("connectrio-2.1.0-py3-none-any.whl", "false", "connectrio/a.py"),
        ("connectrio-2.1.0-py3-none-any.whl", "true", "connectrio/a.so"),
    ],
)
def test_a_wheel_that_is_not_pure_is_refused(tmp_path, name, purelib, file):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("connectrio-2.1.0.dist-info/WHEEL", f"Root-Is-Purelib: {purelib}\n")
        archive.writestr(file, "")
    with pytest.raises(ReleaseError, match="pure Python"):
        release.check_wheel(tmp_path / name, "2.1.0")


@pytest.mark.parametrize("version", pythons.supported())
def test_the_package_works_in_a_fresh_environment(built, repository, version):
    """The wheel on every Python; the sdist, of which the wheel is made, on the one that runs the tests."""
    python = pythons.interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not installed")
    files = built if python.resolve() == Path(sys.executable).resolve() else built[:1]
    for file in files:
        release.try_package(file, python, release.current_version(repository))


@pytest.fixture
def without_trials(monkeypatch):
    """Only note what the test above does; skip where the programs of a release are missing."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed; get it with: pip install uv")
    for module in ("twine", "mkdocs"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; get it with: uv sync --inexact --group release --group docs")
    tried: list[Path] = []
    monkeypatch.setattr(release, "try_package", lambda file, *_: tried.append(file))
    return tried


def test_a_dry_run_changes_nothing(repository, without_trials, capsys):
    before = state(repository)
    release.release(repository, NEW, is_dry_run=True)
    assert state(repository) == before
    written = capsys.readouterr().out
    assert re.search(rf"^[0-9a-f]{{64}}  connectrio-{NEW}-py3-none-any\.whl$", written, re.MULTILINE)
    assert "dry run: nothing was kept" in written
    kinds = {each.suffix for each in without_trials}
    assert kinds == {".whl", ".gz"}


def test_a_release_is_committed_tagged_and_kept_but_not_published(
    repository, without_trials, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(release, "build_documents", lambda *_: None)  # test_a_dry_run_changes_nothing does it
    here = tmp_path / "here"
    git(repository, "clone", "--quiet", str(repository), str(here))
    git(here, "config", "user.name", "A maintainer")
    git(here, "config", "user.email", "maintainer@example.org")
    of_origin = state(repository)
    release.release(here, NEW, is_dry_run=False)
    assert state(repository) == of_origin
    assert git(here, "status", "--porcelain") == ""
    assert git(here, "log", "-1", "--format=%an: %s").strip() == f"A maintainer: Release {NEW}"
    assert git(here, "rev-parse", f"v{NEW}^{{commit}}") == git(here, "rev-parse", "main")
    changed = {"CHANGELOG.md", *(place.file for place in PLACES)}
    assert set(git(here, "show", "--format=", "--name-only").split()) == changed
    written = capsys.readouterr().out
    for file in (here / "dist").iterdir():
        assert f"{release.sha256(file)}  {file.name}\n" in written
    assert f"git push --atomic origin main v{NEW}\n" in written
    with pytest.raises(ReleaseError, match=rf"{NEW} is not newer than {NEW}"):
        release.release(here, NEW, is_dry_run=False)
    # a release that is taken back leaves nothing
    undo = written[written.index("git tag --delete") :].strip()
    assert undo == f"git tag --delete v{NEW} && git reset --hard HEAD~1"
    git(here, "tag", "--delete", f"v{NEW}")
    git(here, "reset", "--quiet", "--hard", "HEAD~1")
    release.check_version(here, NEW)


def test_a_release_that_fails_changes_nothing(repository, without_trials, monkeypatch, capsys):
    before = state(repository)

    def fail(file: Path, *_: object) -> None:
        raise ReleaseError(f"{file.name} does not start; mend it")

    monkeypatch.setattr(release, "try_package", fail)
    monkeypatch.setattr(release, "ROOT", repository)
    assert release.main([NEW]) == 1
    assert state(repository) == before
    assert capsys.readouterr().err == f"no release: connectrio-{NEW}-py3-none-any.whl does not start; mend it\n"


def test_a_program_that_is_missing_or_fails_is_named(tmp_path):
    with pytest.raises(ReleaseError, match=r"no-such-program --x: .*; install it"):
        release.run("no-such-program", "--x")
    with pytest.raises(ReleaseError, match=r"git no-such-command in \S+ ended with 1:\n.*not a git command"):
        release.git(tmp_path, "no-such-command")
