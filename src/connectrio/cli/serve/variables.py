"""Where the settings of `connectrio serve` are found beside its flags."""

from __future__ import annotations

__all__ = ["DEFAULT_FILE", "variable"]

DEFAULT_FILE = "connectrio.toml"


def variable(setting: str) -> str:
    """The environment variable of a setting: `CONNECTRIO_PORT` for "port"."""
    return f"CONNECTRIO_{setting.upper()}"
