"""Hosts connectors that were written for flytekit, unmodified (extra `flytekit`).

A host finds the connectors that entry points and `--modules` register with flytekit's own `ConnectorRegistry`. To host
one in a registry of yours: `registry.register(hosted(TheirConnector()))`.

flytekit takes seconds to import, so it is imported at the first use of a name here. A host uses them only when a
connector has imported flytekit.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connectrio.flytekit._hosted import (
        HostedConnector,
        HostedMeta,
        HostedSyncConnector,
        adopt,
        adopt_built_in,
        hosted,
    )

__all__ = ["HostedConnector", "HostedMeta", "HostedSyncConnector", "adopt", "adopt_built_in", "hosted"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from connectrio.flytekit import _hosted

        return getattr(_hosted, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
