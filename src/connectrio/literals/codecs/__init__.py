"""Codecs: each reads and writes the literals of one declared type."""
