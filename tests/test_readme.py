"""What the README shows is what runs; `docs/test_pages.py` tries its connector and its session."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONNECTRIO = [sys.executable, "-m", "connectrio"]


def test_the_demo_prints_what_is_shown():
    shown = re.search(r"```text\n(== Job\n.*?)```", README, re.DOTALL)[1]
    ran = subprocess.run([*CONNECTRIO, "demo"], check=True, capture_output=True, text=True, timeout=300)
    printed = ran.stdout.splitlines()
    # ids, times, directories, progress, and what is left out
    differing = re.compile(
        r"\b[0-9a-f]{32}\b|[\d:]+\.\d+(?= )|(?<=after )[\d.]+ s|/tmp/\S*?/result|(RUNNING|progress:).*|…"
    )
    lines = {differing.sub("*", line) for line in printed}
    assert [line for line in shown.splitlines() if differing.sub("*", line) not in {*lines, "*", "  *"}] == []


def test_the_grpc_example_runs():
    ran = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tests" / "examples" / "grpc_on_trio.py"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout == "SERVING\n"


def test_its_numbers_of_speed_are_those_that_were_measured():
    speed = (ROOT / "docs" / "explanation" / "speed.md").read_text()
    table = speed.partition("Compared with the targets")[2]

    def measured(work: str) -> list[float]:
        [row] = re.findall(rf"^\| {work}[^|]*\|[^|]*\|(.*)\|$", table, re.MULTILINE)[:1]
        return sorted(float(each) for each in re.findall(r"[\d.]+", row))

    get, create, memory = measured("GetTask, 64 at once, calls/s"), measured("CreateTask"), measured("idle memory")
    said = " ".join(README.split())
    assert f"{get[0]:.1f} to {get[-1]:.1f} times as many GetTask" in said
    assert f"{create[0]:.1f} to {create[-1]:.1f} times as many CreateTask" in said
    assert f"with {memory[len(memory) // 2]:.1f} of the memory" in said


@pytest.fixture(scope="module")
def on_pypi(tmp_path_factory):
    """The description in the metadata of the wheel."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed; get it with: pip install uv")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", folder], cwd=ROOT, check=True, timeout=170)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


def test_its_links_work_on_pypi(on_pypi):
    links = re.findall(r"\]\(([^)]*)\)", on_pypi)
    assert len(links) == len(re.findall(r"\]\(", README))
    assert [link for link in links if not link.startswith("https://")] == []
    site, repository = mkdocs("site_url"), f"{mkdocs('repo_url')}/blob/main/"
    for link in links:
        path = link.partition("#")[0]
        if path.startswith(site):
            page = ROOT / "docs" / path.removeprefix(site)
            assert any(each.exists() for each in (page.with_suffix(".md"), page / "index.md", page / "README.md")), link
        elif path.startswith(repository):
            assert (ROOT / path.removeprefix(repository)).exists(), link
    assert sum(link.startswith(site) for link in links) > 10


def test_the_addresses_of_the_project_are_those_of_the_site(on_pypi):
    urls = dict(re.findall(r"^Project-URL: (\w+), (.*)$", on_pypi, re.MULTILINE))
    assert urls.keys() == {"Homepage", "Documentation", "Repository", "Changelog", "Issues"}
    assert (urls["Documentation"], urls["Repository"]) == (mkdocs("site_url"), mkdocs("repo_url"))


def mkdocs(key: str) -> str:
    """The value of a key of mkdocs.yml."""
    return re.search(rf"^{key}: (.*)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[1]
