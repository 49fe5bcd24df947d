"""For each alert: series for which it fires, with what it says, and series for which it must not.

The series are in promtool's notation: `1+2x60` begins with 1 and grows by 2 for 60 steps, `_x20` is missing for 20.
A step is a minute.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fires:
    """An alert that fires.

    :ivar value: as its annotations show the value of the expression
    :ivar labels: those of the series; `severity` and `alertname` come by themselves
    """

    value: str
    labels: dict[str, str]


def fires(value: str = "", **labels: str) -> Fires:
    return Fires(value, labels)


@dataclass(frozen=True)
class Trial:
    """Series, and what fires at a time.

    :ivar series: values by name and labels
    :ivar at: what fires at a time; nothing where the list is empty
    :ivar every: how often the rules are evaluated
    """

    series: dict[str, str]
    at: dict[str, list[Fires]]
    every: str = field(default="1m")


HOST = 'job="j",instance="a"'
OTHER = 'job="j",instance="b"'
DURATIONS = "connectrio_request_duration_seconds"
FAILURES = "flyte_connector_requests_failure_total"
ERRORS = "connectrio_client_errors_total"
CREATE = 'job="j",task_type="t",operation="create"'
GET = 'job="j",task_type="t",operation="get"'
ON_A = {"job": "j", "instance": "a"}
T = {"job": "j", "task_type": "t"}
CREATES = {**T, "operation": "create"}


def quiet(series: dict[str, str], *times: str, every: str = "1m") -> Trial:
    """Series for which the alert never fires."""
    return Trial(series, {time: [] for time in times or ("1m", "20m", "40m", "59m")}, every)


def gauge(name: str, bad: str, good: str, *, labels: str = "") -> dict[str, str]:
    """A gauge of one host that is bad, and of another one that is good."""
    more = f",{labels}" if labels else ""
    return {f"{name}{{{HOST}{more}}}": f"{bad}x60", f"{name}{{{OTHER}{more}}}": f"{good}x60"}


def buckets(labels: str, quick: int, slow: int, bounds: tuple[str, str]) -> dict[str, str]:
    """Calls a minute that take less than the first bound, and those that take less than the second."""
    first, second = bounds
    return {
        f'{DURATIONS}_bucket{{{labels},le="{first}"}}': f"0+{quick}x60",
        f'{DURATIONS}_bucket{{{labels},le="{second}"}}': f"0+{quick + slow}x60",
        f'{DURATIONS}_bucket{{{labels},le="+Inf"}}': f"0+{quick + slow}x60",
    }


def calls(labels: str, number: str) -> dict[str, str]:
    return {f"{DURATIONS}_count{{{labels}}}": number}


TRIALS: dict[str, list[Trial]] = {
    # hosts
    "ConnectrioAbsent": [
        Trial({"up": "1x60"}, {"4m": [], "7m": [fires()]}),
        quiet({f"connectrio_ready{{{HOST}}}": "0x60"}),
    ],
    "ConnectrioScrapeFails": [
        Trial(
            {f"connectrio_ready{{{HOST}}}": "1x10 _x50", f"up{{{HOST}}}": "1x10 0x49", f"up{{{OTHER}}}": "1x60"},
            {"14m": [], "30m": [fires(**ON_A)]},
        ),
        quiet({f"connectrio_ready{{{HOST}}}": "1x60", 'up{job="another",instance="x"}': "0x60"}),
    ],
    "ConnectrioNoneReady": [
        Trial(gauge("connectrio_ready", "0", "0"), {"1m": [], "5m": [fires(job="j")]}),
        quiet(gauge("connectrio_ready", "0", "1")),
    ],
    "ConnectrioNotReady": [
        Trial(gauge("connectrio_ready", "0", "1"), {"4m": [], "7m": [fires(**ON_A)]}),
        # that is another alert
        quiet(gauge("connectrio_ready", "0", "1") | gauge("connectrio_state", "1", "0", labels='state="draining"')),
        quiet(gauge("connectrio_ready", "0x3 1", "1")),
    ],
    "ConnectrioDrainTakesLong": [
        Trial(
            gauge("connectrio_state", "1", "0", labels='state="draining"'),
            {"14m": [], "30m": [fires(**ON_A, state="draining")]},
        ),
        quiet(gauge("connectrio_state", "1", "1", labels='state="serving"')),
    ],
    "ConnectrioHostRestarts": [
        Trial(
            gauge("connectrio_ready", "1", "1")
            | {
                f"process_start_time_seconds{{{HOST}}}": "100x10 200x10 300x10 400x30",
                f"process_start_time_seconds{{{OTHER}}}": "100x20 200x40",
            },
            {"25m": [], "40m": [fires("3", **ON_A)]},
        ),
        # an upgrade, and a restart after it; another program
        quiet(
            gauge("connectrio_ready", "1", "1")
            | {
                f"process_start_time_seconds{{{HOST}}}": "100x20 200x20 300x20",
                'process_start_time_seconds{job="k",instance="a"}': "100+1x60",
            }
        ),
    ],
    "ConnectrioProcessRestarts": [
        Trial(
            {
                f"connectrio_process_restarts_total{{{HOST}}}": "0+1x60",
                f"connectrio_process_restarts_total{{{OTHER}}}": "3x60",
            },
            {"2m": [], "30m": [fires("15", **ON_A)]},
        ),
        # one an hour
        quiet({f"connectrio_process_restarts_total{{{HOST}}}": "0x30 1x30"}),
    ],
    "ConnectrioLoadFailures": [
        Trial(gauge("connectrio_load_failures", "2", "0"), {"4m": [], "7m": [fires("2", **ON_A)]}),
        quiet(gauge("connectrio_load_failures", "0", "0")),
    ],
    "ConnectrioVersionSkew": [
        Trial(
            {
                f'connectrio_build_info{{{HOST},version="1"}}': "1x120",
                f'connectrio_build_info{{{OTHER},version="2"}}': "1x120",
            },
            {"50m": [], "90m": [fires("2", job="j")]},
        ),
        # an upgrade of a quarter of an hour; two deployments
        quiet(
            {
                f'connectrio_build_info{{{HOST},version="1"}}': "1x120",
                f'connectrio_build_info{{{OTHER},version="2"}}': "1x15 _x105",
                'connectrio_build_info{job="k",version="3"}': "1x120",
            },
            "14m",
            "100m",
        ),
    ],
    "ConnectrioCertificateExpires": [
        Trial(
            {
                f'connectrio_certificate_expiry_timestamp_seconds{{{HOST},port="gRPC",file="a.pem"}}': "1000000x120",
                f'connectrio_certificate_expiry_timestamp_seconds{{{OTHER},port="gRPC",file="b.pem"}}': "2000000x120",
            },
            {"50m": [], "100m": [fires("11d 12h 6m 40s", **ON_A, port="gRPC", file="a.pem")]},
        ),
        quiet({f"connectrio_certificate_expiry_timestamp_seconds{{{HOST}}}": "1216000x120"}, "1m", "100m"),
    ],
    "ConnectrioCertificateAlmostExpired": [
        Trial(
            {f'connectrio_certificate_expiry_timestamp_seconds{{{HOST},port="gRPC",file="a.pem"}}': "100000x120"},
            {"4m": [], "7m": [fires("1d 3h 39m 40s", **ON_A, port="gRPC", file="a.pem")]},
        ),
        quiet({f"connectrio_certificate_expiry_timestamp_seconds{{{HOST}}}": "180000x60"}),
    ],
    "ConnectrioLogLinesDropped": [
        Trial(
            {
                f"connectrio_log_lines_dropped_total{{{HOST}}}": "0x10 0+1x50",
                f"connectrio_log_lines_dropped_total{{{OTHER}}}": "9x60",
            },
            {"9m": [], "40m": [fires("15", **ON_A)]},
        ),
        # long ago
        quiet({f"connectrio_log_lines_dropped_total{{{HOST}}}": "0 7x59"}, "20m", "59m"),
    ],
    # calls
    "ConnectrioErrorBudgetBurnsFast": [
        # a tenth of the creates, while a thousand polls succeed for each
        Trial(
            calls(CREATE, "0+10x120")
            | calls(GET, "0+10000x120")
            | {f'{ERRORS}{{{CREATE},error_code="503"}}': "0+1x60 60x60"},
            # it ends some minutes after the errors
            {"3m": [], "30m": [fires("10%", **CREATES)], "95m": []},
        ),
        # 4 % for hours, no hour of which burns fast enough
        Trial(
            calls(CREATE, "0+25x600") | {f'{ERRORS}{{{CREATE},error_code="503"}}': "0+1x600"},
            {"590m": [fires("4%", **CREATES)]},
        ),
        # a few errors of a quiet host
        quiet(calls(CREATE, "0+1x10 10x50") | {f'{ERRORS}{{{CREATE},error_code="500"}}': "0x5 0+1x4 4x51"}),
        # errors that are the client's, and connectors without logs
        quiet(
            calls(CREATE, "0+10x60")
            | calls('job="j",task_type="t",operation="get_logs"', "0+10x60")
            | {
                f'{ERRORS}{{{CREATE},error_code="400"}}': "0+5x60",
                f'{ERRORS}{{{CREATE},error_code="499"}}': "0+5x60",
                f'{ERRORS}{{job="j",task_type="t",operation="get_logs",error_code="501"}}': "0+10x60",
            }
        ),
        # polls that fail and are absorbed
        quiet(calls(GET, "0+10x60") | {f'{FAILURES}{{{GET},error_code="503"}}': "0+10x60"}),
    ],
    "ConnectrioErrorBudgetBurnsSlowly": [
        # 1 %
        Trial(
            calls(CREATE, "0+10x5760") | {f'{ERRORS}{{{CREATE},error_code="503"}}': "0x100 0+0.1x5660"},
            {"100m": [], "5700m": [fires("1%", **CREATES)]},
            every="10m",
        ),
        # 0.4 %
        quiet(
            calls(CREATE, "0+10x5760") | {f'{ERRORS}{{{CREATE},error_code="503"}}': "0+0.04x5760"},
            "100m",
            "1000m",
            "5700m",
            every="10m",
        ),
    ],
    "ConnectrioCreatesSlow": [
        Trial(buckets(CREATE, 30, 30, ("5.0", "10.0")), {"9m": [], "30m": [fires("9.9s", **T)]}),
        quiet(buckets(CREATE, 60, 0, ("5.0", "10.0")) | buckets(GET, 0, 60, ("5.0", "10.0"))),
    ],
    "ConnectrioCallsSlow": [
        Trial(buckets(GET, 30, 30, ("5.0", "10.0")), {"9m": [], "30m": [fires("9.9s", **T, operation="get")]}),
        # a stream lasts as long as its client wants
        quiet(
            buckets(GET, 60, 0, ("5.0", "10.0"))
            | buckets('job="j",task_type="t",operation="get_logs"', 0, 60, ("5.0", "60.0"))
        ),
    ],
    "ConnectrioCreatesAbandoned": [
        Trial(
            {
                f'{FAILURES}{{{CREATE},instance="a",error_code="504"}}': "0x10 2x50",
                f'{FAILURES}{{{CREATE},instance="a",error_code="499"}}': "0x10 2x50",
            },
            {"9m": [], "20m": [fires("4", **T)], "40m": []},
        ),
        # one is an abort
        quiet(
            {f'{FAILURES}{{{CREATE},error_code="499"}}': "0x10 1x50", f'{FAILURES}{{{GET},error_code="499"}}': "0+1x60"}
        ),
    ],
    "ConnectrioUnknownTaskType": [
        Trial(
            {f'{FAILURES}{{job="j",task_type="unregistered",operation="create",error_code="404"}}': "0+6x60"},
            {"9m": [], "30m": [fires("60", job="j")]},
        ),
        # jobs that are gone
        quiet({f'{FAILURES}{{{GET},error_code="404"}}': "0+6x60"}),
        # asked once
        quiet({f'{FAILURES}{{job="j",task_type="unregistered",operation="get",error_code="404"}}': "0x10 1x50"}),
    ],
    "ConnectrioOrphanedJobs": [
        Trial(
            gauge("connectrio_orphaned_jobs", "3", "0", labels='task_type="t"'),
            {"14m": [], "30m": [fires("3", **ON_A, task_type="t")]},
        ),
        # adopted by the next attempt
        quiet(gauge("connectrio_orphaned_jobs", "3x5 0", "0", labels='task_type="t"')),
    ],
    "ConnectrioCreatesInDoubt": [
        Trial(
            {
                f'connectrio_creates_in_doubt_total{{{HOST},task_type="t"}}': "_x20 1x40",
                f'connectrio_creates_in_doubt_total{{{OTHER},task_type="t"}}': "0x20 2x40",
            },
            {
                "19m": [],
                "25m": [fires("1", **ON_A, task_type="t"), fires("2", job="j", instance="b", task_type="t")],
                "50m": [],
            },
        ),
        quiet({f'connectrio_creates_in_doubt_total{{{HOST},task_type="t"}}': "3x60"}, "20m", "59m"),
    ],
    "ConnectrioJobStoreAway": [
        Trial(gauge("connectrio_job_store_up", "0", "1"), {"0m": [], "2m": [fires(**ON_A)]}),
        quiet(gauge("connectrio_job_store_up", "1", "1")),
    ],
    # vendors
    "ConnectrioConnectorDown": [
        Trial(
            gauge("connectrio_connector_up", "0", "1", labels='task_type="t",version="0"'),
            {"4m": [], "7m": [fires(**ON_A, task_type="t", version="0")]},
        ),
        quiet(gauge("connectrio_connector_up", "0x3 1", "1", labels='task_type="t",version="0"')),
    ],
    "ConnectrioVendorDown": [
        Trial(
            calls(GET, "0+60x60")
            | calls('job="j",task_type="t",operation="get_logs"', "0+600x60")
            | {f'connectrio_vendor_errors_total{{{GET},kind="connection"}}': "0+45x60"},
            {"4m": [], "7m": [fires("75%", **T)]},
        ),
        quiet(calls(GET, "0+60x60") | {f'connectrio_vendor_errors_total{{{GET},kind="connection"}}': "0+30x60"}),
    ],
    "ConnectrioVendorErrors": [
        Trial(
            calls(GET, "0+60x60")
            | {
                f'connectrio_vendor_errors_total{{{GET},kind="throttled"}}': "0+6x60",
                f'connectrio_vendor_errors_total{{{GET},kind="timeout"}}': "0+3x60",
            },
            {"9m": [], "30m": [fires("10%", **T, kind="throttled")]},
        ),
        quiet(calls(GET, "0+60x60") | {f'connectrio_vendor_errors_total{{{GET},kind="throttled"}}': "0+3x60"}),
    ],
    "ConnectrioPollsAbsorbed": [
        Trial(
            {
                f'connectrio_absorbed_polls_total{{{HOST},task_type="t"}}': "0+6x60",
                f'connectrio_absorbed_polls_total{{{HOST},task_type="u"}}': "7x60",
            },
            {"9m": [], "30m": [fires("60", **T)]},
        ),
        # once
        quiet({f'connectrio_absorbed_polls_total{{{HOST},task_type="t"}}': "0x10 1x50"}),
    ],
    "ConnectrioBreakerOpen": [
        Trial(
            gauge("connectrio_open_breakers", "1", "0", labels='task_type="t"'),
            {"4m": [], "7m": [fires("1", **ON_A, task_type="t")]},
        ),
        quiet(gauge("connectrio_open_breakers", "1x4 0", "0", labels='task_type="t"')),
    ],
    "ConnectrioPolicyHoldsCalls": [
        Trial(
            gauge("connectrio_gate_waiting_calls", "5", "0", labels='task_type="t"'),
            {"14m": [], "30m": [fires("5", **ON_A, task_type="t")]},
        ),
        # a burst
        quiet(gauge("connectrio_gate_waiting_calls", "50x10 0", "0", labels='task_type="t"')),
    ],
    # capacity
    "ConnectrioCallsWait": [
        Trial(
            gauge("connectrio_waiting_calls", "3", "0", labels='task_type="t",kind="calls"'),
            {"4m": [], "7m": [fires("3", **ON_A, kind="calls")]},
        ),
        quiet(gauge("connectrio_waiting_calls", "3x3 0", "0", labels='task_type="t",kind="calls"')),
    ],
    "ConnectrioQueueFull": [
        Trial(
            gauge("connectrio_waiting_calls", "900", "700", labels='task_type="t",kind="calls"')
            | gauge("connectrio_waiting_calls_limit", "1000", "1000", labels='kind="calls"'),
            {"0m": [], "2m": [fires("90%", **ON_A, kind="calls")]},
        ),
        quiet(
            gauge("connectrio_waiting_calls", "800", "0", labels='task_type="t",kind="calls"')
            | gauge("connectrio_waiting_calls_limit", "1000", "1000", labels='kind="calls"')
        ),
    ],
    "ConnectrioCallsRefused": [
        Trial(
            {
                f'{FAILURES}{{{CREATE},instance="a",error_code="429"}}': "_x20 7x40",
                f'{FAILURES}{{{CREATE},instance="b",error_code="429"}}': "7x60",
            },
            {"19m": [], "25m": [fires("7", **CREATES, instance="a")], "50m": []},
        ),
        quiet({f'{FAILURES}{{{CREATE},instance="a",error_code="503"}}': "0+7x60"}),
    ],
    "ConnectrioThreadsBusy": [
        Trial(
            gauge("connectrio_busy_threads", "6", "9", labels='task_type="t",purpose="connector"')
            | gauge("connectrio_busy_threads", "4", "0", labels='task_type="u",purpose="connector"')
            | gauge("connectrio_busy_threads_limit", "10", "10", labels='purpose="connector"'),
            {"4m": [], "7m": [fires(**ON_A, purpose="connector")]},
        ),
        quiet(
            gauge("connectrio_busy_threads", "9", "9", labels='task_type="t",purpose="connector"')
            | gauge("connectrio_busy_threads_limit", "10", "10", labels='purpose="connector"')
        ),
    ],
    "ConnectrioStuckThreads": [
        Trial(
            gauge("connectrio_stuck_threads", "2", "0", labels='task_type="t",method="T.get"'),
            {"4m": [], "7m": [fires("2", **ON_A, task_type="t", method="T.get")]},
        ),
        # they returned after all
        quiet(gauge("connectrio_stuck_threads", "2x4 0", "0", labels='task_type="t",method="T.get"')),
    ],
    "ConnectrioEventLoopBlocked": [
        Trial(
            {
                f'connectrio_event_loop_blocks_total{{{GET},instance="a"}}': "_x20 1x40",
                f'connectrio_event_loop_blocks_total{{{GET},instance="b"}}': "5x60",
            },
            {"19m": [], "25m": [fires("1", **T, operation="get", instance="a")], "45m": []},
        ),
        quiet({f'connectrio_event_loop_blocks_total{{{GET},instance="a"}}': "5x60"}, "20m", "59m"),
    ],
    "ConnectrioEventLoopLate": [
        Trial(
            {
                f'connectrio_event_loop_delay_seconds_bucket{{{HOST},le="0.25"}}': "0+570x60",
                f'connectrio_event_loop_delay_seconds_bucket{{{HOST},le="0.5"}}': "0+600x60",
                f'connectrio_event_loop_delay_seconds_bucket{{{HOST},le="+Inf"}}': "0+600x60",
            },
            {"9m": [], "30m": [fires("450ms", **ON_A)]},
        ),
        quiet(
            {
                f'connectrio_event_loop_delay_seconds_bucket{{{HOST},le="0.25"}}': "0+597x60",
                f'connectrio_event_loop_delay_seconds_bucket{{{HOST},le="0.5"}}': "0+600x60",
                f'connectrio_event_loop_delay_seconds_bucket{{{HOST},le="+Inf"}}': "0+600x60",
            }
        ),
    ],
    "ConnectrioConnectionsRefused": [
        Trial(
            {
                f'connectrio_connections_closed_total{{{HOST},reason="refused"}}': "0x10 9x50",
                f'connectrio_connections_closed_total{{{OTHER},reason="refused"}}': "7x60",
            },
            {"9m": [], "15m": [fires("9", **ON_A, reason="refused")], "40m": []},
        ),
        quiet({f'connectrio_connections_closed_total{{{HOST},reason="client"}}': "0+9x60"}),
    ],
    "ConnectrioRequestsRefusedForMemory": [
        Trial(
            {
                f"connectrio_requests_refused_for_memory_total{{{HOST}}}": "0x10 9x50",
                f"connectrio_requests_refused_for_memory_total{{{OTHER}}}": "7x60",
            },
            {"9m": [], "15m": [fires("9", **ON_A)], "40m": []},
        ),
        quiet({f"connectrio_requests_refused_for_memory_total{{{HOST}}}": "7x60"}),
    ],
}
