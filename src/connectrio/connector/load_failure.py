"""A connector that could not be loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoadFailure:
    """An entry point that could not be loaded, or whose lifespan failed, and why."""

    source: str
    error: str
