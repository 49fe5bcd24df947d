"""docs/reference/metrics.md is true: its catalogue has all families, and its queries and alerts are about them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import anyio
import pytest

from connectrio.connector.transient import FailureKind, failure_kind
from host.catalogue import ALERTS, DOCS, DOCUMENT, Entry, alerts, document, entries, families_in, family_of, rules

QUERIES = [
    query
    for block in re.findall(r"```promql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    for query in re.split(r"\n(?=\S)", block.strip())
]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed; on Debian: apt-get install prometheus"
)


@pytest.fixture(scope="module")
def found() -> list[Entry]:
    return anyio.run(entries)


def test_the_catalogue_is_up_to_date(found):
    assert DOCUMENT.read_text() == document(found), "run: uv run python tests/host/catalogue.py"


def test_every_family_says_what_it_is(found):
    for entry in found:
        assert entry.text, entry.name
        assert "|" not in entry.text, entry.name


def test_queries_and_alerts_are_about_families_that_exist(found):
    names = {entry.name for entry in found}
    assert len(QUERIES) > 10
    assert len(alerts()) > 30
    for text in (*QUERIES, *alerts().values()):
        assert families_in(text)
        for sample in families_in(text):
            assert family_of(sample, names), sample


def test_the_labels_that_other_documents_give_are_those_of_the_family(found):
    labels = {entry.name: set(entry.labels) for entry in found}
    named = 0
    for page in DOCS.rglob("*.md"):
        for name, given in re.findall(r"`(connectrio_\w+)\{([\w,]+)\}`", page.read_text()):
            named += 1
            assert set(given.split(",")) == labels[name], f"{page.name}: {name}"
    assert named > 10


def test_labels_in_queries_and_alerts_exist(found):
    known = {label for entry in found for label in entry.labels} | {"le", "namespace", "job", "instance"}
    for text in (*QUERIES, *alerts().values()):
        for names in re.findall(r"\b(?:by|on) \(([^)]*)\)", text):
            assert {name.strip() for name in names.split(",")} <= known, text
        assert set(re.findall(r"(\w+)(?:=|!=|=~)\"", text)) <= known, text


def test_the_kinds_of_errors_are_explained():
    assert re.findall(r"^\| `(\w+)` \| ", DOCUMENT.read_text().partition("| kind |")[2], re.MULTILINE) == list(
        get_args(FailureKind)
    )
    assert failure_kind(ValueError()) == "other"


def checked(path: Path) -> str:
    """Return what promtool says about a file of rules."""
    ran = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@needs_promtool
def test_prometheus_accepts_the_alerts():
    assert f"{len(rules())} rules found" in checked(ALERTS)


@needs_promtool
def test_prometheus_accepts_the_queries(tmp_path):
    lines = ["groups:", "  - name: queries", "    rules:"]
    for number, query in enumerate(QUERIES):
        lines += [
            f"      - record: query:{number}",
            "        expr: |",
            *(f"          {line}" for line in query.split("\n")),
        ]
    file = tmp_path / "queries.yml"
    file.write_text("\n".join(lines) + "\n")
    assert f"{len(QUERIES)} rules found" in checked(file)
