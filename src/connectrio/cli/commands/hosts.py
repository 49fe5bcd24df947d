"""`connectrio ls` and `health`: what a host serves, and its health."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import unquote

from cyclopts import Parameter
from grpclib.const import Cardinality

from connectrio.cli.errors import FAILURE, UNREACHABLE, CommandError, explained
from connectrio.cli.options.client import Client
from connectrio.idl.flyteidl2.connector import ListConnectorsRequest, ListConnectorsResponse
from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse, HealthStub
from connectrio.idl.grpc.health.v1 import HealthCheckResponseServingStatus as ServingStatus
from connectrio.rpc import Channel
from connectrio.terminal import print_json, print_line, print_table, print_warning

__all__ = ["health", "ls"]

T = TypeVar("T")

_LIST = "/flyteidl2.connector.ConnectorMetadataService/ListConnectors"
_CHECK = "/grpc.health.v1.Health/Check"
# those of connectrio.service.connector_metadata; to import it would load the host's half of the program
_KEYS = {
    "load_failures": "connectrio-load-failure",
    "outages": "connectrio-outage",
    "not_ready": "connectrio-not-ready",
}
_LATE = (
    "if the host runs, it is still starting, something blocks its event loop, or one of its --processes is frozen: see"
    " /readyz on the exporter's port, which says which, or give the call more time with --timeout SECONDS"
)
_CLIENT = Client()

Problems = dict[str, list[str]]
"""What a host tells of its state in trailing metadata: "load_failures", "outages" and "not_ready"."""


def ls(*, client: Client = _CLIENT) -> None:
    """List the connectors of a host and their task types, and what the host could not load."""
    problems: Problems = {}

    async def command(channel: Channel) -> ListConnectorsResponse:
        with explained():
            return await _call(
                channel, _LIST, ListConnectorsRequest(), ListConnectorsResponse, client.timeout, problems
            )

    connectors = client.run(command).connectors
    if client.json:
        documents = [
            {
                "name": connector.name,
                "task_types": [{"name": c.name, "version": c.version} for c in connector.supported_task_categories],
            }
            for connector in connectors
        ]
        found = {name: problems.get(name, []) for name in ("load_failures", "outages")}
        print_json({"connectors": documents, **found})
        return
    if connectors:
        rows = [
            (connector.name, ", ".join(f"{c.name} ({c.version})" for c in connector.supported_task_categories))
            for connector in connectors
        ]
        print_table("Connectors", ("Connector Name", "Task Types"), rows)
    else:
        print_line("the host serves no connector")
    _warn_of(problems)


def health(
    service: str = "",
    /,
    *,
    watch: bool = False,
    url: Annotated[str, Parameter(env_var="CONNECTRIO_URL")] = "http://127.0.0.1:9090",
    client: Client = _CLIENT,
) -> int:
    """Ask a host for its health, and why it is not well.

    Exit codes: 0 SERVING, 1 any other answer, 2 wrong usage, 3 no answer within --timeout.

    :param service: a gRPC service, such as flyteidl2.connector.AsyncConnectorService; by default the whole host
    :param watch: print the health now and at each change, until interrupted
    :param url: of the host's metrics, without a path: asked for the reason if --target does not answer
    """
    command = _watch if watch else _check
    try:
        return client.run(lambda channel: command(channel, service, client))
    except CommandError as error:
        if error.code != UNREACHABLE:
            raise
        from connectrio.cli.options.exporter import why_unreachable

        raise CommandError(
            str(error), hint=why_unreachable(url, client.tls_ca) or error.hint, code=error.code
        ) from error


async def _check(channel: Channel, service: str, client: Client) -> int:
    problems: Problems = {}
    request = HealthCheckRequest(service=service)
    try:
        with explained(unreachable=UNREACHABLE, late=_LATE):
            reply = await _call(channel, _CHECK, request, HealthCheckResponse, client.timeout, problems)
        _print_status(service, reply.status, client, problems)
    finally:
        if not client.json:
            _warn_of(problems)
    return 0 if reply.status is ServingStatus.SERVING else FAILURE


async def _watch(channel: Channel, service: str, client: Client) -> int:
    stub = HealthStub(cast("Any", channel))
    with explained(unreachable=UNREACHABLE):
        async with aclosing(cast("Any", stub.watch(HealthCheckRequest(service=service)))) as changes:
            async for change in changes:
                _print_status(service, change.status, client)
    return 0


def _print_status(service: str, status: ServingStatus, client: Client, problems: Problems | None = None) -> None:
    name = status.name or str(int(status))
    if client.json:
        document = {"service": service, "status": name}
        found = {} if problems is None else {name: problems.get(name, []) for name in _KEYS}
        print_json({**document, **found}, indent=0)
    else:
        print_line(name, "green" if status is ServingStatus.SERVING else "red")


def _warn_of(problems: Problems) -> None:
    for what, name in (("not ready", "not_ready"), ("not loaded", "load_failures"), ("not open", "outages")):
        for problem in problems.get(name, []):
            print_warning(f"{what}: {problem}")


async def _call(
    channel: Channel,
    method: str,
    request: Any,
    reply_type: type[T],
    timeout: float,  # noqa: ASYNC109 - the call's deadline, which goes to the server
    problems: Problems,
) -> T:
    """Make a call and add what its trailing metadata, which stubs hide, tells of the host to `problems`.

    :raises GRPCError: the call failed
    """
    stream = channel.request(method, Cardinality.UNARY_UNARY, type(request), reply_type, timeout=timeout)
    try:
        async with stream:
            await stream.send_message(request, end=True)
            reply = await stream.recv_message()
            await stream.recv_trailing_metadata()
    finally:
        metadata: Any = stream.trailing_metadata
        for name, key in _KEYS.items():
            problems[name] = [] if metadata is None else [unquote(value) for value in metadata.getall(key, [])]
    return cast("T", reply)  # if there is none, recv_trailing_metadata has raised
