"""Flyte's connector services: requests in, connectors called, responses and statuses out."""

from connectrio.service.connectors import AsyncConnectorService
from connectrio.service.metadata import LOAD_FAILURE_KEY, ConnectorMetadataService, failure_metadata
from connectrio.service.metrics import Metrics
from connectrio.service.operations import OperationLimits
from connectrio.service.workers import Workers

__all__ = [
    "LOAD_FAILURE_KEY",
    "AsyncConnectorService",
    "ConnectorMetadataService",
    "Metrics",
    "OperationLimits",
    "Workers",
    "failure_metadata",
]
