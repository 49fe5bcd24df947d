"""The metrics of the service. Those called flyte_connector_… are exactly flyte-sdk's, so that dashboards keep working;
those called connectrio_… are ours."""

from __future__ import annotations

import collections
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TypeVar

from grpclib.const import Status
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    Summary,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from connectrio.connector.transient import failure_kind
from connectrio.logs.metrics import DroppedLines
from connectrio.rpc.exceptions import only_leaf
from connectrio.service.operations import Operation
from connectrio.telemetry.rates import Totals

__all__ = ["DURATION_BUCKETS", "HTTP_CODES", "UNREGISTERED", "Metrics"]

UNREGISTERED = "unregistered"
"""The `task_type` of calls for types that this host does not serve, so that clients cannot add series."""

# for the `error_code` label; google/rpc/code.proto has the mapping in its comments
HTTP_CODES = {
    Status.OK: 200,
    Status.CANCELLED: 499,
    Status.UNKNOWN: 500,
    Status.INVALID_ARGUMENT: 400,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.FAILED_PRECONDITION: 400,
    Status.ABORTED: 409,
    Status.OUT_OF_RANGE: 400,
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
    Status.UNAVAILABLE: 503,
    Status.DATA_LOSS: 500,
    Status.UNAUTHENTICATED: 401,
}

# seconds: the upper bounds of the histogram's buckets. A poll that is answered from memory takes one millisecond,
# Flyte's executor waits for ten seconds, and a `create` may take a minute
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BOUNDS = [*map(str, DURATION_BUCKETS), "+Inf"]

# seconds; of the event loop's delays. An idle one is late by up to a millisecond, the resolution of its timers
_DELAY_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

# characters of an exemplar's names and values together (OpenMetrics 1.0, "Exemplars"); scrapers refuse longer ones
_LONGEST_EXEMPLAR = 128


_NOT_OFFERED = str(HTTP_CODES[Status.UNIMPLEMENTED])


