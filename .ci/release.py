"""Makes a release: version, changelog, build, trials of what was built, commit and tag. It uploads nothing.

    uv run just release VERSION [--dry-run]

All of it happens in a temporary clone. Only when everything has succeeded, the commit and the tag are taken into the
repository and the built files are put into dist/. So a release that fails changes nothing, and neither does --dry-run,
which does all but this last step.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from packaging.version import Version
from pythons import interpreter, supported

ROOT = Path(__file__).parents[1]
BRANCH = "main"
IMAGE = "ghcr.io/connectrio/connectrio"
_VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")


class ReleaseError(Exception):
    """The release cannot be made: what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Place:
    """Where connectrio's version stands.

    :ivar file: relative to the repository's root; one that does not exist is passed over
    :ivar text: a part of the file, with {} in place of the version
    :ivar is_semver: the version is written as Semantic Versioning has it, which Helm wants: 1.0.0-rc.1 for 1.0.0rc1
    """

    file: str
    text: str
    is_semver: bool = False

    def shown(self, version: str) -> str:
        """Return the text with this version."""
        return self.text.replace("{}", semver(version) if self.is_semver else version)


SOURCE = Place("src/connectrio/_version.py", '__version__ = "{}"')
PLACES = (
    SOURCE,
    Place("README.md", "connectrio {} is serving"),
    Place("deploy/helm/connectrio/Chart.yaml", "\nversion: {}\n", is_semver=True),
    Place("deploy/helm/connectrio/Chart.yaml", "\nappVersion: {}\n"),
    Place("deploy/example/Dockerfile", "connectrio/connectrio:{}"),
    Place("docs/tutorials/first-deployment.md", "connectrio/connectrio:{}"),
    Place("docs/how-to/image.md", "connectrio/connectrio:{}"),
    Place("docs/how-to/image.md", "--build-arg VERSION={}"),
)

# where the same digits are the version of something else, or history
ELSEWHERE = (
    "CHANGELOG.md",
    "deploy/constraints.txt",  # versions of others
    "docs/explanation/drills.md",  # which release was attacked
    "src/connectrio/cli/templates/",  # the first version of a user's package
    "tests/",  # made-up data
)


def semver(version: str) -> str:
    """Return a version of Python's as Semantic Versioning writes it: 1.0.0rc1 is 1.0.0-rc.1."""
    return re.sub(r"(a|b|rc)(\d+)$", lambda found: f"-{_SEMVER[found[1]]}.{found[2]}", version)


_SEMVER = {"a": "alpha", "b": "beta", "rc": "rc"}


def main(arguments: list[str]) -> int:
    """Make the release that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="just release", description="Make a release, without uploading it.")
    parser.add_argument("version", help="as in 1.2.0, or 1.2.0rc1 for a release candidate")
    parser.add_argument("--dry-run", action="store_true", help="do all of it in a temporary clone, and keep nothing")
    options = parser.parse_args(arguments)
    try:
        release(ROOT, options.version, is_dry_run=options.dry_run)
    except ReleaseError as error:
        print(f"no release: {error}", file=sys.stderr)
        return 1
    return 0


def release(repository: Path, version: str, *, is_dry_run: bool) -> None:
    """Make a release of the repository's branch `main`.

    :raises ReleaseError: it cannot be made; nothing has changed
    """
    check_repository(repository)
    check_version(repository, version)
    with tempfile.TemporaryDirectory(prefix="release-") as made:
        clone, dist = Path(made, "clone"), Path(made, "dist")
        git(repository, "clone", "--quiet", "--branch", BRANCH, str(repository), str(clone))
        with step("version and changelog"):
            old = current_version(clone)
            check_places(clone, files_of_git(clone), old)
            write_version(clone, old, version)
            date = datetime.now(UTC).date().isoformat()
            changelog = clone / "CHANGELOG.md"
            changelog.write_text(dated_changelog(changelog.read_text(), version, date))
            commit(repository, clone, version)
        with step("build"):
            wheel, sdist = build(clone, dist)
            check_wheel(wheel, version)
            check_sdist(sdist, files_of_git(clone))
            run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
        for each in supported(clone):
            python = interpreter(each)
            if python is None:
                print(f"          not tried on Python {each}: this machine does not have it", flush=True)
                continue
            for file in (wheel, sdist):
                with step(f"{file.name} on Python {each}"):
                    try_package(file, python, version)
        with step("documents"):
            build_documents(clone, Path(made, "site"))
        print(f"\n{sha256(wheel)}  {wheel.name}\n{sha256(sdist)}  {sdist.name}")
        if is_dry_run:
            print("\ndry run: nothing was kept")
            return
        git(repository, "fetch", "--quiet", "--tags", str(clone), BRANCH)
        git(repository, "merge", "--quiet", "--ff-only", "FETCH_HEAD")
        kept = repository / "dist"
        kept.mkdir(exist_ok=True)
        for file in (wheel, sdist):
            shutil.copy(file, kept)
    print(
        f"""
