"""The dashboard in the chart is what its code makes, and a real Prometheus has answers for all of its panels."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from contextlib import suppress
from itertools import combinations

import anyio
import pytest

from deploy import picture
from deploy.scene import DASHBOARD, ROOT, Scene, queries, replaced, scene
from e2e.programs import eventually
from e2e.test_prometheus import PATIENCE, needs_prometheus, rules
from host.catalogue import entries, families_in, family_of

BOARD = json.loads(DASHBOARD.read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = queries()
# of prometheus-client, as in every Python program
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}
PROCESS |= {"process_start_time_seconds"}
# families with the same numbers as another one, which has a panel
LEFT_OUT = {
    "flyte_connector_request_latency_seconds",
    "flyte_connector_requests_failure_total",
    "flyte_connector_requests_success_total",
    "connectrio_event_loop_blocks_total",
}
# what the hosts of the scene do not have: certificates, several processes, creates that fail for the moment or in doubt
WITHOUT_DATA = {
    "connectrio_certificate_expiry_timestamp_seconds", "connectrio_processes_ready",
    "connectrio_process_restarts_total", "connectrio_creates_in_doubt_total", "connectrio_create_retries_total",
}  # fmt: skip
# alerts that the troubles of the scene set off; those that wait for some minutes are pending by then
SET_OFF = {
    "ConnectrioBreakerOpen", "ConnectrioErrorBudgetBurnsFast", "ConnectrioEventLoopBlocked", "ConnectrioOrphanedJobs",
    "ConnectrioPollsAbsorbed", "ConnectrioStuckThreads", "ConnectrioUnknownTaskType", "ConnectrioVendorDown",
    "ConnectrioVendorErrors",
}  # fmt: skip
# those that are pending for a moment, or that a loaded machine may set off
MAY_BE = {
    "ConnectrioCallsSlow", "ConnectrioCallsWait", "ConnectrioCreatesAbandoned", "ConnectrioCreatesSlow",
    "ConnectrioErrorBudgetBurnsSlowly", "ConnectrioEventLoopLate", "ConnectrioPolicyHoldsCalls",
    "ConnectrioScrapeFails", "ConnectrioThreadsBusy",
}  # fmt: skip


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """The labels of each family."""
    return {entry.name: set(entry.labels) for entry in anyio.run(entries)} | {name: set() for name in PROCESS}


def samples_in(expr: str) -> list[tuple[str, set[str]]]:
    """The samples that a query asks for, with the labels that it chooses by."""
    found = re.findall(r"\b((?:flyte_connector|connectrio|process)_\w+)\{([^}]*)\}", expr)
    return [(name, set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", chosen))) for name, chosen in found]


def test_the_file_is_what_the_code_makes():
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed; `dev` has it")
    made = subprocess.run(
        [sys.executable, "-c", "import dashboard; print(dashboard.text(), end='')"],
        cwd=ROOT / "deploy" / "monitoring", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stdout == DASHBOARD.read_text(), "run: uv run just dashboard"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.panel}: {query.legend}")
def test_a_query_names_what_hosts_have(query, labels):
    samples = samples_in(query.raw)
    assert families_in(query.raw) <= {name for name, _ in samples}
    grouped = {each.strip() for names in re.findall(r"by \(([^)]*)\)", query.raw) for each in names.split(",")}
    known = {"job", "instance"}
    for name, chosen in samples:
        family = name if name in PROCESS else family_of(name, set(labels))
        assert family, name
        assert chosen >= {"job", "instance"}
        # a choice of connectors that a panel does not keep to would mislead
        if "connectrio_waiting_for_threads" not in name and "task_type" in labels[family] and "_limit" not in query.raw:
            assert "task_type" in chosen, name
        assert chosen <= labels[family] | {"job", "instance"}
        known |= labels[family]
    assert grouped - {"le"} <= known
    named = set(re.findall(r"{{(\w+)}}", query.legend))
    assert named <= (grouped or {"instance"})
    assert grouped - {"le"} == named or not grouped - {"le"}


def test_every_family_has_a_panel(labels):
    shown = {family_of(name, set(labels)) or name for query in QUERIES for name, _ in samples_in(query.raw)}
    assert set(labels) - shown == LEFT_OUT


def test_the_reader_chooses_data_source_job_host_and_connector():
    chosen = {each["name"]: each for each in BOARD["templating"]["list"]}
    assert list(chosen) == ["datasource", "job", "instance", "connector"]
    assert chosen["datasource"]["query"] == "prometheus"
    for name in ("job", "instance", "connector"):
        assert (chosen[name]["multi"], chosen[name]["includeAll"]) == (True, True)
    # "All" is also what has no connector, and types that nobody serves
    assert chosen["connector"]["allValue"] == ".*"
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
    variables = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text()))
    assert variables == {*chosen, "__rate_interval"}


def test_panels_are_told_apart_and_lie_side_by_side():
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in BOARD["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    assert max(place["x"] + place["w"] for place in places) == 24
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_the_chart_can_take_the_file_as_it_is():
    """Helm's `.Files.Get` gives it unchanged; a ConfigMap holds up to 1 MiB."""
    assert len(DASHBOARD.read_bytes()) < 200_000


