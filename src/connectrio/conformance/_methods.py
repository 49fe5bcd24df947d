"""What is tried on single methods: where they can be cancelled, and whether they block the event loop."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable, Coroutine
from typing import Any

import anyio

from connectrio.conformance._driving import Blocked, CancelAt, driven
from connectrio.conformance._findings import Report
from connectrio.connector.base import AsyncConnector
from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import TaskTemplate
from connectrio.literals import inputs_to_python
from connectrio.service.methods import ConnectorMethod
from connectrio.service.operations import Operation

__all__ = ["check_methods"]

# a method that waits more often than this is tried at so many of its waits; each for `create` is a job
_MOST_WAITS = 12

Call = Callable[[], Coroutine[Any, Any, Any]]


async def check_methods(
    connector: AsyncConnector[Any],
    request: Callable[[], CreateTaskRequest],
    meta: Any,
    created: Callable[[Any], None],
    report: Report,
) -> None:
    """Try the methods that are `async def`, one by one.

    :param request: a new request for a job
    :param meta: of a job that is there
    :param created: told the meta of each job that was created here
    """
    for operation in (Operation.CREATE, Operation.GET, Operation.GET_LOGS, Operation.GET_METRICS, Operation.DELETE):
        method = ConnectorMethod.of(connector, operation)
        if not method.overridden or method.blocking:
            continue
        call = _call(connector, method, operation, request, meta, created)
        if await _check_blocking(method, call, report):
            await _check_cancellation(method, call, report)


def _call(
    connector: AsyncConnector[Any],
    method: ConnectorMethod,
    operation: Operation,
    request: Callable[[], CreateTaskRequest],
    meta: Any,
    created: Callable[[Any], None],
) -> Call:
    async def call() -> None:
        wanted = request()
        if operation is Operation.CREATE:
            arguments = _create_arguments(connector, wanted)
        else:
            offered = {"token": "", "lines": 0, "queries": [], "output_prefix": wanted.output_prefix}
            offered |= {"start_time": None, "end_time": None, "step": None}
            arguments = {"resource_meta": meta, **method.named(offered)}
        has_connection = operation in (Operation.CREATE, Operation.GET, Operation.DELETE)
        connection = wanted.connection if has_connection else None
        result = method.function(**method.with_connection(arguments, connection))
        if isinstance(result, AsyncIterable):
            async for _ in result:
                pass
        elif inspect.isawaitable(result):
            result = await result
            if operation is Operation.CREATE:
                created(result)

    return call


def _create_arguments(connector: AsyncConnector[Any], request: CreateTaskRequest) -> dict[str, Any]:
    template = request.template or TaskTemplate()
    declared = template.interface.inputs if template.interface is not None else None
    return {
        "task_template": template,
        "output_prefix": request.output_prefix,
        "inputs": request.inputs if connector.converts_inputs else inputs_to_python(request.inputs, declared),
        "task_execution_metadata": request.task_execution_metadata,
    }


async def _check_blocking(method: ConnectorMethod, call: Call, report: Report) -> bool:
    """Whether the method works at all.

    Only what blocks each time counts: the first call may import something, and the machine be busy.
    """
    for _ in range(3):
        with Blocked() as watch:
            try:
                await driven(call(), watch)
            except Exception:  # noqa: BLE001 - that the method fails is for other rules to tell
                return False
        if not watch.is_too_long:
            return True
    where = f", last seen at {watch.line}" if watch.line else ""
    report.found("blocking", method.label, f"it kept the event loop busy for {watch.seconds:.2f} s{where}")
    return True


async def _check_cancellation(method: ConnectorMethod, call: Call, report: Report) -> None:
    for number in range(1, _MOST_WAITS + 1):
        with anyio.CancelScope() as scope:
            watch = CancelAt(scope, number)
            try:
                await driven(call(), watch)
            except Exception as error:  # noqa: BLE001 - what it raises is what is looked for
                problem = f"it raised {type(error).__name__} in place of the cancellation"
            else:
                problem = "it went on, and returned"
            if watch.delivered:
                report.found("cancellation", method.label, f"cancelled at its wait no. {number}, {problem}")
        if not watch.reached:
            return
