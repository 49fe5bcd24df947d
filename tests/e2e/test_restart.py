"""A host that is started in the place of another one, as a process of its own: its ports stay open."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.client import Client, fetch, order
from e2e.programs import CONNECTORS, HERE, HOUR, MARK, HeldPorts, Program, eventually, hold_port

PROBES = CONNECTORS / "probes.py"


class Served(Program):
    """`connectrio serve` on given ports.

    :param wrapper: a command that its own is an argument of
    """

    def __init__(self, backend, port, metrics, *options, wrapper=(), **given):
        command = [
            *wrapper, sys.executable, "-m", "connectrio", "serve", "--backend", backend, "--host", "127.0.0.1",
            "--port", str(port), "--prometheus-port", str(metrics), "--no-entry-points", "--modules", str(PROBES),
            "--watchdog", "0", "--log-format", "json", *map(str, options),
        ]  # fmt: skip
        super().__init__(command, cwd=HERE, **given)

    def serves(self):
        """Wait until it does. Return this object."""
        self.wait_for_log("serving")
        return self

    def end(self):
        """Stop it; it must exit with 0."""
        self.send(signal.SIGTERM)
        assert self.wait() == 0


def pid_at(port):
    """Return the process that answers a fresh connection."""
    with Client(f"127.0.0.1:{port}") as client:
        return int(client.call("get", meta=order("pid")).resource.message)


class Notified:
    """The socket to which services tell their state."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    @property
    def lines(self):
        """All lines so far."""
        try:
            while True:
                self._lines += self._socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return self._lines


@pytest.fixture
def ports():
    """Two ports that only programs of this test get."""
    with hold_port() as one, hold_port() as other:
        yield one.getsockname()[1], other.getsockname()[1]


def test_the_next_host_takes_over(backend, ports):
    with Served(backend, *ports, "--drain-delay", HOUR) as old, Client(f"127.0.0.1:{ports[0]}") as client:
        old.serves()
        call = client.start("get", meta=order("gate", id="one"))
        old.wait_for("started", id="one")
        old.send(signal.SIGTERM)
        old.wait_for_log("draining")
        with Served(backend, *ports) as new:
            new.serves()
            old.wait_for_log("the successor serves; this host stops listening")
            # the line comes just before the old host leaves the ports
            eventually(lambda: pid_at(ports[0]) == new.pid)
            eventually(lambda: fetch(f"http://127.0.0.1:{ports[1]}/readyz")[0] == 200)
            old.send(signal.SIGUSR1)  # opens the gate
            assert call.result().resource.message
            assert old.wait() == 0
            assert pid_at(ports[0]) == new.pid
            new.end()


def test_a_second_host_by_accident_is_refused(ports):
    with Served("uvloop", *ports, "--drain-delay", HOUR) as one:
        one.serves()
        with Served("uvloop", *ports) as other:
            assert other.wait() == 1
            assert f"cannot listen on 127.0.0.1:{ports[0]} for gRPC: another process has it" in other.errors
        assert pid_at(ports[0]) == one.pid
        one.kill()
        one.wait()


def test_fresh_connections_are_answered_all_the_time(backend, ports):
    with Served(backend, *ports, "--drain-delay", HOUR) as old, ThreadPoolExecutor(1) as thread:
        old.serves()
        over, pids = threading.Event(), []

        def connect():
            while not over.is_set():
                pids.append(pid_at(ports[0]))

        connecting = thread.submit(connect)
        try:
            old.send(signal.SIGTERM)
            old.wait_for_log("draining")
            with Served(backend, *ports) as new:
                new.serves()
                assert old.wait() == 0
                count = len(pids)
                eventually(lambda: len(pids) > count + 2)
                over.set()
                connecting.result()  # raises what a connection has failed with
                new.end()
        finally:
            over.set()
    assert set(pids) == {old.pid, new.pid}
    assert pids[-1] == new.pid


@pytest.mark.parametrize("processes", [1, 2])
def test_a_client_waits_while_a_host_with_a_held_socket_restarts(processes):
    with HeldPorts(2) as held:
        options, given = ["--processes", processes], {"wrapper": held.wrapper, "descriptors": held.descriptors}
        with Served("uvloop", *held.ports, *options, **given) as old:
            assert old.serves().wait_for_log("serving")["grpc"] == f"127.0.0.1:{held.ports[0]}"
            first = pid_at(held.ports[0])
            old.end()
        with Client(f"127.0.0.1:{held.ports[0]}") as client:
            call = client.start("get", meta=order("pid"))
            page = ThreadPoolExecutor(1).submit(fetch, f"http://127.0.0.1:{held.ports[1]}/healthz")
            with Served("uvloop", *held.ports, *options, **given) as new:
                assert int(call.result().resource.message) != first
                assert page.result()[0] == 200
                new.end()


def test_a_process_of_several_that_dies_gets_the_held_socket_again():
    with HeldPorts(2) as held:
        given = {"wrapper": held.wrapper, "descriptors": held.descriptors}
        with Served("uvloop", *held.ports, "--processes", 2, **given) as host:
            host.serves()
            pid = pid_at(held.ports[0])
            os.kill(pid, signal.SIGKILL)
            host.wait_for_log("a process ended; it is started again")
            eventually(lambda: fetch(f"http://127.0.0.1:{held.ports[1]}/readyz")[1].count('"serving"') == 3, 60)
            host.end()


@pytest.mark.parametrize("processes", [1, 2])
def test_systemd_starts_a_host_at_the_first_connection(processes, tmp_path, ports):
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("systemd-socket-activate is not installed, which opens sockets as systemd does")
    with Notified(tmp_path / "notify") as notified:
        environment = {**MARK, "NOTIFY_SOCKET": str(notified.path), "WATCHDOG_USEC": "60000000"}
        wrapper = [activate, *(f"--listen=127.0.0.1:{port}" for port in ports)]
        wrapper += [f"--setenv={name}={value}" for name, value in environment.items()]
        with Served("uvloop", *ports, "--processes", processes, wrapper=wrapper) as host:
            eventually(lambda: "Listening on" in host.errors)
            with Client(f"127.0.0.1:{ports[0]}") as client:
                message = client.call("get", meta=order("pid")).resource.message
            assert (int(message) == host.pid) is (processes == 1)
            # of several processes one may answer before all are ready
            eventually(lambda: fetch(f"http://127.0.0.1:{ports[1]}/readyz")[0] == 200)
            eventually(lambda: "READY=1" in notified.lines)
            assert "WATCHDOG=1" in notified.lines
            served = f" task types on 127.0.0.1:{ports[0]}"
            eventually(
                lambda: any(line.startswith("STATUS=serving") and line.endswith(served) for line in notified.lines)
            )
            host.end()
        assert notified.lines.count("READY=1") == notified.lines.count("STOPPING=1") == 1


def test_a_socket_with_another_port_stops_the_start():
    with HeldPorts() as held:
        given = {"wrapper": held.wrapper, "descriptors": held.descriptors}
        with Served("uvloop", 8000, 9090, **given) as host:
            assert host.wait() == 1
        port = held.ports[0]
    (line,) = host.log
    assert line["error"] == (
        f"the socket 'unknown' (descriptor 3) that this process was given has port {port}, but --port is 8000"
        " and --prometheus-port is 9090: give the .socket unit and the host the same port"
    )
