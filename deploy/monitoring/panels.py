"""The panels of the dashboard, and their queries."""

from __future__ import annotations

from dataclasses import dataclass

HOSTS = 'job=~"$job",instance=~"$instance"'
OF = f'{HOSTS},task_type=~"$connector"'
WINDOW = "[$__rate_interval]"
# a stream of logs lasts as long as its client wants
ANSWERED = f'{OF},operation!="get_logs"'
# the errors of calls that are not the request's fault; 501 says that a connector has no logs or metrics
BAD = f'connectrio_client_errors_total{{{OF},error_code=~"429|5..",error_code!="501"}}'
CALLS = f"connectrio_request_duration_seconds_count{{{OF}}}"
ENDED = "SUCCEEDED|FAILED|ABORTED|RETRYABLE_FAILED|DELETED"
GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Query:
    """A query of a panel.

    :ivar legend: the name of each series, with its labels in double braces
    """

    expr: str
    legend: str


@dataclass(frozen=True)
class Graph:
    """Lines over time.

    :ivar text: what it shows, and what to think of it
    :ivar unit: one of Grafana's names
    :ivar is_stacked: the lines add up
    :ivar most: the end of the scale, where there is one
    """

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    is_stacked: bool = False
    most: float | None = None


@dataclass(frozen=True)
class Number:
    """The newest value of a query.

    :ivar steps: from which value on it has which colour; the first colour has no lower end
    :ivar decimals: None where Grafana chooses
    :ivar is_named: each series is shown with its name
    """

    title: str
    text: str
    unit: str
    query: Query
    steps: tuple[tuple[float | None, str], ...] = ((None, GREEN),)
    decimals: int | None = None
    is_named: bool = False


def rate(name: str, labels: str = OF) -> str:
    return f"rate({name}{{{labels}}}{WINDOW})"


def total(by: str, expr: str) -> str:
    return f"sum by ({by}) ({expr})"


def quantile(part: float, by: str, labels: str = ANSWERED, name: str = "connectrio_request_duration_seconds") -> str:
    return f"histogram_quantile({part}, sum by ({by}, le) (rate({name}_bucket{{{labels}}}{WINDOW})))"


def taken(by: str, name: str) -> str:
    """What part of a limit is taken, by all connectors: the limit is theirs together."""
    return f"sum by ({by}) ({name}{{{HOSTS}}}) / (sum by ({by}) ({name}_limit{{{HOSTS}}}) > 0)"


