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
from connectrio.rpc.call import find_current_call
from connectrio.rpc.status import fit_status_message

__all__ = [
    "LOAD_FAILURE_KEY", "NOT_READY_KEY", "OUTAGE_KEY", "ConnectorMetadataService", "failure_metadata",
    "not_ready_metadata", "registry_metadata",
]  # fmt: skip

logger = get_logger("connectrio.service")

LOAD_FAILURE_KEY = "connectrio-load-failure"
"""The key in the trailing metadata of ListConnectors for entry points that could not be loaded: one value for each, in
percent-encoded UTF-8."""
OUTAGE_KEY = "connectrio-outage"
"""The same for connectors whose lifespan is not open."""
NOT_READY_KEY = "connectrio-not-ready"
"""The same in health checks, for the reasons why the host takes no new work."""

# together below the 8 KiB of metadata that clients let through
_MOST_FAILURES = 10
_LONGEST_FAILURE = 512
_MOST_OUTAGES = 3
_LONGEST_OUTAGE = 128
_MOST_REASONS = 2
_LONGEST_REASON = 256
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
        call = find_current_call()
        if call is not None:
            call.set_trailing_metadata(registry_metadata(self._registry))
        connectors = self._registry.describe()
        logger.debug("connectors listed", listed=len(connectors), missing=len(self._registry.all_failures()))
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
    """Return trailing metadata with the first ten failures to load, shortened, and the number of the others.

    Any client can ask for it, so it tells the kinds of the errors and not their texts. So do the next two functions.
    """
    texts = [f"{failure.source}: {failure.kind}" for failure in failures]
    return _metadata(LOAD_FAILURE_KEY, texts, _MOST_FAILURES, _LONGEST_FAILURE)


def registry_metadata(registry: Registry) -> list[tuple[str, str]]:
    """Return trailing metadata with what a registry could not load, and with the connectors that are not open."""
    outages = [
        f"{registry.get_connector(*key).name}: {outage.kind}" if registry.has(*key) else f"{key[0]}: {outage.kind}"
        for key, outage in registry.outages.items()
    ]
    return [*failure_metadata(registry.failures), *_metadata(OUTAGE_KEY, outages, _MOST_OUTAGES, _LONGEST_OUTAGE)]


def not_ready_metadata(reasons: Sequence[str]) -> list[tuple[str, str]]:
    """Return trailing metadata with the first reasons why a host takes no new work."""
    return _metadata(NOT_READY_KEY, reasons, _MOST_REASONS, _LONGEST_REASON)


def _metadata(key: str, texts: Sequence[str], most: int, longest: int) -> list[tuple[str, str]]:
    values = [quote(fit_status_message(text, longest), safe=_PRINTABLE) for text in texts[:most]]
    more = len(texts) - len(values)
    if more:
        values.append(f"and {more} more, see the host's log")
    return [(key, value) for value in values]
