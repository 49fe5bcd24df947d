"""The status page in a browser: what a person finds there, what axe-core finds, and what happens while one reads."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
import pytest

from connectrio.host.exporter import page as page_module
from connectrio.host.exporter.page._words import lasting
from e2e.page.browser import (
    DARK,
    LIGHT,
    PHONE,
    Troubles,
    browser,
    find_troubles,
    search,
    served,
    violations,
)
from host.exporter.page.sample import AT_BLOCK, AT_LOCK, AT_VENDOR, Source, calm, connector, job, night, task

change = msgspec.structs.replace

# milliseconds; only ends a test that fails
PATIENCE = 30_000
PHONE_DARK = {**PHONE, "color_scheme": "dark"}


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


class Clock(Source):
    """A source whose reports are of now, as a host's are; what it tells was true when it was made."""

    async def report(self):
        return change(await super().report(), now=time.time())


@pytest.fixture
def source(monkeypatch):
    monkeypatch.setattr(page_module, "_INTERVAL", 0.05)
    monkeypatch.setattr(page_module, "_IDLE_SHARE", 0)
    return Clock(night(time.time()))


@pytest.fixture
def address(chromium, source):
    with served(source) as found:
        yield found


@pytest.fixture
def opened(chromium, address):
    """Opens a page; no page may complain on its console."""
    contexts, complaints = [], []

    def open_page(path="/status", **options):
        context = chromium.new_context(**(LIGHT | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address + path)
        return page

    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in complaints if "ERR_" not in each and "404" not in each] == []


def paths(source) -> list[str]:
    shown = source.shown
    failing = next(each.job for each in shown.jobs if each.failing_since)
    return ["/status", f"/jobs/{failing}", "/connectors/warehouse_query", "/stacks", "/jobs/none", "/status?q=none"]


def live(page):
    """Wait until the page updates itself."""
    page.get_by_role("status").filter(has_text="Live").wait_for()


def test_each_trouble_is_found_by_reading(opened, address, source):
    names = [task(number).execution for number in range(200)]
    failing = next(index for index, each in enumerate(source.shown.jobs) if each.failing_since)
    troubles = Troubles(
        jobs=200,
        vendor="warehouse_query",
        error="Connect call failed",
        at_vendor=AT_VENDOR,
        hanging="nightly_reports",
        at_hang=AT_LOCK,
        at_block=AT_BLOCK,
        hung=names[3],
        failing=names[failing],
    )
    find_troubles(opened(), address, troubles)


@pytest.mark.parametrize("options", [LIGHT, DARK, PHONE, PHONE_DARK], ids=["light", "dark", "phone", "phone-dark"])
def test_axe_finds_nothing(opened, address, source, options):
    page = opened(**options)
    for path in paths(source):
        page.goto(address + path)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert violations(page) == []


def test_axe_would_find_something(opened):
    page = opened()
    page.evaluate("document.body.append(document.createElement('button'))")
    assert violations(page) == ["button-name: <button></button>"]


