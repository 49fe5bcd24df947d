"""Convert jobs to Flyte's messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from connectrio.connector.base import Phase, Resource
from connectrio.connector.failures import InvalidRequestError
from connectrio.connectors.duckdb._jobs import Snapshot
from connectrio.connectors.duckdb._records import JobRecord, JobState, LogEntry
from connectrio.idl.flyteidl2.connector import (
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    GetTaskMetricsResponse,
)
from connectrio.idl.flyteidl2.core import ExecutionMetricResult
from connectrio.idl.flyteidl2.logs.dataplane import LogLine, LogLineOriginator
from connectrio.idl.google.protobuf import Struct, Timestamp
from connectrio.literals import DataFrame

__all__ = ["log_page", "metrics", "resource"]

# lines of at most 4 KiB each: a message stays far below the 4 MiB that gRPC clients accept
LINES_PER_MESSAGE = 100


def resource(snapshot: Snapshot) -> Resource:
    """Return the state of a job, with its output once it has SUCCEEDED."""
    record = snapshot.record
    outputs = None
    if record.state is JobState.SUCCEEDED and record.output is not None and record.result_bytes is not None:
        outputs = {record.output: DataFrame(record.result_uri, format="parquet")}
    return Resource(
        phase=Phase[record.state.name], message=snapshot.message, outputs=outputs, custom_info=_custom_info(snapshot)
    )


def _custom_info(snapshot: Snapshot) -> dict[str, Any]:
    """Return all known facts; times as ISO 8601 in UTC, `progress` in percent, `seconds` of running."""
    record = snapshot.record
    info = {
        "job_id": record.job_id,
        "database": record.database,
        "statement_digest": record.statement,
        "queued_at": record.queued_at.isoformat(),
        "started_at": record.started_at and record.started_at.isoformat(),
        "finished_at": record.finished_at and record.finished_at.isoformat(),
        "seconds": record.seconds,
        "progress": snapshot.progress,
        "rows": record.rows,
        "columns": None if record.columns is None else [asdict(column) for column in record.columns],
        "result": record.result_uri if record.result_bytes is not None else None,
    }
    return {key: value for key, value in info.items() if value is not None}


def _of_usage(name: str) -> Callable[[JobRecord], float | None]:
    return lambda record: None if record.usage is None else getattr(record.usage, name)


# name → unit, value; the names are what `queries` selects by
_METRICS: dict[str, tuple[str, Callable[[JobRecord], float | None]]] = {
    "rows_read": ("rows", _of_usage("rows_read")),
    "rows_produced": ("rows", lambda record: record.rows),
    "result_bytes": ("bytes", lambda record: record.result_bytes),
    "elapsed_seconds": ("seconds", lambda record: record.seconds),
    "cpu_seconds": ("seconds", _of_usage("cpu_seconds")),
    "peak_memory_bytes": ("bytes", _of_usage("peak_memory_bytes")),
    "peak_spilled_bytes": ("bytes", _of_usage("peak_spilled_bytes")),
}


def metrics(record: JobRecord, queries: Iterable[str]) -> GetTaskMetricsResponse:
    """Return the metrics of a job, each as `{"value": number, "unit": text}`; the value is null while it is not known.

    :param queries: names of metrics; all metrics if it is empty
    :raises InvalidRequestError: there is no metric of such a name; the text lists the names
    """
    names = list(queries) or list(_METRICS)
    unknown = [name for name in names if name not in _METRICS]
    if unknown:
        raise InvalidRequestError(
            f"DuckDB jobs have no metric {', '.join(map(repr, unknown))}; there are: {', '.join(_METRICS)}"
        )
    results = []
    for name in names:
        unit, value = _METRICS[name]
        data = Struct.from_dict({"value": value(record), "unit": unit})
        results.append(ExecutionMetricResult(metric=name, data=data))
    return GetTaskMetricsResponse(results=results)


def log_page(entries: list[LogEntry], ended: bool, token: str, lines: int) -> list[GetTaskLogsResponse]:
    """Return the log lines from `token` on, and a header with the token of the next page.

    :param ended: whether the log is complete; then the token after its last line is ""
    :param token: "" for the beginning, or the token of a header
    :param lines: the most lines to return; 0 for all
    :raises InvalidRequestError: `token` is not from this connector
    """
    if token and not (token.isascii() and token.isdigit()):
        raise InvalidRequestError(
            f"{token!r} is not a token of a DuckDB job's log; take it from a header, or leave it empty"
        )
    start = min(int(token or 0), len(entries))
    end = min(start + lines, len(entries)) if lines else len(entries)
    page = [
        LogLine(timestamp=Timestamp.from_datetime(entry.at), message=entry.message, originator=LogLineOriginator.SYSTEM)
        for entry in entries[start:end]
    ]
    messages = [
        GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=page[first : first + LINES_PER_MESSAGE]))
        for first in range(0, len(page), LINES_PER_MESSAGE)
    ]
    following = "" if ended and end == len(entries) else str(end)
    return [*messages, GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token=following))]