ROWS: dict[str, tuple[Graph | Number, ...]] = {
    "At a glance": (
        Number(
            "Hosts that are ready", "How many hosts accept new work. None: tasks fail or wait.", "short",
            Query(f"sum(connectrio_ready{{{HOSTS}}})", "ready"), ((None, RED), (1, GREEN)), 0,
        ),
        Number(
            "Calls a second", "Calls of Flyte that have ended.", "reqps",
            Query(f"sum(rate({CALLS}{WINDOW}))", "calls"),
        ),
        Number(
            "Calls that fail for Flyte",
            "The share of calls whose clients got an error that is not the request's fault. 0.5 % is the budget of the"
            " alerts.",
            "percentunit",
            Query(f"(sum(rate({BAD}{WINDOW})) or vector(0)) / sum(rate({CALLS}{WINDOW}))", "fail"),
            ((None, GREEN), (0.005, YELLOW), (0.05, RED)), 2,
        ),
        Number(
            "Creates, p99", "Of a hundred creates, the longest. Flyte's executor waits ten seconds.", "s",
            Query(
                f"histogram_quantile(0.99, sum by (le) (rate(connectrio_request_duration_seconds_bucket"
                f'{{{OF},operation="create"}}{WINDOW})))',
                "p99",
            ),
            ((None, GREEN), (4, YELLOW), (8, RED)),
        ),
        Number(
            "Jobs that run", "Jobs that hosts were asked for lately, and that have not ended.", "short",
            Query(f'sum(connectrio_jobs{{{OF},phase!~"{ENDED}"}})', "jobs"), decimals=0,
        ),
        Number(
            "Connectors down", "Lifespans that do not open, on all hosts.", "short",
            Query(f"count(connectrio_connector_up{{{OF}}} == 0) or vector(0)", "down"), ((None, GREEN), (1, RED)), 0,
        ),
    ),
    "Calls": (
        Graph(
            "Calls by operation", "Calls that have ended, a second.", "reqps",
            (Query(total("operation", f"rate({CALLS}{WINDOW})"), "{{operation}}"),), is_stacked=True,
        ),
        Graph(
            "Calls by connector", "Calls that have ended, a second. `unregistered`: types that no connector serves.",
            "reqps", (Query(total("task_type", f"rate({CALLS}{WINDOW})"), "{{task_type}}"),), is_stacked=True,
        ),
        Graph(
            "Share of calls that fail for Flyte",
            "Calls whose clients got an error that is not the request's fault. Absorbed polls are not among them.",
            "percentunit",
            (
                Query(
                    # 0 where there was no error yet
                    f"({total('task_type', f'rate({BAD}{WINDOW})')}"
                    f" or 0 * {total('task_type', f'rate({CALLS}{WINDOW})')})"
                    f" / {total('task_type', f'rate({CALLS}{WINDOW})')}",
                    "{{task_type}}",
                ),
            ),
            most=1,
        ),
        Graph(
            "How long calls take",
            "The median and the longest of a hundred, without streams of logs. Flyte's executor waits ten seconds.",
            "s",
            (
                Query(quantile(0.5, "operation"), "{{operation}} p50"),
                Query(quantile(0.99, "operation"), "{{operation}} p99"),
            ),
        ),
        Graph(
            "Creates, p99 by connector", "Of a hundred creates, the longest. Above 8 s, creates are tried twice.", "s",
            (Query(quantile(0.99, "task_type", f'{OF},operation="create"'), "{{task_type}}"),),
        ),
        Graph(
            "Errors that Flyte got",
            "Calls that failed for their clients, a second, by the HTTP code of their status. 400, 404: the request is"
            " at fault. 499: the client left. 501, a connector without logs or metrics, is left out.",
            "reqps",
            (
                Query(
                    total("operation, error_code", rate("connectrio_client_errors_total", f'{OF},error_code!="501"')),
                    "{{operation}} {{error_code}}",
                ),
            ),
        ),
    ),
    "The systems behind the connectors": (
        Graph(
            "Errors of other systems", "Calls that failed because of the system behind a connector, a second.", "reqps",
            (Query(total("task_type, kind", rate("connectrio_vendor_errors_total")), "{{task_type}} {{kind}}"),),
        ),
        Graph(
            "Polls that are answered from memory",
            "Absorbed: the poll failed. Limited: a limit of the policy let no call through. Clients get the last known"
            " phase, with its age.",
            "reqps",
            (
                Query(total("task_type", rate("connectrio_absorbed_polls_total")), "{{task_type}} absorbed"),
                Query(total("task_type", rate("connectrio_limited_polls_total")), "{{task_type}} limited"),
            ),
        ),
        Graph(
            "Calls that are tried again", "By the host, after errors that pass.", "reqps",
            (
                Query(total("task_type", rate("connectrio_poll_retries_total")), "{{task_type}} polls"),
                Query(total("task_type", rate("connectrio_create_retries_total")), "{{task_type}} creates"),
            ),
        ),
        Graph(
            "Connectors open, breakers not closed",
            "On how many hosts a connector's lifespan is open; for how many accounts its system gets no calls.",
            "short",
            (
                Query(total("task_type", f"connectrio_connector_up{{{OF}}}"), "{{task_type}} up"),
                Query(total("task_type", f"connectrio_open_breakers{{{OF}}}"), "{{task_type}} breakers"),
            ),
        ),
        Graph(
            "Calls that wait because of a policy", "Creates and deletes beyond the connector's limits.", "short",
            (Query(total("task_type", f"connectrio_gate_waiting_calls{{{OF}}}"), "{{task_type}}"),),
        ),
        Graph(
            "Polls by the host itself", "Calls to other systems in the background, a second, for polls to come.",
            "reqps",
            (
                Query(
                    total("task_type, operation", rate("connectrio_background_polls_total")),
                    "{{task_type}} {{operation}}",
                ),
            ),
        ),
    ),
    "Jobs": (
        Graph(
            "Jobs by phase", "Jobs that hosts were asked for lately. Each replica counts those it knows.", "short",
            (Query(total("phase", f"connectrio_jobs{{{OF}}}"), "{{phase}}"),), is_stacked=True,
        ),
        Graph(
            "Creates by origin", "`fresh`: a new job. All others are repeated creates that got the same job.", "reqps",
            (Query(total("origin", rate("connectrio_creates_total")), "{{origin}}"),), is_stacked=True,
        ),
        Graph(
            "Tasks that were given up", "Permanent failures that connectors report, a second: Flyte shows them.",
            "reqps",
            (
                Query(
                    total("task_type, operation", rate("connectrio_permanent_failures_total")),
                    "{{task_type}} {{operation}}",
                ),
            ),
        ),
        Graph(
            "Jobs that need a look",
            "Orphans: nobody waits for them. In doubt, in the last hour: a host ended while it created them.", "short",
            (
                Query(total("task_type", f"connectrio_orphaned_jobs{{{OF}}}"), "{{task_type}} orphans"),
                Query(
                    total("task_type", f"increase(connectrio_creates_in_doubt_total{{{OF}}}[1h])"),
                    "{{task_type}} in doubt",
                ),
            ),
        ),
        Graph(
            "Known jobs, and the job store",
            "Jobs that the host polls by itself; on how many hosts the job store answers.", "short",
            (
                Query(total("task_type", f"connectrio_known_jobs{{{OF}}}"), "{{task_type}}"),
                Query(f"sum(connectrio_job_store_up{{{HOSTS}}})", "job store up"),
            ),
        ),
        Graph(
            "Size of inputs", "The mean size of the inputs of creates.", "bytes",
            (
                Query(
                    f"{total('task_type', rate('flyte_connector_input_literal_bytes_sum'))}"
                    f" / {total('task_type', rate('flyte_connector_input_literal_bytes_count'))}",
                    "{{task_type}}",
                ),
            ),
        ),
    ),
    "Room on the hosts": (
        Graph(
            "Places for calls that are taken", "Calls with connectors. At 100 %, further ones wait.", "percentunit",
            (Query(taken("instance, kind", "connectrio_active_calls"), "{{instance}} {{kind}}"),), most=1,
        ),
        Graph(
            "Queue that is taken", "Calls that wait for room. At 100 %, further ones are refused.", "percentunit",
            (Query(taken("instance, kind", "connectrio_waiting_calls"), "{{instance}} {{kind}}"),), most=1,
        ),
        Graph(
            "Worker threads that are busy", "Threads for methods that are a plain `def`.", "percentunit",
            (Query(taken("instance, purpose", "connectrio_busy_threads"), "{{instance}} {{purpose}}"),),
            most=1,
        ),
        Graph(
            "Threads that are stuck, calls that wait for threads",
            "Stuck: the call has ended, and the thread goes on. It is lost until its code returns.", "short",
            (
                Query(total("instance, method", f"connectrio_stuck_threads{{{OF}}}"), "{{instance}} {{method}} stuck"),
                Query(total("instance", f"connectrio_waiting_for_threads{{{HOSTS}}}"), "{{instance}} waiting"),
            ),
        ),
        Graph(
            "How late the event loop is",
            "The longest delay of a hundred, and the newest. A busy loop is some ms late.",
            "s",
            (
                Query(
                    quantile(0.99, "instance", HOSTS, "connectrio_event_loop_delay_seconds"),
                    "{{instance}} p99",
                ),
                Query(f"connectrio_event_loop_lag_seconds{{{HOSTS}}}", "{{instance}} now"),
            ),
        ),
        Graph(
            "Who blocks the event loop", "What part of the time a method blocks all others. It should be empty.",
            "percentunit",
            (
                Query(
                    total("task_type, operation", rate("connectrio_event_loop_blocked_seconds_total")),
                    "{{task_type}} {{operation}}",
                ),
            ),
        ),
    ),
    "gRPC": (
        Graph(
            "Connections and streams", "Connections that are open by kind, and calls on them.", "short",
            (
                Query(total("kind", f"connectrio_connections_open{{{HOSTS}}}"), "{{kind}}"),
                Query(f"sum(connectrio_streams_open{{{HOSTS}}})", "streams"),
            ),
        ),
        Graph(
            "Bytes", "HTTP/2 from clients and to them, a second.", "Bps",
            (
                Query(f"sum({rate('connectrio_received_bytes_total', HOSTS)})", "received"),
                Query(f"sum({rate('connectrio_sent_bytes_total', HOSTS)})", "sent"),
            ),
        ),
        Graph(
            "Streams that begin, and that are reset", "Clients that give up send CANCEL.", "reqps",
            (
                Query(f"sum({rate('connectrio_streams_opened_total', HOSTS)})", "opened"),
                Query(total("by, code", rate("connectrio_streams_reset_total", HOSTS)), "reset by {{by}}: {{code}}"),
            ),
        ),
        Graph(
            "Connections that end", "By why, a second. `refused`: there was no room.", "reqps",
            (Query(total("reason", rate("connectrio_connections_closed_total", HOSTS)), "{{reason}}"),),
        ),
        Graph(
            "Requests that are refused for memory", "A second: requests hold as much as max_request_memory.", "reqps",
            (
                Query(
                    total("instance", rate("connectrio_requests_refused_for_memory_total", HOSTS)), "{{instance}}"
                ),
            ),
        ),
        Graph(
            "State", "How many hosts are in which state of their lives.", "short",
            (Query(total("state", f"connectrio_state{{{HOSTS}}}"), "{{state}}"),), is_stacked=True,
        ),
    ),
    "Processes": (
        Graph(
            "Processor", "Cores that are in use. One process uses about one.", "short",
            (Query(total("instance", rate("process_cpu_seconds_total", HOSTS)), "{{instance}}"),),
        ),
        Graph(
            "Memory", "Resident memory of all processes of a host.", "bytes",
            (Query(total("instance", f"process_resident_memory_bytes{{{HOSTS}}}"), "{{instance}}"),),
        ),
        Graph(
            "Open files", "Connections are among them.", "short",
            (Query(total("instance", f"process_open_fds{{{HOSTS}}}"), "{{instance}}"),),
        ),
        Graph(
            "Time since the start", "It falls to 0 where a host restarts.", "s",
            (Query(f"time() - process_start_time_seconds{{{HOSTS}}}", "{{instance}}"),),
        ),
        Graph(
            "Processes, restarts, and what does not load",
            "With several processes: those that answer, and those that were replaced in the last hour. Connectors that"
            " could not be loaded.",
            "short",
            (
                Query(f"connectrio_processes_ready{{{HOSTS}}}", "{{instance}} processes"),
                Query(f"increase(connectrio_process_restarts_total{{{HOSTS}}}[1h])", "{{instance}} replaced"),
                Query(f"connectrio_load_failures{{{HOSTS}}}", "{{instance}} not loaded"),
            ),
        ),
        Graph(
            "Log lines that were dropped", "A second: nobody takes the log fast enough.", "short",
            (Query(total("instance", rate("connectrio_log_lines_dropped_total", HOSTS)), "{{instance}}"),),
        ),
        Number(
            "Certificates", "The time until the first certificate expires; empty without TLS.", "s",
            Query(f"min(connectrio_certificate_expiry_timestamp_seconds{{{HOSTS}}}) - time()", "left"),
            ((None, RED), (2 * 86400, YELLOW), (14 * 86400, GREEN)),
        ),
        Number(
            "Versions", "How many hosts run which version.", "short",
            Query(f"count by (version, python, backend) (connectrio_build_info{{{HOSTS}}})",
                  "{{version}} on Python {{python}}, {{backend}}"),
            decimals=0, is_named=True,
        ),
    ),
}  # fmt: skip
