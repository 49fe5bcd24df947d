"""The status page: what a host does, and what goes wrong in it, for a person with a browser.

The server renders the page as sections of HTML. A page that is open asks /events for the sections that have changed,
as server-sent events. All who look at the same share one rendering, which is made in a thread, at most once a second,
and less often if it takes long. Without JavaScript, the page shows what was true when it was loaded.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

import anyio
import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from connectrio.host.exporter.page._plot import plot_calls, plot_latency
from connectrio.host.exporter.page._view import View, content_of
from connectrio.host.exporter.page._words import FILTERS, harmless
from connectrio.telemetry.report import HostReport, StackReport

__all__ = ["PageSource", "make_app"]

_FOLDER = Path(__file__).parent
_STATIC = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}

# seconds between two reports
_INTERVAL = 1.0
# the next report comes after this many times the time that the last one took, so that all take a tenth of a processor
_IDLE_SHARE = 10
# seconds between two reports at most
_LONGEST_INTERVAL = 10.0
# different pages of one report that are kept, each of a megabyte at most
_MOST_VIEWS = 32
# seconds; page.js takes a connection for lost that is silent for longer
_HEARTBEAT = 15.0

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_BETWEEN_LINES = re.compile(r">\s*\n\s*<")
# the browser goes on counting these
_RUNNING_TIMES = re.compile(r"(<time [^>]*>)[^<]*")


class PageSource(Protocol):
    """What the page shows: a host, or the supervisor of several processes."""

    async def report(self) -> HostReport:
        """Return what is known now."""

    async def stacks(self) -> list[StackReport]:
        """Return where each task and thread is."""


def make_app(source: PageSource) -> ASGIApp:
    """Return the ASGI application of the page.

    It answers GET and HEAD of /, /status, /connectors/{task_type}, /jobs/{job}, /stacks, /events and /static/…. Its
    links are relative, so it also works behind a proxy that adds a prefix to the path. It needs no lifespan.
    """
    page = _Page(source)
    routes = [
        Route("/", page.status),
        Route("/status", page.status),
        Route("/connectors/{name:path}", page.connector),
        Route("/jobs/{name}", page.job),
        Route("/stacks", page.stacks),
        Route("/events", page.events),
        Route("/static/{name}", page.static),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False  # it would redirect to another address than a proxy's
    return app


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        finalize=harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters.update(FILTERS)
    templates.globals.update(plot_calls=plot_calls, plot_latency=plot_latency)
    return templates


@dataclass(frozen=True)
class _Rendered:
    """The sections of a page.

    :ivar sections: name → HTML
    :ivar marks: the same without what the browser goes on counting by itself: an update is sent if these differ
    """

    title: str
    now: float
    sections: Mapping[str, str]
    marks: Mapping[str, int]


class _Page:
    def __init__(self, source: PageSource) -> None:
        self._source = source
        self._lock = anyio.Lock()
        self._report: HostReport | None = None
        self._next_report = -math.inf
        # of the present report: the seconds that it has taken, and the pages
        self._spent = 0.0
        self._rendered: dict[View, _Rendered | None] = {}
        self._threads = anyio.CapacityLimiter(1)
        self._static = {name: (_FOLDER / "static" / name).read_bytes() for name in _STATIC}
        # the browser keeps a file until its contents change
        self._addresses = {
            name: f"static/{name}?{sha256(contents).hexdigest()[:12]}" for name, contents in self._static.items()
        }

    async def status(self, request: Request) -> Response:
        return await self._answer(View.from_query(request.query_params, "status"))

    async def connector(self, request: Request) -> Response:
        return await self._answer(View.from_query(request.query_params, "connector", request.path_params["name"]))

    async def job(self, request: Request) -> Response:
        return await self._answer(View.from_query(request.query_params, "job", request.path_params["name"]))

    async def stacks(self, _request: Request) -> Response:
        stacks = await self._source.stacks()
        context = {"base": "", "title": "stacks", "view": View(), "stacks": stacks}
        return await self._page("stacks.html", context)

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._static:
            return Response("there is no such file\n", 404, _HEADERS, "text/plain")
        headers = _HEADERS | {"Cache-Control": "public, max-age=31536000, immutable", "Content-Type": _STATIC[name]}
        return Response(self._static[name], headers=headers)

    async def events(self, request: Request) -> Response:
        query = request.query_params
        try:
            view = View.from_query(query, query.get("page", "status"), query.get("name", ""))
        except ValueError:
            return Response("page is status, connector or job\n", 400, _HEADERS, "text/plain")
        headers = _HEADERS | {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers)
        return StreamingResponse(self._updates(view), headers=headers)

    async def _answer(self, view: View) -> Response:
        base = "" if view.kind == "status" else "../"
        rendered = await self._render(view)
        if rendered is None:
            context = {"base": base, "title": f"no such {view.kind}", "view": view}
            return await self._page("missing.html", context, 404)
        context = {
            "base": base,
            "title": rendered.title,
            "view": view,
            "events": f"{base}events?{urlencode(view.query)}",
            "now": rendered.now,
            "sections": [Markup(html) for html in rendered.sections.values()],  # noqa: S704
        }
        return await self._page("page.html", context)

    async def _page(self, template: str, context: Mapping[str, object], status: int = 200) -> Response:
        html = await anyio.to_thread.run_sync(self._fill, template, context, limiter=self._threads)
        return HTMLResponse(html.encode("utf-8", "replace"), status, _HEADERS | {"Vary": "Accept"})

    def _fill(self, template: str, context: Mapping[str, object]) -> str:
        html = _templates().get_template(template).render(context, static=self._addresses)
        return _BETWEEN_LINES.sub("><", html.strip())

    async def _updates(self, view: View) -> AsyncIterator[bytes]:
        """Send the sections that have changed, as server-sent events, until the client leaves."""
        marks: Mapping[str, int] = {}
        spoken = -math.inf
        while True:
            rendered = await self._render(view) or _gone(view)
            new = rendered.marks
            changed = {name: html for name, html in rendered.sections.items() if new[name] != marks.get(name)}
            if changed or anyio.current_time() - spoken >= _HEARTBEAT:
                update = {"now": rendered.now, "title": rendered.title, "sections": changed}
                yield b"data: " + msgspec.json.encode(update) + b"\n\n"
                spoken = anyio.current_time()
            marks = new
            await anyio.sleep_until(self._next_report)

    async def _render(self, view: View) -> _Rendered | None:
        """Return a page as it is now; None if what it is about does not exist. All clients share it."""
        async with self._lock:
            started = anyio.current_time()
            if self._report is None or started >= self._next_report:
                self._report = await self._source.report()
                self._rendered.clear()
                self._spent = 0.0
                self._next_report = started + _INTERVAL
            if view not in self._rendered:
                if len(self._rendered) >= _MOST_VIEWS:  # somebody makes searches up
                    self._rendered.clear()
                self._rendered[view] = await anyio.to_thread.run_sync(
                    self._render_sections, self._report, view, limiter=self._threads
                )
            self._spent += anyio.current_time() - started
            pause = min(self._spent * _IDLE_SHARE, _LONGEST_INTERVAL)
            self._next_report = max(self._next_report, started + pause)
            return self._rendered[view]

    def _render_sections(self, report: HostReport, view: View) -> _Rendered | None:
        content = content_of(report, view)
        if content is None:
            return None
        context = {
            "report": report,
            "now": report.now,
            "view": view,
            "content": content,
            "base": "" if view.kind == "status" else "../",
        }
        sections = {name: self._fill(f"{name}.html", context) for name in content.sections}
        marks = {name: hash(_RUNNING_TIMES.sub(r"\1", html)) for name, html in sections.items()}
        return _Rendered(_title(report, content.title), report.now, sections, marks)


def _gone(view: View) -> _Rendered:
    """Return what is told to somebody who looks at what has been forgotten; the rest of the page stays as it was."""
    text = f"<b>This {view.kind} is no longer known</b> to the host: what you see is old."
    strip = f'<section id="strip" aria-label="State of the host"><p class="state bad">{text}</p></section>'
    return _Rendered(f"{view.kind} no longer known", time.time(), {"strip": strip}, {"strip": hash(strip)})


def _title(report: HostReport, subject: str) -> str:
    """Return the page's title, which also tells in a background tab how the host is."""
    number = len(report.attention)
    subject = FILTERS["short"](subject)
    state = report.state if report.is_ready else f"{report.state}, not ready"
    return f"({number}) {subject}: {state}" if number else f"{subject}: {state}"
