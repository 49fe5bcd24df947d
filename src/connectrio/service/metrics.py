"""The metrics of the service. Those called flyte_connector_… are exactly flyte-sdk's, so that dashboards keep working;
those called connectrio_… are ours."""

from __future__ import annotations

from functools import cache

from grpclib.const import Status
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    Summary,
)

from connectrio.logs.metrics import DroppedLines

__all__ = ["HTTP_CODES", "UNREGISTERED", "Metrics"]

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


class Metrics:
    """Counts the calls of one host.

    Each host has a registry of its own, so that several can live in one process. As in prometheus-client's default
    one, the collectors for the process, the platform and the garbage collector are in it.

    The counters without a method are counted where it happens: `metrics.poll_retries.labels(task_type).inc()`.

    :ivar registry: what the exporter serves; further collectors may be registered with it
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self.registry)
        self.registry.register(DroppedLines())
        self._successes = Counter(
            "flyte_connector_requests_success_total",
            "Total number of successful requests",
            ["task_type", "operation"],
            registry=self.registry,
        )
        self._failures = Counter(
            "flyte_connector_requests_failure_total",
            "Total number of failed requests",
            ["task_type", "operation", "error_code"],
            registry=self.registry,
        )
        self._latency = Summary(
            "flyte_connector_request_latency_seconds",
            "Time spent processing connector request",
            ["task_type", "operation"],
            registry=self.registry,
        )
        self._input_bytes = Summary(
            "flyte_connector_input_literal_bytes", "Size of input literal", ["task_type"], registry=self.registry
        )

        # looking a series up costs as much as counting; there are a few for each connector
        self._latency_of = cache(self._latency.labels)
        self._successes_of = cache(self._successes.labels)
        self._input_bytes_of = cache(self._input_bytes.labels)
        creates = self._counter(
            "creates", "CreateTask requests by where their answer came from: a new job or one that was there", "origin"
        )
        self._creates_of = cache(creates.labels)
        self.permanent_failures = self._counter(
            "permanent_failures", "Tasks that a connector has given up for good", "operation"
        )
        self.create_retries = self._counter(
            "create_retries", "Creates of jobs that were tried again after a transient error"
        )
        self.poll_retries = self._counter("poll_retries", "Polls that were tried again after a transient error")
        self.absorbed_polls = self._counter(
            "absorbed_polls", "Failed polls that were answered with the last known phase"
        )
        self.vendor_errors = self._counter(
            "vendor_errors", "Calls that failed because of the system behind the connector", "operation", "kind"
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

        self._connections_closed = Counter(
            "connectrio_connections_closed_total",
            "gRPC connections that have ended, by why",
            ["reason"],
            registry=self.registry,
        )

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

    def vendor_failed(self, task_type: str, operation: str, kind: str) -> None:
        """Count a call that failed because of the system behind the connector.

        :param kind: a word of `connectrio.connector.failures.failure_kind`
        """
        self.vendor_errors.labels(task_type, operation, kind).inc()

    def request_ended(self, task_type: str, operation: str, status: Status, seconds: float) -> None:
        """Count a call that took `seconds`.

        :param task_type: a registered one, or `UNREGISTERED`
        """
        self._latency_of(task_type, operation).observe(seconds)
        if status is Status.OK:
            self._successes_of(task_type, operation).inc()
        else:
            self._failures.labels(task_type, operation, str(HTTP_CODES[status])).inc()

    def inputs_received(self, task_type: str, size: int) -> None:
        """Observe the inputs of a CreateTask, `size` bytes of protobuf.

        :param task_type: a registered one, or `UNREGISTERED`
        """
        self._input_bytes_of(task_type).observe(size)
