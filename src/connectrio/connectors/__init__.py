"""The connectors of connectrio.

Each is an optional extra that uses the connector API alone. A host imports it by its entry point in the group
`flyte.connectors`, or by `--modules`.
"""
