"""Hosts connectors that were written for flyte-sdk, unmodified (extra `flyte`).

A host finds the connectors that entry points and `--modules` register with flyte-sdk's own `ConnectorRegistry`. To host
one in a registry of yours: `registry.register(HostedConnector.of(TheirConnector()))`.

flyte-sdk takes a second or two to import, so it is imported at the first use of a name here. A host uses them only when
a connector has imported flyte-sdk.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectrio.flyte._hosted import HostedConnector, HostedMeta, adopt

__all__ = ["HostedConnector", "HostedMeta", "adopt"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from connectrio.flyte import _hosted

        return getattr(_hosted, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
