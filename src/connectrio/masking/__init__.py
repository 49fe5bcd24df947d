"""Replaces secrets in texts: by value, in every form in which they may leave, or by their look, if none is known."""

from connectrio.masking.mask import SHORTEST_SECRET, SecretMask

__all__ = ["SHORTEST_SECRET", "SecretMask"]
