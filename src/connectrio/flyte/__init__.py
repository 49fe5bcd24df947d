"""Hosts connectors that were written for flyte-sdk, unmodified (extra `flyte`).

Those that entry points and `--modules` register with flyte-sdk's own `ConnectorRegistry` are found and hosted without
further ado. To host one in a registry of yours: `registry.register(HostedConnector.of(TheirConnector()))`.

flyte-sdk takes a second or two to import, and so it is imported when one of the names here is first asked for. A host
does that only once a connector has imported flyte-sdk.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectrio.flyte._hosted import HostedConnector, HostedMeta
    from connectrio.flyte.adoption import adopt

__all__ = ["HostedConnector", "HostedMeta", "adopt"]


def __getattr__(name: str) -> Any:
    if name in {"HostedConnector", "HostedMeta"}:
        from connectrio.flyte import _hosted

        return getattr(_hosted, name)
    if name == "adopt":
        from connectrio.flyte.adoption import adopt

        return adopt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
