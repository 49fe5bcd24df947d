"""The services that the executor of Flyte 1 calls."""
