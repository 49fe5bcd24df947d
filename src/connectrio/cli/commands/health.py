"""`connectrio health`: a host's health, with exit codes that probes understand."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, cast

from connectrio.cli.errors import FAILURE, UNREACHABLE, explained
from connectrio.cli.options.client import Client, Failures, call_unary
from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse, HealthStub
from connectrio.idl.grpc.health.v1 import HealthCheckResponseServingStatus as ServingStatus
from connectrio.rpc import Channel
from connectrio.terminal import print_json, print_line, print_warning

__all__ = ["health"]

_METHOD = "/grpc.health.v1.Health/Check"
_CLIENT = Client()


def health(service: str = "", /, *, watch: bool = False, client: Client = _CLIENT) -> int:
    """Ask a host for its health.

    Exit codes: 0 SERVING, 1 anything else that the host says, 2 wrong usage, 3 no answer within --timeout.

    :param service: a gRPC service, such as flyteidl2.connector.AsyncConnectorService; by default the whole host
    :param watch: print the health now and whenever it changes, until interrupted
    """
    command = _watch if watch else _check
    return client.run(lambda channel: command(channel, service, client))


async def _check(channel: Channel, service: str, client: Client) -> int:
    failures: Failures = []
    try:
        with explained(unreachable=UNREACHABLE):
            reply = await call_unary(
                channel,
                _METHOD,
                HealthCheckRequest(service=service),
                HealthCheckResponse,
                timeout=client.timeout,
                failures=failures,
            )
        _print_status(service, reply.status, client, failures)
    finally:
        for failure in [] if client.json else failures:
            print_warning(f"not loaded: {failure}")
    return 0 if reply.status is ServingStatus.SERVING else FAILURE


async def _watch(channel: Channel, service: str, client: Client) -> int:
    stub = HealthStub(cast("Any", channel))
    with explained(unreachable=UNREACHABLE):
        async with aclosing(cast("Any", stub.watch(HealthCheckRequest(service=service)))) as changes:
            async for change in changes:
                _print_status(service, change.status, client)
    return 0


def _print_status(service: str, status: ServingStatus, client: Client, failures: Failures | None = None) -> None:
    name = status.name or str(int(status))
    if client.json:
        document = {"service": service, "status": name}
        print_json(document if failures is None else {**document, "load_failures": failures}, indent=0)
    else:
        print_line(name, "green" if status is ServingStatus.SERVING else "red")
