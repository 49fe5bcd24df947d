"""What a host tells of itself, as tables and lines: the views of `connectrio ps`, `top`, `show` and `stacks`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from connectrio.telemetry.report import (
    CallReport,
    ConnectorReport,
    FailureReport,
    HostReport,
    IncidentReport,
    JobReport,
    TaskName,
)
from connectrio.telemetry.search import JobDetails

__all__ = ["Section", "attention", "calls", "connectors", "details", "duration", "jobs", "summary"]

# as the table of jobs shows it: not polled yet
_PHASES = {"UNKNOWN": "?"}
# seconds
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


@dataclass(frozen=True)
class Section:
    """A table.

    :ivar right: the columns that are aligned right
    :ivar total: how many rows there are, those that are not in the table included
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, ...]]
    total: int
    right: Sequence[str] = ()

    @property
    def heading(self) -> str:
        """The title with the number of rows."""
        shown = len(self.rows)
        return f"{self.title}: {self.total}" + (f", the first {shown} are shown" if shown < self.total else "")


def duration(seconds: float) -> str:
    """Return a time span in its two largest units: "3m20s"."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    left = int(seconds)
    parts: list[str] = []
    for unit, size in _UNITS:
        if left >= size or parts:
            parts.append(f"{left // size}{unit}")
            left %= size
    return "".join(parts[:2])


def moment(at: float) -> str:
    """Return a time, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def summary(report: HostReport) -> Iterator[tuple[str, str]]:
    """Yield lines about the host as a whole, each with its style."""
    state = "ready" if report.is_ready else "not ready"
    processes = f", {len(report.processes)} processes" if report.processes else ""
    yield (
        f"{report.state}, {state}; connectrio {report.version}, up {duration(report.now - report.started)}{processes}",
        "bold green" if report.is_ready else "bold red",
    )
    for reason in report.not_ready:
        yield f"not ready: {reason}", "red"
    if report.threads_limit:
        late = f"the event loop at most {duration(report.lag)} late"
        yield f"worker threads: {report.threads_busy} of {report.threads_limit} taken; {late}", ""
    if report.dropped_lines:
        yield f"log lines that could not be written: {report.dropped_lines}", "yellow"
    for certificate in report.certificates:
        left = None if certificate.expires is None else certificate.expires - report.now
        when = "cannot be read" if left is None else "has expired" if left < 0 else f"expires in {duration(left)}"
        yield f"the certificate of the {certificate.port} port {when}: {certificate.file}", ""
    if report.restart_safe:
        yield f"restart: {report.restart_safe}", ""


def attention(report: HostReport) -> Iterator[tuple[str, str]]:
    """Yield lines about what somebody should look at, each with its style."""
    for each in report.attention:
        since = "" if each.since is None else f" for {duration(report.now - each.since)}"
        style = "red" if each.severity == "error" else "yellow"
        yield f"{each.severity}{_in_process(each.process)}{since}: {each.text}", style
        if each.what_to_do:
            yield f"  {each.what_to_do}", ""


def connectors(found: Sequence[ConnectorReport]) -> Section:
    """Return the table of connectors."""
    rows = [
        (
            f"{each.task_type} ({each.version}){_number(each.process)}",
            f"{each.active} of {each.slots}" + (f", {each.waiting} wait" if each.waiting else ""),
            f"{each.rate:.2f}",
            *("-" if seconds is None else duration(seconds) for seconds in (each.p50, each.p95, each.p99)),
            str(each.failures),
            str(each.absorbed),
            " ".join(f"{_PHASES.get(phase, phase)}:{count}" for phase, count in sorted(each.jobs.items())),
            each.outage or "open",
        )
        for each in found
    ]
    numbers = ("Calls/s", "p50", "p95", "p99", "Failures", "Absorbed")
    return Section("Connectors", ("Task Type", "Calls", *numbers, "Jobs", "State"), rows, len(rows), numbers)


def jobs(found: Sequence[JobReport], total: int, now: float) -> Section:
    """Return the table of jobs."""
    rows = [
        (
            "!" * min(job.trouble, 3),
            job.task.execution or job.task.output_prefix or "?",
            job.task.node,
            _attempt(job.task),
            f"{job.task_type}{_number(job.process)}",
            job.phase or "?",
            duration(now - job.changed),
            "never" if job.polled is None else f"{duration(now - job.polled)} ago",
            job.job,
            job.error or job.message,
        )
        for job in found
    ]
    columns = ("", "Execution", "Node", "Try", "Task Type", "Phase", "For", "Last Good Poll", "Job", "Error or Message")
    return Section("Jobs", columns, rows, total, ("Try", "For", "Last Good Poll"))


def calls(found: Sequence[CallReport], total: int) -> Section:
    """Return the table of live calls."""
    rows = [
        (
            duration(call.seconds),
            call.operation,
            call.task.execution or call.task.output_prefix or "?",
            call.task.node,
            f"{call.task_type}{_number(call.process)}",
            call.stage,
            call.waits,
            call.peer,
        )
        for call in sorted(found, key=lambda call: -call.seconds)
    ]
    columns = ("For", "Call", "Execution", "Node", "Task Type", "Stage", "Where", "Client")
    return Section("Calls", columns, rows, total, ("For",))


