"""connectrio hosts Flyte connectors on anyio: asyncio, uvloop or trio.

Authors of connectors find their vocabulary here. Each name is imported when it is first asked for: a connector's module
does not load the host, and what only starts hosts does not load connectors.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from connectrio._version import __version__

if TYPE_CHECKING:
    from connectrio.connector import AsyncConnector, Phase, Resource, ResourceMeta, TaskLog
    from connectrio.context import CurrentCall, current_call
    from connectrio.failures import (
        ConnectorError,
        InvalidRequestError,
        PermanentFailure,
        TransientError,
        UnknownJobError,
    )
    from connectrio.phases import PhaseMap
    from connectrio.registry import ConnectorRegistry, Registry
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


_HOMES = {
    "AsyncConnector": "connectrio.connector",
    "ConnectorError": "connectrio.failures",
    "ConnectorRegistry": "connectrio.registry",
    "ConnectorService": "connectrio.runner",
    "CurrentCall": "connectrio.context",
    "HostSettings": "connectrio.settings",
    "InvalidRequestError": "connectrio.failures",
    "PermanentFailure": "connectrio.failures",
    "Phase": "connectrio.connector",
    "PhaseMap": "connectrio.phases",
    "Registry": "connectrio.registry",
    "Resource": "connectrio.connector",
    "ResourceMeta": "connectrio.connector",
    "TaskLog": "connectrio.connector",
    "TransientError": "connectrio.failures",
    "UnknownJobError": "connectrio.failures",
    "current_call": "connectrio.context",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
