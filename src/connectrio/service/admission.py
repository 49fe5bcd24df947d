"""How many calls may be with connectors at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from connectrio.service.operations import Operation
from connectrio.service.slots import Slots

__all__ = ["Admission"]


class Admission:
    """Room for calls. Streams of logs, which can be followed for as long as a job takes, have room of their own.

    :param calls: at once
    :param calls_each: for any one connector
    :param waiting: calls that may wait for room
    :param log_streams: at once; none waits
    """

    def __init__(self, *, calls: int = 700, calls_each: int = 400, waiting: int = 150, log_streams: int = 100) -> None:
        self._calls = Slots(calls, each=calls_each, waiting=waiting)
        self._streams = Slots(log_streams, waiting=0)

    def slots(self, operation: Operation) -> Slots:
        """Where a call for `operation` takes a place."""
        return self._streams if operation is Operation.GET_LOGS else self._calls

    def expect(self, task_types: Iterable[str]) -> None:
        """Divide the room among the connectors for these."""
        names = list(task_types)
        self._calls.expect(names)
        self._streams.expect(names)

    def show(self, registry: CollectorRegistry) -> None:
        """Add how the room is used to the metrics."""
        registry.register(_Usage(self._calls, self._streams))


class _Usage(Collector):
    """Asked at each scrape, so that calls need not count."""

    def __init__(self, calls: Slots, streams: Slots) -> None:
        self._kinds = {"calls": calls, "log_streams": streams}

    def collect(self) -> Iterator[Metric]:
        active = GaugeMetricFamily(
            "connectrio_active_calls", "Calls that are with a connector", labels=["task_type", "kind"]
        )
        waiting = GaugeMetricFamily(
            "connectrio_waiting_calls", "Calls that wait for room", labels=["task_type", "kind"]
        )
        for kind, slots in self._kinds.items():
            for name, entered, queued in slots.usage():
                active.add_metric([name, kind], entered)
                waiting.add_metric([name, kind], queued)
        yield active
        yield waiting