def test_the_picture_has_all_panels_of_its_rows():
    drawn = picture.page({panel["id"]: [picture.Line("a line", [(0, 1), (60, 2)])] for panel in picture.wanted()}, 120)
    titles = [panel["title"] for panel in picture.wanted()]
    assert len(titles) > 15
    for title in (*titles, *picture.ROWS):
        assert f">{title}</h" in drawn
    for part in ("<polyline", "<polygon", ">a line<", ">2/s<", "200 %"):
        assert part in drawn


def test_the_page_says_what_the_picture_shows():
    page = " ".join((ROOT / "docs" / "how-to" / "monitor.md").read_text().split())
    assert picture.LASTS == 4 * 60
    assert "two hosts ran for four minutes" in page
    assert f"A warehouse was down for {picture.BACK - picture.DOWN} seconds" in page
    assert "rate_calls=4" in (ROOT / "tests" / "deploy" / "troubled.py").read_text()
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert (
        re.findall(r"\| ([^|]+) \| [^|]+ \|", page.partition("| row | the question | |---|---| ")[2])[: len(rows)]
        == rows
    )
    assert picture.PICTURE.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Scene:
    with scene(tmp_path_factory.mktemp("scene")) as found:
        yield found


def without_data(program) -> list[tuple[str, str]]:
    """The panels for which Prometheus has no answer, though hosts have the numbers."""
    return [
        (query.panel, query.legend)
        for query in QUERIES
        if not {name for name, _ in samples_in(query.raw)} & WITHOUT_DATA and not program.query(query.expr)
    ]


@needs_prometheus
def test_prometheus_answers_all_panels(running):
    program = running.prometheus
    eventually(lambda: without_data(program) == [], PATIENCE)
    for query in QUERIES:
        program.query(query.expr)  # all can be evaluated
    for variable in BOARD["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]).groups()
        assert {each[label] for each in program.get("series", **{"match[]": replaced(metric)})}
    program.query(replaced(BOARD["annotations"]["list"][0]["expr"]))


@needs_prometheus
def test_no_number_is_negative_and_no_share_above_1(running):
    program = running.prometheus
    eventually(lambda: without_data(program) == [], PATIENCE)
    # now with a system that goes down, and comes back
    (running.troubles / "down").touch()
    down = 'sum(connectrio_vendor_errors_total{task_type="warehouse",kind="connection"}) > 3'
    eventually(lambda: bool(program.query(down)), PATIENCE)
    (running.troubles / "down").unlink()
    now = time.time()
    for query in QUERIES:
        data = program.get("query_range", query=query.expr, start=f"{now - 120}", end=f"{now}", step="1")
        values = [float(value) for series in data["result"] for _, value in series["values"]]
        numbers = [value for value in values if not math.isnan(value)]
        # the seconds of a block are counted at its end, all at once: a scrape may see more than have passed
        most = 1.0 if query.unit == "percentunit" and "blocked" not in query.raw else math.inf
        assert all(0 <= value <= most + 1e-9 for value in numbers), (query.panel, query.legend, max(numbers))


@needs_prometheus
def test_troubles_set_off_their_alerts(running):
    program = running.prometheus

    def set_off() -> set[str]:
        return {rule["name"] for rule in rules(program) if rule.get("state", "inactive") != "inactive"}

    with suppress(TimeoutError):
        eventually(lambda: set_off() >= SET_OFF, PATIENCE)
    assert SET_OFF - set_off() == set()
    assert set_off() - SET_OFF - MAY_BE == set()
