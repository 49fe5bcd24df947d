"""The metric of the log."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from connectrio.diagnostics import dropped_lines

__all__ = ["DroppedLines"]


class DroppedLines(Collector):
    """Collects the number of log lines that could not be written: of the whole process, which has one log."""

    def collect(self) -> Iterator[Metric]:
        """Yield the counter."""
        yield CounterMetricFamily(
            "connectrio_log_lines_dropped", "Log lines that could not be written", value=dropped_lines()
        )
