"""What a host answers when it has no file descriptor left, and when strangers hold its HTTP port."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from e2e.programs import HostProgram, eventually

# a host has some thirty of its own
FEW = 64
# seconds; less than the exporter's own time-outs, which would make room as well, but too late for a probe
TIMEOUT = 8.0


def probe(url: str) -> int:
    """Return the status of `url`."""
    with urlopen(url, timeout=TIMEOUT) as response:
        response.read()
        return response.status


def connect(stack: ExitStack, port: int, count: int) -> list[socket.socket]:
    """Return connections that nothing is sent on, closed when `stack` ends."""
    return [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(count)]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="this system cannot limit the files of another process")
@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_probes_are_answered_when_no_file_descriptor_is_left(backend):
    """The exporter has reserved some; and of its own silent connections, the oldest are closed."""
    with HostProgram(backend) as host, ExitStack() as stack:
        host.ready()
        probe(f"{host.url}/healthz")  # the HTTP server is imported
        resource.prlimit(host.pid, resource.RLIMIT_NOFILE, (FEW, FEW))
        connect(stack, int(host.target.rpartition(":")[2]), 80)
        connect(stack, urlsplit(host.url).port, 10)
        for _ in range(3):
            for path in ("/healthz", "/readyz", "/metrics"):
                assert probe(host.url + path) == 200
        exporter = [line for line in host.log if "the exporter" in line["event"]]
        assert [line["level"] for line in exporter] == ["warning"]
        stack.close()
        # the host has survived it
        with host.client() as client:
            eventually(lambda: client.call("get"))


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_silent_connections_do_not_keep_a_scraper_out(backend):
    with HostProgram(backend) as host, ExitStack() as stack:
        connect(stack, urlsplit(host.ready().url).port, 200)
        for path in ("/metrics", "/healthz"):
            assert probe(host.url + path) == 200
