"""Metrics of the calls of a server, for Prometheus."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Counter, Gauge, Histogram

from connectrio.rpc import Call, MessageStream, Proceed

# only methods that the server has get this far, so a client cannot make labels
CALLS = Counter("greeter_calls_total", "Calls that have ended, by their status", ["method", "status"])
SECONDS = Histogram("greeter_call_seconds", "How long calls took", ["method"])
RUNNING = Gauge("greeter_calls_running", "Calls that are being answered now", ["method"])


@asynccontextmanager
async def measure(call: Call, proceed: Proceed) -> AsyncIterator[MessageStream]:
    """Count each call, and note how long it takes."""
    began = time.perf_counter()
    RUNNING.labels(call.method).inc()
    try:
        async with proceed() as stream:
            yield stream
    finally:
        RUNNING.labels(call.method).dec()
        SECONDS.labels(call.method).observe(time.perf_counter() - began)
        CALLS.labels(call.method, call.status.name).inc()
