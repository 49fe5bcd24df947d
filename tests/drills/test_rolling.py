"""Small rolling updates: none loses a call or makes a job twice. No durations are asserted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drills.cluster import figures
from drills.cluster.deployment import Endpoints
from drills.cluster.names import NAME, NameServer, look_up
from drills.cluster.rows import ROLLOUTS, ROWS
from drills.cluster.ways import PROXIES, MissingToolError, Way
from drills.hosting import HERE
from drills.rolling import drill

# short, so that a test is; clients learn of a change within less than drain_delay
SMALL = {"drain_delay": 3.0, "late": (0.5, 1.5), "replicas": 1, "replacements": 2, "around": 1.0}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("service", {"client": "go", "processes": 2}),
        ("nginx", {"client": "grpcio"}),
        ("envoy", {"client": "channel"}),
    ],
)
def test_a_rolling_update_loses_nothing(name: str, changes: dict):
    row = replace(ROWS[name].but(name, **SMALL), **changes)
    try:
        report = drill(name, row, rate=20)
    except MissingToolError as error:
        pytest.skip(str(error))
    assert report.passed, report
    assert report.calls > 0
    assert report.jobs > 0


def test_a_name_server_has_the_addresses_of_the_moment():
    with NameServer() as server:
        host, _, port = server.address.rpartition(":")
        assert look_up(NAME, (host, int(port))) == []
        server.addresses = ["127.0.13.1", "127.0.13.2"]
        assert look_up(NAME, (host, int(port))) == ["127.0.13.1", "127.0.13.2"]
    assert server.queries == 2


def test_clients_learn_of_no_change_before_those_that_came_before_it():
    told: list[list[str]] = []
    states = [["0"]]
    endpoints = Endpoints((0.0, 0.05), states[0])
    endpoints.way = Way("", lambda addresses: told.append(list(addresses)))
    for number in range(1, 20):
        endpoints.add(str(number))
        endpoints.remove(str(number - 1))
        states += [[str(number - 1), str(number)], [str(number)]]
    endpoints.settle()
    assert told[-1] == ["19"]
    numbers = [states.index(each) for each in told]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("name", [*ROLLOUTS, *ROWS])
def test_the_figures_are_those_of_the_rows(name: str):
    """Measure anew what has other settings now: just drills rolling NAME --figures tests/drills/cluster/figures.json"""
    row, found = {**ROLLOUTS, **ROWS}[name], figures.load()[name]
    assert found["row"] == figures.settings(row)
    assert bool(found["failed"]) is row.loses
    if not row.loses:
        assert (found["duplicates"], found["killed"], set(found["exit_codes"])) == (0, 0, {"0"})


def test_a_row_that_loses_calls_names_one_that_loses_none():
    for name, row in ROWS.items():
        assert bool(row.remedy) is row.loses, name
        assert not row.loses or not ROWS[row.remedy].loses


@pytest.mark.parametrize("file", ["nginx.conf", "envoy.yaml", "endpoints.yaml"])
def test_the_page_shows_the_files_that_the_drill_runs(file: str):
    page = (HERE.parents[1] / "docs" / "how-to" / "proxies.md").read_text()
    assert f"\n{(PROXIES / file).read_text()}```\n" in page
