"""One process that serves connectors."""
