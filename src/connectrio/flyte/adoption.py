"""Connectors that were registered with flyte-sdk, in registries of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyte.connectors import ConnectorRegistry as FlyteRegistry

from connectrio.connector.registry import Registry
from connectrio.flyte._hosted import HostedConnector

__all__ = ["adopt"]


def adopt(registry: Registry, before: Mapping[Any, object]) -> None:
    """Host, in `registry`, what is registered with flyte-sdk and was not, or was something else, before.

    :param before: what was registered with flyte-sdk before, by its keys
    :raises ValueError: `registry` has another connector already for one's task type and version. The others are hosted
    """
    errors: list[ValueError] = []
    for key, connector in list(FlyteRegistry._REGISTRY.items()):  # noqa: SLF001 - there is no other way to list them
        replaced = before.get(key)
        if replaced is not connector and not _is_hosted(registry, connector):
            try:
                registry.register(
                    HostedConnector.of(connector), override=replaced is not None and _is_hosted(registry, replaced)
                )
            except ValueError as error:
                errors.append(error)
    if errors:
        raise ValueError("; ".join(map(str, errors))) from errors[0]


def _is_hosted(registry: Registry, connector: object) -> bool:
    hosted = (registered.connector for registered in registry.registered())
    return any(isinstance(each, HostedConnector) and each.connector is connector for each in hosted)