def details(found: JobDetails, now: float) -> Iterator[tuple[str, str]]:
    """Yield lines about a job, or all jobs of an execution, each with its style."""
    for job in found.jobs:
        yield from _job(job, now)
    for call in found.calls:
        where = f"({call.stage}){_in_process(call.process)}"
        yield f"live call: {call.operation} by {call.peer} for {duration(call.seconds)} {where}", "bold cyan"
        yield f"  task       {_name(call.task)}; {call.task_type} ({call.version})", ""
        yield f"  where      {call.waits or 'unknown'}", ""
    for failure in found.failures:
        yield from _failure(failure, now)
    for incident in found.incidents:
        yield from _incident(incident, now)


def _job(job: JobReport, now: float) -> Iterator[tuple[str, str]]:
    task = job.task
    style = "bold red" if job.trouble else "bold green" if job.is_final else "bold cyan"
    process = "" if job.process is None else f", last asked of process {job.process}"
    yield f"job {job.job}: {_name(task)}{process}", style
    phase = job.phase or "not polled yet"
    yield f"  phase      {phase} for {duration(now - job.changed)}{f': {job.message}' if job.message else ''}", ""
    yield f"  task type  {job.task_type} ({job.version}), {job.connector}", ""
    origins = {"fresh": "created by this host", "adopted": "taken over from an attempt before"}
    yield f"  origin     {origins.get(job.origin, 'not created by this host')}, first seen {moment(job.seen)}", ""
    if job.key:
        yield f"  key        {job.key}", ""
    if task.output_prefix:
        yield f"  outputs    {task.output_prefix}", ""
    if job.phases:
        yield f"  phases     {', '.join(f'{each.phase} {moment(each.at)}' for each in job.phases)}", ""
    if job.answered_until is not None and not job.is_final:
        phase = job.phase if job.polled is not None else "RUNNING"
        yield f"  Flyte sees {phase} in place of the error, until {moment(job.answered_until)}", "yellow"
    elif job.failing_since is not None and job.cause != "client" and not job.is_final:
        yield f"  Flyte sees the error, since {moment(job.failing_since)} at the earliest", "red"
    last = "none succeeded" if job.polled is None else f"the last success {duration(now - job.polled)} ago"
    yield f"  polls      {job.polls}, {job.failed_polls} failed, {job.absorbed} of them absorbed; {last}", ""
    yield from _ends(job, now)
    if job.error:
        yield f"  error      {_line(job.error)}", "red"
        if job.cause:
            yield f"  cause      {_CAUSES.get(job.cause, job.cause)}", "red"
        if job.place:
            yield f"  where      {job.place}", "red"
    for name, address in job.links:
        yield f"  link       {name or 'log'}: {address}", ""


def _ends(job: JobReport, now: float) -> Iterator[tuple[str, str]]:
    if job.failing_since is not None:
        yield f"  failing    for {duration(now - job.failing_since)}, since {moment(job.failing_since)}", "red"
    if job.deleted is not None:
        yield f"  deleted    {moment(job.deleted)}", "yellow"
    if job.orphaned is not None:
        yield f"  orphan     since {moment(job.orphaned)}", "yellow"


# by `FailureReport.kind`
_CAUSES = {
    "vendor": "the other system",
    "connector": "a bug in the connector",
    "request": "the request",
    "host": "the host: it is full, or the connector's lifespan is not open",
    "client": "the client left before the answer, or its deadline passed",
}


def _failure(failure: FailureReport, now: float) -> Iterator[tuple[str, str]]:
    more = f", and {failure.similar} like it" if failure.similar else ""
    absorbed = ", absorbed" if failure.absorbed else ""
    yield (
        f"failed call: {failure.operation} {duration(now - failure.at)} ago ({moment(failure.at)}){absorbed}{more}",
        "bold yellow",
    )
    yield f"  task       {_name(failure.task)}; {failure.task_type} ({failure.version})", ""
    took = f"the call took {duration(failure.seconds)}{_in_process(failure.process)}"
    yield f"  client     {failure.peer or 'unknown'}; {took}", ""
    yield f"  error      {failure.status}: {_line(failure.error)}", ""
    cause = _CAUSES.get(failure.kind, failure.kind)
    if failure.kind == "vendor" and failure.status == "DEADLINE_EXCEEDED":
        cause += " does not answer, or the connector asks it without a time-out"
    yield f"  cause      {cause}", ""
    yield f"  where      {failure.place or 'unknown'}", ""


def _incident(incident: IncidentReport, now: float) -> Iterator[tuple[str, str]]:
    end = "not over" if incident.ended is None else f"over for {duration(now - incident.ended)}"
    yield (
        f"incident of {incident.task_type}: {incident.operation} {incident.kind} since {moment(incident.began)}, {end}",
        "bold red" if incident.ended is None else "bold yellow",
    )
    calls = f"{incident.failures} failed call{'' if incident.failures == 1 else 's'}, {incident.absorbed} absorbed"
    yield f"  extent     {calls}; {incident.jobs} job{'' if incident.jobs == 1 else 's'}", ""
    yield f"  error      {_line(incident.error)}", ""
    yield f"  where      {incident.place or 'unknown'}", ""


def _number(process: int | None) -> str:
    return "" if process is None else f" #{process}"


def _in_process(process: int | None) -> str:
    return "" if process is None else f" in process {process}"


def _line(error: str) -> str:
    """Return an error's text in one line."""
    return " ".join(error.split())


def _name(task: TaskName) -> str:
    if not task.execution:
        return "execution not known"
    place = "/".join(part for part in (task.org, task.project, task.domain) if part)
    attempt = "" if task.attempt is None else f", attempt {task.attempt}"
    return f"execution {task.execution} ({place}), node {task.node}{attempt}"


def _attempt(task: TaskName) -> str:
    return "" if task.attempt is None else str(task.attempt)
