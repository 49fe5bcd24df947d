"""Structs with a JSON schema: the schema compiled into shapes that read plain data."""
