"""connectrio hosts Flyte connectors on anyio: asyncio, uvloop or trio.

The classes and functions for authors of connectors are here. Each is imported at its first use: a connector's module
does not load the host, and a program that only starts hosts does not load connectors.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from connectrio._version import __version__

if TYPE_CHECKING:
    from connectrio.connector.base import AsyncConnector, Phase, Resource, ResourceMeta, TaskLog
    from connectrio.connector.context import CurrentCall, current_call
    from connectrio.connector.failures import (
        ConnectorError,
        InvalidRequestError,
        PermanentFailure,
        TransientError,
        UnknownJobError,
    )
    from connectrio.connector.phases import PhaseMap
    from connectrio.connector.policy import ConnectorPolicy
    from connectrio.connector.registry import ConnectorRegistry, Registry
    from connectrio.host.runner import ConnectorService
    from connectrio.host.settings import HostSettings

__all__ = [
    "AsyncConnector",
    "ConnectorError",
    "ConnectorPolicy",
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


_HOMES = {
    "AsyncConnector": "connectrio.connector.base",
    "ConnectorError": "connectrio.connector.failures",
    "ConnectorPolicy": "connectrio.connector.policy",
    "ConnectorRegistry": "connectrio.connector.registry",
    "ConnectorService": "connectrio.host.runner",
    "CurrentCall": "connectrio.connector.context",
    "HostSettings": "connectrio.host.settings",
    "InvalidRequestError": "connectrio.connector.failures",
    "PermanentFailure": "connectrio.connector.failures",
    "Phase": "connectrio.connector.base",
    "PhaseMap": "connectrio.connector.phases",
    "Registry": "connectrio.connector.registry",
    "Resource": "connectrio.connector.base",
    "ResourceMeta": "connectrio.connector.base",
    "TaskLog": "connectrio.connector.base",
    "TransientError": "connectrio.connector.failures",
    "UnknownJobError": "connectrio.connector.failures",
    "current_call": "connectrio.connector.context",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
