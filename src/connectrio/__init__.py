"""connectrio hosts Flyte connectors on anyio: asyncio, uvloop or trio."""

from connectrio._version import __version__
from connectrio.connector import AsyncConnector, Phase, Resource, ResourceMeta, TaskLog
from connectrio.registry import ConnectorRegistry

__all__ = [
    "AsyncConnector",
    "ConnectorRegistry",
    "Phase",
    "Resource",
    "ResourceMeta",
    "TaskLog",
    "__version__",
]
