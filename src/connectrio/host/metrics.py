"""The metrics of a host and of its gRPC server; they are read at each scrape, so that calls need not count."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from anyio.lowlevel import current_token
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from connectrio._version import __version__
from connectrio.host.lifecycle import HostState
from connectrio.rpc import Server

if TYPE_CHECKING:
    from connectrio.rpc.tls import ServerTLS

__all__ = ["READY", "CertificateMetrics", "HostMetrics", "ReadyMetric", "ServerMetrics", "backend_name"]

READY = "connectrio_ready"

# of the event loop's class, or of trio's token
_BACKENDS = ("uvloop", "trio")


class ReadyMetric(Collector):
    """Whether new work is accepted: by a host, or by the supervisor of several in place of them.

    :param is_ready: returns that
    """

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready

    def collect(self) -> Iterator[Metric]:
        """Yield the gauge."""
        yield GaugeMetricFamily(READY, "Whether new work is accepted, as /readyz says: 1, else 0", self._is_ready())


class HostMetrics(Collector):
    """The state of a host. Make it where an event loop runs, which it names.

    :param state: returns the state
    :param load_failures: returns how many connectors could not be loaded
    """

    def __init__(self, state: Callable[[], HostState], load_failures: Callable[[], int]) -> None:
        self._state = state
        self._load_failures = load_failures
        self._build = {"version": __version__, "python": platform.python_version(), "backend": backend_name()}

    def collect(self) -> Iterator[Metric]:
        """Yield the state, how many connectors could not be loaded, and what the host is."""
        states = GaugeMetricFamily(
            "connectrio_state", "The state of the host: 1 for the one that it is in, else 0", labels=["state"]
        )
        now = self._state()
        for state in HostState:
            states.add_metric([state.value], state is now)
        yield states
        yield GaugeMetricFamily(
            "connectrio_load_failures", "Connectors that could not be loaded", self._load_failures()
        )
        yield InfoMetricFamily(
            "connectrio_build", "The version of connectrio, Python's and the event loop", self._build
        )


class ServerMetrics(Collector):
    """The numbers of a gRPC server, see `connectrio.rpc.ServerStats`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Yield the connections, the streams, the bytes, and what was reset or refused."""
        stats = self._server.stats
        connections = GaugeMetricFamily(
            "connectrio_connections_open", "gRPC connections that are open, by kind", labels=["kind"]
        )
        for kind in ("tcp", "tls", "unix", *sorted(stats.connections.keys() - {"tcp", "tls", "unix"})):
            connections.add_metric([kind], stats.connections.get(kind, 0))
        yield connections
        yield GaugeMetricFamily(
            "connectrio_streams_open", "HTTP/2 streams of calls that are being answered", stats.streams
        )
        yield CounterMetricFamily(
            "connectrio_streams_opened", "HTTP/2 streams that clients have opened", stats.streams_opened
        )
        resets = CounterMetricFamily(
            "connectrio_streams_reset",
            "HTTP/2 streams that were reset, by which side and with which error code",
            labels=["by", "code"],
        )
        for (by, code), count in stats.streams_reset.items():
            resets.add_metric([by, code], count)
        yield resets
        yield CounterMetricFamily(
            "connectrio_received_bytes", "Bytes of HTTP/2 that came from clients", stats.bytes_received
        )
        yield CounterMetricFamily("connectrio_sent_bytes", "Bytes of HTTP/2 that went to clients", stats.bytes_sent)
        yield CounterMetricFamily(
            "connectrio_requests_refused_for_memory",
            "Requests that were refused because requests held too much memory (max_request_memory)",
            stats.refused_for_memory,
        )


class CertificateMetrics(Collector):
    """When the certificates of the ports expire.

    :param ports: what each port with TLS shows, by its name: "gRPC" or "exporter"
    """

    def __init__(self, ports: Mapping[str, ServerTLS]) -> None:
        self._ports = ports

    def collect(self) -> Iterator[Metric]:
        """Yield the times; nothing for a certificate that tells none."""
        expiry = GaugeMetricFamily(
            "connectrio_certificate_expiry_timestamp_seconds",
            "When the certificate that is in use expires, in seconds since 1970",
            labels=["port", "file"],
        )
        for port, tls in self._ports.items():
            if tls.expires_at is not None:
                expiry.add_metric([port, str(tls.certfile)], tls.expires_at)
        yield expiry


def backend_name() -> str:
    """Return which kind of event loop runs."""
    modules = {cls.__module__.partition(".")[0] for cls in type(current_token().native_token).__mro__}
    return next((backend for backend in _BACKENDS if backend in modules), "asyncio")
