"""The status page in Debian's Chromium, driven by Playwright; tests are skipped where one of them is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import checkpoint
from prometheus_client import CollectorRegistry

from connectrio.host.exporter import serve_exporter

_MODULES = {"playwright": "playwright", "axe_playwright_python": "axe-playwright-python"}


def chromium() -> str:
    """The path of the browser; skips the test if it cannot be used."""
    for module, package in _MODULES.items():
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{package} is not installed; get it with: uv sync --group browser")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed; get it with: apt-get install chromium")
    return path


LIGHT = {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}}
DARK = {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}}
PHONE = {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}


@contextmanager
def served(source) -> Iterator[str]:
    """Serve the status page of `source` with the exporter, in a thread of its own; the address of it."""
    host = SimpleNamespace(
        is_ready=True, not_ready=[], state="serving", connectors=3, failures=[], processes=[],
        collectors=CollectorRegistry(), refresh=checkpoint, report=source.report, stacks=source.stacks,
    )  # fmt: skip
    with start_blocking_portal() as portal, socket.create_server(("127.0.0.1", 0)) as listening:
        exporter, [(_, port)] = portal.start_task(serve_exporter, [listening], host)
        yield f"http://127.0.0.1:{port}"
        exporter.cancel()


@contextmanager
def browser() -> Iterator:
    """A browser, headless. Its pages have no network but the loopback interface."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        )
        try:
            yield started
        finally:
            started.close()


def violations(page) -> list[str]:
    """What axe-core finds wrong with the page that is open."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


def screenshot(page, name: str) -> None:
    """Take a picture for the documentation, if CONNECTRIO_SCREENSHOTS names a folder."""
    folder = os.environ.get("CONNECTRIO_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / name)


@dataclass(frozen=True)
class Troubles:
    """What is wrong with a host, as its page must tell it.

    :ivar error: a part of the vendor's error
    :ivar at_vendor: the line of the connector that has got it
    :ivar at_hang: the line that the thread hangs in
    :ivar at_block: the line that blocks the event loop
    :ivar hung: the execution whose poll hangs
    :ivar failing: an execution whose polls fail
    """

    jobs: int
    vendor: str
    error: str
    at_vendor: str
    hanging: str
    at_hang: str
    at_block: str
    hung: str
    failing: str


def find_troubles(page, address: str, troubles: Troubles) -> None:
    """Open the status page, and find each trouble as somebody who reads it does; time-outs are those of `page`."""
    from playwright.sync_api import expect

    page.goto(f"{address}/status")
    expect(page.get_by_role("heading", name="need attention")).to_be_visible()
    attention = page.get_by_role("region", name="need attention")

    # is it the vendor, since when, whose line?
    incident = attention.get_by_role("listitem").filter(has_text="incident").filter(has_text=troubles.vendor)
    expect(incident.first).to_contain_text(re.compile(r"for \d+ (s|min|h)"))
    incidents = page.get_by_role("table").filter(has_text="Those that go on come first").get_by_role("row")
    row = incidents.filter(has_text=troubles.vendor).filter(has_text="goes on").first
    expect(row).to_contain_text(troubles.error)
    expect(row).to_contain_text(troubles.at_vendor)

    # which thread hangs, and where?
    expect(attention.get_by_role("listitem").filter(has_text="stuck").first).to_contain_text(troubles.hanging)
    threads = page.get_by_role("group").filter(has_text="Worker threads")
    expect(threads).to_contain_text("stuck")
    expect(threads.get_by_text(troubles.at_hang).first).to_be_visible()

    # who blocks the event loop?
    expect(attention.get_by_role("listitem").filter(has_text="blocked").first).to_contain_text(troubles.at_block)

    # which tasks?
    jobs = page.get_by_role("region", name="Jobs")
    expect(jobs.get_by_role("heading", name=f"Jobs {troubles.jobs}")).to_be_visible()
    search(page, troubles.failing)
    row = jobs.get_by_role("row").filter(has_text=troubles.failing)
    expect(row).to_contain_text("Polls fail for")
    expect(row).to_contain_text(troubles.at_vendor)
    row.get_by_role("link", name=troubles.failing).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(troubles.failing)
    expect(page.get_by_text("Polls fail since")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="RUNNING").first).to_contain_text("and it goes on")
    search(page, troubles.hung)
    expect(jobs.get_by_role("row").filter(has_text=troubles.hung)).to_contain_text(troubles.hanging)

    # the connector
    page.goto(f"{address}/status")
    page.get_by_role("region", name="Connectors").get_by_role("link", name=troubles.vendor).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(troubles.vendor)
    expect(page.get_by_role("img").first).to_be_visible()
    expect(page.get_by_role("region", name="Recent failures")).to_contain_text(troubles.at_vendor)


def search(page, text: str) -> None:
    """Search as a person does."""
    page.get_by_role("searchbox", name="Search").fill(text)
    page.get_by_role("button", name="Find").click()
    page.wait_for_url("**/status?q=*")
