"""What a host tells of itself, gathered when somebody asks: the `HostReport` of the page, the API and the terminal."""

from __future__ import annotations

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from connectrio._version import __version__
from connectrio.connector.registry import RegisteredConnector, Registry
from connectrio.diagnostics import dropped_lines
from connectrio.host.lifecycle import Addresses, HostState
from connectrio.host.metrics import backend_name
from connectrio.host.settings import HostSettings, changed_settings
from connectrio.host.watchdog import Watchdog
from connectrio.rpc import Server
from connectrio.rpc.peer import format_address
from connectrio.rpc.tls import ServerTLS
from connectrio.service.async_connector import AsyncConnectorService
from connectrio.service.live_calls import FoundCalls, calls_of_tasks, report_calls, runs_in
from connectrio.service.metrics import DURATION_BUCKETS
from connectrio.service.operations import Operation
from connectrio.service.places import code_of
from connectrio.telemetry.account import Account
from connectrio.telemetry.attention import StoreAway, needs_attention, restart_sentence
from connectrio.telemetry.jobs import NOBODY
from connectrio.telemetry.rates import quantile
from connectrio.telemetry.report import (
    CertificateReport,
    ConnectionReport,
    ConnectorReport,
    HostReport,
    JobReport,
    LoadFailureReport,
    Minute,
    Restart,
    StackReport,
    TaskName,
    ThreadReport,
)
from connectrio.telemetry.search import sorted_by_trouble
from connectrio.telemetry.stacks import each_stack, further_loops, lines_of
from connectrio.telemetry.turns import Turns

__all__ = ["HostParts", "report_host", "report_stacks"]

# minutes over which rates and quantiles are computed
_LATELY = 5
# worker threads that are shown
_MOST_THREADS = 100
_MOST_CONNECTIONS = 200
# seconds of one step after which an event loop of a hosted connector is shown
_BLOCKED = 1.0
_LONGEST_SETTING = 200


@dataclass(frozen=True, kw_only=True)
class HostParts:
    """What a host consists of now; None is what it does not have, or not yet.

    :ivar not_ready: why it takes no new work
    :ivar started: when it was made, on the account's clock
    """

    settings: HostSettings
    registry: Registry
    account: Account
    state: HostState
    not_ready: list[str]
    started: float
    addresses: Addresses | None
    service: AsyncConnectorService | None
    server: Server | None
    tls: Mapping[str, ServerTLS]
    watchdog: Watchdog | None


async def report_host(host: HostParts) -> HostReport:
    """Return what `host` knows of itself. Must be called on its event loop, where calls go on meanwhile."""
    turns = Turns()
    service = host.service
    account = host.account
    found = await calls_of_tasks(turns)
    phases: Counter[tuple[str, str]] = Counter()
    jobs: list[JobReport] = []
    for job in account.jobs:
        jobs.append(job.report(account.clock(), account.wall_clock(), host.settings.poll_absorb))
        phases[job.counted_as] += 1
        await turns.end()
    jobs = sorted_by_trouble(jobs)
    await turns.end()
    connectors: list[ConnectorReport] = []
    if service is not None:
        usage = {name: (active, waiting) for name, active, waiting in service.admission.slots(Operation.GET).usage()}
        for each in host.registry.registered():
            connectors.append(_connector(host, each, usage, phases))
            await turns.end()
    calls = [] if service is None else await report_calls(service, found, turns)
    threads = [] if service is None else await _threads(service, found, turns)
    going_on = sum(not job.is_final for job in jobs)
    restart = _restart(host, going_on)
    now, wall = account.clock(), account.wall_clock()
    offset = wall - now
    account.look_at_log()
    addresses = host.addresses
    report = HostReport(
        state=host.state.value,
        is_ready=not host.not_ready,
        not_ready=host.not_ready,
        version=__version__,
        python=platform.python_version(),
        backend=backend_name(),
        pid=os.getpid(),
        host=platform.node(),
        now=wall,
        started=host.started + offset,
        restart_safe=restart_sentence(restart),
        restart=restart,
        settings=_settings(host.settings),
        grpc=[] if addresses is None else [format_address(*each) for each in addresses.grpc],
        lag=0.0 if host.watchdog is None else round(host.watchdog.lag(), 3),
        threads_busy=0 if service is None else service.workers.busy,
        threads_limit=host.settings.worker,
        dropped_lines=dropped_lines(),
        lines_dropped_at=None if account.lines_dropped_at is None else account.lines_dropped_at + offset,
        attention=[],
        connectors=connectors,
        load_failures=[
            LoadFailureReport(source=each.source, kind=each.kind, error=each.error)
            for each in host.registry.all_failures()
        ],
        jobs=jobs,
        calls=calls,
        failures=account.failures(),
        incidents=[incident.report(offset) for incident in account.incidents],
        threads=[*_blocked_loops(), *threads],
        connections=_connections(host),
        certificates=_certificates(host.tls),
        processes=[],
    )
    breakers = {} if service is None else service.gates.open_breakers()
    report.attention.extend(
        needs_attention(
            report,
            blocks=() if host.watchdog is None else list(host.watchdog.blocks),
            store_away=_store_away(host, wall),
            open_breakers=[task_type for task_type, count in breakers.items() if count],
        )
    )
    return report


def _store_away(host: HostParts, now: float) -> StoreAway | None:
    shared = None if host.service is None else host.service.shared
    if shared is None or shared.store.is_up:
        return None
    return StoreAway(shared.store.why_away, now - shared.store.away_seconds, host.settings.job_store_required)


