"""What a host tells the connectors that it hosts."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["worker_limit"]

worker_limit: ContextVar[int] = ContextVar("connectrio_worker_limit", default=10)
"""How many threads a connector may use for what blocks: the host's `worker`. It is set while a lifespan opens."""
