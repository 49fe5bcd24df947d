"""The settings of a host: arguments, `connectrio serve`'s flags, environment variables and TOML."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from connectrio.connector.choice import check_source
from connectrio.rpc.options import NOT_NEGATIVE, POSITIVE, Bound, ServerOptions, check_bound
from connectrio.service.job_store.url import shown_url
from connectrio.service.settings import ServiceSettings

if TYPE_CHECKING:
    from connectrio.host.lifecycle import Addresses

__all__ = ["Backend", "HostSettings", "anyio_backend", "changed_settings", "default_backend"]

Backend = Literal["asyncio", "uvloop", "trio"]

_PORT: Bound = (lambda value: 0 <= value < 65536, "must be between 0 and 65535")


@dataclass(frozen=True, kw_only=True)
class HostSettings(ServiceSettings, ServerOptions):
    """The settings of a host, of its services and of its gRPC server. Times are in seconds, sizes in bytes.

    :ivar host: the address to listen on, for gRPC and HTTP, an IPv6 address also in brackets; by default all
        interfaces, of IPv4 and IPv6, as with ::
    :ivar port: of the gRPC server; 0 picks a free one
    :ivar prometheus_port: of /metrics, /healthz, /readyz and the status page; 0 picks a free one
    :ivar page: serve the status page at / for browsers and at /status, and the same as JSON under /api. Both tell more
        than /metrics: names of jobs, messages of connectors and errors
    :ivar page_token_file: file with tokens, one in each line, of which the status page and /api ask for one; read again
        when it changes. By default they ask for none. /metrics, /healthz and /readyz never do
    :ivar prometheus_tls: the port of /metrics, /healthz, /readyz and the status page is with TLS too, with the
        certificate of `tls_cert`; clients need none of their own
    :ivar timeout: time until the host shuts down gracefully by itself; for tests
    :ivar modules: module names or .py files to load connectors from, in addition to the installed entry points
    :ivar entry_points: load the connectors that installed packages offer under `flyte.connectors` and
        `flytekit.plugins`
    :ivar prefer: whose connectors are served where several serve one task type: SOURCE, or TYPE=SOURCE for one task
        type, the first that matches. SOURCE is an installed package (flyteplugins-duckdb), a module, package or class
        by its full name, or a .py file. By default a connector of `modules` comes before those of entry points, and
        these before the ones that come with connectrio
    :ivar exclude: whose connectors are left out: as in `prefer`. An entry point is then not even imported
    :ivar grace: how long calls in flight may take to finish after SIGTERM. Kubernetes kills after 30 s by default; the
        rest of that is for connectors to close what they hold
    :ivar drain_delay: the time for which the host still accepts calls after SIGTERM, while its health is NOT_SERVING,
        so that load balancers stop sending first. 0 suits a client that reconnects by itself; behind a Kubernetes
        Service set two periods of the readiness probe. On Linux, a host that is started on the same ports meanwhile
        takes them over, and this time ends when it serves
    :ivar watchdog: the time for which a method may block the event loop before the log names it and /readyz turns 503;
        0 turns that off. After a few seconds, peers take their connections for lost
    :ivar hang_limit: the time without a sign of life after which one of several processes is killed and replaced. It
        must be longer than any method may block the event loop; as long as Kubernetes waits for a failing probe
    :ivar lifespan_timeout: the time for a connector's lifespan to open. Then the host starts without it, its calls are
        answered UNAVAILABLE, and it is opened again later
    :ivar require_lifespans: say in /readyz and in gRPC health that the host is not ready as long as a connector's
        lifespan is not open. By default it is ready for the other connectors
    :ivar reflection: tell clients which services there are, so that grpcurl and similar tools need no .proto files.
        Everything that it tells is public, so it is on
    :ivar tracing: export traces of calls over OTLP/HTTP. OpenTelemetry's own variables, such as
        OTEL_EXPORTER_OTLP_ENDPOINT, say where to and how; needs the extra `otel`
    :ivar tls_cert: PEM file with the certificate for the gRPC port, and the authorities between it and the root; turns
        TLS on. Read again when it changes, as are the next two
    :ivar tls_key: PEM file with its private key, not encrypted; not needed if the key is in `tls_cert`
    :ivar tls_client_ca: PEM file with the authorities that must have signed the certificate of every client; by default
        clients need no certificate
    :ivar tls_minimum: the oldest version of TLS; 1.2 is the oldest that HTTP/2 allows, and old clients need it
    :ivar tls_handshake_timeout: the time for a client to complete the TLS handshake. It takes two round trips; ten
        seconds are enough on the slowest links, and limit how long a silent client holds a connection
    :ivar unix_socket: an additional Unix socket for gRPC without TLS; removed at the end. unix-abstract:NAME has no
        file, and no permissions either: on Linux, any process of the same network namespace may connect
    :ivar unix_socket_mode: its permissions, octal; who may write may connect. By default only this user; 660 lets the
        group connect
    :ivar unsafe_sql: LET ANYONE WHO CAN SEND REQUESTS TO THIS HOST READ AND WRITE ALL FILES THAT IT CAN, and load code
        into it: DuckDB then runs SQL without limits. By default its SQL reaches the host's data directory and the
        directories in CONNECTRIO_DUCKDB_ALLOW, nothing else. Only for hosts that nobody but a trusted Flyte can reach
    """

    host: str | None = None
    port: int = 8000
    prometheus_port: int = 9090
    page: bool = True
    page_token_file: Path | None = None
    prometheus_tls: bool = False
    timeout: float | None = None
    modules: list[str] = field(default_factory=list)
    entry_points: bool = True
    prefer: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    grace: float = 25.0
    drain_delay: float = 0.0
    watchdog: float = 1.0
    hang_limit: float = 30.0
    lifespan_timeout: float = 30.0
    require_lifespans: bool = False
    reflection: bool = True
    tracing: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_minimum: Literal["1.2", "1.3"] = "1.2"
    tls_handshake_timeout: float = 10.0
    unix_socket: Path | None = None
    unix_socket_mode: str = "600"
    unsafe_sql: bool = False

    def __post_init__(self) -> None:
        ServerOptions.__post_init__(self)
        ServiceSettings.__post_init__(self)
        check_bound(self, _PORT, "port", "prometheus_port")
        check_bound(self, NOT_NEGATIVE, "timeout", "grace", "drain_delay", "watchdog")
        check_bound(self, POSITIVE, "hang_limit", "lifespan_timeout", "tls_handshake_timeout")
        for name in ("prefer", "exclude"):
            check_source(name, getattr(self, name))
        for name in ("tls_key", "tls_client_ca"):
            if getattr(self, name) is not None and self.tls_cert is None:
                raise ValueError(f"{name} is of no use without tls_cert, the certificate")
        if self.prometheus_tls and self.tls_cert is None:
            raise ValueError("prometheus_tls needs a certificate: give tls_cert as well")
        if self.page_token_file is not None and not self.page:
            raise ValueError("page_token_file is of no use without the page")
        if re.fullmatch("[0-7]{3}", self.unix_socket_mode) is None:
            raise ValueError(f"unix_socket_mode must be three octal digits such as 660, got {self.unix_socket_mode!r}")

    def dangers(self, addresses: Addresses) -> list[str]:
        """Return what the unsafe settings let anyone do who can send requests to the host, a sentence for each.

        :param addresses: of the host. If other machines reach it without TLS, the sentences are in capitals
        """
        found = []
        if self.unsafe_pickle:
            found.append("pickles are read: anyone who can send requests to this host can run any code in it")
        if self.unsafe_sql:
            found.append("SQL is not confined: anyone who can send requests to this host can use all its files")
        if addresses.beyond_loopback and not addresses.has_tls:
            return [f"{text}, and other machines can, without TLS".upper() for text in found]
        return found


def changed_settings(settings: HostSettings) -> dict[str, Any]:
    """Return the settings that are not as by default, paths as text, a URL without its password: keys are paths, so
    none of them is a secret.
    """
    changed = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if value != default:
            changed[each.name] = str(value) if isinstance(value, Path) else value
            if each.name == "job_store":
                changed[each.name] = shown_url(value)
    return changed


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
