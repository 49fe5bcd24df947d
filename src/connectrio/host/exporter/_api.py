"""/api: what the host tells of itself, as JSON.

docs/reference/http.md describes it; the fields are those of `connectrio.telemetry.report`.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

import anyio
import msgspec

from connectrio.host.exporter._access import PRIVATE
from connectrio.host.exporter._messages import Response, as_json
from connectrio.host.exporter._shared import SharedReports
from connectrio.telemetry.report import HostReport
from connectrio.telemetry.search import details, search, sorted_by_trouble

__all__ = ["APART", "LISTS", "Api", "error"]

APART = ("jobs", "calls", "failures", "connections", "threads")
"""The fields of `HostReport` that /api/status leaves out, because they may be long; each has a path of its own."""

LISTS: dict[str, tuple[str, ...]] = {
    "jobs": ("q", "task_type", "phase", "final"),
    "calls": ("q", "task_type"),
    "failures": ("q", "task_type"),
    "incidents": ("q", "task_type"),
    "connectors": ("task_type",),
    "threads": ("q", "task_type"),
    "connections": (),
    "stacks": (),
}
"""The lists under /api, and the parameters by which each can be searched."""

_DEFAULT_LIMIT = 200
_MOST = 10_000


class Api:
    """Answers requests for /api/…"""

    def __init__(self, source: SharedReports) -> None:
        self._source = source
        # searched in a thread, so that calls are answered meanwhile; one at a time
        self._threads = anyio.CapacityLimiter(1)

    async def answer(self, path: str, query: str) -> Response:
        """Return the response to a request that was let through.

        :param path: without a slash at its end, percent-encoded
        """
        name, _, rest = path.removeprefix("/api").removeprefix("/").partition("/")
        try:
            if name == "status" and not rest:
                _parameters(query, ())
                return _found(_without_lists(await self._source.report()))
            if name == "jobs" and rest:
                _parameters(query, ())
                return await self._job(unquote(rest))
            if name in LISTS and not rest:
                return await self._list(name, _parameters(query, (*LISTS[name], "limit")))
        except ValueError as problem:
            return error(400, str(problem))
        paths = ["/api/status", "/api/jobs/NAME", *(f"/api/{each}" for each in LISTS)]
        return error(404, f"there are {', '.join(paths)}")

    async def _job(self, name: str) -> Response:
        report = await self._source.report()
        return await anyio.to_thread.run_sync(_details, report, name, limiter=self._threads)

    async def _list(self, name: str, parameters: dict[str, str]) -> Response:
        limit = _limit(parameters.pop("limit", str(_DEFAULT_LIMIT)))
        if name == "stacks":
            items: list[Any] = await self._source.stacks()
        else:
            items = getattr(await self._source.report(), name)
        find = partial(_search, name, items, parameters, limit)
        return await anyio.to_thread.run_sync(find, limiter=self._threads)


def _details(report: HostReport, name: str) -> Response:
    found = details(report, name)
    if found is None:
        return error(404, f"this host knows no job or execution named {name!r}; search with /api/jobs?q=…")
    return _found(found)


def _search(name: str, items: list[Any], parameters: dict[str, str], limit: int) -> Response:
    """Return the first of the items that match.

    :raises ValueError: a parameter is wrong
    """
    if name == "jobs":
        items = sorted_by_trouble(items)
    found = search(items, **parameters)
    return _found({name: found[:limit], "total": len(found)})


def error(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """Return a response that says what is wrong."""
    return as_json(status, {"error": text}, *PRIVATE, *headers)


def _found(document: object) -> Response:
    return as_json(200, document, *PRIVATE)


def _without_lists(report: HostReport) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(report).items() if name not in APART}


def _parameters(query: str, known: tuple[str, ...]) -> dict[str, str]:
    """Return the parameters of a query.

    :raises ValueError: one is not known
    """
    found = dict(parse_qsl(query, keep_blank_values=True))
    for name in found:
        if name not in known:
            raise ValueError(f"there is no parameter {name!r} here; there are: {', '.join(known) or 'none'}")
    return found


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= _MOST):
        raise ValueError(f"limit must be a number from 1 to {_MOST}, got {text!r}")
    return int(text)
