"""Spans are collected in memory, as in a program that has set a tracer provider of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from connectrio.diagnostics import set_trace_source
from tracing.harness import Spans

with warnings.catch_warnings():
    # pydantic's warning about flyte-sdk's classes, which would be an error here
    warnings.simplefilter("ignore", DeprecationWarning)
    import flyte.io  # noqa: F401 - so that tests need not import it

_memory = InMemorySpanExporter()


@pytest.fixture
def spans() -> Iterator[Spans]:
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(_memory))
        trace.set_tracer_provider(provider)
    _memory.clear()
    yield Spans(_memory)
    set_trace_source(None)
