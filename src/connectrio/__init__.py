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
    from connectrio.connector.custom import read_custom
    from connectrio.connector.failures import (
        ConnectorError,
        InvalidRequestError,
        PermanentFailure,
        TransientError,
        UnknownJobError,
    )
    from connectrio.connector.phases import PhaseMap
    from connectrio.connector.policy import ConnectorPolicy
    from connectrio.connector.porting import convert_to_flyte_phase, is_terminal_phase, system_logger
    from connectrio.connector.registry import ConnectorRegistry, Registry
    from connectrio.host.runner import ConnectorService
    from connectrio.host.settings import HostSettings
    from connectrio.idl.flyteidl2.connector import (
        GetTaskLogsResponse,
        GetTaskLogsResponseBody,
        GetTaskLogsResponseHeader,
        GetTaskMetricsResponse,
        TaskExecutionMetadata,
    )
    from connectrio.idl.flyteidl2.core import ExecutionMetricResult, TaskExecution, TaskTemplate
    from connectrio.idl.flyteidl2.logs.dataplane import LogLine, LogLineOriginator

__all__ = [
    "AsyncConnector",
    "ConnectorError",
    "ConnectorPolicy",
    "ConnectorRegistry",
    "ConnectorService",
    "CurrentCall",
    "ExecutionMetricResult",
    "GetTaskLogsResponse",
    "GetTaskLogsResponseBody",
    "GetTaskLogsResponseHeader",
    "GetTaskMetricsResponse",
    "HostSettings",
    "InvalidRequestError",
    "LogLine",
    "LogLineOriginator",
    "PermanentFailure",
    "Phase",
    "PhaseMap",
    "Registry",
    "Resource",
    "ResourceMeta",
    "TaskExecution",
    "TaskExecutionMetadata",
    "TaskLog",
    "TaskTemplate",
    "TransientError",
    "UnknownJobError",
    "__version__",
    "convert_to_flyte_phase",
    "current_call",
    "is_terminal_phase",
    "read_custom",
    "system_logger",
]


_HOMES = {
    "AsyncConnector": "connectrio.connector.base",
    "ConnectorError": "connectrio.connector.failures",
    "ConnectorPolicy": "connectrio.connector.policy",
    "ConnectorRegistry": "connectrio.connector.registry",
    "ConnectorService": "connectrio.host.runner",
    "CurrentCall": "connectrio.connector.context",
    "ExecutionMetricResult": "connectrio.idl.flyteidl2.core",
    "GetTaskLogsResponse": "connectrio.idl.flyteidl2.connector",
    "GetTaskLogsResponseBody": "connectrio.idl.flyteidl2.connector",
    "GetTaskLogsResponseHeader": "connectrio.idl.flyteidl2.connector",
    "GetTaskMetricsResponse": "connectrio.idl.flyteidl2.connector",
    "HostSettings": "connectrio.host.settings",
    "InvalidRequestError": "connectrio.connector.failures",
    "LogLine": "connectrio.idl.flyteidl2.logs.dataplane",
    "LogLineOriginator": "connectrio.idl.flyteidl2.logs.dataplane",
    "PermanentFailure": "connectrio.connector.failures",
    "Phase": "connectrio.connector.base",
    "PhaseMap": "connectrio.connector.phases",
    "Registry": "connectrio.connector.registry",
    "Resource": "connectrio.connector.base",
    "ResourceMeta": "connectrio.connector.base",
    "TaskExecution": "connectrio.idl.flyteidl2.core",
    "TaskExecutionMetadata": "connectrio.idl.flyteidl2.connector",
    "TaskLog": "connectrio.connector.base",
    "TaskTemplate": "connectrio.idl.flyteidl2.core",
    "TransientError": "connectrio.connector.failures",
    "UnknownJobError": "connectrio.connector.failures",
    "convert_to_flyte_phase": "connectrio.connector.porting",
    "current_call": "connectrio.connector.context",
    "is_terminal_phase": "connectrio.connector.porting",
    "read_custom": "connectrio.connector.custom",
    "system_logger": "connectrio.connector.porting",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
