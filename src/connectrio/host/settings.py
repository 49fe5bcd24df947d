"""The settings of a host: arguments, `connectrio serve`'s flags, environment variables and TOML."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from connectrio.rpc.options import MIB, ServerOptions

__all__ = ["Backend", "HostSettings", "anyio_backend", "default_backend"]

Backend = Literal["asyncio", "uvloop", "trio"]

_LIMITS = "create_limit get_limit delete_limit metrics_limit logs_limit execute_limit"
_TIMES = "grace drain_delay timeout create_memory poll_retry poll_absorb watchdog"
# names of settings, whether a value is valid, and what it must be
_BOUNDS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("port prometheus_port", lambda value: 0 <= value < 65536, "must be between 0 and 65535"),
    ("worker create_memory_size", lambda value: value >= 1, "must be at least 1"),
    ("max_calls max_calls_per_connector max_log_streams", lambda value: value >= 1, "must be at least 1"),
    (f"{_TIMES} max_waiting_calls max_stored_input_size", lambda value: value >= 0, "must not be negative"),
    (f"{_LIMITS} tls_handshake_timeout", lambda value: value > 0, "must be more than 0"),
)


@dataclass(frozen=True, kw_only=True)
class HostSettings(ServerOptions):
    """The settings of a host, and the limits of its gRPC server. Times are in seconds, sizes in bytes.

    :ivar host: the address to listen on, for gRPC and HTTP; all interfaces by default
    :ivar port: of the gRPC server; 0 picks a free one
    :ivar prometheus_port: of /metrics, /healthz and /readyz; 0 picks a free one
    :ivar worker: the most plain `def` methods of connectors that run at once, each in a thread, shared equally among
        the connectors. A connector whose share others have taken may use further threads, at most as many again. Also
        the most event loops that a package of connectors for flyte-sdk may have while its first one is blocked
    :ivar timeout: time until the host shuts down gracefully by itself; for tests
    :ivar modules: module names or .py files to load connectors from, in addition to the installed entry points
    :ivar entry_points: load the connectors that installed packages offer under `flyte.connectors`
    :ivar grace: how long calls in flight may take to finish after SIGTERM. Kubernetes kills after 30 s by default; the
        rest of that is for connectors to close what they hold
    :ivar drain_delay: the time for which the host still accepts calls after SIGTERM, while its health is NOT_SERVING,
        so that load balancers stop sending first. 0 suits a client that reconnects by itself; behind a Kubernetes
        Service set two periods of the readiness probe
    :ivar create_limit: for one CreateTask, whatever deadline the client sets
    :ivar get_limit: for one GetTask
    :ivar delete_limit: for one DeleteTask
    :ivar metrics_limit: for one GetTaskMetrics
    :ivar logs_limit: for one GetTaskLogs stream; none by default, because following the logs takes as long as the job
    :ivar execute_limit: for one ExecuteTaskSync of Flyte 1: a whole job, for which its client waits. The executor of
        Flyte 1 gives up after ten seconds by default, and hardly any client waits for more than ten minutes
    :ivar create_memory: the time for which a repeated CreateTask is answered with the existing job, and a lost job is
        kept for the next attempt. The executor repeats within seconds, or when it has restarted
    :ivar create_memory_size: the most jobs that are remembered for that; about a kilobyte each
    :ivar poll_retry: the time for which a GetTask that fails transiently is retried, at most half of the time until its
        deadline. The executor waits 10 s; 0 turns it off
    :ivar poll_absorb: the time for which such failures are answered with the last known phase. The executor gives up a
        task after the sixth error in its whole life, and incidents of other systems last minutes; 0 turns it off
    :ivar max_calls: the most calls in connectors at once, except streams of logs. Half of them is divided equally among
        the connectors, so that none takes all; the other half is for any connector
    :ivar max_calls_per_connector: the most calls of one task type
    :ivar max_waiting_calls: the most calls that wait for a free place, divided equally among the connectors; further
        ones are answered RESOURCE_EXHAUSTED. With max_calls and max_log_streams this is less than
        max_concurrent_streams, so that every connection has room for health checks and listings
    :ivar max_log_streams: the most GetTaskLogs streams at once; they can last as long as a job, so none waits for
        another to end
    :ivar watchdog: the time for which a method may block the event loop before the log names it and /readyz turns 503;
        0 turns it off. After a few seconds, peers take their connections for lost
    :ivar max_stored_input_size: the most bytes to read for the inputs of one task that Flyte has stored outside of the
        request. Flyte stores what is larger than 10 MB; the values take several times as much memory as their bytes
    :ivar unsafe_pickle: LET ANYONE WHO CAN SEND REQUESTS TO THIS HOST RUN ANY CODE IN IT. Flyte sends values of types
        that it does not know as Python pickles, and reading a pickle runs the code that its sender has put in it. Only
        for hosts that nobody but a trusted Flyte can reach; it needs cloudpickle, and the modules of the values' types
    :ivar reflection: tell clients which services there are, so that grpcurl and similar tools need no .proto files.
        Everything that it tells is public, so it is on
    :ivar tls_cert: PEM file with the certificate for the gRPC port, and the authorities between it and the root; turns
        TLS on. Read again when it changes, as are the next two
    :ivar tls_key: PEM file with its private key, not encrypted; not needed if the key is in `tls_cert`
    :ivar tls_client_ca: PEM file with the authorities that must have signed the certificate of every client; by default
        clients need no certificate
    :ivar tls_minimum: the oldest version of TLS; 1.2 is the oldest that HTTP/2 allows, and old clients need it
    :ivar tls_handshake_timeout: the time for a client to complete the TLS handshake. It takes two round trips; ten
        seconds are enough on the slowest links, and limit how long a silent client holds a connection
    :ivar unix_socket: an additional Unix socket for gRPC without TLS; removed at the end
    :ivar unix_socket_mode: its permissions, octal; who may write may connect. By default only this user; 660 lets the
        group connect
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
        for names, is_valid, bound in _BOUNDS:
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not is_valid(value):
                    raise ValueError(f"{name} {bound}, got {value}")
        for name in ("tls_key", "tls_client_ca"):
            if getattr(self, name) is not None and self.tls_cert is None:
                raise ValueError(f"{name} is of no use without tls_cert, the certificate")
        if re.fullmatch("[0-7]{3}", self.unix_socket_mode) is None:
            raise ValueError(f"unix_socket_mode must be three octal digits such as 660, got {self.unix_socket_mode!r}")


def default_backend() -> Backend:
    """Return "uvloop" where it is installed, else "asyncio"."""
    return "uvloop" if importlib.util.find_spec("uvloop") is not None else "asyncio"


def anyio_backend(backend: Backend) -> tuple[str, dict[str, bool]]:
    """Return the `backend` and the `backend_options` for `anyio.run`.

    :raises ValueError: the name is unknown, or its package is not installed
    """
    if backend not in ("asyncio", "uvloop", "trio"):
        raise ValueError(f"unknown backend {backend!r}; choose asyncio, uvloop or trio")
    if backend != "asyncio" and importlib.util.find_spec(backend) is None:
        raise ValueError(f"backend {backend} is not installed; run: pip install 'connectrio[{backend}]'")
    return ("asyncio", {"use_uvloop": True}) if backend == "uvloop" else (backend, {})
