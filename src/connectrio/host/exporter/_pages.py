"""The exporter's pages, and who may see what on them: everyone may, so they show names and kinds, never texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import anyio
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from connectrio.host.exporter import ExporterSource

__all__ = ["Pages", "Request", "Response", "plain"]

# the versions of the formats that prometheus_client writes; it would claim to write any later one
_KNOWN_VERSIONS = ("version=0.0.4", "version=1.0.0", "version=2.0.0")


@dataclass(frozen=True)
class Request:
    """A request, as far as the pages need it.

    :ivar query: what follows the path's question mark
    :ivar accept: the values of all Accept headers, with commas
    """

    method: str
    path: str
    query: str
    accept: str


@dataclass(frozen=True)
class Response:
    """A response.

    :ivar headers: in addition to those that each response has
    """

    status: int
    body: bytes
    content_type: str
    headers: Sequence[tuple[str, str]] = ()


def plain(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """Return a response for people."""
    body = f"{status} {HTTPStatus(status).phrase}: {text}\n".encode()
    return Response(status, body, "text/plain; charset=utf-8", headers)


class Pages:
    """The pages of a host, or of the supervisor of several.

    /metrics, and / as on flyte-sdk's port, show the metrics in Prometheus' text format, or in OpenMetrics where the
    scraper accepts it; `name[]` in the query selects some. /healthz is 200 as long as the process answers. /readyz is
    200 while new work is accepted, else 503. Both show the details as JSON.
    """

    def __init__(self, source: ExporterSource) -> None:
        self._source = source
        # one scrape at a time: each takes a thread and, with many series, time on the processor
        self._scrapes = anyio.CapacityLimiter(1)

    async def answer(self, request: Request) -> Response:
        """Return the response to a request."""
        path = request.path.rstrip("/")
        if path not in ("", "/metrics", "/healthz", "/readyz"):
            return plain(404, "there are /metrics, /healthz and /readyz")
        if request.method not in ("GET", "HEAD"):
            return plain(405, "only GET and HEAD are possible", ("allow", "GET, HEAD"))
        if path == "/healthz":
            return self._report(200)
        await self._source.refresh()
        if path == "/readyz":
            return self._report(200 if self._source.is_ready else 503)
        names = parse_qs(request.query).get("name[]")
        return await anyio.to_thread.run_sync(self._expose, request.accept, names, limiter=self._scrapes)

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
        report = {
            "state": str(source.state),
            "connectors": source.connectors,
            "failures": [{"source": failure.source, "error": failure.kind} for failure in source.failures],
        }
        if source.processes:
            report["processes"] = list(source.processes)
        return Response(status, json.dumps(report).encode(), "application/json")
