"""A vendor on loopback that fails in the ways that vendors do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trustme

from rpc.kit.serving import held_port

SECONDS = 7


@dataclass(frozen=True)
class Fault:
    """What happens to a request.

    :ivar status: of the answer; 0 if there is none
    :ivar cut: whether the answer ends before it is complete
    :ivar reset: whether the connection is reset, when a request has begun
    :ivar tls: whether the vendor speaks TLS, with a certificate that nobody knows
    """

    status: int = 0
    body: bytes = b"{}"
    cut: bool = False
    reset: bool = False
    tls: bool = False


FAULTS = {
    "refused": None,
    "dropped": Fault(),
    "reset": Fault(reset=True),
    "cut": Fault(status=200, cut=True),
    "tls-dropped": Fault(),
    "certificate": Fault(status=200, tls=True),
    "503": Fault(status=503),
    "429": Fault(status=429),
    "500": Fault(status=500),
    "404": Fault(status=404),
    "501": Fault(status=501),
    "401": Fault(status=401),
}
LASTING = {"certificate", "404", "501", "401"}


@contextmanager
def vendor(name: str) -> Iterator[str]:
    """Run a vendor with that fault; yield its URL."""
    scheme = "https" if name in ("certificate", "tls-dropped") else "http"
    fault = FAULTS[name]
    if fault is None:
        with held_port() as port:
            yield f"{scheme}://127.0.0.1:{port}"
        return
    with serving(fault) as port:
        yield f"{scheme}://127.0.0.1:{port}"


@contextmanager
def serving(fault: Fault) -> Iterator[int]:
    """Answer all requests in the same way; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = _unknown_certificate() if fault.tls else None
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threads.append(threading.Thread(target=_answer, args=(connection, fault, context)))
                threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        threads[0].join()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        for thread in threads:
            thread.join()


def _answer(connection: socket.socket, fault: Fault, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError, ValueError):  # the client goes away, or the test is over
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        with connection:
            while _request(connection, whole=fault.status != 0):
                if fault.reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if not fault.status:
                    return
                length = len(fault.body) + (100 if fault.cut else 0)
                head = f"HTTP/1.1 {fault.status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
                connection.sendall(f"{head}Retry-After: {SECONDS}\r\n\r\n".encode() + fault.body)
                if fault.cut:
                    return


def _request(connection: socket.socket, *, whole: bool) -> bool:
    """Read the head of a request, or its beginning; return whether there is one."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        if not chunk:
            return False
        received += chunk
        if not whole:
            return True
    return True


def _unknown_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context
