"""Flyte's connector services: requests in, connectors called, responses and statuses out."""
