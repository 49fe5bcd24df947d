"""Flyte's connector services: requests in, connectors called, responses and statuses out."""

from connectrio.service.agents import AgentMetadataService, AsyncAgentService
from connectrio.service.connectors import AsyncConnectorService
from connectrio.service.metadata import LOAD_FAILURE_KEY, ConnectorMetadataService, failure_metadata
from connectrio.service.metrics import Metrics
from connectrio.service.operations import OperationLimits
from connectrio.service.sync_agents import SyncAgentService
from connectrio.service.workers import Workers

__all__ = [
    "LOAD_FAILURE_KEY",
    "AgentMetadataService",
    "AsyncAgentService",
    "AsyncConnectorService",
    "ConnectorMetadataService",
    "Metrics",
    "OperationLimits",
    "SyncAgentService",
    "Workers",
    "failure_metadata",
]
