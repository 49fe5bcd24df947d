"""The site in a browser: it is read on a screen and a phone, in light and dark, and its search answers questions."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest

from docs.site import build
from e2e.page.browser import DARK, LIGHT, PHONE, browser, violations

PAGES = ["", "tutorials/first-grpc-service/", "how-to/", "reference/settings/", "reference/api/connectors/"]
SCREENS = {"light": LIGHT, "dark": DARK, "phone": PHONE | {"viewport": {"width": 390, "height": 844}}}
# of the theme's own elements: buttons of each block and its navigation have equal names; wide tables scroll
_OF_THE_THEME = ("landmark-unique: ", 'scrollable-region-focusable: <div class="md-typeset__scrollwrap"')

# milliseconds: the time-out of the tests comes first
PATIENCE = 300_000

# what a new user would ask: what is typed → the page that answers
QUESTIONS = {
    "How does my connector get a secret?": ("secret token", "how-to/use-your-connector/"),
    "How do I show a link to the vendor's log?": ("log link", "how-to/log-links/"),
    "My poll fails. What does Flyte see?": ("poll fails", "explanation/failure-model/"),
    "How do I turn TLS on?": ("TLS", "how-to/tls/"),
    "How do I connect Flyte to my host?": ("connect Flyte", "how-to/connect-flyte/"),
    "What happens to calls when a host drains?": ("drain", "how-to/upgrade/"),
    "What is cancelled when a client leaves?": ("cancel", "explanation/architecture/"),
    "How do I write a gRPC server on trio?": ("grpc trio", "tutorials/first-grpc-service/"),
    "What is tried again, and when?": ("retry", "explanation/failure-model/"),
    "How do I upgrade without losing jobs?": ("upgrade", "how-to/upgrade/"),
    "Which variable sets this option?": ("environment variable", "reference/settings/"),
    "What does the exit code mean?": ("exit code", "reference/cli/"),
    "How do I test with pytest?": ("pytest", "how-to/test-a-connector/"),
    "How do I install it?": ("install", ""),
    "Does it reload when I save?": ("reload on save", "how-to/dev/"),
    "How do I keep to the vendor's limit?": ("rate limit", "how-to/vendor/"),
    "Why does nothing answer?": ("event loop blocked", "how-to/debug-a-hang/"),
    "How do I check a token of each gRPC call?": ("authentication token grpc", "how-to/interceptors/"),
    "How long does a gRPC call wait?": ("timeout deadline", "how-to/client/"),
    "How does a client try a call again?": ("retry grpc call", "how-to/client/"),
    "How do I stream replies?": ("streaming", "tutorials/first-grpc-service/"),
    "How do I run it inside FastAPI?": ("fastapi", "how-to/embed/"),
    "How do I scrape it?": ("prometheus scrape", "how-to/monitor/"),
}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def opened():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def address(opened, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("screen", SCREENS)
def test_pages_can_be_read(opened, address, screen):
    page = opened.new_page(**SCREENS[screen])
    page.set_default_timeout(PATIENCE)
    wrong = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    for path in PAGES:
        page.goto(address + path, wait_until="networkidle")
        assert wrong == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= SCREENS[screen]["viewport"]["width"], path
        assert [each for each in violations(page) if not each.startswith(_OF_THE_THEME)] == [], path
    page.close()


@pytest.mark.parametrize(("typed", "path"), QUESTIONS.values(), ids=QUESTIONS)
def test_the_search_answers_a_question_within_two_clicks(opened, address, typed, path):
    """A reader types it, finds the page among the first two, and opens it."""
    page = opened.new_page(**LIGHT)
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    search = page.get_by_role("textbox", name="Search")
    search.click()
    search.press_sequentially(typed)
    # results change while one types
    first_two = ".md-search-result__item:nth-child(-n+2) > .md-search-result__link"
    page.locator(f'{first_two}[href^="{address}{path}?"]').first.click()
    page.wait_for_url(f"{address}{path}?*")
    page.close()