class _Durations:
    """How long calls of one kind took.

    :ivar counts: the calls of each bucket, those that took longer than the last bound in one more
    :ivar seconds: the sum of all
    :ivar exemplars: the last one of each bucket that has any
    """

    __slots__ = ("counts", "created", "exemplars", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(DURATION_BUCKETS) + 1)
        self.seconds = 0.0
        self.created = time.time()
        self.exemplars: dict[int, Exemplar] = {}

    def add(self, other: _Durations) -> None:
        """Count the calls of `other` too."""
        self.counts = [one + another for one, another in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds
        self.created = min(self.created, other.created)
        for bucket, exemplar in dict(other.exemplars).items():
            mine = self.exemplars.get(bucket)
            if mine is None or float(mine.timestamp or 0) <= float(exemplar.timestamp or 0):
                self.exemplars[bucket] = exemplar


Key = TypeVar("Key")


class _Series(dict[Key, _Durations]):
    """The durations by labels, in the order in which they were asked for first."""

    def __missing__(self, labels: Key) -> _Durations:
        durations = self[labels] = _Durations()
        return durations


class _Requests(Collector):
    """The calls that have ended: flyte-sdk's counters and summary, and a histogram, all from the same numbers.

    A call costs two additions to plain numbers: prometheus-client's objects have a lock for each number. All calls end
    on one thread, that of the event loop; a scrape in another thread may miss the last one, or its seconds.

    :ivar succeeded: by task type and operation
    :ivar failed: by task type, operation and `error_code`
    :ivar told: those of the failed calls whose clients got no answer in place of the error, by the same
    """

    def __init__(self) -> None:
        self.succeeded: _Series[tuple[str, str]] = _Series()
        self.failed: _Series[tuple[str, str, str]] = _Series()
        self.told: collections.Counter[tuple[str, str, str]] = collections.Counter()

    def totals(self, absorbed: Mapping[str, int], retries: Mapping[str, int]) -> dict[str, Totals]:
        """Return the calls of each task type.

        :param absorbed: how many failed polls were answered with the last known phase, by task type
        :param retries: how often the host tried again, by task type
        """
        # by task type: calls, failures, and the buckets of the calls that are not streams
        calls: dict[str, int] = {}
        failures: collections.Counter[str] = collections.Counter()
        timed: dict[str, list[list[int]]] = collections.defaultdict(list)
        succeeded = ((*labels, "", each) for labels, each in self.succeeded.items())
        failed = ((*labels, each) for labels, each in self.failed.items())
        for name, operation, code, each in (*succeeded, *failed):
            ended = sum(each.counts)
            calls[name] = calls.get(name, 0) + ended
            if code and code != _NOT_OFFERED:  # nobody is at fault where a connector has no logs or metrics
                failures[name] += ended
            if operation != "get_logs":  # a stream takes as long as its client wants
                timed[name].append(each.counts)
        empty = [0] * (len(DURATION_BUCKETS) + 1)
        return {
            name: Totals(
                calls=number,
                failures=failures[name],
                absorbed=absorbed.get(name, 0),
                retries=retries.get(name, 0),
                durations=tuple(map(sum, zip(empty, *timed[name], strict=True))),
            )
            for name, number in calls.items()
        }

    def collect(self) -> Iterator[Metric]:
        """Yield flyte-sdk's families, the histogram, and the calls that failed for their clients."""
        told = list(self.told.items())  # first, so that they are never more than those that failed
        # `list` is one step of the interpreter, so that no call can end in the middle
        succeeded, failed = list(self.succeeded.items()), list(self.failed.items())
        ended = sorted([*succeeded, *failed], key=lambda item: item[1].created)
        durations: _Series[tuple[str, str]] = _Series()
        for labels, each in ended:
            durations[labels[0], labels[1]].add(each)
        shows_created = _shows_created()

        name = "flyte_connector_requests_success"
        successes = Metric(name, "Total number of successful requests", "counter")
        for labels, each in succeeded:
            named = {"task_type": labels[0], "operation": str(labels[1])}
            successes.add_sample(f"{name}_total", named, float(sum(each.counts)))
            if shows_created:
                successes.add_sample(f"{name}_created", named, each.created)
        yield successes

        name = "flyte_connector_requests_failure"
        failures = Metric(name, "Total number of failed requests", "counter")
        for (task_type, operation, code), each in failed:
            named = {"task_type": task_type, "operation": str(operation), "error_code": code}
            failures.add_sample(f"{name}_total", named, float(sum(each.counts)))
            if shows_created:
                failures.add_sample(f"{name}_created", named, each.created)
        yield failures

        name = "flyte_connector_request_latency_seconds"
        latency = Metric(name, "Time spent processing connector request", "summary")
        for labels, each in durations.items():
            named = {"task_type": labels[0], "operation": str(labels[1])}
            latency.add_sample(f"{name}_count", named, float(sum(each.counts)))
            latency.add_sample(f"{name}_sum", named, each.seconds)
            if shows_created:
                latency.add_sample(f"{name}_created", named, each.created)
        yield latency

        yield _histogram(durations)

        name = "connectrio_client_errors"
        errors = Metric(
            name, "Calls that failed for their clients: polls that were absorbed are not among them", "counter"
        )
        for (task_type, operation, code), count in told:
            named = {"task_type": task_type, "operation": str(operation), "error_code": code}
            errors.add_sample(f"{name}_total", named, float(count))
        yield errors


def _histogram(durations: _Series[tuple[str, str]]) -> Metric:
    name = "connectrio_request_duration_seconds"
    histogram = Metric(name, "How long calls took, from their arrival at the service to their end", "histogram")
    for (task_type, operation), each in durations.items():
        named = {"task_type": task_type, "operation": str(operation)}
        count = 0
        for bucket, bound in enumerate(_BOUNDS):
            count += each.counts[bucket]
            exemplar = each.exemplars.get(bucket)
            histogram.add_sample(f"{name}_bucket", named | {"le": bound}, float(count), exemplar=exemplar)
        histogram.add_sample(f"{name}_count", named, float(count))
        histogram.add_sample(f"{name}_sum", named, each.seconds)
    return histogram


def _by_task_type(counter: Counter) -> collections.Counter[str]:
    """Return the sums of a counter that has the label task type."""
    found: collections.Counter[str] = collections.Counter()
    for sample in (sample for family in counter.collect() for sample in family.samples):
        if sample.name.endswith("_total"):
            found[sample.labels["task_type"]] += int(sample.value)
    return found


def _shows_created() -> bool:
    """Return whether prometheus-client's own counters show when they began, which its settings can turn off."""
    (family,) = Counter("any", "any", registry=None).collect()
    return len(family.samples) > 1


class Metrics:
    """Counts the calls of one host.

    Each host has a registry of its own, so that several can live in one process. As in prometheus-client's default
    one, the collectors for the process, the platform and the garbage collector are in it.

    The counters without a method are counted where it happens: `metrics.absorbed_polls.labels(task_type).inc()`.

    :ivar registry: what the exporter serves; further collectors may be registered with it
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self.registry)
        self.registry.register(DroppedLines())
        self._requests = _Requests()
        self.registry.register(self._requests)
        self._input_bytes = Summary(
            "flyte_connector_input_literal_bytes", "Size of input literal", ["task_type"], registry=self.registry
        )

        # looking a series up costs as much as counting; there are a few for each connector
        self._input_bytes_of = cache(self._input_bytes.labels)
        creates = self._counter(
            "creates", "CreateTask requests by where their answer came from: a new job or one that was there", "origin"
        )
        self._creates_of = cache(creates.labels)
        self.permanent_failures = self._counter(
            "permanent_failures", "Tasks that a connector has given up for good", "operation"
        )
        self._create_retries = self._counter(
            "create_retries", "Creates of jobs that were tried again after a transient error, by its kind", "kind"
        )
        self._poll_retries = self._counter(
            "poll_retries", "Polls that were tried again after a transient error, by its kind", "kind"
        )
        self.absorbed_polls = self._counter(
            "absorbed_polls", "Failed polls that were answered with the last known phase"
        )
        self._vendor_errors = self._counter(
            "vendor_errors", "Errors of the systems that connectors call, by kind", "operation", "kind"
        )
        self.connector_up = Gauge(
            "connectrio_connector_up",
            "Whether the lifespan of a connector is open, so that it is called: 1, else 0",
            ["task_type", "version"],
            registry=self.registry,
        )
        self.loop_blocks = self._counter(
            "event_loop_blocks", "Times that a method has blocked the event loop", "operation"
        )
        self.loop_blocked_seconds = self._counter(
            "event_loop_blocked_seconds", "How long methods have blocked the event loop", "operation"
        )
        self.loop_lag = Gauge(
            "connectrio_event_loop_lag_seconds",
            "By how much the event loop is late: at worst in the last second, or now if that is more",
            registry=self.registry,
        )
        self.loop_delays = Histogram(
            "connectrio_event_loop_delay_seconds",
            "By how much the event loop was late, measured ten times a second",
            buckets=_DELAY_BUCKETS,
            registry=self.registry,
        )
        self._connections_closed = Counter(
            "connectrio_connections_closed_total",
            "gRPC connections that have ended, by why",
            ["reason"],
            registry=self.registry,
        )
        self._connections_closed.labels("refused")  # from 0, so that the first one is an increase

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        """Return a counter of ours, with `labels` after the label `task_type`."""
        return Counter(f"connectrio_{name}_total", text, ["task_type", *labels], registry=self.registry)

    def connection_ended(self, reason: str) -> None:
        """Count a connection that has ended.

        :param reason: one of the words of `connectrio.rpc.Server`
        """
        self._connections_closed.labels(reason).inc()

    def job_created(self, task_type: str, origin: str) -> None:
        """Count a CreateTask that was given a job.

        :param origin: "fresh", "joined", "replayed" or "adopted"
        """
        self._creates_of(task_type, origin).inc()

    def totals(self) -> dict[str, Totals]:
        """Return the calls that have ended so far, by task type."""
        retries = _by_task_type(self._poll_retries) + _by_task_type(self._create_retries)
        return self._requests.totals(_by_task_type(self.absorbed_polls), retries)

    def request_ended(
        self,
        task_type: str,
        operation: str,
        status: Status,
        seconds: float,
        exemplar: Mapping[str, str] | None = None,
        *,
        is_answered: bool = False,
    ) -> None:
        """Count a call that took `seconds`. Call it on one thread.

        :param task_type: a registered one, or `UNREGISTERED`
        :param exemplar: names the call, as `{"trace_id": …}` does. OpenMetrics shows the last one of each bucket; one
            of more than 128 characters is left out
        :param is_answered: the call failed, and its client got an answer in place of the error
        """
        if status is Status.OK:
            durations = self._requests.succeeded[task_type, operation]
        else:
            durations = self._requests.failed[task_type, operation, str(HTTP_CODES[status])]
        bucket = bisect_left(DURATION_BUCKETS, seconds)
        durations.counts[bucket] += 1
        durations.seconds += seconds
        if status is not Status.OK and not is_answered:
            self._requests.told[task_type, operation, str(HTTP_CODES[status])] += 1
        if exemplar:
            labels = dict(exemplar)
            if sum(len(name) + len(value) for name, value in labels.items()) <= _LONGEST_EXEMPLAR:
                durations.exemplars[bucket] = Exemplar(labels, seconds, time.time())

    def vendor_failed(self, task_type: str, operation: str, kind: str) -> None:
        """Count an error of the system that a connector calls.

        :param task_type: a registered one, or `UNREGISTERED`
        :param kind: one of the words of `connectrio.connector.transient.failure_kind`
        """
        self._vendor_errors.labels(task_type, operation, kind).inc()

    def retried(self, task_type: str, operation: Operation, error: Exception) -> None:
        """Count that a create or a poll is tried again because of `error`.

        :param task_type: a registered one, or `UNREGISTERED`
        """
        counter = self._create_retries if operation is Operation.CREATE else self._poll_retries
        counter.labels(task_type, failure_kind(only_leaf(error))).inc()

    def inputs_received(self, task_type: str, size: int) -> None:
        """Observe the inputs of a CreateTask, `size` bytes of protobuf.

        :param task_type: a registered one, or `UNREGISTERED`
        """
        self._input_bytes_of(task_type).observe(size)
