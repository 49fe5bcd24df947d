"""Each alert has a runbook, to which it leads, and each runbook an alert; what they name exists."""

from __future__ import annotations

import re
from fractions import Fraction

import anyio
import pytest
import yaml

from connectrio.cli.app import connectrio_app
from connectrio.host.settings import HostSettings
from host.catalogue import ALERTS, DOCS, entries, families_in, family_of

FOLDER = DOCS / "how-to" / "runbooks"
SITE = "https://connectrio.github.io/connectrio/how-to/runbooks"
INDEX = (FOLDER / "index.md").read_text()
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.md")) if path.stem != "index"}
GROUPS = {
    group["name"].removeprefix("connectrio-"): group["rules"] for group in yaml.safe_load(ALERTS.read_text())["groups"]
}
ALERTS_OF = {name: [rule["alert"] for rule in rules if "alert" in rule] for name, rules in GROUPS.items()}
PARTS = ["It means", "Users see", "Look at", "Do", "A false alarm if"]


def sections(page: str) -> dict[str, str]:
    """The sections of a page, by their headings."""
    return dict(part.split("\n", 1) for part in PAGES[page].split("\n## ")[1:])


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_alerts_of_its_group_in_their_order(page):
    assert list(sections(page)) == ALERTS_OF[page]


def test_every_alert_leads_to_its_section():
    for page, rules in GROUPS.items():
        for rule in rules:
            if "alert" in rule:
                assert rule["annotations"]["runbook_url"] == f"{SITE}/{page}/#{rule['alert'].lower()}"
                assert rule["alert"] in sections(page)


def test_the_index_lists_them_all():
    found = re.findall(r"\[(\w+)\]\((\w+)\.md#(\w+)\)", INDEX)
    expected = [(alert, page) for page in ("hosts", "calls", "vendors", "capacity") for alert in ALERTS_OF[page]]
    assert [(f"Connectrio{name}", page) for name, page, _ in found] == expected
    assert all(anchor == f"connectrio{name.lower()}" for name, _, anchor in found)


@pytest.mark.parametrize("page", PAGES)
def test_every_section_says_the_same_five_things(page):
    for alert, section in sections(page).items():
        assert re.findall(r"^- \*\*([\w ]+)\*\*: ", section, re.MULTILINE) == PARTS, alert


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
    text = " ".join(PAGES[page].split())
    names = {entry.name for entry in anyio.run(entries)}
    for sample in families_in(text):
        assert family_of(sample, names), sample
    known = {name for name in connectrio_app() if not name.startswith("-")}
    used = set(re.findall(r"`connectrio (\w+)", text))
    assert used
    assert used <= known
    settings = HostSettings()
    for name, value in re.findall(r"`(\w+)`(?: seconds)? \((\d+)(?: s| by default)?\)", text):
        assert getattr(settings, name) == int(value), name
    events = (DOCS / "reference" / "logs.md").read_text()
    for event in re.findall(r"`((?:a|an|the|call|log) [^`]+)`", text):
        assert event in events, event
    panels = re.findall(r"panels? \"([^\"]+)\"(?: and \"([^\"]+)\")?", text)
    board = (ALERTS.parent / "dashboard.json").read_text()
    for title in (title for found in panels for title in found if title):
        assert f'"title": "{title}"' in board, title


def test_the_numbers_of_the_error_budget():
    (fast,) = [rule["expr"] for rule in GROUPS["calls"] if rule["alert"] == "ConnectrioErrorBudgetBurnsFast"]
    rates = [Fraction(speed) * Fraction("0.005") * 100 for speed in re.findall(r"> ([\d.]+) \* 0\.005", fast)]
    assert rates == [Fraction("7.2"), Fraction("7.2"), 3, 3]
    assert "(7.2 % of the calls of the last hour" in PAGES["calls"].replace("\n  ", " ")
    assert "(3 % of six hours" in PAGES["calls"].replace("\n  ", " ")
    # the days after which nothing is left of the budget of thirty
    assert [round(30 / speed) for speed in (14.4, 6)] == [2, 5]
    assert "used up in two days" in PAGES["calls"]
    settings = HostSettings()
    assert (settings.grace, settings.max_request_memory) == (25, 64 * 1024 * 1024)
