"""docs/reference/logs.md describes the lines that the source writes, all of them and no others."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest

from connectrio.connector.registry import Registry
from connectrio.host.host import Host
from connectrio.host.runner import serving_fields
from connectrio.host.settings import HostSettings
from logs.events import BY_CASE, Event, events

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "logs.md"
EVENTS = list(events())


def tables() -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables: heading, columns, rows."""
    found: list[tuple[str, list[str], list[list[str]]]] = []
    heading, rows = "", None
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("#"):
            heading = line.strip("# `")
        if not line.startswith("|"):
            rows = None
        elif rows is None:
            rows = []
            found.append((heading, cells, rows))
        elif not line.startswith("|---"):
            rows.append(cells)
    return found


def described_events() -> dict[tuple[str, str], tuple[str, set[str]]]:
    """Level and fields by logger and event."""
    return {
        (heading, row[0]): (row[1], set(re.findall(r"`(\w+)`", row[2])))
        for heading, columns, rows in tables()
        if columns == ["event", "level", "fields", "when"]
        for row in rows
    }


def described_fields() -> set[str]:
    return {
        name
        for _, columns, rows in tables()
        if columns == ["field", "type", "meaning"]
        for row in rows
        for name in re.findall(r"`(\w+)`", row[0])
    }


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.where)
def test_every_line_is_described(event: Event):
    level, fields = described_events().get((event.logger, event.text), ("", set()))
    assert level, f"add to docs/reference/logs.md, under {event.logger}: | {event.text} | {event.level} | … | … |"
    assert event.level in (*level.split(" or "), BY_CASE)
    assert event.fields <= fields


def test_nothing_else_is_described():
    assert set(described_events()) == {(event.logger, event.text) for event in EVENTS}


def test_every_field_has_a_meaning():
    used = set().union(*(fields for _, fields in described_events().values()))
    assert used <= described_fields()


async def test_the_fields_of_the_start_are_described():
    settings = HostSettings(host="127.0.0.1", port=0, prometheus_port=0, grace=1.5)
    host = Host(settings, registry=Registry())
    async with anyio.create_task_group() as tasks:
        fields = serving_fields(host, await tasks.start(host.serve))
        await host.shutdown()
    table = next(rows for _, _, rows in tables() if rows[0][0].startswith("`version`"))
    assert set(fields) == set(re.findall(r"`(\w+)`", " ".join(row[0] for row in table)))
    assert fields["settings"] == {"host": "127.0.0.1", "port": 0, "prometheus_port": 0, "grace": 1.5}
