"""Connectors that come with connectrio.

Each is an optional extra, written against the connector API alone, and imported only when a host loads it: by its
entry point in the group `flyte.connectors`, or by `--modules`.
"""
