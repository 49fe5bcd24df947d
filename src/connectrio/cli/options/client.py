"""Options that all client commands share, and the calls they make."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import unquote

from cyclopts import Parameter
from grpclib.const import Cardinality

from connectrio.cli import event_loop
from connectrio.cli.errors import UsageError
from connectrio.client.jobs import Jobs
from connectrio.host.settings import Backend
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub, TaskCategory
from connectrio.idl.flyteidl2.core import Connection
from connectrio.rpc import Channel, ChannelOptions
from connectrio.rpc.tls import ChannelTLS, TLSFilesError

__all__ = ["Client", "Failures", "call_unary", "load_failures"]

T = TypeVar("T")
Failures = list[str]

# connectrio.service.LOAD_FAILURE_KEY, without importing a host's half of the program
_LOAD_FAILURE_KEY = "connectrio-load-failure"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Client:
    """Which host to talk to, and how.

    :param target: the host's gRPC address: host:port, [ipv6]:port or unix:/path
    :param timeout: seconds that connecting, or one call, may take; streams of log lines may take longer
    :param tls: use TLS, as do the next four options, and trust the system's certificate authorities
    :param tls_ca: PEM file with the authorities to trust instead
    :param tls_cert: PEM file with a certificate of our own, for hosts that ask for one
    :param tls_key: PEM file with its private key, unless that is in --tls-cert
    :param tls_name: whom the host's certificate must name, instead of the host in --target
    :param json: print JSON for machines
    :param backend: the event loop to run on; uvloop where it is installed, else asyncio
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
        """A channel to the host. It connects when the first call is made.

        :raises UsageError: the target is no address, or a file of the TLS options cannot be used
        """
        try:
            channel = Channel(self.target, options=ChannelOptions(connect_timeout=self.timeout), tls=self._tls())
        except (ValueError, TLSFilesError) as error:
            raise UsageError(str(error)) from error
        async with channel:
            yield channel

    def _tls(self) -> ChannelTLS | None:
        if not (self.tls or self.tls_ca or self.tls_cert or self.tls_key or self.tls_name):
            return None
        return ChannelTLS(self.tls_ca, self.tls_cert, self.tls_key, server_hostname=self.tls_name)

    def jobs(
        self,
        channel: Channel,
        category: TaskCategory,
        connection: Connection | None = None,
        output_prefix: str = "",
    ) -> Jobs:
        """The jobs of one task type, through `channel`."""
        stub = AsyncConnectorServiceStub(cast("Any", channel))
        return Jobs(stub, category, connection, self.timeout, output_prefix)

    def run(self, command: Callable[[Channel], Awaitable[T]], interrupts: event_loop.Interrupts | None = None) -> T:
        """Run `command` with a channel to the host."""

        async def connected() -> T:
            async with self.connect() as channel:
                return await command(channel)

        return event_loop.run(connected, self.backend, interrupts)


async def call_unary(
    channel: Channel,
    method: str,
    request: Any,
    reply_type: type[T],
    *,
    timeout: float,  # noqa: ASYNC109 - the call's own deadline, which goes to the server
    failures: Failures,
) -> T:
    """Make a call, and add the load failures that come with its status to `failures`: stubs hide trailing metadata.

    :raises GRPCError: the call failed
    """
    stream = channel.request(method, Cardinality.UNARY_UNARY, type(request), reply_type, timeout=timeout)
    try:
        async with stream:
            await stream.send_message(request, end=True)
            reply = await stream.recv_message()
            await stream.recv_trailing_metadata()
    finally:
        failures += load_failures(stream.trailing_metadata)
    return cast("T", reply)  # without one, recv_trailing_metadata has raised


def load_failures(metadata: Any) -> Failures:
    """What the host could not load, by the trailing metadata of a call."""
    return [] if metadata is None else [unquote(text) for text in metadata.getall(_LOAD_FAILURE_KEY, [])]
