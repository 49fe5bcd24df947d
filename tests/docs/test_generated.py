"""The generated parts of the reference are up to date, and complete."""

from __future__ import annotations

import re
import tomllib

import pytest

import connectrio
import connectrio.conformance
import connectrio.rpc
import connectrio.testing
from connectrio.cli import errors
from connectrio.cli.commands import jobs
from connectrio.host.settings import HostSettings
from docs.generated import DOCS, PARTS, current, defaults

PAGES = {path: path.read_text() for path in DOCS.rglob("*.md")}


def test_each_part_stands_in_one_page():
    found = [name for text in PAGES.values() for name in re.findall(r"<!-- generated: (\w+) -->", text)]
    assert sorted(found) == sorted(PARTS)


@pytest.mark.parametrize("page", [path for path, text in PAGES.items() if "<!-- generated: " in text], ids=str)
def test_a_page_is_up_to_date(page):
    assert PAGES[page] == current(PAGES[page]), "write it with: python tests/docs/generated.py"


@pytest.mark.parametrize("package", [connectrio, connectrio.rpc, connectrio.testing, connectrio.conformance], ids=str)
def test_the_api_has_all_that_a_package_exports(package):
    text = "".join(page for path, page in PAGES.items() if path.parent.name == "api")
    missing = {name for name in package.__all__ if not re.search(rf"\b{name}\b", text)}
    assert missing - {"__version__"} == set()


def test_the_sample_file_has_every_setting_with_a_value_that_is_taken():
    page = PAGES[DOCS / "reference" / "settings.md"]
    [block] = re.findall(r'^```toml title="connectrio.toml"\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    values = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", block, flags=re.MULTILINE))
    assert values.keys() == defaults().keys() - {"config"}
    HostSettings(**{name: value for name, value in values.items() if name in HostSettings.__dataclass_fields__})


def test_the_table_of_exit_codes_has_all_of_them():
    numbers = {value for name, value in vars(errors).items() if name.strip("_").isupper() and isinstance(value, int)}
    rows = re.findall(r"^\| (\d+) \|", PAGES[DOCS / "reference/cli.md"], re.MULTILINE)
    assert {int(row) for row in rows} == numbers | set(jobs._EXIT_CODES.values())
