"""Compares what a connector answers: the pages of a log, `get_many` beside `get`, two creates of one job."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import anyio

from connectrio.conformance._report import Report
from connectrio.connector.base import AsyncConnector, Resource
from connectrio.connector.context import Start, reset_current_call, set_creation
from connectrio.diagnostics import definition_of, text_of, type_name
from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.literals import inputs_to_python
from connectrio.service.job_identity import identify
from connectrio.service.methods import ConnectorMethod
from connectrio.service.operations import Operation
from connectrio.service.workers import Workers
from connectrio.testing import Job

__all__ = ["LogPages", "check_get_many", "check_idempotence", "check_retry_after", "create_arguments"]

# pages of a log that are read at most
_MOST_PAGES = 1000
# what a connector raises on purpose, whatever the other system has said
_FINAL = {"InvalidRequestError", "PermanentFailure", "UnknownJobError", "NotImplementedError"}
# what an `except` clause catches that no request to another system raises
_LOCAL = {
    "AttributeError", "FileNotFoundError", "IndexError", "KeyError", "LookupError", "StopIteration", "TypeError",
    "UnicodeDecodeError", "ValueError",
}  # fmt: skip


def create_arguments(connector: AsyncConnector[Any], request: CreateTaskRequest) -> dict[str, Any]:
    """Return the arguments that a host passes to `create`, without those of the connection."""
    template = request.template or TaskTemplate()
    declared = template.interface.inputs if template.interface is not None else None
    return {
        "task_template": template,
        "output_prefix": request.output_prefix,
        "inputs": request.inputs if connector.converts_inputs else inputs_to_python(request.inputs, declared),
        "task_execution_metadata": request.task_execution_metadata,
    }


async def check_idempotence(
    connector: AsyncConnector[Any], request: CreateTaskRequest, workers: Workers, report: Report
) -> list[Any]:
    """Call `create` twice under one key, as a host does after a transient error. Return the metas of the jobs."""
    if not connector.create_is_idempotent:
        report.untried["idempotence"] = "the class does not say create_is_idempotent"
        return []
    method = ConnectorMethod.of(connector, Operation.CREATE)
    identity = identify(request)
    metas: list[Any] = []
    for _ in range(2):
        start = Start(scope=anyio.CancelScope(), usual=lambda: 0.0)
        token = set_creation("" if identity is None else identity.key, start)
        try:
            arguments = method.with_connection(create_arguments(connector, request), request.connection)
            metas.append(await method(arguments, workers))
        except Exception as error:  # noqa: BLE001 - whatever the connector raises
            when = "a second time" if metas else "once more"
            report.found("idempotence", method.label, f"called {when}, it raised {type_name(error)}: {text_of(error)}")
            return metas
        finally:
            reset_current_call(token)
    first, second = (meta.encode()[:80] for meta in metas)
    if first != second:
        report.found("idempotence", method.label, f"called twice with one key, it returned {first!r} and {second!r}")
    return metas


async def check_get_many(
    connector: AsyncConnector[Any], request: CreateTaskRequest, jobs: Sequence[Job], workers: Workers, report: Report
) -> None:
    """Ask for the states of jobs with one call, and one by one before and after.

    :param jobs: some in different states, so that answers in another order are seen
    """
    method = ConnectorMethod.of(connector, Operation.GET_MANY)
    if not method.overridden:
        report.untried["get-many"] = "there is no get_many"
        return
    before = await _phases(connector, request, jobs, workers)
    try:
        metas = [method.decode(job.meta) for job in jobs]
        arguments = method.with_connection({"resource_metas": metas}, request.connection)
        found = await method(arguments, workers)
    except Exception as error:  # noqa: BLE001 - whatever the connector raises
        report.found("get-many", method.label, f"it raised {type_name(error)}: {text_of(error)}")
        return
    if not isinstance(found, Sequence) or len(found) != len(jobs):
        count = f"{len(found)} items" if isinstance(found, Sequence) else type_name(found)
        report.found("get-many", method.label, f"it returned {count} for {len(jobs)} jobs")
        return
    after = await _phases(connector, request, jobs, workers)
    for number, (item, first, last) in enumerate(zip(found, before, after, strict=True), 1):
        if problem := _differs(item, first, last):
            report.found("get-many", method.label, f"for job {number} of {len(jobs)} it {problem}")


async def _phases(
    connector: AsyncConnector[Any], request: CreateTaskRequest, jobs: Sequence[Job], workers: Workers
) -> list[Any]:
    """Return what `get` of the connector itself reports, None for each error: a host answers with what it knows."""
    get = ConnectorMethod.of(connector, Operation.GET)
    found: list[Any] = []
    for job in jobs:
        try:
            arguments = get.arguments(job.meta, {"output_prefix": request.output_prefix}, request.connection)
            found.append((await get(arguments, workers)).phase)
        except Exception:  # noqa: BLE001 - other rules report it
            found.append(None)
    return found


def _differs(item: Any, first: Any, last: Any) -> str:
    """Return how an item of `get_many` differs from what `get` reported before and after; "" if it does not."""
    if item is None:  # the host calls `get`
        return ""
    if isinstance(item, Exception):
        return "" if last is None else f"has {type_name(item)}, and get reports {last!r}"
    if not isinstance(item, Resource):
        return f"has {type_name(item)}, no Resource"
    is_same = first is None or first != last or item.phase == last
    return "" if is_same else f"reports {item.phase!r}, and get {last!r}"


class LogPages:
    """The pages of a job's log, read from the first to the last."""

    def __init__(self, job: Job, label: str, report: Report) -> None:
        self._job = job
        self._label = label
        self._report = report
        self._lines = 0
        self._has_said_end = False

    async def read(self) -> None:
        """Read the log of a job that has ended, and its last page once more.

        :raises GRPCError: a call failed
        """
        token, seen = "", {""}
        while True:
            page = await self._job.log_page(token)
            self._lines += len(page.lines)
            if page.token in ("", token):
                break
            if page.token in seen or len(seen) > _MOST_PAGES:
                self._found(f"after {len(seen)} pages, the token {page.token!r} leads back to one that was read")
                return
            seen.add(page.token)
            token = page.token
        self._has_said_end = bool(token) and not page.token
        again = await self._job.log_page(token)
        if [line.message for line in again.lines[: len(page.lines)]] != [line.message for line in page.lines]:
            self._found(f"read twice from the token {token!r}, the page began with other lines the second time")

    async def read_later(self) -> None:
        """Look for lines that have come after the log was said to have ended.

        :raises GRPCError: a call failed
        """
        if self._has_said_end:
            later = len(await self._job.logs())
            if later > self._lines:
                self._found(f"the empty token said that the log ended after {self._lines} lines, and now has {later}")

    def _found(self, what: str) -> None:
        self._report.found("late-logs", self._label, what)


