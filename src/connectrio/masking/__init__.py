"""Finds the values of secrets in texts, in every form in which they may leave, and replaces them."""

from connectrio.masking.mask import SHORTEST_SECRET, SecretMask

__all__ = ["SHORTEST_SECRET", "SecretMask"]