connectrio {version} is committed and tagged as v{version}, and in dist/. Nothing has left this machine. Next:

  git push --atomic origin {BRANCH} v{version}
  uvx twine upload {kept.name}/{wheel.name} {kept.name}/{sdist.name}
  docker build --file deploy/Containerfile --tag {IMAGE}:{version} --build-arg VERSION={version} \\
      --build-arg REVISION=$(git rev-parse HEAD) --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) .
  docker push {IMAGE}:{version}

Then begin the next section of CHANGELOG.md, "## VERSION (unreleased)". To take the release back before it is pushed:

  git tag --delete v{version} && git reset --hard HEAD~1"""
    )


# what must be true before


def check_repository(repository: Path) -> None:
    """Refuse a tree that is not what the branch `main` has."""
    branch = git(repository, "branch", "--show-current")
    if branch != BRANCH:
        raise ReleaseError(f"{repository} is on the branch {branch or '(none)'}; releases are made of {BRANCH}: "
                           f"git switch {BRANCH}")  # fmt: skip
    changed = git(repository, "status", "--porcelain")
    if changed:
        raise ReleaseError(f"{repository} has changes that are not committed; commit them or put them away:\n{changed}")
    for key in ("user.name", "user.email"):
        if not setting(repository, key):
            raise ReleaseError(f"git does not know {key}, which the release's commit needs: git config {key} …")


def check_version(repository: Path, version: str) -> None:
    """Refuse a version that is not newer than all others."""
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"{version!r} is not a version like 1.2.0, 1.2.0a1, 1.2.0b1 or 1.2.0rc1")
    tags = [each.removeprefix("v") for each in git(repository, "tag", "--list", "v*").splitlines()]
    dated = re.findall(r"^## (\S+) \(\d", (repository / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [Version(each) for each in (*tags, *dated) if _VERSION.fullmatch(each)]
    if released and Version(version) <= max(released):
        raise ReleaseError(f"{version} is not newer than {max(released)}, which is released (by git's tags and the "
                           "changelog); choose a newer one")  # fmt: skip
    current = current_version(repository)
    if Version(version) < Version(current):
        raise ReleaseError(f"{version} is older than {current} in {SOURCE.file}; choose that one or a newer one")


def current_version(tree: Path) -> str:
    """Return the version that the source has."""
    before, _, after = SOURCE.text.partition("{}")
    text = (tree / SOURCE.file).read_text().strip()
    return text.removeprefix(before).removesuffix(after)


def check_places(tree: Path, files: list[str], version: str) -> None:
    """Refuse a tree where the version stands at a place that `PLACES` does not name.

    :param files: of the tree, relative to it
    """
    written = re.compile("|".join(rf"(?<![\w.])v?{re.escape(each)}(?![\w.]*\d)" for each in {version, semver(version)}))
    unknown = []
    for file in files:
        if file.startswith(ELSEWHERE):
            continue
        try:
            text = (tree / file).read_text()
        except UnicodeDecodeError:  # a picture
            continue
        for place in PLACES:
            if place.file == file:
                text = text.replace(place.shown(version), place.shown("…"))
        unknown += [f"{file}:{text.count(chr(10), 0, found.start()) + 1}" for found in written.finditer(text)]
    if unknown:
        raise ReleaseError(f"the version {version} stands where .ci/release.py would not change it: "
                           f"{', '.join(unknown)}; add the place to PLACES, or to ELSEWHERE if it is another's version"
                           )  # fmt: skip


# what is written


def write_version(tree: Path, old: str, new: str) -> None:
    """Write the new version in all places."""
    for place in PLACES:
        path = tree / place.file
        if not path.exists():
            continue
        text = path.read_text()
        if place.shown(old) not in text:
            raise ReleaseError(f"{place.file} has no {place.shown(old)!r}; correct the file, or PLACES in "
                               ".ci/release.py")  # fmt: skip
        path.write_text(text.replace(place.shown(old), place.shown(new)))


def dated_changelog(text: str, version: str, date: str) -> str:
    """Return the changelog with this version and date in the heading of its first section."""
    found = re.search(r"^## (.*)\n((?:(?!## ).*\n)*)", text, re.MULTILINE)
    if not found or not re.fullmatch(r"(\S+ )?\(unreleased\)", found[1]):
        raise ReleaseError('CHANGELOG.md: the first section is not "## VERSION (unreleased)"; add one that says what '
                           "has changed for users")  # fmt: skip
    if not re.search(r"^- ", found[2], re.MULTILINE):
        raise ReleaseError(f'CHANGELOG.md: the section "{found[1]}" has no entries; say what has changed for users')
    return f"{text[: found.start(1)]}{version} ({date}){text[found.end(1) :]}"


def commit(repository: Path, clone: Path, version: str) -> None:
    """Commit what was written, and tag it, in the name that the repository's git has."""
    for key in ("user.name", "user.email"):
        git(clone, "config", key, setting(repository, key))
    message = f"Release {version}\n\nThe version and the date in the changelog, written by `just release`."
    git(clone, "commit", "--quiet", "--all", "--message", message)
    git(clone, "tag", "--annotate", f"v{version}", "--message", f"connectrio {version}")


