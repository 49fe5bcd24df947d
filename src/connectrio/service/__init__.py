"""Flyte's connector services: requests in, connectors called, responses and statuses out."""

from connectrio.service.admission import Admission
from connectrio.service.agents import AgentMetadataService, AsyncAgentService
from connectrio.service.connectors import AsyncConnectorService
from connectrio.service.creates import Creates
from connectrio.service.inputs import InputReader
from connectrio.service.metadata import LOAD_FAILURE_KEY, ConnectorMetadataService, failure_metadata
from connectrio.service.metrics import Metrics
from connectrio.service.operations import OperationLimits
from connectrio.service.polls import Polls
from connectrio.service.sync_agents import SyncAgentService
from connectrio.service.workers import Workers

__all__ = [
    "LOAD_FAILURE_KEY",
    "Admission",
    "AgentMetadataService",
    "AsyncAgentService",
    "AsyncConnectorService",
    "ConnectorMetadataService",
    "Creates",
    "InputReader",
    "Metrics",
    "OperationLimits",
    "Polls",
    "SyncAgentService",
    "Workers",
    "failure_metadata",
]
