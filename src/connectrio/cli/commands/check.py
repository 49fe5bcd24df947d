"""`connectrio check`: what is wrong with a connector, and what to do about it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from connectrio.cli import event_loop
from connectrio.cli.errors import CommandError, UsageError
from connectrio.cli.options.arguments import Credentials
from connectrio.cli.options.task import Task
from connectrio.host.settings import Backend
from connectrio.terminal import print_json, print_line

if TYPE_CHECKING:
    from connectrio.conformance import Report
    from connectrio.connector.base import AsyncConnector

__all__ = ["check"]

_CREDENTIALS = Credentials()
_TASK = Task()


def check(
    module: str,
    /,
    *,
    task_type: str | None = None,
    task: Task = _TASK,
    credentials: Credentials = _CREDENTIALS,
    seconds: float = 60.0,
    json: Annotated[bool, Parameter(negative=())] = False,
    backend: Backend | None = None,
) -> int:
    """Try a connector on a sample task, without a server, and print what it does wrong and what to do about it.

    It makes up to a few dozen jobs of the task, and deletes each of them.

    Exit codes: 0 nothing found, 1 something found, 2 wrong usage.

    :param module: a module name or .py file that registers the connector
    :param task_type: which of the module's connectors, if it has several
    :param seconds: how long one job may take to its end
    :param json: print JSON for machines
    :param backend: the event loop to run on; uvloop where it is installed, else asyncio
    """
    from connectrio.conformance import check_connector
    from connectrio.logs import configure_logging

    if seconds <= 0:
        raise UsageError(f"--seconds must be more than 0, got {seconds:g}")
    configure_logging("error")  # with the tracebacks of what the connector raises
    connector = _load(module, task_type)
    if task.version is None:
        task = dataclasses.replace(task, version=connector.task_type_version)
    name = connector.task_type_name
    request = task.request(name, credentials.connection(name))
    report = event_loop.run(lambda: check_connector(connector, request, seconds=seconds), backend)
    if json:
        print_json(_document(report))
    else:
        _print(report)
    return 1 if report.findings else 0


def _load(module: str, task_type: str | None) -> AsyncConnector[Any]:
    from connectrio.connector.registry import Registry
    from connectrio.host.loading import ModuleLoadError, load_modules

    registry = Registry()
    try:
        load_modules(registry, [module])
    except ModuleLoadError as error:
        raise CommandError(str(error)) from error
    found = {registered.connector.task_type_name: registered.connector for registered in registry.registered()}
    if task_type is not None and task_type not in found:
        raise UsageError(f"{module} registers no connector for task type {task_type!r}", hint=_choice(found))
    if not found:
        raise CommandError(f"{module} registers no connector", hint="it has to call ConnectorRegistry.register")
    if task_type is None and len(found) > 1:
        raise UsageError(f"{module} registers several connectors", hint=_choice(found))
    return found[task_type] if task_type is not None else next(iter(found.values()))


def _choice(found: dict[str, AsyncConnector[Any]]) -> str:
    return f"choose one with --task-type: {', '.join(found)}"


def _document(report: Report) -> dict[str, Any]:
    findings = [{**dataclasses.asdict(finding), "advice": finding.advice} for finding in report.findings]
    return {"connector": report.connector, "findings": findings, "kept": report.kept, "untried": report.untried}


def _print(report: Report) -> None:
    for finding in report.findings:
        print_line(f"{finding.rule}: {finding.where}", "red")
        print_line(f"  {finding.what}")
        print_line(f"  to do: {finding.advice}", "dim")
    for rule, reason in report.untried.items():
        print_line(f"not tried: {rule}: {reason}", "yellow")
    count = len(report.findings)
    findings = f"{count or 'no'} finding{'' if count == 1 else 's'}"
    print_line(f"{report.connector}: {findings}, {len(report.kept)} rules kept to", "red" if count else "green")
