"""The site builds without a warning: each page is in the navigation, and each link and anchor leads somewhere."""

from __future__ import annotations

import re

import pytest

from docs.blocks import ROOT
from docs.site import build


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_in_the_navigation():
    """mkdocs says so, too, where it is installed."""
    named = re.findall(r"^ +- .*?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("folder", ["how-to", "reference", "explanation"])
def test_the_index_of_a_folder_names_its_pages(folder):
    index = ROOT / "docs" / folder / "index.md"
    named = {(index.parent / target).resolve() for target in re.findall(r"\]\(([\w/.-]+\.md)", index.read_text())}
    pages = [page for page in index.parent.rglob("*.md") if page != index and "decisions" not in page.parts]
    assert [page for page in pages if page.resolve() not in named] == []


def test_links_that_leave_the_documents_lead_to_the_repository(site):
    page = (site / "how-to" / "authors" / "index.html").read_text()
    assert 'href="https://github.com/connectrio/connectrio/blob/main/tests/examples/reports.py"' in page


def test_no_page_loads_anything_from_another_server(site):
    for page in site.rglob("*.html"):
        elements = re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?https?:[^>]*>", page.read_text())
        assert [each for each in elements if not re.search(r"rel=[\"']?(?:canonical|alternate)", each)] == [], page


def test_the_addresses_stand_in_two_files_only():
    """The repository's and the site's own, so that they change in one go."""
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]:
        assert "connectrio.github.io" not in path.read_text(), path
