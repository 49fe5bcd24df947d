"""Everything about a host that can be set: by argument, by `connectrio serve`'s flags, environment and TOML."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from connectrio.rpc.options import MIB, ServerOptions

Backend = Literal["asyncio", "uvloop", "trio"]

_LIMITS = ("create_limit", "get_limit", "delete_limit", "metrics_limit", "logs_limit", "execute_limit")

__all__ = ["Backend", "HostSettings", "anyio_backend", "default_backend"]


_COUNTS = ("worker", "create_memory_size", "max_calls", "max_calls_per_connector", "max_log_streams")
_MAY_BE_ZERO = (
    "grace",
    "drain_delay",
    "timeout",
    "create_memory",
    "poll_retry",
    "poll_absorb",
    "max_waiting_calls",
    "watchdog",
    "max_stored_input_size",
)


@dataclass(frozen=True, kw_only=True)
class HostSettings(ServerOptions):
    """How a host serves: what follows, and what bounds its gRPC server. Times are in seconds, sizes in bytes.

    :ivar host: the address to listen on, for gRPC and HTTP alike; all interfaces if not given
    :ivar port: of the gRPC server; 0 picks a free one
    :ivar prometheus_port: of /metrics, /healthz and /readyz; 0 picks a free one
    :ivar worker: how many plain `def` methods of connectors may run at once, each in a thread. While others have taken
        what would be a connector's equal share of these, it may use threads beyond, of which there can be as many
        again. And how many event loops a package of connectors for flyte-sdk may have while its first one is blocked
    :ivar timeout: shut down, gracefully, after so many seconds; for tests
    :ivar modules: module names or .py files to load connectors from, beside the installed entry points
    :ivar entry_points: load the connectors that installed packages offer under `flyte.connectors`
    :ivar grace: how long calls in flight may take to finish after SIGTERM. Kubernetes kills after 30 s by default;
        this leaves some of that to close what connectors hold
    :ivar drain_delay: how long the host goes on accepting after SIGTERM, while its health says NOT_SERVING, so that
        load balancers stop sending first. 0 suits a client that reconnects by itself; behind a Kubernetes Service
        allow two periods of the readiness probe
    :ivar create_limit: for one CreateTask, whatever deadline the client sets
    :ivar get_limit: for one GetTask
    :ivar delete_limit: for one DeleteTask
    :ivar metrics_limit: for one GetTaskMetrics
    :ivar logs_limit: for one GetTaskLogs stream; none unless given, because following takes as long as the job
    :ivar execute_limit: for one ExecuteTaskSync of Flyte 1: a whole job, for which its client waits. Ten minutes are
        more than anybody should wait so; the executor of Flyte 1 gives up after ten seconds by default
    :ivar create_memory: for which a CreateTask that is sent again is answered with the job that is there, and a lost
        job is kept for the next attempt. The executor asks again within seconds, or when it has restarted
    :ivar create_memory_size: the most jobs that are remembered so; about a kilobyte each
    :ivar poll_retry: for which a GetTask that failed for a reason that passes is tried again, within half of what is
        left until its deadline. The executor waits 10 s; 0 turns it off
    :ivar poll_absorb: for which such failures are answered with the last known phase. The executor gives a task up
        after the sixth error in its whole life, and incidents of other systems last minutes; 0 turns it off
    :ivar max_calls: calls that may be with connectors at once, not counting streams of logs. Half of that is divided
        equally among the connectors, so that none takes all; the other half is for whoever needs it
    :ivar max_calls_per_connector: those of one task type
    :ivar max_waiting_calls: calls that may wait for room, each connector an equal part of them; one more is answered
        RESOURCE_EXHAUSTED. With max_calls and max_log_streams this is less than max_concurrent_streams, so that health
        checks and listings find room on any connection
    :ivar max_log_streams: GetTaskLogs streams at once; they can last as long as a job, so none waits for another's end
    :ivar watchdog: for which a method may block the event loop before it is named in the log and /readyz turns 503; 0
        turns it off. A connection is missed by its peer after a few
    :ivar max_stored_input_size: bytes read for one task of inputs that were too large for its request, which then says
        only where they are stored. Flyte stores what is larger than 10 MB; the values take several times as much
        memory as their bytes
    :ivar unsafe_pickle: LET WHOEVER CAN SEND REQUESTS TO THIS HOST RUN ANY CODE IN IT. Flyte sends values that it has
        no type for as Python pickles, and reading a pickle runs what its sender has put in it. Only for hosts that
        nobody but a trusted Flyte can reach; it needs cloudpickle, and the modules that the values are of
    :ivar reflection: answer clients that ask what is served, so that grpcurl and its like need no .proto files. It
        tells nothing that is not public, so it is on
    :ivar tls_cert: PEM file with the certificate for the gRPC port, and the authorities between it and the root; TLS if
        given. Read again when it changes, as are the next two
    :ivar tls_key: PEM file with its private key, not encrypted; not needed if that is in `tls_cert`
    :ivar tls_client_ca: PEM file with the authorities of which every client must show a certificate; none by default
    :ivar tls_minimum: the oldest version of TLS; 1.2 is the least that HTTP/2 allows, and what old clients need
    :ivar tls_handshake_timeout: for a client to begin TLS. It takes two round trips; ten seconds suffice for the
        slowest links, and bound what clients that say nothing can hold
    :ivar unix_socket: a Unix socket to listen on as well, for gRPC without TLS; removed in the end
    :ivar unix_socket_mode: its permissions, octal; who may write may connect. By default only this user; 660 lets the
        group in
    """

    host: str | None = None
    port: int = 8000
    prometheus_port: int = 9090
    worker: int = 10
    timeout: float | None = None
    modules: list[str] = field(default_factory=list)
    entry_points: bool = True
    grace: float = 25.0
    drain_delay: float = 0.0
    create_limit: float = 60.0
    get_limit: float = 30.0
    delete_limit: float = 60.0
    metrics_limit: float = 30.0
    logs_limit: float | None = None
    execute_limit: float = 600.0
    create_memory: float = 600.0
    create_memory_size: int = 4096
    poll_retry: float = 4.0
    poll_absorb: float = 600.0
    max_calls: int = 700
    max_calls_per_connector: int = 400
    max_waiting_calls: int = 150
    max_log_streams: int = 100
    watchdog: float = 1.0
    max_stored_input_size: int = 32 * MIB
    unsafe_pickle: bool = False
    reflection: bool = True
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_minimum: Literal["1.2", "1.3"] = "1.2"
    tls_handshake_timeout: float = 10.0
    unix_socket: Path | None = None
    unix_socket_mode: str = "600"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("port", "prometheus_port"):
            if not 0 <= getattr(self, name) < 65536:
                raise ValueError(f"{name} must be between 0 and 65535, got {getattr(self, name)}")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _MAY_BE_ZERO:
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in _LIMITS:
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} must be more than 0, got {seconds}")
        self._check_ways_in()

    def _check_ways_in(self) -> None:
        if self.tls_handshake_timeout <= 0:
            raise ValueError(f"tls_handshake_timeout must be more than 0, got {self.tls_handshake_timeout}")
        for name in ("tls_key", "tls_client_ca"):
            if getattr(self, name) is not None and self.tls_cert is None:
                raise ValueError(f"{name} is of no use without tls_cert, the certificate")
        if re.fullmatch("[0-7]{3}", self.unix_socket_mode) is None:
            raise ValueError(f"unix_socket_mode must be three octal digits such as 660, got {self.unix_socket_mode!r}")


def default_backend() -> Backend:
    """uvloop where it is installed, else asyncio."""
    return "uvloop" if importlib.util.find_spec("uvloop") is not None else "asyncio"


def anyio_backend(backend: Backend) -> tuple[str, dict[str, bool]]:
    """What `anyio.run` takes as `backend` and `backend_options`.

    :raises ValueError: an unknown name, or one whose package is not installed
    """
    if backend not in ("asyncio", "uvloop", "trio"):
        raise ValueError(f"unknown backend {backend!r}; choose asyncio, uvloop or trio")
    if backend != "asyncio" and importlib.util.find_spec(backend) is None:
        raise ValueError(f"backend {backend} is not installed; run: pip install 'connectrio[{backend}]'")
    return ("asyncio", {"use_uvloop": True}) if backend == "uvloop" else (backend, {})
