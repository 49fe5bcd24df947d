"""`connectrio check`: finds what a connector does wrong, and says what to do about it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from connectrio.cli import event_loop
from connectrio.cli.errors import CommandError, UsageError, command_error
from connectrio.cli.options.client import output_directory
from connectrio.cli.options.log_level import LogLevel
from connectrio.cli.options.task import Credentials, TaskOptions
from connectrio.cli.script import prints_to_stderr
from connectrio.host.settings import Backend
from connectrio.terminal import print_json, print_line

if TYPE_CHECKING:
    from connectrio.conformance import Report
    from connectrio.connector.base import AsyncConnector

__all__ = ["check"]

_CREDENTIALS = Credentials()
_TASK = TaskOptions()
_LOG_LEVEL = ["error"]  # which shows the tracebacks of what the connector raises


def check(
    module: str,
    /,
    *,
    task_type: str | None = None,
    task: TaskOptions = _TASK,
    credentials: Credentials = _CREDENTIALS,
    seconds: float = 60.0,
    json: Annotated[bool, Parameter(negative=())] = False,
    backend: Backend | None = None,
    log_level: LogLevel = _LOG_LEVEL,
) -> int:
    """Try a connector on a sample task, without a server, and print what it does wrong and how to correct it.

    It creates up to a few dozen jobs of the task, and deletes each of them. What the connector prints goes to standard
    error.

    Exit codes: 0 nothing found, 1 something found, 2 wrong usage.

    :param module: a module name or .py file that registers the connector
    :param task_type: the connector to try, if the module has several
    :param seconds: how long one job may take
    :param json: print JSON for machines
    :param backend: the event loop to run on; by default uvloop where it is installed, else asyncio
    :param log_level: the least severe log lines of the host and of the connector, as for `connectrio serve`
    """
    from connectrio.conformance import check_connector
    from connectrio.logs import configure_logging

    if seconds <= 0:
        raise UsageError(f"--seconds must be more than 0, got {seconds:g}")
    configure_logging(log_level)
    with prints_to_stderr() as own_output:
        connector = _load(module, task_type)
        if task.version is None:
            task = dataclasses.replace(task, version=connector.task_type_version)
        request = task.request(connector.task_type_name, credentials)
        with output_directory(request.output_prefix):
            report = event_loop.run(lambda: check_connector(connector, request, seconds=seconds), backend)
        with own_output():
            _print(report, json=json)
    return 1 if report.findings else 0


def _load(module: str, task_type: str | None) -> AsyncConnector[Any]:
    from connectrio.connector.registry import Registry
    from connectrio.host.loading import ModuleLoadError, load_modules

    registry = Registry()
    try:
        load_modules(registry, [module])
    except ModuleLoadError as error:
        raise command_error(error) from error
    found = {registered.connector.task_type_name: registered.connector for registered in registry.registered()}
    choice = f"choose one with --task-type: {', '.join(found)}"
    if task_type is not None and task_type not in found:
        raise UsageError(f"{module} registers no connector for task type {task_type!r}", hint=choice)
    if not found:
        raise CommandError(f"{module} registers no connector", hint="it has to call ConnectorRegistry.register")
    if task_type is None and len(found) > 1:
        raise UsageError(f"{module} registers several connectors", hint=choice)
    return found[task_type] if task_type is not None else next(iter(found.values()))


def _print(report: Report, *, json: bool) -> None:
    if json:
        document = [{**dataclasses.asdict(finding), "advice": finding.advice} for finding in report.findings]
        print_json(
            {"connector": report.connector, "findings": document, "kept": report.kept, "untried": report.untried}
        )
        return
    for finding in report.findings:
        print_line(f"{finding.rule}: {finding.where}", "red")
        print_line(f"  {finding.what}")
        print_line(f"  to do: {finding.advice}", "dim")
    for rule, reason in report.untried.items():
        print_line(f"not tried: {rule}: {reason}", "yellow")
    count = len(report.findings)
    findings = f"{count or 'no'} finding{'' if count == 1 else 's'}"
    print_line(f"{report.connector}: {findings}, {len(report.kept)} rules kept", "red" if count else "green")
