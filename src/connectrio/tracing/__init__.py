"""Traces with OpenTelemetry: spans of calls, and of the connector's methods in them.

A host with the setting `tracing` does all of this by itself. For a server or a channel of your own:

    server = Server([Greeter()], on_call=on_server_call)
    async with Channel("127.0.0.1:50051", on_call=on_channel_call) as channel:
        ...

This is the only part of the package that imports OpenTelemetry (extra `otel`).
"""

from connectrio.tracing._export import Tracing
from connectrio.tracing._spans import current_ids, method_span, on_channel_call, on_server_call

__all__ = ["Tracing", "current_ids", "method_span", "on_channel_call", "on_server_call"]
