"""Flyte's ConnectorMetadataService."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from grpclib import GRPCError
from grpclib.const import Status

from connectrio.connector.failures import LoadFailure
from connectrio.connector.registry import ConnectorNotFoundError, Registry
from connectrio.idl.flyteidl2.connector import (
    ConnectorMetadataServiceBase,
    GetConnectorRequest,
    GetConnectorResponse,
    ListConnectorsRequest,
    ListConnectorsResponse,
)
from connectrio.logs import get_logger
from connectrio.rpc.call import current_call
from connectrio.rpc.status import fit_status_message

__all__ = ["LOAD_FAILURE_KEY", "ConnectorMetadataService", "failure_metadata"]

logger = get_logger("connectrio.service")

LOAD_FAILURE_KEY = "connectrio-load-failure"
"""The key in the trailing metadata of ListConnectors for entry points that could not be loaded: one value for each, in
percent-encoded UTF-8."""

# together well below the 8 KiB of metadata that clients let through
_MOST_FAILURES = 10
_LONGEST_FAILURE = 512
# what a `grpc-message` has unencoded too
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class ConnectorMetadataService(ConnectorMetadataServiceBase):
    """Lists the connectors of a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def list_connectors(
        self,
        message: ListConnectorsRequest,  # noqa: ARG002 - the base's signature; the request has no fields
    ) -> ListConnectorsResponse:
        """Return all connectors; what could not be loaded, or is not open, goes into the trailing metadata."""
        call = current_call()
        if call is not None:
            call.set_trailing_metadata(failure_metadata(self._registry.all_failures()))
        connectors = self._registry.describe()
        logger.debug("connectors listed", listed=len(connectors), failures=len(self._registry.all_failures()))
        return ListConnectorsResponse(connectors=connectors)

    async def get_connector(self, message: GetConnectorRequest) -> GetConnectorResponse:
        """Return one connector, by its name.

        :raises GRPCError: NOT_FOUND
        """
        try:
            return GetConnectorResponse(connector=self._registry.describe_one(message.name))
        except ConnectorNotFoundError as error:
            raise GRPCError(Status.NOT_FOUND, fit_status_message(str(error))) from error


def failure_metadata(failures: Sequence[LoadFailure]) -> list[tuple[str, str]]:
    """Return trailing metadata with the first ten failures, shortened, and the number of the others.

    Any client can ask for it, so it tells the kinds of the errors and not their texts.
    """
    texts = []
    for failure in failures[:_MOST_FAILURES]:
        text = fit_status_message(f"{failure.source}: {failure.kind}", _LONGEST_FAILURE)
        texts.append(quote(text, safe=_PRINTABLE))
    more = len(failures) - len(texts)
    if more:
        texts.append(f"and {more} more, see the host's log")
    return [(LOAD_FAILURE_KEY, text) for text in texts]
