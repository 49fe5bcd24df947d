"""`connectrio ps`, `top`, `show` and `stacks`: what a host does, asked at its exporter's port."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from cyclopts import Parameter

from connectrio.cli.errors import CommandError
from connectrio.cli.options.exporter import Exporter, NotFoundError
from connectrio.cli.options.task import read_meta
from connectrio.cli.status_view import Section, attention, calls, connectors, details, jobs, summary
from connectrio.telemetry.report import CallReport, HostReport, JobReport, StackReport
from connectrio.telemetry.search import JobDetails
from connectrio.terminal import console, is_terminal, print_json, print_line, print_table, printable, shown

__all__ = ["ps", "show", "stacks", "top"]

T = TypeVar("T")

_Switch = Annotated[bool, Parameter(negative=())]
_EXPORTER = Exporter()
# those that fit on a screen
_ROWS_OF_TOP = 20
_MOST = 10_000
# characters; what is longer is a resource meta
_LONGEST_NAME = 500


def ps(*, all: _Switch = False, search: str = "", limit: int = 100, exporter: Exporter = _EXPORTER) -> None:  # noqa: A002 - the flag's name
    """List the live calls of a host and its jobs that are not over, those in trouble first.

    :param all: jobs that are over as well
    :param search: only those with this in the name of their execution or node, in their key, job id or output prefix
    :param limit: how many calls, and how many jobs, at most
    """
    if not 0 < limit <= _MOST:
        raise CommandError(f"--limit must be from 1 to {_MOST}, got {limit}")
    found_calls = exporter.get("calls", q=search, limit=limit)
    found_jobs = exporter.get("jobs", q=search, limit=limit, final="" if all else "false")
    if exporter.json:
        totals = {"total_calls": found_calls.get("total"), "total_jobs": found_jobs.get("total")}
        print_json({"calls": found_calls.get("calls"), "jobs": found_jobs.get("jobs"), **totals})
        return
    _print_section(calls(*_items(found_calls, "calls", CallReport)))
    _print_section(jobs(*_items(found_jobs, "jobs", JobReport), time.time()))


def top(*, once: _Switch = False, interval: float = 2.0, exporter: Exporter = _EXPORTER) -> None:
    """Show a host's state, connectors, jobs and calls, again and again until Ctrl-C.

    It prints once, and ends, if standard output is no terminal, or with --json.

    :param once: print once
    :param interval: seconds between two looks at the host
    """
    if interval <= 0:
        raise CommandError(f"--interval must be more than 0 seconds, got {interval:g}")
    if exporter.json:
        print_json(exporter.get("status"))
    elif once or not is_terminal():
        lines, sections = _overview(exporter)
        _print_lines(lines)
        for section in sections:
            _print_section(section)
    else:
        _refresh(exporter, interval)


def show(
    name: Annotated[str, Parameter(name="EXECUTION|KEY|JOB|META", allow_leading_hyphen=True)],
    /,
    *,
    exporter: Exporter = _EXPORTER,
) -> None:
    """Show all that a host knows of a job, or of all jobs of an execution.

    :param name: the name of an execution, the key of a job or its id, as `connectrio ps` prints them; or its resource
        meta as `connectrio create` prints it: @FILE reads that from a file, - from standard input
    """
    document = _find(name, exporter)
    if exporter.json:
        print_json(document)
        return
    _print_lines(details(_read(document, JobDetails), time.time()))


def stacks(*, exporter: Exporter = _EXPORTER) -> None:
    """Show where the tasks and the threads of a host are, with what they are busy with."""
    document = exporter.get("stacks", limit=_MOST)
    if exporter.json:
        print_json({"stacks": document.get("stacks")})
        return
    for stack in _items(document, "stacks", StackReport)[0]:
        what = f": {stack.what}" if stack.what else ""
        process = "" if stack.process is None else f" of process {stack.process}"
        print_line(f"{stack.kind} {stack.name}{process}{what}", "bold cyan" if stack.what else "bold")
        for frame in stack.frames:
            print_line(f"  {frame}")


def _find(name: str, exporter: Exporter) -> dict[str, Any]:
    """Return the details of a job or an execution.

    :raises CommandError: the host knows none of that name
    """
    is_read = name == "-" or name.startswith("@")
    if not is_read and 0 < len(name) <= _LONGEST_NAME:
        try:
            return exporter.get("jobs", name)
        except NotFoundError:
            pass
    job = hashlib.sha256(read_meta(name)).hexdigest()[:12]
    try:
        return exporter.get("jobs", job)
    except NotFoundError as error:
        is_meta = is_read or len(name) > _LONGEST_NAME
        what = f"job {job}, which this resource meta belongs to" if is_meta else f"execution, key, job or meta {name!r}"
        raise CommandError(
            f"the host knows no {what}",
            hint="it may have forgotten it; search with: connectrio ps --all --search PART_OF_A_NAME",
        ) from error


def _overview(exporter: Exporter) -> tuple[list[tuple[str, str]], list[Section]]:
    """Return what `top` shows."""
    report: HostReport = _read(_with_lists(exporter.get("status")), HostReport)
    found_jobs = exporter.get("jobs", limit=_ROWS_OF_TOP, final="false")
    found_calls = exporter.get("calls", limit=_ROWS_OF_TOP)
    return [*summary(report), *attention(report)], [
        connectors(report.connectors),
        jobs(*_items(found_jobs, "jobs", JobReport), report.now),
        calls(*_items(found_calls, "calls", CallReport)),
    ]


def _refresh(exporter: Exporter, interval: float) -> None:
    """Draw the whole screen again and again. While the host does not answer, say so; it may be starting again."""
    from rich.console import RenderableType
    from rich.live import Live
    from rich.text import Text

    screen: list[RenderableType] = []
    with Live(console=console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                try:
                    lines, sections = _overview(exporter)
                    tables = [part for section in sections for part in (Text(), _drawn(section))]
                    screen = [*(Text(shown(text), style=style) for text, style in lines), *tables]
                    live.update(_fitting(screen, live.console), refresh=True)
                except CommandError as error:
                    problem = Text(f"{shown(str(error))}; trying again", style="bold red")
                    live.update(_fitting([problem, *screen], live.console), refresh=True)
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _fitting(parts: Iterable[Any], console: Any) -> Any:
    """Return what fits on the screen, the rest as a line that says how much it is."""
    from rich.console import Group
    from rich.segment import Segment, SegmentLines
    from rich.text import Text

    lines = console.render_lines(Group(*parts), pad=False)
    left_out = len(lines) - console.height + 1
    if left_out <= 1:
        return SegmentLines(lines, new_lines=True)
    note = console.render_lines(Text(f"… {left_out} more lines: see connectrio top --once"))
    return SegmentLines([*lines[: console.height - 1], [*note[0], Segment("")]], new_lines=True)


def _drawn(section: Section) -> Any:
    from rich.table import Table

    table = Table(title=printable(section.heading), title_style="bold", title_justify="left", header_style="bold cyan")
    for column in section.columns:
        table.add_column(column, no_wrap=True, justify="right" if column in section.right else "left")
    for row in section.rows:
        table.add_row(*(printable(cell).replace("\n", " ") for cell in row))
    return table


def _print_section(section: Section) -> None:
    print_line(section.heading, "bold")
    if section.rows:
        print_table("", section.columns, section.rows, section.right)


def _print_lines(lines: Iterable[tuple[str, str]]) -> None:
    for text, style in lines:
        print_line(text, style)


def _with_lists(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document of /api/status with the lists that it leaves out, empty."""
    missing: dict[str, list[Any]] = {
        field.name: [] for field in msgspec.structs.fields(HostReport) if str(field.type).startswith("list")
    }
    return {**missing, **document}


def _items(document: dict[str, Any], name: str, kind: type[T]) -> tuple[list[T], int]:
    """Return a list of /api, and how many items there are with those that were not asked for."""
    items = _read(document.get(name), list[kind])  # type: ignore[valid-type]  # made while it runs
    return items, _read(document.get("total"), int)


def _read(document: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise CommandError(
            f"the host's answer has not the form that this command knows: {error}",
            hint="use the connectrio of the host's own version",
        ) from error
