"""What the exporter answers to a request.

/metrics, /healthz and /readyz are open to everyone, so they show names and kinds, never texts. All the rest, the status
page and /api, tells more: see `_access.py`.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import anyio
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from connectrio.host.exporter._access import PRIVATE, Access
from connectrio.host.exporter._api import Api, error
from connectrio.host.exporter._asgi import Application, Hosted
from connectrio.host.exporter._failed import FailedRequests
from connectrio.host.exporter._messages import Request, Response, as_json, plain
from connectrio.host.exporter._shared import SharedReports
from connectrio.logs import get_logger

if TYPE_CHECKING:
    from connectrio.host.exporter import ExporterSource

__all__ = ["Pages"]

logger = get_logger("connectrio.host.exporter")

# the versions of the formats that prometheus_client writes; it would claim to write any later one
_KNOWN_VERSIONS = ("version=0.0.4", "version=1.0.0", "version=2.0.0")
_OPEN = ("/metrics", "/healthz", "/readyz")
_WEIGHT = re.compile(r";\s*q=(\d(?:\.\d*)?)")


class Pages:
    """The pages of a host, or of the supervisor of several.

    /metrics, and / as on flyte-sdk's port, show the metrics in Prometheus' text format, or in OpenMetrics where the
    scraper accepts it; `name[]` in the query selects some. /healthz is 200 as long as the process answers. /readyz is
    200 while new work is accepted, else 503. Both show the details as JSON.

    A browser gets the status page at /, everybody at /status. The page is an application of its own, which is imported
    at the first request for it. While that fails, all the rest is answered.
    """

    def __init__(self, source: ExporterSource, access: Access) -> None:
        self._source = source
        self._access = access
        self._shared = SharedReports(source)
        self._api = Api(self._shared)
        # one scrape at a time: each takes a thread and, with many series, time on the processor
        self._scrapes = anyio.CapacityLimiter(1)
        self._application: Application | None = None
        self._importing = anyio.Lock()
        self._is_failure_logged = False
        self._failed = FailedRequests()

    async def answer(self, request: Request) -> Response | Hosted:
        """Return the response to a request, or the application that responds."""
        path = request.path.rstrip("/")
        if path not in _OPEN and not (path == "" and not self._wants_page(request)):
            return await self._page(request, path)
        if request.method not in ("GET", "HEAD"):
            return plain(405, "only GET and HEAD are possible", ("allow", "GET, HEAD"))
        if path == "/healthz":
            return self._report(200)
        await self._source.refresh()
        if path == "/readyz":
            return self._report(200 if self._source.is_ready else 503)
        names = parse_qs(request.query).get("name[]")
        accept = request.header(b"accept")
        return await anyio.to_thread.run_sync(self._expose, accept, names, limiter=self._scrapes)

    def _wants_page(self, request: Request) -> bool:
        """Return whether / is to show the page: to a client that prefers HTML to the formats of metrics."""
        weights: dict[str, float] = {}
        for part in request.header(b"accept").lower().split(","):
            weight = _WEIGHT.search(part)
            weights[part.partition(";")[0].strip()] = float(weight[1]) if weight else 1.0
        html = weights.get("text/html", 0.0)
        others = weights.get("text/plain", 0.0), weights.get("application/openmetrics-text", 0.0)
        return self._access.page and html > 0 and html >= max(others)

    async def _page(self, request: Request, path: str) -> Response | Hosted:
        is_api = path == "/api" or path.startswith("/api/")
        respond = error if is_api else plain
        if not path.startswith("/") and path:
            return plain(404, "the path must begin with /")
        refusal = self._access.refusal(request)
        if refusal is not None:
            return respond(refusal.status, refusal.text, *refusal.headers)
        if request.method not in ("GET", "HEAD"):
            return respond(405, "only GET and HEAD are possible", ("allow", "GET, HEAD"))
        if is_api:
            try:
                return await self._api.answer(path, request.query)
            except Exception as failure:  # noqa: BLE001 - whatever it is, it is logged
                self._failed.log(request.path, failure)
                return error(500, "the request failed; see the host's log")
        application = await self._load()
        if application is None:
            return plain(503, "the status page cannot be loaded; see the host's log. There is more under /api")
        return Hosted(application, PRIVATE)

    async def _load(self) -> Application | None:
        """Return the status page's application; None if it cannot be imported now."""
        async with self._importing:
            if self._application is None:
                try:
                    # in a thread, so that calls are served meanwhile
                    page = await anyio.to_thread.run_sync(import_module, "connectrio.host.exporter.page")
                    self._application = page.make_app(self._shared)
                except Exception:
                    if not self._is_failure_logged:
                        logger.exception("the status page cannot be loaded; /api and /metrics are served without it")
                        self._is_failure_logged = True
            return self._application

    def _expose(self, accept: str, names: list[str] | None) -> Response:
        registry = self._source.collectors
        collector: Collector = registry if names is None else registry.restricted_registry(names)
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # from versions that are no numbers
            encode, content_type = choose_encoder("")
        if not any(f"; {known};" in content_type for known in _KNOWN_VERSIONS):
            encode, content_type = choose_encoder("")
        return Response(200, encode(collector), content_type)

    def _report(self, status: int) -> Response:
        source = self._source
        report: dict[str, Any] = {
            "state": str(source.state),
            "connectors": source.connectors,
            "failures": [{"source": failure.source, "error": failure.kind} for failure in source.failures],
            "not_ready": list(source.not_ready),
        }
        if source.processes:
            report["processes"] = list(source.processes)
        return as_json(status, report)
