"""A small collector: it takes spans over OTLP/HTTP in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver:
    """What was exported.

    :ivar url: the endpoint
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Any]:
        parts = (part for request in self.requests for part in request.resource_spans)
        return [span for part in parts for scope in part.scope_spans for span in scope.spans]

    @property
    def resources(self) -> list[dict[str, str]]:
        """The attributes of the programs that have exported."""
        parts = (part for request in self.requests for part in request.resource_spans)
        return [
            {each.key: str(getattr(each.value, each.value.WhichOneof("value"))) for each in part.resource.attributes}
            for part in parts
        ]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive spans while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def hanging() -> Iterator[str]:
    """A collector that takes connections and never answers; its endpoint."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
