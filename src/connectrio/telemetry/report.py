"""What a host tells of itself: the documents of /api, which the status page and the terminal commands show.

Times are seconds since 1970 (UTC), durations are seconds, texts are bounded, and secrets in them are masked. `process`
is the number of the process among several; None for a host of one process. An empty text means "not known".
"""

from __future__ import annotations

import msgspec

__all__ = [
    "Attention",
    "CallReport",
    "CertificateReport",
    "ConnectionReport",
    "ConnectorReport",
    "FailureReport",
    "HostReport",
    "IncidentReport",
    "JobReport",
    "LoadFailureReport",
    "Minute",
    "PhaseChange",
    "ProcessReport",
    "Restart",
    "StackReport",
    "TaskName",
    "ThreadReport",
]


class TaskName(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which task of Flyte a call or a job is for. All is empty if the host was never told: after a restart, or in
    calls for jobs that another replica has created, only `output_prefix` is known, in whose path Flyte writes it.

    :ivar execution: the name of the execution, which Flyte 2 calls a run
    :ivar node: the node of the execution, which Flyte 2 calls an action
    :ivar attempt: 0 for the first; None if not known
    :ivar output_prefix: where the task's outputs go
    """

    org: str = ""
    project: str = ""
    domain: str = ""
    execution: str = ""
    node: str = ""
    attempt: int | None = None
    output_prefix: str = ""


class CallReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call that is being answered.

    :ivar operation: "create", "get", "delete", "get_metrics" or "get_logs"
    :ivar key: the name of the job that a create is for, see `connectrio.current_call`
    :ivar job: the id of the job, see `JobReport`; "" until it has one
    :ivar peer: the client's address
    :ivar method: the RPC method
    :ivar started: when the request had arrived
    :ivar seconds: since then
    :ivar stage: where the call is: "queued" (it waits for a slot), "thread" (it runs, or waits to run, in a worker
        thread), "connector" (in the connector's code on the event loop) or "host" (in ours)
    :ivar waits: the innermost line of the connector's code, or else of any: "my_connector.py:42 in get"
    :ivar retries: how often the host tried again
    """

    operation: str
    task_type: str
    version: int
    task: TaskName
    key: str
    job: str
    peer: str
    method: str
    started: float
    seconds: float
    stage: str
    waits: str
    process: int | None = None
    retries: int = 0


class FailureReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call that failed lately.

    :ivar at: when
    :ivar seconds: how long the call took
    :ivar status: the name of the gRPC status that the error has, "UNAVAILABLE"
    :ivar error: the text that the client got
    :ivar kind: "vendor" (the other system), "connector" (a bug in its code), "request" (the client's), "host" (it is
        full, or the connector's lifespan is not open) or "client" (it left, or its deadline passed, before the answer)
    :ivar absorbed: whether the client got the last known phase in place of the error
    :ivar place: the line of the connector's code that failed: "my_connector.py:42 in get"
    :ivar first: when a call failed in this way first, as far as the host remembers
    :ivar similar: how many more calls failed in the same way since the one before this in the list
    """

    operation: str
    task_type: str
    version: int
    task: TaskName
    key: str
    job: str
    peer: str
    at: float
    seconds: float
    status: str
    error: str
    kind: str
    absorbed: bool
    place: str
    similar: int = 0
    first: float = 0.0
    process: int | None = None


class PhaseChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A phase of a job, and when this host saw it first."""

    phase: str
    at: float


class JobReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job, as far as this host has seen it.

    :ivar job: its id on this host: the first twelve hexadecimal digits of the SHA-256 of its `resource_meta`
    :ivar key: the name that the connector was given for it; "" for jobs that this host has not created
    :ivar origin: how it came: "fresh" (created here), "adopted" (from an attempt before), "" if not created here
    :ivar phase: as last seen; "" before the first poll
    :ivar is_final: whether the job is over, or was deleted
    :ivar message: of the connector, at the last poll
    :ivar seen: when this host heard of the job first
    :ivar changed: when it saw the phase change
    :ivar polled: when it was polled successfully; None if never
    :ivar deleted: when a client deleted it; None if none did
    :ivar failing_since: since when polls fail; None if the last one did not
    :ivar answered_until: until when the client gets the last known phase in place of such errors, with poll_absorb;
        None if it gets the errors, or there are none
    :ivar polls: how many polls there were, failed ones included
    :ivar failed_polls: how many of them failed
    :ivar absorbed: how many of those were answered with the last known phase
    :ivar retries: how often the host tried a poll, or the create, again by itself
    :ivar error: the last error; "" if there was none
    :ivar cause: of the last error: the kind of it, see `FailureReport`
    :ivar place: the line of the connector's code that raised it
    :ivar phases: the phases that this host saw, the first one first, and at most twenty
    :ivar links: names and addresses of the log links at the last poll
    :ivar orphaned: when it was created for a client that had gone; None if not, or if somebody has asked for it since
    :ivar trouble: 0 if all is well; the higher, the sooner somebody should look
    """

    job: str
    task_type: str
    version: int
    connector: str
    task: TaskName
    key: str
    origin: str
    phase: str
    is_final: bool
    message: str
    seen: float
    changed: float
    polled: float | None
    deleted: float | None
    failing_since: float | None
    answered_until: float | None = None
    polls: int
    failed_polls: int
    absorbed: int
    error: str
    place: str
    phases: tuple[PhaseChange, ...]
    links: tuple[tuple[str, str], ...]
    trouble: int
    orphaned: float | None = None
    process: int | None = None
    retries: int = 0
    cause: str = ""


class IncidentReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A time in which the system behind a connector fails.

    :ivar kind: "throttled", "timeout", "connection", …: see the metric `connectrio_vendor_errors_total`
    :ivar began: when the first call failed
    :ivar last: when a call failed last
    :ivar ended: when it was over; None if it is not
    :ivar failures: how many calls failed
    :ivar absorbed: how many of them were answered with the last known phase
    :ivar jobs: how many jobs were affected
    :ivar error: the last error
    :ivar place: the line of the connector's code that raised it
    :ivar task: a task that is affected
    """

    id: str
    task_type: str
    operation: str
    kind: str
    began: float
    last: float
    ended: float | None
    failures: int
    absorbed: int
    jobs: int
    error: str
    place: str
    task: TaskName
    process: int | None = None


class Minute(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The calls to a connector that ended in one minute.

    :ivar at: the beginning of the minute
    :ivar failures: how many of them failed
    :ivar absorbed: how many of those were polls that were answered with the last known phase
    :ivar p95: seconds that 95 % of the calls took at most, as a bucket's upper end; None without calls
    """

    at: float
    calls: int
    failures: int
    absorbed: int
    p95: float | None


class ConnectorReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A connector that is served. Versions of one task type have their slots, jobs and calls in common.

    :ivar source: where it was loaded from
    :ivar code: the file of its class and the line
    :ivar outage: why its lifespan is not open; "" if it is
    :ivar active: how many calls are with it
    :ivar waiting: how many wait for a slot
    :ivar slots: how many calls it may have at once
    :ivar jobs: how many jobs of each phase, as last seen
    :ivar calls: how many calls have ended since the host began
    :ivar failures: how many of them failed
    :ivar absorbed: how many of those were polls that were answered with the last known phase
    :ivar retries: how often the host tried a poll or a create again
    :ivar rate: calls that ended per second, in the last five minutes
    :ivar p50: seconds that half of the calls of the last five minutes took at most; None without calls
    :ivar p95: the same for 95 %
    :ivar p99: the same for 99 %
    :ivar minutes: the last half hour, the oldest first
    """

    name: str
    task_type: str
    version: int
    source: str
    code: str
    outage: str
    active: int
    waiting: int
    slots: int
    jobs: dict[str, int]
    calls: int
    failures: int
    absorbed: int
    rate: float
    p50: float | None
    p95: float | None
    p99: float | None
    minutes: list[Minute]
    process: int | None = None
    retries: int = 0


class LoadFailureReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What could not be loaded, or a lifespan that is not open."""

    source: str
    kind: str
    error: str


class ThreadReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A worker thread that is taken, or the thread of an event loop of a hosted connector that blocks it.

    :ivar runs: the method, "MyConnector.get"
    :ivar seconds: since when it runs
    :ivar stuck_seconds: since when nobody waits for it; None while somebody does
    :ivar loop: the event loop that is blocked; "" for worker threads
    :ivar stack: its frames, the innermost last: "my_connector.py:42 in get: time.sleep(60)"
    """

    runs: str
    task_type: str
    task: TaskName
    seconds: float
    stuck_seconds: float | None
    stack: list[str]
    loop: str = ""
    process: int | None = None


class ConnectionReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A gRPC connection.

    :ivar seconds: since it was accepted
    :ivar state: "open", "draining" or "going away"
    :ivar calls: how many calls are open on it
    :ivar kind: "tcp", "tls", "unix" or "other"
    """

    peer: str
    seconds: float
    state: str
    calls: int
    kind: str = ""
    process: int | None = None


class CertificateReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A certificate of a port.

    :ivar port: "gRPC" or "exporter"
    :ivar expires: None if it cannot be read
    """

    port: str
    file: str
    expires: float | None


class ProcessReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One of several processes."""

    process: int
    pid: int | None
    state: str
    restarts: int


class StackReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a task or a thread is.

    :ivar kind: "task" or "thread"
    :ivar what: the operation and the task that it is busy with; "" if it answers no call
    :ivar frames: the innermost last
    """

    kind: str
    name: str
    what: str
    frames: list[str]
    process: int | None = None


class Attention(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What somebody should look at.

    :ivar kind: "incident", "outage", "blocked", "stuck", "failure" (of a connector's code), "full", "certificate",
        "load failure", "orphan", "process", "breaker", "job store" or "log"
    :ivar severity: "error" or "warning"
    :ivar text: what it is, in one sentence
    :ivar what_to_do: what helps
    :ivar since: since when; None if not known
    :ivar task_type: of the connector that it is about; "" if it is about the host
    """

    kind: str
    severity: str
    text: str
    what_to_do: str = ""
    since: float | None = None
    task_type: str = ""
    process: int | None = None


class Restart(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a restart would do now.

    :ivar grace: seconds that the calls would have to finish
    :ivar calls: how many are in flight
    :ivar creates: how many of them create a job
    :ivar stuck_threads: how many would be given up
    :ivar jobs: how many would go on in their systems, and be polled afterwards
    """

    grace: float = 0.0
    calls: int = 0
    creates: int = 0
    stuck_threads: int = 0
    jobs: int = 0


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """A host, or the several processes of one.

    :ivar state: "starting", "serving", "draining" or "stopped"
    :ivar not_ready: why the host takes no new work, a sentence for each reason; empty if it does
    :ivar host: the name of the machine, or of the pod
    :ivar now: when this report was made
    :ivar started: when the host was started
    :ivar restart_safe: what a restart would do now, in a sentence
    :ivar restart: the same in numbers
    :ivar settings: the settings that differ from their defaults, as text
    :ivar grpc: the addresses of the gRPC server
    :ivar lag: seconds by which the event loop was late at the worst in the last second
    :ivar threads_busy: how many worker threads are taken
    :ivar threads: those that are taken now
    :ivar dropped_lines: how many log lines of the process could not be written
    :ivar lines_dropped_at: when that happened last; None if it has not
    """

    state: str
    is_ready: bool
    not_ready: list[str]
    version: str
    python: str
    backend: str
    pid: int
    now: float
    started: float
    restart_safe: str
    restart: Restart = Restart()
    settings: dict[str, str]
    grpc: list[str]
    lag: float
    threads_busy: int
    threads_limit: int
    dropped_lines: int
    lines_dropped_at: float | None = None
    host: str = ""
    attention: list[Attention]
    connectors: list[ConnectorReport]
    load_failures: list[LoadFailureReport]
    jobs: list[JobReport]
    calls: list[CallReport]
    failures: list[FailureReport]
    incidents: list[IncidentReport]
    threads: list[ThreadReport]
    connections: list[ConnectionReport]
    certificates: list[CertificateReport]
    processes: list[ProcessReport]
