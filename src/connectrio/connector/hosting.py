"""What a host tells the connectors that it hosts."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["process_count", "worker_limit"]

worker_limit: ContextVar[int] = ContextVar("connectrio_worker_limit", default=10)
"""How many threads a connector may use for what blocks: the host's `worker`. It is set while a lifespan opens."""

process_count: ContextVar[int] = ContextVar("connectrio_process_count", default=1)
"""How many processes host the connector side by side, and share the machine. It is set while a lifespan opens."""
