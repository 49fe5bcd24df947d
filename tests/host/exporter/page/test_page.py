"""The status page without a browser: what it says, what it lets through, and when it is rendered again."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import anyio
import msgspec
import pytest

from connectrio.host.exporter import page as page_module
from connectrio.host.exporter.page import make_app
from connectrio.host.exporter.page._view import View, content_of
from connectrio.host.exporter.page._words import full, is_web, lasting, rate, short, took
from connectrio.telemetry.report import PhaseChange, TaskName
from host.exporter.page.asgi import call, updates
from host.exporter.page.sample import (
    AT_BLOCK,
    AT_LOCK,
    AT_VENDOR,
    NOW,
    REFUSED,
    Source,
    calm,
    connector,
    job,
    night,
)  # fmt: skip

change = msgspec.structs.replace


async def shown(report, target="/status"):
    return (await call(make_app(Source(report)), target)).page


async def test_the_status_page_tells_all_troubles():
    page = await shown(night())
    for text in (
        "Serving , not ready for new work",
        f"the event loop is blocked: nightly_reports create at {AT_BLOCK}",
        "Processes 2 of 2 serving",
        "Log lines lost 12",
        "If it restarts now: 150 jobs go on in the other systems",
        "6 things need attention",
        "Error: incident for 12 min in warehouse_query",
        f"The system behind warehouse_query fails: {REFUSED}, in 25 jobs.",
        "Warning: stuck for 20 min in nightly_reports",
        "Give the request a time-out.",
        "Not loaded 1 acme_connectors.legacy ModuleNotFoundError",
        "149 running, 20 succeeded, 16 failed, 14 queued, 1 not polled yet",
        f"Polls fail for 12 min {REFUSED} at {AT_VENDOR}",
        f"Get goes on for 21 min at {AT_LOCK}",
        f"{AT_LOCK} in a worker thread",
        f"{AT_BLOCK} in the connector's code",
        "waits for a slot",
        "the connector's code INTERNAL KeyError: 'namespace' at spark_on_k8s.py:131 in delete",
        "the other system UNAVAILABLE, absorbed",
        "and 311 more like this",
        "get: connection goes on 12 min ago",
        "Worker threads 3 of 40 taken, 1 stuck",
        f"{AT_LOCK}: answer = self.session.get(url)",
        "gRPC 2026-12-05 00:53:20 UTC ( in 5 d ) /etc/tls/tls.crt",
        "drain_timeout 30.0",
    ):
        assert text in page.text, text


async def test_nothing_needs_attention_when_all_is_well():
    page = await shown(calm())
    for text in (
        "Serving , ready for new work", "Nothing needs attention", "No connector is served.", "No job is known.",
        "No call is being answered.", "No call has failed.", "No other system has failed.", "No port has TLS.",
    ):  # fmt: skip
        assert text in page.text
    assert "Processes" not in page.text
    assert "Log lines lost" not in page.text


@pytest.mark.parametrize("target", ["/", "/status", "/connectors/warehouse_query", "/jobs/{job}", "/stacks"])
async def test_a_page_is_sound_html(target: str):
    report = night()
    page = await shown(report, target.format(job=report.jobs[0].job))
    assert len(page.ids) == len(set(page.ids))
    assert not [value for _, name, value in page.attributes if name == "style" or name.startswith("on")]
    assert {"h1", "main", "title"} <= page.tags
    fragments = {link[1:] for link in page.links if link.startswith("#")}
    assert fragments <= set(page.ids)


async def test_links_are_relative_and_lead_to_pages():
    """So that they work behind a proxy that adds a prefix, such as `kubectl proxy`."""
    app = make_app(Source(night()))
    for folder, start in (("/", "/status"), ("/connectors/", "/connectors/spark_on_k8s")):
        for link in set((await call(app, start)).page.links):
            if link and not link.startswith(("#", "?")):
                assert not link.startswith(("/", "http"))
                target = (folder + link).replace("/connectors/../", "/").partition("#")[0]
                assert (await call(app, target)).status == 200, target


@pytest.mark.parametrize(
    "target", ["/status", "/jobs/none", "/events?page=no", "/static/page.css", "/static/page.js", "/static/none"]
)
async def test_nothing_but_its_own_files_is_loaded(target: str):
    answer = await call(make_app(Source(night())), target)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_its_files_are_small_and_change_their_address_when_they_change():
    app = make_app(Source(calm()))
    page = (await call(app, "/status")).page
    [style] = [value for _, name, value in page.attributes if value.startswith("static/page.css")]
    [script] = [value for _, name, value in page.attributes if value.startswith("static/page.js")]
    for address, limit, kind in ((style, 8000, "text/css"), (script, 3000, "text/javascript")):
        assert re.fullmatch(r"static/page\.\w+\?[0-9a-f]{12}", address)
        answer = await call(app, f"/{address}")
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert "immutable" in answer.headers["cache-control"]
        assert 1000 < len(answer.body) < limit


async def test_only_get_and_head_are_answered():
    source = Source(night())
    app = make_app(source)
    assert (await call(app, "/status", "POST")).status == 405
    for target in ("/status", "/events?page=status"):
        assert (await call(app, target, "HEAD")).status == 200
    assert (await call(app, "/none")).status == 404


EVIL = "</td><script>alert(1)</script><b onclick=x>\"'&lt;\n\u202eltr\u200f\x00\x1b[31m\ud800{{ 7 * 7 }}"


def replaced(value, text: str, *, except_for: frozenset[str]):
    """A report whose texts are all `text`, in structs, lists, tuples and dicts."""
    if isinstance(value, str):
        return text
    if isinstance(value, list | tuple):
        return type(value)(replaced(each, text, except_for=except_for) for each in value)
    if isinstance(value, dict):
        return {replaced(key, text, except_for=except_for): each for key, each in value.items()}
    if isinstance(value, msgspec.Struct):
        names = [name for name in value.__struct_fields__ if name not in except_for]
        return change(value, **{name: replaced(getattr(value, name), text, except_for=except_for) for name in names})
    return value


@pytest.mark.parametrize("text", [EVIL, "x" * 1_000_000, "", "\n\n\n"], ids=["markup", "megabyte", "empty", "lines"])
async def test_texts_of_others_stay_texts(text: str):
    """Whatever they are; ids of jobs and names of task types are what pages are found by."""
    report = replaced(night(count=20), text, except_for=frozenset({"job", "task_type"}))
    app = make_app(Source(report))
    sound = await shown(night(count=20))
    for target in ("/status", f"/jobs/{report.jobs[5].job}", "/connectors/spark_on_k8s", "/stacks"):
        answer = await call(app, target)
        assert answer.status == 200
        assert len(answer.body) < 1_500_000
        page = answer.page
        if target == "/status":
            assert page.tags - sound.tags == set()
        assert not [value for _, name, value in page.attributes if name == "style" or name.startswith("on")]
        for character in ("\u202e", "\u200f", "\x00", "\x1b", "alert(1)</script>"):
            assert character not in answer.body.decode()


async def test_names_with_any_character_are_found():
    name = "a/b?c#d%2F é <x>"
    report = change(calm(), connectors=[connector("Odd", name, NOW)], jobs=[job(1, NOW, task_type=name)])
    page = await shown(report)
    [target] = {link for link in page.links if link.startswith("connectors/") and link.endswith("version=0")}
    assert "version 0" in (await shown(report, f"/{target}")).text


@pytest.mark.parametrize(
    ("search", "is_found"),
    [
        ("a620c9c332101", True), ("A620C9", True), ("n6", True), ("-153", True), ("run-153/n6", True),
        ("a620c9 n6", True), ("warehouse running", True), ("a620c9 n5", False), ("12 min", False),
    ],
)  # fmt: skip
async def test_jobs_are_searched_by_their_names(search: str, is_found: bool):
    page = await shown(night(), f"/status?q={search.replace(' ', '+')}&rows=500")
    assert ("a620c9c332101" in page.text) is is_found
    assert f"match “{search}”" in page.text
    if search == "a620c9 n6":
        assert "1 of 200 match" in page.text
    if search == "12 min":
        assert "No job matches." in page.text


async def test_calls_and_failures_are_searched_too():
    page = await shown(night(), "/status?q=a6b86b273ff34")
    assert "Live calls 1 of 5 match" in page.text
    assert "Recent failures 1 of 3 match" in page.text
    page = await shown(night(), "/status?q=a620c9c332101")
    assert "0 of 5 match “a620c9c332101” None matches." in page.text
    assert "No call" not in page.text


def test_jobs_in_trouble_come_first_then_the_oldest():
    report = night()
    content = content_of(report, View(rows=500))
    order = [(-each.trouble, each.is_final, each.seen) for each in content.jobs.items]
    going_on = [each for each in order if not each[1]]
    assert going_on == sorted(going_on)
    assert [each[:2] for each in order] == sorted(each[:2] for each in order)
    ended = [each.changed for each in content.jobs.items if each.is_final and not each.trouble]
    assert ended == sorted(ended, reverse=True)


async def test_a_table_has_some_rows_and_says_how_many_more_there_are():
    page = await shown(night())
    rows = [each for each in page.ids if each.startswith("job-")]
    assert len(rows) == 50
    assert "150 more ( show up to 500 )" in page.text
    [more] = [link for link in page.links if "rows=500" in link]
    page = await shown(night(count=700), f"/status{more}")
    assert len([each for each in page.ids if each.startswith("job-")]) == 500
    assert "200 more are not shown" in page.text


@pytest.mark.parametrize("query", ["rows=0", "rows=-1", "rows=x", "rows=99999999999", "version=x", "q=%ff", "page=x"])
async def test_what_is_not_understood_in_a_query_is_ignored(query: str):
    assert (await call(make_app(Source(night())), f"/status?{query}")).status == 200


async def test_the_page_of_a_job():
    report = night()
    failing = next(each for each in report.jobs if each.failing_since)
    page = await shown(report, f"/jobs/{failing.job}")
    for text in (
        "Polls fail since 2026-11-30 00:41:20 UTC",
        f"( 12 min ago ) {REFUSED} at {AT_VENDOR}",
        "QUEUED",
        "and it goes on",
        f"Execution {failing.task.execution}",
        f"Project acme / {failing.task.project} / production",
        f"Output {failing.task.output_prefix}",
        "Origin created by this host",
        f"Polls {failing.polls}, of which 41 failed, of which 41 were answered with the phase before",
        "/srv/acme_connectors/warehouse_query.py:31",
        "Incidents of other systems 1",
    ):
        assert text in page.text, text
    assert failing.links[0][1] in page.links
    unknown = report.jobs[2]
    page = await shown(report, f"/jobs/{unknown.job}")
    assert "The execution is not known" in page.text
    assert "No phase has been seen yet." in page.text


async def test_the_page_of_an_execution():
    base = night()
    one = base.jobs[5]
    page = await shown(base, f"/jobs/{one.task.execution}")
    assert f"Job {one.job}" in page.text
    assert f"Job {one.job}" in (await shown(base, f"/jobs/{one.key}")).text
    other = change(one, job="0123456789ab", task=change(one.task, node="n9"))
    page = await shown(change(base, jobs=[*base.jobs, other]), f"/jobs/{one.task.execution}")
    assert {each for each in page.ids if each.startswith("job-")} == {f"job-{one.job}", "job-0123456789ab"}
    assert "Jobs 2" in page.text
    assert f"../jobs/{one.job}" in page.links


async def test_a_failing_job_whose_failures_are_counted_with_anothers():
    base = night()
    failing = next(each for each in base.jobs if each.failing_since)
    page = await shown(change(base, failures=[]), f"/jobs/{failing.job}")
    assert "The last error of this job is above." in page.text
    assert "Recent failures 0" not in page.text
    well = next(each for each in base.jobs if not each.error)
    page = await shown(change(base, failures=[]), f"/jobs/{well.job}")
    assert "Recent failures 0 None." in page.text


async def test_a_job_that_is_not_known():
    answer = await call(make_app(Source(night())), "/jobs/%3Cb%3E")
    assert answer.status == 404
    assert "This host knows no job and no execution <b>" in answer.page.text


async def test_links_lead_only_to_the_web():
    links = [
        ("plain", "http://example.com/?a=1&b=2"), ("script", "javascript:alert(1)"), ("data", "data:text/html,x"),
        ("odd", "http://[bad"), ("none", "https:"), ("upper", "HTTPS://example.com"), ("tab", "java\tscript:alert(1)"),
        ("slashes", "javascript://evil.org/%0aalert(1)"),
    ]  # fmt: skip
    report = change(calm(), jobs=[job(1, NOW, links=links)])
    page = await shown(report, f"/jobs/{report.jobs[0].job}")
    assert [link for link in page.links if "example" in link] == ["http://example.com/?a=1&b=2", "HTTPS://example.com"]
    assert not [link for link in page.links if "script" in link or "data" in link]
    assert "javascript:alert(1)" in page.text
    assert page.attributes.count(("a", "rel", "noopener noreferrer")) == 2
    assert [is_web(address) for _, address in links] == [True, False, False, False, False, True, False, False]


async def test_the_page_of_a_connector():
    report = night()
    page = await shown(report, "/connectors/warehouse_query")
    for text in (
        "warehouse_query version 0", "Error: incident", "In flight 25 of 100", "99 % within 10 s",
        "Code /srv/acme_connectors/warehouse_query.py:31", "Calls per minute in the last 30 minutes",
    ):  # fmt: skip
        assert text in page.text, text
    assert "Error: blocked" not in page.text
    assert "nightly_reports" not in page.text.partition("Jobs")[2]
    answer = await call(make_app(Source(report)), "/connectors/warehouse_query?version=3")
    assert answer.status == 404
    assert "does not serve the task type warehouse_query in version 3" in answer.page.text


async def test_a_connector_has_a_page_for_each_version():
    report = change(calm(), connectors=[connector("A", "a", NOW, version=version, slots=version) for version in (1, 7)])
    newest = await shown(report, "/connectors/a")
    assert "a version 7" in newest.text
    assert "?version=1" in newest.links
    assert "In flight 3 of 1 " in (await shown(report, "/connectors/a?version=1")).text


async def test_several_processes_are_added_up():
    base = night()
    parts = [
        change(each, process=number, rate=rate, p95=p95, jobs={"RUNNING": 2})
        for each in base.connectors[:1]
        for number, rate, p95 in ((0, 1.5, 0.1), (1, 2.0, None), (2, 0.5, 0.5))
    ]
    report = change(base, connectors=parts)
    content = content_of(report, View())
    [merged] = content.connectors
    assert (merged.active, merged.slots, merged.rate, merged.p95, merged.jobs) == (9, 300, 4.0, 0.5, {"RUNNING": 6})
    assert merged.minutes[7].calls == 3 * base.connectors[0].minutes[7].calls
    page = await shown(report, "/connectors/spark_on_k8s")
    assert "In each process 3" in page.text
    assert "12.0/s" not in page.text
    assert "4.0/s" in page.text


async def test_stacks():
    page = await shown(night(), "/stacks")
    assert f"task call 17 : nightly_reports get host.py:1 in run {AT_LOCK}" in page.text.replace("17:", "17 :")


async def test_many_stacks_are_cut(monkeypatch):
    async def many(self):
        return await stacks(self) * 351

    stacks = Source.stacks
    monkeypatch.setattr(Source, "stacks", many)
    page = await shown(calm(), "/stacks")
    assert page.text.count("task call 17") == 250
    assert "202 more are not shown." in page.text


@pytest.fixture
def at_once(monkeypatch):
    """Nobody waits for the next report, and no time makes an open page hear something."""
    monkeypatch.setattr(page_module, "_INTERVAL", 0.01)
    monkeypatch.setattr(page_module, "_IDLE_SHARE", 0)
    monkeypatch.setattr(page_module, "_HEARTBEAT", 3600.0)


async def test_an_open_page_gets_what_has_changed(at_once):
    source = Source(night())
    with anyio.fail_after(60):
        async with updates(make_app(source), "/events?page=status") as stream:
            first = await stream.next()
            assert list(first["sections"]) == [
                "strip", "attention", "connectors", "jobs", "calls", "failures", "incidents", "inside",
            ]  # fmt: skip
            assert first["sections"]["jobs"].startswith('<section id="jobs"')
            assert (first["now"], first["title"]) == (NOW, "(6) status: serving, not ready")
            # time passes, which the browser counts by itself
            later = {
                name: [change(each, seconds=each.seconds + 5) for each in getattr(source.shown, name)]
                for name in ("calls", "connections")
            }
            threads = [
                change(each, seconds=each.seconds + 5, stuck_seconds=each.stuck_seconds and each.stuck_seconds + 5)
                for each in source.shown.threads
            ]
            source.shown = change(source.shown, now=NOW + 5, threads=threads, **later)
            for _ in range(3):
                await source.asked.wait()
            assert stream.waiting == 0
            source.shown = change(source.shown, attention=[], failures=[])
            update = await stream.next()
            assert list(update["sections"]) == ["strip", "attention", "failures"]
            assert "Nothing needs attention" in update["sections"]["attention"]
            assert update["title"] == "status: serving, not ready"


async def test_a_page_is_told_now_and_then_that_it_is_connected(at_once, monkeypatch):
    monkeypatch.setattr(page_module, "_HEARTBEAT", 0.0)
    with anyio.fail_after(60):
        async with updates(make_app(Source(night())), "/events?page=job&name=" + night().jobs[0].job) as stream:
            assert list((await stream.next())["sections"]) == ["strip", "job", "calls", "failures", "incidents"]
            assert (await stream.next())["sections"] == {}


async def test_a_page_says_when_what_it_shows_is_forgotten(at_once):
    source = Source(night())
    with anyio.fail_after(60):
        async with updates(make_app(source), "/events?page=connector&name=spark_on_k8s&version=0") as stream:
            assert "connector" in (await stream.next())["sections"]
            source.shown = calm()
            update = await stream.next()
            assert list(update["sections"]) == ["strip"]
            assert "This connector is no longer known" in update["sections"]["strip"]
            source.shown = night()
            assert "spark_on_k8s" in (await stream.next())["sections"]["connector"]


async def test_all_clients_share_one_report_and_one_rendering(monkeypatch):
    rendered = []

    def counted(report, view):
        rendered.append((report.now, view, threading.get_ident()))
        return content_of(report, view)

    monkeypatch.setattr(page_module, "_INTERVAL", 3600.0)
    monkeypatch.setattr(page_module, "content_of", counted)
    source = Source(night())
    app = make_app(source)
    with anyio.fail_after(60):
        async with updates(app, "/events?page=status") as one, updates(app, "/events?page=status&rows=50") as other:
            assert (await one.next())["sections"] == (await other.next())["sections"]
            await call(app, "/status")
            await call(app, "/status?q=n6")
    assert source.reports == 1
    assert [view for _, view, _ in rendered] == [View(), View(search="n6")]
    # not in the event loop's
    assert threading.get_ident() not in {thread for _, _, thread in rendered}


async def test_searches_that_somebody_makes_up_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(page_module, "_INTERVAL", 3600.0)
    page = page_module._Page(Source(night()))
    for number in range(100):
        assert await page._render(View(search=f"no-{number}"))
        assert len(page._rendered) <= 32
    assert View(search="no-99") in page._rendered


def test_durations_and_numbers_are_short():
    assert [lasting(each) for each in (0, 0.9, 1, 119, 120, 7199, 7200, 172_799, 172_800, 5e8)] == [
        "0 s", "0 s", "1 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d", "5787 d",
    ]  # fmt: skip
    assert [took(each) for each in (None, 0.0001, 0.025, 0.25, 1.25, 15, 600)] == [
        "\N{EN DASH}", "< 1 ms", "25 ms", "250 ms", "1.2 s", "15 s", "10 min",
    ]  # fmt: skip
    assert [rate(each) for each in (0, 0.01, 0.99, 1, 12345.67)] == ["0", "0.6/min", "59.4/min", "1.0/s", "12,345.7/s"]


def test_texts_are_cut_and_made_visible():
    assert short(" a\n\tb  c ") == "a b c"
    assert short("x" * 500) == "x" * 240 + "…"
    assert short("\u202eabc\x1b[0m") == "\\u202eabc\\u001b[0m"
    assert full("a\nb") == "a\nb"
    assert full("x" * 20_005).endswith("x\n… 5 more characters")


async def test_odd_times_are_no_error():
    odd = job(1, NOW, seen=-1e300, changed=float("nan"), polled=float("inf"), phases=[PhaseChange(phase="X", at=1e20)])
    report = change(calm(), jobs=[odd], started=-5.0)
    assert "?" in (await shown(report)).text
    assert "?" in (await shown(report, f"/jobs/{odd.job}")).text


async def test_minutes_that_are_missing_or_old_are_left_out():
    base = connector("A", "a", NOW)
    for minutes in ([], base.minutes[:1], base.minutes[-1:], [change(base.minutes[0], at=0.0)]):
        page = await shown(change(calm(), connectors=[change(base, minutes=minutes)]))
        assert "Calls per minute in the last 30 minutes:" in page.text
    assert "0 at most, 0 in this one; 0 failed, 0 absorbed." in page.text or minutes


def test_templates_never_switch_escaping_off():
    for template in (Path(page_module.__file__).parent / "templates").iterdir():
        text = template.read_text()
        assert "|safe" not in text.replace(" ", "")
        assert "autoescape" not in text


def test_a_task_without_names_is_called_by_its_output():
    task = TaskName(output_prefix="s3://bucket/x")
    assert content_of(change(calm(), jobs=[job(1, NOW, task=task, key="k")]), View(search="BUCKET")).jobs.found == 1
