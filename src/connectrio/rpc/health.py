"""The gRPC health checking protocol (grpc.health.v1, List by gRFC A90)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from connectrio.idl.grpc.health.v1 import (
    HealthBase,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from connectrio.idl.grpc.health.v1 import HealthCheckResponseServingStatus as ServingStatus
from connectrio.rpc._http2.wakeup import Wakeup
from connectrio.rpc.call import find_current_call

__all__ = ["Health", "ServingStatus"]

# A90: a server does not list more services than this
_MAX_LISTED = 100


class Health(HealthBase):
    """The servicer that reports the health of a server's services, as probes and load balancers ask for it.

        health = Health()
        server = Server([Greeter(), health])
        health.set("", ServingStatus.SERVING)  # "" is the server as a whole
        ...
        health.drain()  # tell clients to go elsewhere, before the listeners close
        await server.shutdown(grace=10)

    Source: the gRPC Health Checking Protocol.

    :param details: called for each Check; its result, pairs of key and value, is sent as trailing metadata
    """

    def __init__(self, details: Callable[[], Iterable[tuple[str, str | bytes]]] | None = None) -> None:
        self._details = details
        self._statuses: dict[str, ServingStatus] = {}
        self._changed = Wakeup()
        self._draining = False
        self._ended = False

    def set(self, service: str, status: ServingStatus) -> None:
        """Set the status of `service`, and tell its watchers. Has no effect after `drain`.

        :param service: the full name, "package.Service", or "" for the server as a whole
        """
        if not self._draining:
            self._statuses[service] = status
            self._changed.wake()

    def drain(self) -> None:
        """Set all services to NOT_SERVING, for good."""
        for service in self._statuses:
            self._statuses[service] = ServingStatus.NOT_SERVING
        self._draining = True
        self._changed.wake()

    def end_watches(self) -> None:
        """End every Watch with UNAVAILABLE, which would otherwise delay the end of the server."""
        self._ended = True
        self._changed.wake()

    async def check(self, message: HealthCheckRequest) -> HealthCheckResponse:
        """Return the status of one service; NOT_FOUND if it was never set."""
        status = self._statuses.get(message.service)
        call = find_current_call()
        if self._details is not None and call is not None:
            call.set_trailing_metadata(self._details())
        if status is None:
            raise GRPCError(Status.NOT_FOUND, f"unknown service {message.service!r}")
        return HealthCheckResponse(status=status)

    async def list(self, message: HealthListRequest) -> HealthListResponse:  # noqa: ARG002 - the servicer contract
        """Return the status of every service; RESOURCE_EXHAUSTED if there are more than 100."""
        if len(self._statuses) > _MAX_LISTED:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"more than {_MAX_LISTED} services; check them one by one")
        return HealthListResponse(
            statuses={service: HealthCheckResponse(status=status) for service, status in self._statuses.items()}
        )

    async def watch(self, message: HealthCheckRequest) -> AsyncIterator[HealthCheckResponse]:
        """Send the status of one service now and after each change; SERVICE_UNKNOWN while it is not set."""
        sent: ServingStatus | None = None
        while True:
            status = self._statuses.get(message.service, ServingStatus.SERVICE_UNKNOWN)
            if status is not sent:
                sent = status
                yield HealthCheckResponse(status=status)
            elif self._ended:
                raise GRPCError(Status.UNAVAILABLE, "the server is shutting down")
            else:
                await self._changed.wait()