async def report_stacks(host: HostParts) -> list[StackReport]:
    """Return where all tasks and threads are; those that answer calls first."""
    turns = Turns()
    found = await calls_of_tasks(turns)
    stacks: list[StackReport] = []
    for record, frames in found:
        lines = lines_of(frames)
        stacks.append(StackReport(kind="task", name=record.method, what=_what(record.identity()), frames=lines))
        await turns.end()
    if host.service is not None:
        stacks += [
            StackReport(kind="thread", name=each.runs, what=_what_thread(each), frames=each.stack)
            for each in await _threads(host.service, found, turns)
        ]
    for stack in each_stack():
        stacks.append(stack)
        await turns.end()
    return stacks


def _settings(settings: HostSettings) -> dict[str, str]:
    """Return the settings that differ from their defaults, as text."""
    found = changed_settings(settings).items()
    texts = {name: " ".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in found}
    return {name: text[:_LONGEST_SETTING] for name, text in texts.items()}


def _restart(host: HostParts, going_on: int) -> Restart:
    calls = list(host.account.calls)
    return Restart(
        grace=host.settings.grace,
        calls=len(calls),
        creates=sum(record.call.operation is Operation.CREATE for record in calls),
        stuck_threads=0 if host.service is None else len(host.service.workers.stuck_runs),
        jobs=going_on,
    )


def _connector(
    host: HostParts,
    registered: RegisteredConnector,
    usage: dict[str, tuple[int, int]],
    jobs: Mapping[tuple[str, str], int],
) -> ConnectorReport:
    connector = registered.connector
    task_type, version = connector.task_type_name, connector.task_type_version
    now = host.account.clock()
    minutes = host.account.rates.minutes(task_type)
    lately, totals = minutes[-_LATELY:], host.account.rates.totals(task_type)
    first = host.account.wall_clock() - now % 60 - 60 * (len(minutes) - 1)
    active, waiting = usage.get(task_type, (0, 0))
    outage = host.registry.outages.get((task_type, version))
    settings = host.settings
    return ConnectorReport(
        name=connector.name,
        task_type=task_type,
        version=version,
        source=registered.source,
        code=code_of(connector),
        outage="" if outage is None else outage.error,
        active=active,
        waiting=waiting,
        slots=min(settings.max_calls, settings.max_calls_per_connector),
        jobs={phase: number for (name, phase), number in jobs.items() if name == task_type},
        calls=totals.calls,
        failures=totals.failures,
        absorbed=totals.absorbed,
        retries=totals.retries,
        rate=round(sum(each.calls for each in lately) / ((_LATELY - 1) * 60 + now % 60), 3),
        p50=quantile(lately, 0.5, DURATION_BUCKETS),
        p95=quantile(lately, 0.95, DURATION_BUCKETS),
        p99=quantile(lately, 0.99, DURATION_BUCKETS),
        minutes=[
            Minute(
                at=round(first + 60 * number, 3),
                calls=each.calls,
                failures=each.failures,
                absorbed=each.absorbed,
                p95=quantile([each], 0.95, DURATION_BUCKETS),
            )
            for number, each in enumerate(minutes)
        ],
    )


def _blocked_loops() -> list[ThreadReport]:
    return [
        ThreadReport(
            runs=loop.runs() or loop.name,
            task_type="",
            task=NOBODY,
            seconds=round(seconds, 3),
            stuck_seconds=None,
            stack=lines_of(loop.frames()),
            loop=loop.name,
        )
        for loop in list(further_loops.values())[:_MOST_THREADS]
        if (seconds := loop.busy_for()) >= _BLOCKED
    ]


async def _threads(service: AsyncConnectorService, found: FoundCalls, turns: Turns) -> list[ThreadReport]:
    tasks = {id(run): record.for_task for record, frames in found for run in runs_in(frames)}
    threads: list[ThreadReport] = []
    for run in service.workers.runs[:_MOST_THREADS]:
        now, loop_now = time.monotonic(), anyio.current_time()
        threads.append(
            ThreadReport(
                runs=run.name,
                task_type=run.owner,
                task=tasks.get(id(run)) or _task_of({} if run.identity is None else run.identity()),
                seconds=round(now - (run.began or now), 3),
                stuck_seconds=round(loop_now - run.abandoned_at, 3) if run.abandoned_at < math.inf else None,
                stack=lines_of(list(run.frames())[::-1]),
            )
        )
        await turns.end()
    return threads


def _connections(host: HostParts) -> list[ConnectionReport]:
    return [
        ConnectionReport(
            peer=each.peer, kind=each.kind, seconds=round(each.seconds, 3), state=each.state, calls=each.calls
        )
        for each in ([] if host.server is None else host.server.connections[:_MOST_CONNECTIONS])
    ]


def _certificates(ports: Mapping[str, ServerTLS]) -> list[CertificateReport]:
    return [CertificateReport(port=port, file=str(tls.certfile), expires=tls.expires_at) for port, tls in ports.items()]


def _task_of(identity: Mapping[str, Any]) -> TaskName:
    """Return the task that the fields of a log line name."""
    known = {field: identity[field] for field in TaskName.__struct_fields__ if field in identity}
    return TaskName(**known) if known else NOBODY


def _what_thread(thread: ThreadReport) -> str:
    stuck = "" if thread.stuck_seconds is None else f"stuck, its call ended {thread.stuck_seconds:.0f} s ago"
    return ", ".join(part for part in (thread.task.execution, stuck) if part)


def _what(identity: dict[str, str | int]) -> str:
    names = ("operation", "task_type", "execution", "node", "job")
    return " ".join(str(identity[name]) for name in names if name in identity)
