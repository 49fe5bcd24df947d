"""What somebody should look at, found in what a host tells of itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from connectrio.telemetry.report import Attention, FailureReport, HostReport, JobReport, Restart, TaskName, ThreadReport

__all__ = ["Block", "StoreAway", "needs_attention", "orphans", "restart_sentence"]

# seconds: how long a failure of a connector's code, and a block of the event loop, are shown
_LATELY = 600.0
# seconds for which a hosted connector may block a loop of its own: the executor waits for ten
_LOOP_BLOCKED = 10.0
# seconds in which a retry may still take a job over
_ORPHANED = 300.0
_DAY = 86400.0
# days before a certificate expires
_EXPIRES_SOON = 14
_ERROR, _WARNING = "error", "warning"


class Block(NamedTuple):
    """A time in which code has blocked the event loop.

    :ivar at: when it ended, in seconds since 1970
    :ivar whom: whose call it was: ", for execution f1, node n0"; "" if not known
    """

    method: str
    line: str
    task_type: str
    at: float
    seconds: float
    whom: str = ""


class StoreAway(NamedTuple):
    """The database of `job_store` does not answer.

    :ivar since: in seconds since 1970
    :ivar is_required: whether creates are refused meanwhile
    """

    reason: str
    since: float
    is_required: bool


def needs_attention(
    report: HostReport,
    blocks: Iterable[Block] = (),
    *,
    store_away: StoreAway | None = None,
    open_breakers: Iterable[str] = (),
) -> list[Attention]:
    """Return what is wrong, errors first. Empty if all is well.

    :param store_away: None if the job store answers, or there is none
    :param open_breakers: the task types of which a circuit breaker is not closed
    """
    found = [
        *_incidents(report),
        *_open_breakers(open_breakers),
        *_store(store_away),
        *_outages(report),
        *_blocked(report, blocks),
        *_stuck(report.threads),
        *_blocked_loops(report.threads),
        *_bugs(report),
        *_full(report),
        *_certificates(report),
        *orphans(report.jobs, report.now),
        *_load_failures(report),
        *_log(report),
    ]
    return sorted(found, key=lambda each: each.severity)


def _incidents(report: HostReport) -> Iterator[Attention]:
    for each in report.incidents:
        if each.ended is None:
            extent = f"{_count(each.failures, 'failed call')} of {each.operation}"
            extent += f", {_count(each.jobs, 'job')}" if each.jobs else ""
            yield Attention(
                kind="incident",
                severity=_ERROR,
                text=f"{each.task_type}: the other system fails ({each.kind}): {extent}{_example(each.task)}"
                f"{_at(each.place)}: {_line(each.error)}",
                what_to_do=f"look at the system behind {each.task_type}; of {_count(each.failures, 'error')}, Flyte saw"
                f" {each.failures - each.absorbed}, and the last known phase in place of the others",
                since=each.began,
                task_type=each.task_type,
            )


def _open_breakers(task_types: Iterable[str]) -> Iterator[Attention]:
    for task_type in task_types:
        yield Attention(
            kind="breaker",
            severity=_ERROR,
            text=f"{task_type}: the circuit breaker is open, so the other system gets no calls",
            what_to_do="polls are answered with the last known phase for poll_absorb seconds, and creates wait; after"
            f" breaker_pause one call finds out whether it is over; look at the system behind {task_type}",
            task_type=task_type,
        )


def _store(away: StoreAway | None) -> Iterator[Attention]:
    if away is not None:
        meanwhile = (
            "creates are refused meanwhile (job_store_required)"
            if away.is_required
            else "this host creates jobs by its own memory meanwhile, so a job of which two hosts are asked can be"
            " created twice"
        )
        yield Attention(
            kind="job store",
            severity=_ERROR,
            text=f"the job store does not answer: {_line(away.reason)}",
            what_to_do=f"look at its database; the host goes on trying; {meanwhile}",
            since=away.since,
        )


def _outages(report: HostReport) -> Iterator[Attention]:
    for each in report.connectors:
        if each.outage:
            yield Attention(
                kind="outage",
                severity=_ERROR,
                text=f"{each.task_type}: {each.outage}",
                what_to_do="its calls are answered UNAVAILABLE; the host opens the lifespan again, after pauses that"
                " double from a second to a minute, 20 % more or less",
                task_type=each.task_type,
            )


def _blocked(report: HostReport, blocks: Iterable[Block]) -> Iterator[Attention]:
    last: dict[str, Block] = {}
    counts: dict[str, int] = defaultdict(int)
    for each in blocks:
        if report.now - each.at <= _LATELY:
            last[each.line] = each
            counts[each.line] += 1
    for each in last.values():
        times = f", {counts[each.line]} times in ten minutes" if counts[each.line] > 1 else ""
        yield Attention(
            kind="blocked",
            severity=_ERROR,
            text=f"{each.method} has blocked the event loop, and with it all calls, for {each.seconds:.3g} s{times}, at"
            f" {each.line}{each.whom}",
            what_to_do="make the method a plain `def`, which runs in a thread, or await there",
            since=each.at,
            task_type=each.task_type,
        )


def _stuck(threads: Iterable[ThreadReport]) -> Iterator[Attention]:
    by_method: dict[tuple[str, str], list[ThreadReport]] = defaultdict(list)
    for each in threads:
        if each.stuck_seconds is not None:
            by_method[each.task_type, each.runs].append(each)
    for (task_type, method), stuck in by_method.items():
        longest = max(stuck, key=lambda each: each.stuck_seconds or 0.0)
        where = longest.stack[-1] if longest.stack else "a line that is not known"
        hang = f"{_count(len(stuck), 'worker thread')} hang{'s' if len(stuck) == 1 else ''}"
        yield Attention(
            kind="stuck",
            severity=_WARNING,
            text=f"{hang} in {method}{_example(longest.task)}, the longest for {longest.stuck_seconds:.0f} s after its"
            f" call ended, at {where}",
            what_to_do="give the connector's client a time-out below the executor's ten seconds; a thread cannot be"
            " stopped, a restart ends it",
            task_type=task_type,
        )


def _blocked_loops(threads: Iterable[ThreadReport]) -> Iterator[Attention]:
    for each in threads:
        if each.loop and each.seconds >= _LOOP_BLOCKED:
            where = each.stack[-1] if each.stack else "a line that is not known"
            yield Attention(
                kind="blocked",
                severity=_WARNING,
                text=f"{each.runs} has blocked the event loop {each.loop} for {each.seconds:.0f} s, at {where}",
                what_to_do="its other calls go to further loops, or wait if it keeps state of this one; give the"
                " connector's client a time-out, or await there",
            )


def _bugs(report: HostReport) -> Iterator[Attention]:
    for each in report.failures:
        if each.kind == "connector" and report.now - each.at <= _LATELY:
            yield _bug(each)


def _bug(each: FailureReport) -> Attention:
    return Attention(
        kind="failure",
        severity=_ERROR,
        text=f"{each.task_type}: a bug in the connector: {_count(each.similar + 1, 'failed call')} of {each.operation}"
        f"{_example(each.task)}{_at(each.place)}: {_line(each.error)}",
        what_to_do="this is for the connector's author; the log has the traceback",
        since=each.first or each.at,
        task_type=each.task_type,
    )


def _full(report: HostReport) -> Iterator[Attention]:
    for each in report.connectors:
        if each.waiting:
            yield Attention(
                kind="full",
                severity=_WARNING,
                text=f"{each.task_type}: {_count(each.waiting, 'call')} waiting for a slot; {each.active} are taken",
                what_to_do="see which calls take long; raise max_calls_per_connector and max_calls, or add replicas",
                task_type=each.task_type,
            )
    if report.threads_limit and report.threads_busy >= report.threads_limit:
        yield Attention(
            kind="full",
            severity=_WARNING,
            text=f"all worker threads are taken: {report.threads_busy} of {report.threads_limit}",
            what_to_do="see below what they do; raise worker, or make the methods `async def`",
        )


def _certificates(report: HostReport) -> Iterator[Attention]:
    for each in report.certificates:
        if each.expires is None:
            continue
        days = (each.expires - report.now) / _DAY
        if days < _EXPIRES_SOON:
            when = "has expired" if days < 0 else f"expires in {days:.1f} days"
            yield Attention(
                kind="certificate",
                severity=_ERROR if days < 0 else _WARNING,
                text=f"the certificate of the {each.port} port {when}: {each.file}",
                what_to_do="replace the file; it is read again when it changes",
            )


def orphans(jobs: Iterable[JobReport], now: float) -> Iterator[Attention]:
    """Yield, for each task type, that nobody waits for some jobs."""
    by_type: dict[str, list[float]] = defaultdict(list)
    for each in jobs:
        if each.orphaned is not None and now - each.orphaned >= _ORPHANED:
            by_type[each.task_type].append(each.orphaned)
    for task_type, since in by_type.items():
        yield Attention(
            kind="orphan",
            severity=_WARNING,
            text=f"{task_type}: {_count(len(since), 'job')} created for clients that had gone; nobody has asked for"
            f" {'it' if len(since) == 1 else 'them'} since",
            what_to_do="see in the other system what is wanted, and delete there what is not; the list of jobs and"
            " the log have the names",
            since=min(since),
            task_type=task_type,
        )


def _load_failures(report: HostReport) -> Iterator[Attention]:
    outages = {each.outage for each in report.connectors}
    for each in report.load_failures:
        if each.error in outages:
            continue
        if each.kind.startswith("lifespan"):
            yield Attention(
                kind="outage",
                severity=_WARNING if report.state == "starting" else _ERROR,
                text=f"{each.source}: {each.error}",
                what_to_do="a host that starts waits for lifespan_timeout at most, then serves the others, and tries"
                " again; `connectrio stacks` shows what the lifespan waits for",
            )
        else:
            is_broken = each.kind.startswith("cannot be loaded")  # in `connectrio dev`
            yield Attention(
                kind="load failure",
                severity=_ERROR,
                text=f"not loaded: {each.source}: {each.error}",
                what_to_do="its task types are answered UNAVAILABLE; mend and save it"
                if is_broken
                else "its task types are answered NOT_FOUND; mend or remove it, and restart the host",
            )


def restart_sentence(restart: Restart) -> str:
    """Return what a restart would do now."""
    texts = [
        f"{_count(restart.calls, 'call')} in flight would have {restart.grace:g} s to finish (grace)"
        if restart.calls
        else "no call is in flight"
    ]
    if restart.creates:
        texts.append(f"{_count(restart.creates, 'job')} would be created in that time, or the executor tries again")
    if restart.stuck_threads:
        texts.append(f"{_count(restart.stuck_threads, 'stuck thread')} would be given up")
    if restart.jobs:
        texts.append(f"{_count(restart.jobs, 'job')} would go on in their systems, and be polled afterwards")
    return "; ".join(texts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _line(error: str) -> str:
    """Return a text in one line, as its place is in the middle of a sentence."""
    return " ".join(error.split())


def _example(task: TaskName) -> str:
    return f", for example {task.execution}" if task.execution else ""


def _at(place: str) -> str:
    return f", at {place}" if place else ""


def _log(report: HostReport) -> Iterator[Attention]:
    at = report.lines_dropped_at
    if at is not None and report.now - at <= _LATELY:
        yield Attention(
            kind="log",
            severity=_WARNING,
            text=f"{report.dropped_lines} log lines could not be written",
            what_to_do="what reads standard error is too slow, or has gone",
            since=at,
        )