def check_retry_after(connector: AsyncConnector[Any], report: Report) -> None:
    """Look in the source of the methods for errors that hide the vendor's error, and so its `Retry-After`."""
    for cls in type(connector).__mro__:
        if cls is AsyncConnector or cls.__module__.startswith("connectrio."):
            return
        for name, member in vars(cls).items():
            if inspect.isfunction(member):
                for line in _hiding_raises(member):
                    where = f"{cls.__qualname__}.{name}"
                    report.found("retry-after", where, f"it raises another error without its cause: {line}")


def _hiding_raises(function: Any) -> Iterator[str]:
    """Yield the lines where a function raises an error in place of another one, without `from`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):  # it has no source of its own
        return
    file, _, first = definition_of(function).rpartition(":")
    for handler in ast.walk(tree):
        if not isinstance(handler, ast.ExceptHandler) or {*_names(handler.type)} <= _LOCAL:
            continue
        for node in ast.walk(handler):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _hides(node, node.exc):
                yield f"{file}:{int(first) + node.lineno - 1}"


def _names(caught: ast.expr | None) -> Iterator[str]:
    """Yield the names of the classes that an `except` clause catches; "" for all, and for what is computed."""
    for each in caught.elts if isinstance(caught, ast.Tuple) else [caught]:
        yield each.attr if isinstance(each, ast.Attribute) else each.id if isinstance(each, ast.Name) else ""


def _hides(node: ast.Raise, made: ast.Call) -> bool:
    has_cause = node.cause is not None and not (isinstance(node.cause, ast.Constant) and node.cause.value is None)
    says_itself = any(keyword.arg == "retry_after" for keyword in made.keywords)
    return not has_cause and not says_itself and not {*_names(made.func)} <= _FINAL
