"""A night to remember: a report with three connectors, 200 jobs, and each kind of trouble once."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field

import anyio
import msgspec

from connectrio.telemetry.report import (
    Attention,
    CallReport,
    CertificateReport,
    ConnectionReport,
    ConnectorReport,
    FailureReport,
    HostReport,
    IncidentReport,
    JobReport,
    LoadFailureReport,
    Minute,
    PhaseChange,
    ProcessReport,
    StackReport,
    TaskName,
    ThreadReport,
)

NOW = 1_796_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

REFUSED = "ConnectionError: [Errno 111] Connect call failed ('10.4.0.12', 443)"
AT_VENDOR = "warehouse.py:88 in get"
AT_LOCK = "reports.py:41 in get"
AT_BLOCK = "reports.py:63 in create"


def task(number: int, **changes) -> TaskName:
    name = TaskName(
        org="acme",
        project=("billing", "search", "growth")[number % 3],
        domain="production",
        execution=f"a{hashlib.sha256(str(number).encode()).hexdigest()[:12]}",
        node=f"n{number % 7}",
        attempt=int(number % 11 == 0),
        output_prefix=f"s3://acme-flyte/metadata/run-{number}/n{number % 7}/data/0",
    )
    return msgspec.structs.replace(name, **changes)


def job(number: int, now: float, **changes) -> JobReport:
    draw = random.Random(number)
    phase = "RUNNING" if number % 4 else draw.choice(["SUCCEEDED", "SUCCEEDED", "QUEUED", "FAILED"])
    seen = now - draw.uniform(30, 5 * HOUR)
    changed = seen + draw.uniform(5, 25)
    task_type = "warehouse_query" if number % 2 else "spark_on_k8s"
    report = JobReport(
        job=hashlib.sha256(f"meta {number}".encode()).hexdigest()[:12],
        task_type=task_type,
        version=0,
        connector="WarehouseConnector" if number % 2 else "SparkConnector",
        task=task(number),
        key=f"f{hashlib.sha256(f'key {number}'.encode()).hexdigest()[:10]}-{number}",
        origin="fresh",
        phase=phase,
        is_final=phase in ("SUCCEEDED", "FAILED"),
        message="exit code 1: out of memory" if phase == "FAILED" else f"{draw.randint(1, 99)} % of the stages done",
        seen=seen,
        changed=changed,
        polled=now - draw.uniform(1, 20),
        deleted=None,
        failing_since=None,
        polls=draw.randint(3, 900),
        failed_polls=0,
        absorbed=0,
        error="",
        place="",
        phases=[PhaseChange(phase="QUEUED", at=seen), PhaseChange(phase=phase, at=changed)],
        links=[("Query", f"https://console.example.com/queries/{number}")],
        trouble=1 if phase == "FAILED" else 0,
    )
    return msgspec.structs.replace(report, **changes)


def jobs(count: int, now: float) -> list[JobReport]:
    """All well but those of the warehouse that are polled, one without a name, and one that has hung for 20 minutes."""
    made = [job(number, now) for number in range(count)]
    failing = {
        "failing_since": now - 12 * MINUTE,
        "polled": now - 12.2 * MINUTE,
        "error": REFUSED,
        "place": AT_VENDOR,
        "failed_polls": 41,
        "absorbed": 41,
        "trouble": 3,
    }
    for index in range(1, count, 8):
        if not made[index].is_final:
            made[index] = msgspec.structs.replace(made[index], **failing)
    if count > 3:
        unknown = TaskName(output_prefix="s3://acme-flyte/metadata/run-2/n2/data/0")
        made[2] = job(2, now, task=unknown, origin="", key="", phase="", polled=None, phases=[], message="", links=[])
        made[3] = job(
            3,
            now,
            task_type="nightly_reports",
            connector="ReportsConnector",
            phase="RUNNING",
            is_final=False,
            polled=now - 21 * MINUTE,
            message="building",
            trouble=4,
        )
    return made


def minutes(seed: int, now: float, mean: float, *, down_since: float = 0.0) -> list[Minute]:
    draw = random.Random(seed)
    found = []
    for back in range(29, -1, -1):
        calls = max(0, round(draw.gauss(mean, mean / 6)))
        is_down = back < down_since
        found.append(
            Minute(
                at=(now // 60 - back) * 60,
                calls=calls,
                failures=calls // 9 if is_down else 0,
                absorbed=calls * 2 // 3 if is_down else 0,
                p95=(10.0 if is_down else draw.choice([0.1, 0.1, 0.25, 0.05])) if calls else None,
            )
        )
    return found


def connector(name: str, task_type: str, now: float, **changes) -> ConnectorReport:
    report = ConnectorReport(
        name=name,
        task_type=task_type,
        version=0,
        source=f"acme_connectors.{task_type}",
        code=f"/srv/acme_connectors/{task_type}.py:31",
        outage="",
        active=3,
        waiting=0,
        slots=100,
        jobs={"RUNNING": 75, "SUCCEEDED": 19, "FAILED": 6},
        calls=48_210,
        failures=6,
        absorbed=0,
        rate=9.7,
        p50=0.05,
        p95=0.25,
        p99=0.5,
        minutes=minutes(len(name), now, 580),
    )
    return msgspec.structs.replace(report, **changes)


def night(now: float = NOW, count: int = 200) -> HostReport:
    """The vendor of one connector is down, a thread of another hangs, and its `create` blocks the event loop."""
    known = jobs(count, now)
    stuck = [
        "threading.py:1002 in _bootstrap",
        f"{AT_LOCK}: answer = self.session.get(url)",
        "socket.py:706 in readinto",
    ]
    return HostReport(
        state="serving",
        is_ready=False,
        not_ready=["the event loop is blocked: nightly_reports create at " + AT_BLOCK],
        version="0.1.0",
        python="3.11.7",
        backend="uvloop",
        pid=7,
        now=now,
        started=now - 3.2 * DAY,
        restart_safe=(
            "150 jobs go on in the other systems and are polled again; 1 create that is being answered would be waited "
            "for, at most 30 s."
        ),
        settings={"drain_timeout": "30.0", "max_concurrent_calls": "200", "processes": "2"},
        grpc=["0.0.0.0:8000"],
        lag=4.2,
        threads_busy=3,
        threads_limit=40,
        dropped_lines=12,
        attention=[
            Attention(
                kind="incident",
                severity="error",
                text=f"The system behind warehouse_query fails: {REFUSED}, in 25 jobs.",
                what_to_do="Ask its operators. Jobs keep their last known phase for 30 min, then polls fail.",
                since=now - 12 * MINUTE,
                task_type="warehouse_query",
            ),
            Attention(
                kind="blocked",
                severity="error",
                text=f"The event loop is blocked by nightly_reports create at {AT_BLOCK}.",
                what_to_do="Make the method `def`, or await what it calls. A restart ends it.",
                since=now - 14,
                task_type="nightly_reports",
                process=1,
            ),
            Attention(
                kind="stuck",
                severity="warning",
                text=f"A worker thread of nightly_reports hangs at {AT_LOCK}; nobody waits for it any more.",
                what_to_do="Give the request a time-out. The thread ends with the process.",
                since=now - 20 * MINUTE,
                task_type="nightly_reports",
            ),
            Attention(
                kind="load failure",
                severity="warning",
                text="acme_connectors.legacy cannot be loaded: ModuleNotFoundError: No module named 'hdfs'.",
                what_to_do="Install what it imports, and restart.",
            ),
            Attention(
                kind="certificate",
                severity="warning",
                text="The certificate of the gRPC port expires in 5 days.",
                what_to_do="Renew /etc/tls/tls.crt; it is read again by itself.",
            ),
            Attention(kind="process", severity="warning", text="Process 1 was restarted 2 times.", process=1),
        ],
        connectors=[
            connector("SparkConnector", "spark_on_k8s", now),
            connector(
                "WarehouseConnector",
                "warehouse_query",
                now,
                active=25,
                failures=512,
                absorbed=1351,
                rate=4.1,
                p50=10.0,
                p95=10.0,
                p99=10.0,
                minutes=minutes(5, now, 240, down_since=12),
            ),
            connector(
                "ReportsConnector",
                "nightly_reports",
                now,
                active=2,
                waiting=3,
                slots=2,
                calls=96,
                failures=1,
                rate=0.05,
                jobs={"RUNNING": 1},
                minutes=minutes(9, now, 3),
            ),
        ],
        load_failures=[
            LoadFailureReport(
                source="acme_connectors.legacy",
                kind="ModuleNotFoundError",
                error=(
                    "ModuleNotFoundError: No module named 'hdfs'\n  at acme_connectors/legacy.py:3: from hdfs import "
                    "InsecureClient"
                ),
            )
        ],
        jobs=known,
        calls=calls(now, known),
        failures=failures(now, known),
        incidents=incidents(now, known),
        threads=[
            ThreadReport(
                runs="ReportsConnector.get",
                task_type="nightly_reports",
                task=task(3),
                seconds=21 * MINUTE,
                stuck_seconds=20 * MINUTE,
                stack=stuck,
            ),
            ThreadReport(
                runs="SparkConnector.create",
                task_type="spark_on_k8s",
                task=task(40),
                seconds=0.4,
                stuck_seconds=None,
                stack=["spark_on_k8s.py:77 in create: self.client.submit(job)"],
            ),
        ],
        connections=[
            ConnectionReport(peer=f"10.4.1.{number}:50{number}", seconds=number * HOUR, state="open", calls=number % 4)
            for number in range(2, 14)
        ],
        certificates=[CertificateReport(port="gRPC", file="/etc/tls/tls.crt", expires=now + 5 * DAY)],
        processes=[
            ProcessReport(process=0, pid=7, state="serving", restarts=0),
            ProcessReport(process=1, pid=4711, state="serving", restarts=2),
        ],
    )


def calls(now: float, known: list[JobReport]) -> list[CallReport]:
    def call(number: int, operation: str, seconds: float, stage: str, waits: str, task_type: str) -> CallReport:
        return CallReport(
            operation=operation,
            task_type=task_type,
            version=0,
            task=task(number),
            key=known[number].key if number < len(known) else "",
            job=known[number].job if number < len(known) and operation != "create" else "",
            peer=f"10.4.1.{number + 2}:50{number}",
            method=f"{operation.capitalize()}Task",
            started=now - seconds,
            seconds=seconds,
            stage=stage,
            waits=waits,
        )

    return [
        call(3, "get", 21 * MINUTE, "thread", AT_LOCK, "nightly_reports"),
        call(4, "create", 14, "connector", AT_BLOCK, "nightly_reports"),
        call(5, "create", 9, "queued", "", "nightly_reports"),
        call(1, "get", 8.2, "connector", AT_VENDOR, "warehouse_query"),
        call(9, "get", 2.2, "connector", AT_VENDOR, "warehouse_query"),
    ]


def failures(now: float, known: list[JobReport]) -> list[FailureReport]:
    def failure(number: int, ago: float, **changes) -> FailureReport:
        report = FailureReport(
            operation="get",
            task_type="warehouse_query",
            version=0,
            task=task(number),
            key=known[number].key if number < len(known) else "",
            job=known[number].job if number < len(known) else "",
            peer="10.4.1.3:503",
            at=now - ago,
            seconds=10.0,
            status="UNAVAILABLE",
            error=REFUSED,
            kind="vendor",
            absorbed=True,
            place=AT_VENDOR,
            similar=0,
        )
        return msgspec.structs.replace(report, **changes)

    return [
        failure(1, 4, similar=311),
        failure(
            8,
            41 * MINUTE,
            operation="create",
            task_type="spark_on_k8s",
            seconds=0.012,
            status="INVALID_ARGUMENT",
            error="input 'executors': \"twelve\" is no integer",
            kind="request",
            absorbed=False,
            place="",
        ),
        failure(
            12,
            2 * HOUR,
            operation="delete",
            task_type="spark_on_k8s",
            seconds=0.2,
            status="INTERNAL",
            error="KeyError: 'namespace'",
            kind="connector",
            absorbed=False,
            place="spark_on_k8s.py:131 in delete",
        ),
    ]


def incidents(now: float, known: list[JobReport]) -> list[IncidentReport]:
    return [
        IncidentReport(
            id="i2",
            task_type="warehouse_query",
            operation="get",
            kind="connection",
            began=now - 12 * MINUTE,
            last=now - 4,
            ended=None,
            failures=1351,
            absorbed=1351,
            jobs=25,
            error=REFUSED,
            place=AT_VENDOR,
            task=task(1),
        ),
        IncidentReport(
            id="i1",
            task_type="spark_on_k8s",
            operation="create",
            kind="throttled",
            began=now - 7 * HOUR,
            last=now - 6.8 * HOUR,
            ended=now - 6.7 * HOUR,
            failures=33,
            absorbed=0,
            jobs=9,
            error="429 Too Many Requests",
            place="spark_on_k8s.py:77 in create",
            task=task(8),
        ),
    ]


def calm(now: float = NOW) -> HostReport:
    """A host of one process that does nothing, of which nothing is wrong."""
    return HostReport(
        state="serving", is_ready=True, not_ready=[], version="0.1.0", python="3.11.7", backend="asyncio", pid=7,
        now=now, started=now - 5 * MINUTE, restart_safe="Nothing is lost.", settings={}, grpc=["0.0.0.0:8000"],
        lag=0.002, threads_busy=0, threads_limit=40, dropped_lines=0, attention=[], connectors=[], load_failures=[],
        jobs=[], calls=[], failures=[], incidents=[], threads=[], connections=[], certificates=[], processes=[],
    )  # fmt: skip


@dataclass
class Source:
    """Something to show; a test may put another report there.

    :ivar reports: how many were asked for
    :ivar asked: set when the next one is asked for, and then replaced
    """

    shown: HostReport = field(default_factory=night)
    reports: int = 0
    asked: anyio.Event = field(default_factory=anyio.Event)

    async def report(self) -> HostReport:
        self.reports += 1
        self.asked.set()
        self.asked = anyio.Event()
        return self.shown

    async def stacks(self) -> list[StackReport]:
        return [
            StackReport(kind="task", name="call 17", what="nightly_reports get", frames=["host.py:1 in run", AT_LOCK]),
            StackReport(kind="thread", name="MainThread", what="", frames=["<frozen runpy>:198 in main"]),
        ]
