"""Merge the metrics of several processes.

Counters, summaries and histograms add up over all processes, also those that have ended: a restart must not make them
decrease. Gauges add up over the processes that live, limits too, but for a few of which the sum has no meaning: there
the least or the largest value counts. Of exemplars, the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

__all__ = ["Family", "Merged", "Sample", "snapshot"]

Labels = tuple[tuple[str, str], ...]

_CUMULATIVE = {"counter", "summary", "histogram"}
# times, and limits of each process; and the gauges that say how bad it is
_LEAST = (
    "_created", "connectrio_job_store_up", "process_start_time_seconds", "process_max_fds", "_expiry_timestamp_seconds",
)  # fmt: skip
_LARGEST = ("_info", "connectrio_event_loop_lag_seconds", "connectrio_load_failures")


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric and its samples."""

    name: str
    documentation: str
    kind: str
    unit: str
    samples: list[Sample]


class Sample(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A value of a metric.

    :ivar exemplar: its labels, its value, and when it was, in seconds since 1970
    """

    name: str
    labels: dict[str, str]
    value: float
    exemplar: tuple[dict[str, str], float, float] | None = None


def snapshot(registry: CollectorRegistry) -> list[Family]:
    """Return the present values of all metrics of a registry."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            metric.unit,
            [
                Sample(sample.name, dict(sample.labels), float(sample.value), _plain(sample.exemplar))
                for sample in metric.samples
            ],
        )
        for metric in registry.collect()
    ]


def _plain(exemplar: Exemplar | None) -> tuple[dict[str, str], float, float] | None:
    return None if exemplar is None else (exemplar.labels, exemplar.value, float(exemplar.timestamp or 0))


class Merged(Collector):
    """Collects the sum of the last snapshots of all processes, for /metrics."""

    def __init__(self) -> None:
        self._live: dict[Any, list[Family]] = {}
        self._ended: list[Family] = []

    def update(self, source: object, families: list[Family]) -> None:
        """Store the newest snapshot of a process."""
        self._live[source] = families

    def silent(self, source: object) -> None:
        """Keep what a process that does not answer has counted, without its gauges, which may be true no more."""
        self._live[source] = [family for family in self._live.get(source, []) if family.kind in _CUMULATIVE]

    def ended(self, source: object) -> None:
        """Keep the last snapshot of a process that has ended, without its gauges."""
        families = self._live.pop(source, [])
        kept = [family for family in families if family.kind in _CUMULATIVE]
        self._ended = list(_merge([self._ended, kept]))

    def collect(self) -> Iterator[Metric]:
        """Yield the merged metrics, for `CollectorRegistry`."""
        for family in _merge([self._ended, *self._live.values()]):
            metric = Metric(family.name, family.documentation, family.kind, family.unit)
            for each in family.samples:
                exemplar = None if each.exemplar is None else Exemplar(*each.exemplar)
                metric.add_sample(each.name, each.labels, each.value, exemplar=exemplar)
            yield metric


def _merge(snapshots: Iterable[list[Family]]) -> Iterator[Family]:
    merged: dict[str, tuple[Family, dict[tuple[str, Labels], Sample]]] = {}
    for families in snapshots:
        for family in families:
            _, samples = merged.setdefault(family.name, (family, {}))
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                samples[key] = sample if key not in samples else _combine(family, samples[key], sample)
    for family, samples in merged.values():
        yield msgspec.structs.replace(family, samples=list(samples.values()))


def _combine(family: Family, one: Sample, other: Sample) -> Sample:
    if one.name.endswith(_LEAST):
        value = min(one.value, other.value)
    elif family.kind == "info" or one.name.endswith(_LARGEST):
        value = max(one.value, other.value)
    else:
        value = one.value + other.value
    exemplars = [each.exemplar for each in (one, other) if each.exemplar is not None]
    return Sample(one.name, one.labels, value, max(exemplars, key=lambda each: each[2], default=None))
