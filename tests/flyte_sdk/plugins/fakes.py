"""HTTP servers in place of those that plugins call."""

from __future__ import annotations

import gzip
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

# seconds; so long may a request be held
PATIENCE = 30.0


@dataclass
class Request:
    """What a plugin has sent."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass
class Answer:
    """What it is told."""

    body: Any
    status: int = 200


class Fake:
    """An HTTP server.

    :param answer: what it says to a request; an error of its own, AssertionErrors included, is kept and answered 500
    :ivar requests: all so far
    :ivar errors: what a test must look at: what the plugin sent was not right, or the fake is not
    """

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self.port = 0

    def count(self, method: str, path: str) -> int:
        """How many requests there were so far whose path contains that."""
        return sum(1 for each in list(self.requests) if each.method == method and path in each.path)

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        try:
            return self._answer(request)
        except Exception as error:  # noqa: BLE001 - raised when the fake ends
            self.errors.append(error)
            return Answer({"error": {"code": 500, "message": repr(error)}}, 500)

    @contextmanager
    def serving(self, context: ssl.SSLContext | None = None) -> Iterator[Fake]:
        """Serve on a free port, with TLS if there is a context for it."""
        server = _Server(("127.0.0.1", 0), _handler(self))
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
            if self.errors:
                raise ExceptionGroup("what a plugin sent, or what it was answered, was not right", self.errors)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that has gone is nothing to write about."""


def _handler(fake: Fake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = PATIENCE

        def do_GET(self) -> None:
            self._handle()

        def do_POST(self) -> None:
            self._handle()

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            url = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = fake.answer(Request(self.command, url.path, dict(parse_qsl(url.query)), headers, body))
            data = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Gate:
    """Holds requests until it is opened, and knows how many it holds."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_open = True
        self.inside = 0

    def close(self) -> None:
        self._is_open = False

    def open(self) -> None:
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def pass_through(self) -> None:
        with self._changed:
            self.inside += 1
            self._changed.wait_for(lambda: self._is_open, PATIENCE)
            self.inside -= 1
