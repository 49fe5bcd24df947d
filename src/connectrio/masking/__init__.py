"""Finds the values of secrets in texts, in every form in which they may leave, and replaces them."""

from connectrio.masking.mask import LONGEST_TEXT, SHORTEST_SECRET, SecretMask, shorten

__all__ = ["LONGEST_TEXT", "SHORTEST_SECRET", "SecretMask", "shorten"]
