"""Flyte's connector services: requests in, connectors called, responses and statuses out."""

from connectrio.service.async_connector import AsyncConnectorService
from connectrio.service.connector_metadata import LOAD_FAILURE_KEY, ConnectorMetadataService, failure_metadata
from connectrio.service.flyte1.agents import AgentMetadataService, AsyncAgentService
from connectrio.service.flyte1.sync_agent import SyncAgentService
from connectrio.service.idempotent_creates import IdempotentCreates
from connectrio.service.methods import InputReader
from connectrio.service.metrics import Metrics
from connectrio.service.operations import OperationLimits
from connectrio.service.poll_shield import PollShield
from connectrio.service.slots import Admission
from connectrio.service.workers import Workers

__all__ = [
    "LOAD_FAILURE_KEY",
    "Admission",
    "AgentMetadataService",
    "AsyncAgentService",
    "AsyncConnectorService",
    "ConnectorMetadataService",
    "IdempotentCreates",
    "InputReader",
    "Metrics",
    "OperationLimits",
    "PollShield",
    "SyncAgentService",
    "Workers",
    "failure_metadata",
]
