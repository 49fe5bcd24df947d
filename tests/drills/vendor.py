"""Another system that fails often, in a process of its own: python -m drills.vendor

It keeps jobs, over HTTP/1.1. A job is over a few seconds after it was made. One in twenty requests is answered with
503; one in fifty is carried out, but its answer is lost; one in a hundred takes two seconds. For three seconds of each
minute everything is refused. At SIGTERM it prints what it has seen.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

REFUSED, LOST, SLOW = 0.05, 0.02, 0.01
SLOW_SECONDS = 2.0
# seconds: of each period, the last ones are an outage
PERIOD, OUTAGE = 60.0, 3.0


class Books:
    """The jobs and how the requests went.

    :ivar jobs: name → the moment at which it is over; None for those that were deleted
    :ivar requests: how many had which fate
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.jobs: dict[str, float | None] = {}
        self.requests: Counter[str] = Counter()
        self._random = Random(1)
        self._lock = threading.Lock()

    def fate(self) -> str:
        """Return what becomes of the next request."""
        with self._lock:
            draw = self._random.random()
            fates = {"refused": REFUSED, "lost": LOST, "slow": SLOW, "answered": 1.0}
            fate = next(name for name, share in fates.items() if (draw := draw - share) < 0)
            if (time.monotonic() - self.began) % PERIOD > PERIOD - OUTAGE:
                fate = "outage"
            self.requests[fate] += 1
        return fate

    def carry_out(self, method: str, name: str) -> str:
        """Return the state of the job after this request."""
        with self._lock:
            match method:
                case "PUT":
                    self.jobs.setdefault(name, time.monotonic() + 1 + 3 * self._random.random())
                case "DELETE":
                    self.jobs[name] = None
            if name not in self.jobs:
                return "unknown"
            over = self.jobs[name]
        return "deleted" if over is None else "running" if time.monotonic() < over else "over"


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: Vendor

    def do_GET(self) -> None:
        """Create (PUT), look at (GET) or delete (DELETE) the job of that name."""
        fate = self.server.books.fate()
        if fate in ("refused", "outage"):
            self._reply(503, "busy")
            return
        if fate == "slow":
            time.sleep(SLOW_SECONDS)
        state = self.server.books.carry_out(self.command, self.path)
        if fate == "lost":
            self.close_connection = True
        else:
            self._reply(404 if state == "unknown" else 200, state)

    do_PUT = do_DELETE = do_GET  # noqa: N815 - the names that the library calls

    def _reply(self, status: int, text: str) -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


class Vendor(ThreadingHTTPServer):
    """The server."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.books = Books()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go are nothing special here."""


def main() -> None:
    """Serve until SIGTERM."""
    vendor = Vendor()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=vendor.shutdown).start())
    print(json.dumps({"event": "serving", "port": vendor.server_port}), flush=True)
    vendor.serve_forever()
    print(json.dumps({"event": "books", "requests": vendor.books.requests}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