# what is built


def build(tree: Path, dist: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel of it; return the wheel and the sdist. Files in them are as old as the commit."""
    epoch = git(tree, "log", "-1", "--format=%ct")
    run("uv", "build", "--quiet", "--out-dir", dist, tree, SOURCE_DATE_EPOCH=epoch)
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return wheel, sdist


def check_wheel(wheel: Path, version: str) -> None:
    """Refuse a wheel that is not pure Python, or has another version."""
    name = f"connectrio-{version}-py3-none-any.whl"
    if wheel.name != name:
        raise ReleaseError(f"the wheel is called {wheel.name}, not {name}: it must be pure Python, for every platform")
    with zipfile.ZipFile(wheel) as archive:
        told = archive.read(f"connectrio-{version}.dist-info/WHEEL").decode()
        compiled = [each for each in archive.namelist() if each.endswith((".so", ".pyd", ".pyc"))]
    if "Root-Is-Purelib: true" not in told or compiled:
        raise ReleaseError(
            f"{wheel.name} is not pure Python; it has {', '.join(compiled) or 'a platform in its WHEEL'}"
        )


def check_sdist(sdist: Path, files: list[str]) -> None:
    """Refuse an sdist that does not have just these files, and its metadata."""
    with tarfile.open(sdist) as archive:
        packed = {each.name.partition("/")[2] for each in archive.getmembers() if not each.isdir()} - {"PKG-INFO"}
    missing, more = set(files) - packed, packed - set(files)
    if missing or more:
        raise ReleaseError(f"{sdist.name} is not what git has: it lacks {sorted(missing)}, and has besides "
                           f"{sorted(more)}; see tool.hatch.build in pyproject.toml")  # fmt: skip


def try_package(file: Path, python: Path, version: str) -> None:
    """Install a wheel or an sdist in a fresh environment, and run it on asyncio and on trio."""
    with tempfile.TemporaryDirectory(prefix="trial-") as made:
        programs = Path(made, "venv", "bin")
        run("uv", "venv", "--quiet", "--python", python, programs.parent)
        wanted = f"connectrio[duckdb,trio] @ {file.as_uri()}"
        run("uv", "pip", "install", "--quiet", "--python", programs / "python", wanted)
        told = run(programs / "connectrio", "--version", within=made).strip()
        if told != version:
            raise ReleaseError(f"{file.name} says that its version is {told}, not {version}")
        run(
            programs / "python",
            "-W",
            "error",
            "-c",
            "import connectrio, connectrio.rpc, connectrio.testing",
            within=made,
        )
        run(programs / "flyte-connector", "--help", within=made)
        for backend in ("asyncio", "trio"):
            run(programs / "connectrio", "demo", "--backend", backend, "--orders", "100000", within=made)


def build_documents(tree: Path, site: Path) -> None:
    """Build the documentation site; every warning is an error."""
    arguments = ("--strict", "--quiet", "--config-file", tree / "mkdocs.yml", "--site-dir", site)
    run(sys.executable, "-m", "mkdocs", "build", *arguments, NO_MKDOCS_2_WARNING="1")


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


# programs


class step:  # noqa: N801 - used like a function
    """Print how long a block takes."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *error: object) -> None:
        print(f"  {time.monotonic() - self._began:6.1f} s  {self._what}", flush=True)


def run(*command: str | Path, within: str | Path = ROOT, **variables: str) -> str:
    """Run a program, and return what it writes. It sees no settings of connectrio, Python or an environment.

    :raises ReleaseError: it cannot be run, or fails
    """
    hidden = ("CONNECTRIO_", "PYTEST_", "PYTHON", "UV_PROJECT", "VIRTUAL_ENV", "GIT_DIR", "GIT_INDEX", "GIT_WORK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    line = " ".join(map(str, command))
    try:
        done = subprocess.run(
            command, cwd=within, env=kept | variables, check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except OSError as error:
        raise ReleaseError(f"{line}: {error}; install it, and try again") from error
    if done.returncode != 0:
        raise ReleaseError(f"{line} in {within} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def git(tree: Path, *arguments: str) -> str:
    """Run git in a tree, and return what it writes."""
    return run("git", *arguments, within=tree).rstrip("\n")


def setting(tree: Path, key: str) -> str:
    """Return a setting of git's; "" if there is none."""
    return git(tree, "config", "--default", "", "--get", key)


def files_of_git(tree: Path) -> list[str]:
    """Return the files that git has of a tree, relative to it."""
    return git(tree, "ls-files").splitlines()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
