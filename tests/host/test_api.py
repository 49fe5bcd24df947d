"""/api: its documents, its search, and what it says to wrong requests."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from connectrio.host.exporter._api import APART, LISTS
from connectrio.telemetry.report import HostReport, StackReport, TaskName
from connectrio.telemetry.search import JobDetails, details, matches, search
from host import api_page
from host.reports import NOW, TASK, call, connector, failure, incident, job, made, report
from host.test_exporter import View, exporter, get

OTHER = TaskName(project="billing", domain="production", execution="f9aa", node="n7")
JOBS = [
    job(),
    job(job="ffffffffffff", key="other", task=OTHER, phase="SUCCEEDED", is_final=True, changed=NOW),
    job(job="bad000000000", key="bad/key", task=OTHER, task_type="slow", trouble=5),
]


@pytest.fixture
def view():
    """A source with one of everything."""
    told = report(
        jobs=JOBS,
        calls=[call()],
        failures=[failure(), failure(task=OTHER, job="x", key="y", task_type="slow")],
        incidents=[incident(), incident(id="2", task_type="slow", task=OTHER, began=NOW)],
        connectors=[connector()],
    )
    return View(told=told, stack=[StackReport(kind="thread", name="MainThread", what="", frames=["a.py:1 in f: g()"])])


async def ask(view, *paths):
    """The status and the document of each path."""
    async with exporter(view) as address:
        answers = [await get(address, path) for path in paths]
    assert all(each.headers["content-type"] == "application/json" for each in answers)
    return [(each.status, each.json) for each in answers]


async def test_status_leaves_long_lists_out(view):
    [(status, document)] = await ask(view, "/api/status")
    assert status == 200
    assert document.keys() == {each.name for each in msgspec.structs.fields(HostReport)} - set(APART)
    assert msgspec.convert({**document, **{name: [] for name in APART}}, HostReport).connectors == view.told.connectors


@pytest.mark.parametrize("name", LISTS)
async def test_each_list(view, name):
    [(status, document)] = await ask(view, f"/api/{name}")
    expected = view.stack if name == "stacks" else getattr(view.told, name)
    assert (status, document["total"]) == (200, len(expected))
    told = json.loads(msgspec.json.encode(expected))
    assert sorted(map(str, document[name])) == sorted(map(str, told))


@pytest.mark.parametrize(
    ("query", "jobs"),
    [
        ("", ["bad000000000", "0123456789ab", "ffffffffffff"]),
        ("?limit=1", ["bad000000000"]),
        ("?q=F7C1", ["0123456789ab"]),
        ("?q=%20flytesnacks-development-f7c1", ["0123456789ab"]),
        ("?q=n7&phase=succeeded", ["ffffffffffff"]),
        ("?task_type=slow", ["bad000000000"]),
        ("?task_type=slo", []),
        ("?q=BAD%2Fkey", ["bad000000000"]),
        ("?q=s3://bucket", ["0123456789ab"]),
        ("?q=123456", ["0123456789ab"]),
        ("?q=nobody", []),
        ("?final=true", ["ffffffffffff"]),
        ("?final=false", ["bad000000000", "0123456789ab"]),
        ("?q=&task_type=&phase=", ["bad000000000", "0123456789ab", "ffffffffffff"]),
    ],
)
async def test_jobs_are_searched_and_sorted_by_trouble(view, query, jobs):
    [(status, document)] = await ask(view, f"/api/jobs{query}")
    assert (status, [each["job"] for each in document["jobs"]]) == (200, jobs)
    assert document["total"] == (3 if "limit" in query else len(jobs))


async def test_one_job_and_all_of_an_execution(view):
    by_id, by_key, slash, execution, full, unknown = await ask(
        view,
        "/api/jobs/0123456789ab",
        "/api/jobs/key-of-0/",
        "/api/jobs/bad%2Fkey",
        "/api/jobs/f9aa",
        "/api/jobs/billing-production-f9aa",
        "/api/jobs/f9a",
    )
    assert by_id == by_key
    assert by_id[1].keys() == {each.name for each in msgspec.structs.fields(JobDetails)}
    assert [len(by_id[1][each]) for each in ("jobs", "calls", "failures", "incidents")] == [1, 1, 1, 1]
    assert [each["job"] for each in slash[1]["jobs"]] == ["bad000000000"]
    assert full == execution
    assert [each["job"] for each in execution[1]["jobs"]] == ["bad000000000", "ffffffffffff"]
    assert [each["id"] for each in execution[1]["incidents"]] == ["2", "1"]
    assert unknown[0] == 404
    assert "'f9a'" in unknown[1]["error"]


def test_a_job_that_only_a_call_knows():
    found = details(report(calls=[call(job="", key="new")]), "new")
    assert (found.jobs, len(found.calls)) == ([], 1)
    assert details(report(calls=[call(job="", key="", task=TaskName())]), "") is None


def test_a_search_matches_names_and_nothing_else():
    nameless = job(job="", key="", task=TaskName(), message="a message", error="an error")
    assert matches(nameless, " ")
    assert not matches(nameless, "message")
    assert not matches(nameless, "-")
    assert matches(job(), TASK.output_prefix.upper())
    assert search([job()], phase="RUN") == []


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/api", 404, "/api/status"),
        ("/api/nothing", 404, "/api/jobs/NAME"),
        ("/api/status/more", 404, "/api/status"),
        ("/api/calls/1", 404, "/api/status"),
        ("/api/jobs?limit=0", 400, "limit must be"),
        ("/api/jobs?limit=1e3", 400, "limit must be"),
        ("/api/jobs?limit=%C2%B2", 400, "limit must be"),
        ("/api/jobs?limit=99999999999999999999", 400, "limit must be"),
        ("/api/jobs?query=x", 400, "there are: q, task_type, phase, final, limit"),
        ("/api/jobs?final=yes", 400, "final must be true or false"),
        ("/api/calls?phase=x", 400, "there are: q, task_type, limit"),
        ("/api/status?q=x", 400, "there are: none"),
        ("/api/jobs/x?q=x", 400, "there are: none"),
    ],
)
async def test_wrong_requests(view, path, status, error):
    [answer] = await ask(view, path)
    assert (answer[0], answer[1].keys()) == (status, {"error"})
    assert error in answer[1]["error"]


async def test_a_report_that_fails():
    class Broken(View):
        async def report(self):
            raise RuntimeError("no report")

    with capture_logs() as logs:
        [(status, document)] = await ask(Broken(), "/api/status")
    assert (status, document) == (500, {"error": "the request failed; see the host's log"})
    assert [line["log_level"] for line in logs] == ["error"]


async def test_texts_that_are_none():
    """A file name that is no UTF-8, in a message."""
    [(status, document)] = await ask(View(told=report(jobs=[job(message="no \udc80.txt")])), "/api/jobs")
    assert (status, document["jobs"][0]["message"]) == (200, "no ?.txt")


def test_values_that_json_lacks():
    told = made(HostReport, lag=float("inf"), state="serving")
    assert json.loads(msgspec.json.encode(told))["lag"] is None


def test_the_page_of_the_documents_is_up_to_date():
    """`python tests/host/api_page.py` writes it."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text()
    assert page[page.index(api_page.BEGIN) :] == api_page.generated()
    for path in re.findall(r"`(/api/[\w]+)", page):
        assert path.split("/")[2] in {"status", *LISTS}, path
    assert {f"/api/{name}" for name in LISTS} <= set(re.findall(r"^\| `(/api/\w+)`", page, re.MULTILINE))