@pytest.mark.parametrize("width", [360, 740, 900])
@pytest.mark.parametrize("texts", ["of the sample", "long"])
def test_nothing_is_wider_than_the_screen(opened, address, source, texts, width):
    if texts == "long":
        long = "x" * 400
        jobs = [
            change(each, message=long, error=long, place=long, task=task(1, execution=long, node=long, project=long))
            for each in source.shown.jobs[:5]
        ]
        source.shown = change(
            source.shown, jobs=jobs, connectors=[connector(long, "y" * 200, time.time(), source=long)]
        )
    page = opened(viewport={"width": width, "height": 740})
    for path in [*paths(source)[:1], f"/jobs/{source.shown.jobs[1].job}", *paths(source)[2:]]:
        page.goto(address + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_the_page_changes_by_itself(opened, source):
    page = opened()
    live(page)
    source.shown = change(source.shown, attention=[], is_ready=True, not_ready=[], state="draining")
    page.get_by_role("heading", name="Nothing needs attention").wait_for()
    page.get_by_text("Draining, ready for new work").wait_for()
    assert page.title() == "status: draining"


def test_a_change_disturbs_nobody_who_reads(opened, source):
    """Focus, scroll and open details stay, when rows come, go and change their places."""
    page = opened(path="/status?rows=20")
    live(page)
    before = source.shown.jobs
    page.locator("summary").filter(has_text="Connections").click()
    page.locator("summary").filter(has_text="Worker threads").click()
    link = page.locator(f"#job-{before[9].job}").get_by_role("link").first
    link.focus()
    page.evaluate("scrollTo(0, 700)")
    place = page.evaluate("document.activeElement.getBoundingClientRect().top")
    changed = [change(each, trouble=0, failing_since=None) for each in before]
    changed[9] = change(changed[9], message="moved to the top", trouble=9)
    source.shown = change(
        source.shown,
        jobs=[job(700, time.time(), trouble=5), *changed],
        connections=source.shown.connections[1:],
        threads_busy=7,
    )
    page.get_by_text("7 of 40 taken").wait_for()
    page.get_by_text("moved to the top").wait_for()
    assert page.evaluate("document.activeElement.href") == link.evaluate("link => link.href")
    assert page.evaluate("scrollY") > 0
    assert page.locator("#connections").get_attribute("open") is not None
    assert page.locator("#threads").get_attribute("open") is None
    assert place != 0
    rows = page.locator("#jobs tbody tr")
    assert rows.count() == 20
    assert rows.first.get_attribute("id") == f"job-{before[9].job}"
    assert page.locator("[id]").evaluate_all("all => all.length == new Set(all.map(each => each.id)).size")


def test_nothing_changes_while_text_is_selected(opened, source):
    page = opened()
    live(page)
    page.evaluate("getSelection().selectAllChildren(document.getElementById('attention-title'))")
    source.shown = change(source.shown, attention=[], started=source.shown.started - 86400)
    asked = source.reports
    while source.reports < asked + 5:
        page.wait_for_timeout(20)
    assert page.evaluate("getSelection().toString()") == "6 things need attention"
    page.evaluate("getSelection().collapseToStart()")
    page.get_by_role("heading", name="Nothing needs attention").wait_for()


def test_times_are_counted_on_as_the_server_writes_them(opened):
    from playwright.sync_api import expect

    page = opened()
    live(page)
    spans = [0, 1, 59, 119, 121, 3000, 7199, 7201, 100_000, 172_801, 10_000_000]
    now = page.evaluate("Date.now()") / 1000
    written = [datetime.fromtimestamp(int(now) - span, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for span in spans]
    page.evaluate(
        """times => document.querySelector("main").append(...times.flatMap(time => ["since", ""].map(name => {
            const element = document.createElement("time");
            Object.assign(element, { dateTime: time, className: name, textContent: "?" });
            return element;
        })))""",
        written,
    )
    expect(page.locator("main > time", has_text="?")).to_have_count(0)
    texts = page.locator("main > time").all_inner_texts()
    late = page.evaluate("Date.now()") / 1000 - int(now) + 2
    for span, since, ago in zip(spans, texts[::2], texts[1::2], strict=True):
        assert since in {lasting(span + more) for more in range(int(late) + 1)}
        assert ago == f"{since} ago"


def test_a_page_says_that_it_is_not_connected_and_connects_again(opened, address, source):
    page = opened()
    live(page)
    page.context.route("**/events?*", lambda route: route.abort())
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # connects again
    page.get_by_role("status").filter(has_text="Connection lost: this is old").wait_for()
    page.context.unroute("**/events?*")
    live(page)


def test_a_hidden_page_and_one_that_is_paused_ask_for_nothing(opened, source):
    page = opened()
    live(page)

    def is_quiet():
        """Whether nobody asks for reports any more."""
        for _ in range(100):
            asked = source.reports
            page.wait_for_timeout(200)
            if source.reports == asked:
                return True
        return False

    page.get_by_role("button", name="Pause").click()
    page.get_by_role("status").filter(has_text="Paused").wait_for()
    assert is_quiet()
    page.get_by_role("button", name="Go on").click()
    live(page)
    page.evaluate(
        """Object.defineProperty(document, "hidden", { value: true, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"))"""
    )
    assert is_quiet()
    source.shown = calm(time.time())
    page.evaluate('delete document.hidden; document.dispatchEvent(new Event("visibilitychange"))')
    page.get_by_role("heading", name="Nothing needs attention").wait_for()


def test_it_works_without_javascript(opened, source):
    page = opened(java_script_enabled=False)
    page.get_by_role("heading", name="6 things need attention").wait_for()
    assert "without JavaScript, this page does not update itself" in page.get_by_role("banner").inner_text()
    assert not page.get_by_role("button", name="Pause").is_visible()
    search(page, task(3).execution)
    page.get_by_role("heading", name="Jobs 1 of 200 match").wait_for()
    source.shown = calm(time.time())
    page.locator("noscript a").click()
    page.get_by_role("heading", name="Nothing needs attention").wait_for()


def test_it_works_with_the_keyboard_alone(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Connectors 3"
    page.get_by_role("searchbox").focus()
    page.keyboard.type(task(3).execution)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Jobs 1 of 200 match").wait_for()
    page.locator("summary").filter(has_text="Connections").focus()
    page.keyboard.press("Enter")
    assert page.locator("#connections").get_attribute("open") is not None
