"""The metrics of the service. Names, labels and help texts are flyte-sdk's, so that dashboards keep working."""

from __future__ import annotations

from grpclib.const import Status
from prometheus_client import CollectorRegistry, Counter, GCCollector, PlatformCollector, ProcessCollector, Summary

__all__ = ["UNREGISTERED", "Metrics", "http_code"]

UNREGISTERED = "unregistered"
"""The `task_type` of calls for types that this host does not serve; a client cannot make new series up."""

# google/rpc/code.proto has the mapping in its comments
_HTTP_CODES = {
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


def http_code(status: Status) -> int:
    """The HTTP status that means the same, for the `error_code` label."""
    return _HTTP_CODES[status]


class Metrics:
    """What is counted about the calls of one host.

    Each host has a registry of its own, so that several can live in one process. As in prometheus-client's default
    one, the collectors for the process, the platform and the garbage collector are in it.

    :ivar registry: what the exporter serves; further collectors may be registered with it
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self.registry)
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

    def request_ended(self, task_type: str, operation: str, status: Status, seconds: float) -> None:
        """Count a call that took `seconds`.

        :param task_type: a registered one, or `UNREGISTERED`
        """
        self._latency.labels(task_type, operation).observe(seconds)
        if status is Status.OK:
            self._successes.labels(task_type, operation).inc()
        else:
            self._failures.labels(task_type, operation, str(http_code(status))).inc()

    def inputs_received(self, task_type: str, size: int) -> None:
        """Observe the inputs of a CreateTask, `size` bytes of protobuf.

        :param task_type: a registered one, or `UNREGISTERED`
        """
        self._input_bytes.labels(task_type).observe(size)
