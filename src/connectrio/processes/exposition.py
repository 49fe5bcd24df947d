"""Merge the metrics of several processes.

Counters, summaries and histograms add up over all processes, also those that have ended: a restart must not make them
decrease. Gauges add up over the processes that live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

__all__ = ["Family", "Merged", "snapshot"]

Labels = tuple[tuple[str, str], ...]

_CUMULATIVE = {"counter", "summary", "histogram"}
# times and limits, of which the sum has no meaning: the least value counts
_EARLIEST = ("_created", "process_start_time_seconds", "process_max_fds")


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric and its samples.

    :ivar samples: (name, labels, value)
    """

    name: str
    documentation: str
    kind: str
    unit: str
    samples: list[tuple[str, dict[str, str], float]]


def snapshot(registry: CollectorRegistry) -> list[Family]:
    """Return the present values of all metrics of a registry."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            metric.unit,
            [(sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


class Merged(Collector):
    """Collects the sum of the last snapshots of all processes, for /metrics."""

    def __init__(self) -> None:
        self._live: dict[Any, list[Family]] = {}
        self._ended: list[Family] = []

    def update(self, source: object, families: list[Family]) -> None:
        """Store the newest snapshot of a process."""
        self._live[source] = families

    def ended(self, source: object) -> None:
        """Keep the last snapshot of a process that has ended, without its gauges."""
        families = self._live.pop(source, [])
        kept = [family for family in families if family.kind in _CUMULATIVE]
        self._ended = list(_merge([self._ended, kept]))

    def collect(self) -> Iterator[Metric]:
        """Yield the merged metrics, for `CollectorRegistry`."""
        for family in _merge([self._ended, *self._live.values()]):
            metric = Metric(family.name, family.documentation, family.kind, family.unit)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            yield metric


def _merge(snapshots: Iterable[list[Family]]) -> Iterator[Family]:
    merged: dict[str, tuple[Family, dict[tuple[str, Labels], float]]] = {}
    for families in snapshots:
        for family in families:
            _, samples = merged.setdefault(family.name, (family, {}))
            for name, labels, value in family.samples:
                key = name, tuple(sorted(labels.items()))
                samples[key] = value if key not in samples else _combine(family, name, samples[key], value)
    for family, samples in merged.values():
        yield Family(
            family.name,
            family.documentation,
            family.kind,
            family.unit,
            [(name, dict(labels), value) for (name, labels), value in samples.items()],
        )


def _combine(family: Family, name: str, one: float, other: float) -> float:
    if name.endswith(_EARLIEST):
        return min(one, other)
    if family.kind == "info" or name.endswith("_info"):
        return max(one, other)
    return one + other
