"""connectrio hosts Flyte connectors on anyio: asyncio, uvloop or trio.

Authors of connectors find their vocabulary here. `ConnectorService` and `HostSettings` are imported when they are first
asked for, so that a connector's module does not load the host.
"""

from typing import TYPE_CHECKING, Any

from connectrio._version import __version__
from connectrio.connector import AsyncConnector, Phase, Resource, ResourceMeta, TaskLog
from connectrio.context import CurrentCall, current_call
from connectrio.failures import ConnectorError, InvalidRequestError, PermanentFailure, TransientError, UnknownJobError
from connectrio.phases import PhaseMap
from connectrio.registry import ConnectorRegistry, Registry

if TYPE_CHECKING:
    from connectrio.runner import ConnectorService
    from connectrio.settings import HostSettings

__all__ = [
    "AsyncConnector",
    "ConnectorError",
    "ConnectorRegistry",
    "ConnectorService",
    "CurrentCall",
    "HostSettings",
    "InvalidRequestError",
    "PermanentFailure",
    "Phase",
    "PhaseMap",
    "Registry",
    "Resource",
    "ResourceMeta",
    "TaskLog",
    "TransientError",
    "UnknownJobError",
    "__version__",
    "current_call",
]


def __getattr__(name: str) -> Any:
    if name == "ConnectorService":
        from connectrio.runner import ConnectorService

        return ConnectorService
    if name == "HostSettings":
        from connectrio.settings import HostSettings

        return HostSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
