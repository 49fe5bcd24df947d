"""Options of the commands that talk to a host: where it is, or that it runs in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from cyclopts import Parameter

from connectrio.cli import event_loop
from connectrio.cli.errors import UsageError, command_error
from connectrio.cli.options.log_level import LogLevel
from connectrio.client.jobs import Jobs
from connectrio.connector.choice import check_source
from connectrio.host.settings import Backend, HostSettings
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub, TaskCategory
from connectrio.idl.flyteidl2.core import Connection
from connectrio.masking import SecretMask
from connectrio.rpc import Channel, ChannelOptions
from connectrio.rpc.tls import ChannelTLS, TLSFilesError
from connectrio.terminal import print_warning

__all__ = ["Client", "Local", "output_directory"]

T = TypeVar("T")

_SEVERAL = Parameter(show_default=False, consume_multiple=True)
_NEEDS_LOCAL = "is about a job in this process: give --local or --modules as well"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Client:
    """Which host to talk to, and how.

    :param target: the host's gRPC address: host:port, [ipv6]:port, unix:/path, or another of gRPC's names
    :param timeout: seconds for connecting and for each call, except streams of log lines
    :param tls: use TLS and trust the system's certificate authorities; the other --tls options imply it
    :param tls_ca: PEM file with the certificate authorities to trust instead
    :param tls_cert: PEM file with a client certificate, for hosts that require one
    :param tls_key: PEM file with its private key, if that is not in --tls-cert
    :param tls_name: the name to expect in the host's certificate, if it is not the host in --target
    :param json: print JSON for machines
    :param backend: the event loop to run on; by default uvloop where it is installed, else asyncio
    """

    target: Annotated[str, Parameter(env_var="CONNECTRIO_TARGET")] = "127.0.0.1:8000"
    timeout: float = 10.0
    tls: Annotated[bool, Parameter(negative=())] = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_name: str | None = None
    json: Annotated[bool, Parameter(negative=())] = False
    backend: Backend | None = None

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ValueError(f"--timeout must be more than 0 seconds, got {self.timeout:g}")

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Channel]:
        """Open a channel to the host for the block. It connects at its first call.

        :raises UsageError: the target is no address, or a file of the TLS options cannot be used
        """
        try:
            tls = None
            if self.tls or self.tls_ca or self.tls_cert or self.tls_key or self.tls_name:
                tls = ChannelTLS(self.tls_ca, self.tls_cert, self.tls_key, server_hostname=self.tls_name)
            channel = Channel(self.target, options=ChannelOptions(connect_timeout=self.timeout), tls=tls)
        except (ValueError, TLSFilesError) as error:
            raise UsageError(str(error)) from error
        async with channel:
            yield channel

    def jobs(
        self,
        channel: Channel,
        category: TaskCategory,
        connection: Connection | None = None,
        output_prefix: str = "",
        *,
        is_local: bool = False,
    ) -> Jobs:
        """Return the calls about the jobs of one task type, through `channel`.

        What they answer does not show the secrets of `connection`: the host may be one that does not hide them.

        :param is_local: the host is in this process; then `get_logs` and `get_metrics` get the secrets as well
        """
        log_metadata = {}
        if is_local:
            from connectrio.testing import connection_metadata

            log_metadata = connection_metadata(connection)
        stub = AsyncConnectorServiceStub(cast("Any", channel))
        mask = SecretMask(connection.secrets) if connection is not None and connection.secrets else None
        return Jobs(stub, category, connection, self.timeout, output_prefix, mask, log_metadata)

    def run(self, command: Callable[[Channel], Awaitable[T]], interrupts: event_loop.Interrupts | None = None) -> T:
        """Run `command` with a channel to the host."""

        async def connected() -> T:
            async with self.connect() as channel:
                return await command(channel)

        return event_loop.run(connected, self.backend, interrupts)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Local:
    """Whether to run the job on a host in this process, and with which connectors.

    :param local: run the job in this process, without a server, with the installed connectors
    :param modules: run the job in this process, with the connectors of these modules or .py files; give TASK_TYPE first
    :param prefer: whose connector runs the job where several serve its task type: SOURCE or TYPE=SOURCE, as for
        `connectrio serve`
    :param exclude: whose connectors are left out, in the same form
    :param log_level: the least severe log lines of the host in this process, as for `connectrio serve`; by default
        error
    """

    local: Annotated[bool, Parameter(negative=())] = False
    modules: Annotated[list[str] | None, _SEVERAL] = None
    prefer: Annotated[list[str] | None, _SEVERAL] = None
    exclude: Annotated[list[str] | None, _SEVERAL] = None
    log_level: Annotated[LogLevel | None, Parameter(show_default=False)] = None

    def __post_init__(self) -> None:
        for option, entries in (("--prefer", self.prefer), ("--exclude", self.exclude)):
            check_source(option, entries or ())
            if entries and not self.is_wanted:
                raise ValueError(f"{option} {_NEEDS_LOCAL}")
        if self.log_level and not self.is_wanted:
            raise ValueError(f"--log-level {_NEEDS_LOCAL}; a host has a --log-level of its own")

    @property
    def is_wanted(self) -> bool:
        """Whether the job runs in this process."""
        return self.local or bool(self.modules)

    def run(
        self,
        output_prefix: str,
        command: Callable[[Channel], Awaitable[T]],
        backend: Backend | None,
        interrupts: event_loop.Interrupts,
    ) -> T:
        """Run `command` with a channel to a host in memory.

        :param output_prefix: of the job; if it is a directory that is missing, it is made
        :raises CommandError: a module cannot be loaded; what the command raises
        """
        from connectrio.host.lifecycle import HostError
        from connectrio.logs import configure_logging
        from connectrio.testing import serving_in_memory

        where = "that is installed or in --modules" if self.local else "in --modules (--local adds those installed)"

        async def hosted() -> T:
            settings = HostSettings(
                modules=self.modules or [],
                entry_points=self.local,
                prefer=self.prefer or [],
                exclude=self.exclude or [],
                unsafe_sql=True,  # it is the user's own, on their own machine
            )
            try:
                async with serving_in_memory(settings) as host:
                    for failure in host.host.failures:
                        print_warning(f"{failure.source}: {failure.error}")
                    for setting, entries in host.host.registry.choice.unused.items():
                        for entry in entries:
                            print_warning(f"--{setting} {entry}: no connector {where} comes from there")
                    return await command(host.channel)
            except HostError as error:
                raise command_error(error) from error

        configure_logging(self.log_level or "error")  # which shows the tracebacks of what a connector raises
        with output_directory(output_prefix):
            return event_loop.run(hosted, backend, interrupts)


@contextmanager
def output_directory(output_prefix: str) -> Iterator[None]:
    """Make the directory that a job is to write its outputs to; if the job leaves it empty, remove it again.

    :raises UsageError: it cannot be made
    """
    try:
        url = urlsplit(output_prefix)
        path = Path(unquote(url.path) if url.scheme == "file" else output_prefix)
    except ValueError as error:
        raise UsageError(f"--output-prefix {output_prefix}: {error}") from error
    if url.scheme not in ("", "file") or path.exists():
        yield
        return
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"cannot make the directory {path} for outputs: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # it is not empty
            path.rmdir()
