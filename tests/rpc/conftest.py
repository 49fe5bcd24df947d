from __future__ import annotations

from rpc.kit.certificates import pki

__all__ = ["pki"]
