"""A bad night on a real host, read from its status page by somebody who was woken.

With CONNECTRIO_SCREENSHOTS=docs/images, the pictures of the documentation are taken again. They show paths of the
connectors' module, so it is copied to a place that looks the same everywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.client import fetch
from e2e.page.browser import DARK, LIGHT, PHONE, Troubles, browser, find_troubles, screenshot, violations
from e2e.page.night_calls import NIGHT, begin, block, line_of
from e2e.programs import HostProgram

# milliseconds; only ends a test that fails
PATIENCE = 60_000


def where(comment: str) -> str:
    """The line of night.py that has this comment, as "night.py:42"."""
    return line_of(comment).partition(" ")[0]


def wait_for_block(url: str) -> None:
    """Wait until the watchdog answers in place of the event loop."""
    while True:
        with suppress(TimeoutError):  # a request that came just before the block waits for its end
            if "blocked" in json.loads(fetch(f"{url}/readyz")[1])["state"]:
                return
        time.sleep(0.05)


@pytest.mark.parametrize("backend", ["uvloop", "trio"])
def test_each_trouble_of_a_real_host_is_found_on_its_page(tmp_path, backend):
    with browser() as chromium:
        from playwright.sync_api import expect

        expect.set_options(timeout=PATIENCE)
        ends = tmp_path / "morning"
        folder = Path("/srv/connectors") if "CONNECTRIO_SCREENSHOTS" in os.environ else tmp_path
        folder.mkdir(parents=True, exist_ok=True)
        module = shutil.copy(NIGHT, folder)
        settings = {"modules": [str(module)], "watchdog": 0.5, "poll_retry": 0}
        environment = {"CONNECTRIO_NIGHT_ENDS": str(ends)}
        with HostProgram(backend, env=environment, **settings) as host, host.ready().client() as client:
            begun = begin(client)
            block(client, begun)
            wait_for_block(host.url)
            page = chromium.new_page()
            for path in ("", "/", "/status"):
                assert page.goto(host.url + path).status == 503
                expect(page.get_by_role("heading")).to_have_text("The event loop is blocked, and with it all calls")
                expect(page.locator("body")).to_contain_text(where("the event loop is blocked"))
                expect(page.locator("body")).to_contain_text("for execution night-blocked, node n0")
            assert violations(page) == []
            ends.with_name("morning.first").touch()
            hung, blocked = begun.calls
            blocked.result()
            hung.cancel()  # as the executor does after ten seconds: now nobody waits for the thread
            page.get_by_role("link", name="Refresh").click()
            page.set_default_timeout(PATIENCE)
            troubles = Troubles(
                jobs=begun.jobs + 1,
                vendor="warehouse_query",
                error="the warehouse does not answer",
                at_vendor=where("the vendor is down"),
                hanging="nightly_reports",
                at_hang=where("the thread hangs"),
                at_block=where("the event loop is blocked"),
                hung=begun.hung,
                failing=begun.failing,
            )
            find_troubles(page, host.url, troubles)
            for name, options in (("light", LIGHT), ("dark", DARK), ("phone", PHONE)):
                size = {"width": 360, "height": 740} if name == "phone" else {"width": 1080, "height": 780}
                shown = options | {"viewport": size, "device_scale_factor": 1.4 if name == "phone" else 1}
                page = chromium.new_context(**shown).new_page()
                page.goto(f"{host.url}/status")
                page.get_by_role("status").filter(has_text="Live").wait_for(timeout=PATIENCE)
                assert violations(page) == []
                screenshot(page, f"page-{name}.png")
            ends.touch()
