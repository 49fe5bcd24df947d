"""Sockets of systemd, and what it is told."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import anyio
import pytest
from structlog.testing import capture_logs

from connectrio.host import systemd
from connectrio.host.host import Host, HostError
from connectrio.host.settings import HostSettings
from connectrio.host.systemd import Notifier, held_sockets, reporting
from host.test_host import HOUR, PATIENCE, get, make_host
from service.harness import connector

# descriptors that nothing else has; systemd's begin at 3
FIRST = 700


def listening(family=socket.AF_INET, kind=socket.SOCK_STREAM, address=("127.0.0.1", 0), *, listen=True):
    made = socket.socket(family, kind)
    made.bind(address)
    if listen:
        made.listen()
    return made


def port_of(one: socket.socket) -> int:
    return one.getsockname()[1]


@pytest.fixture
def pass_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Give sockets to this process as systemd does."""
    with ExitStack() as stack:

        def give(*sockets: socket.socket, names: str = "", pid: int | None = None) -> None:
            monkeypatch.setattr(systemd, "_FIRST", FIRST)
            for number, each in enumerate(sockets):
                stack.callback(each.close)
                os.dup2(each.fileno(), FIRST + number)
            monkeypatch.setenv("LISTEN_FDS", str(len(sockets)))
            monkeypatch.setenv("LISTEN_PID", str(os.getpid() if pid is None else pid))
            if names:
                monkeypatch.setenv("LISTEN_FDNAMES", names)

        yield give


def ports(held) -> tuple[list[int], list[int]]:
    """Return the ports of the sockets, and close them."""
    found = [port_of(each) for each in held.grpc], [port_of(each) for each in held.http]
    for each in (*held.grpc, *held.http):
        each.close()
    return found


def test_without_systemd_there_are_none(monkeypatch):
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert ports(held_sockets(HostSettings())) == ([], [])


def test_a_socket_is_for_the_port_of_its_number(pass_sockets):
    one, other = listening(), listening()
    pass_sockets(one, other)
    settings = HostSettings(port=port_of(other), prometheus_port=port_of(one))
    held = held_sockets(settings)
    assert all(not os.get_inheritable(each.fileno()) and not each.getblocking() for each in (*held.grpc, *held.http))
    assert ports(held) == ([port_of(other)], [port_of(one)])
    assert not {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} & set(os.environ)
    assert ports(held_sockets(settings)) == ([], [])


def test_or_of_its_name(pass_sockets):
    one, other = listening(), listening()
    pass_sockets(one, other, names="metrics:grpc")
    assert ports(held_sockets(HostSettings(port=0, prometheus_port=0))) == ([port_of(other)], [port_of(one)])


def test_port_0_takes_the_first_one(pass_sockets):
    one, other = listening(), listening()
    pass_sockets(one, other, names="unknown:unknown")
    assert ports(held_sockets(HostSettings(port=0, prometheus_port=0))) == ([port_of(one)], [port_of(other)])


def test_several_addresses_of_one_port(pass_sockets):
    one = listening()
    other = listening(address=("127.0.0.2", port_of(one)))
    pass_sockets(one, other)
    assert ports(held_sockets(HostSettings(port=0))) == ([port_of(one)] * 2, [])


@pytest.mark.parametrize(
    ("names", "settings", "settled"),
    [
        ("", {"port": 8000, "prometheus_port": 9090}, "--port is 8000 and --prometheus-port is 9090"),
        ("connectrio.socket", {"port": 8000}, "--port is 8000 and --prometheus-port is 9090"),
        ("grpc", {"port": 8000}, "--port is 8000"),
        ("metrics", {"port": 0}, "--prometheus-port is 9090"),
    ],
)
def test_other_ports_than_the_settings_are_refused(pass_sockets, names, settings, settled):
    """Also if the setting is the default: then somebody might have given it."""
    one = listening()
    pass_sockets(one, names=names)
    text = (
        f"the socket '{names or 'unknown'}' (descriptor {FIRST}) that this process was given has port {port_of(one)},"
        f" but {settled}: give the .socket unit and the host the same port"
    )
    with pytest.raises(HostError, match=f"^{re.escape(text)}$"):
        held_sockets(HostSettings(**settings))


def test_two_ports_for_grpc_are_refused(pass_sockets):
    one, other = listening(), listening()
    pass_sockets(one, other, names="grpc:grpc")
    with pytest.raises(HostError, match=f"has port {port_of(other)}, but --port is {port_of(one)}"):
        held_sockets(HostSettings(port=0))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: listening(listen=False), "does not listen. Is it a single connection (Accept=yes"),
        (lambda path: listening(kind=socket.SOCK_DGRAM, listen=False), "is no TCP socket"),
        (lambda path: listening(socket.AF_UNIX, address=str(path)), "use --unix-socket"),
    ],
    ids=["not listening", "udp", "unix"],
)  # fmt: skip
def test_other_sockets_are_refused(pass_sockets, tmp_path, make, reason):
    pass_sockets(make(tmp_path / "s"), names="grpc")
    with pytest.raises(HostError, match=re.escape(reason)):
        held_sockets(HostSettings(port=0))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(FIRST)


def test_files_and_closed_descriptors_are_refused(pass_sockets, tmp_path, monkeypatch):
    pass_sockets(names="grpc")
    monkeypatch.setenv("LISTEN_FDS", "1")
    with pytest.raises(HostError, match=rf"\(descriptor {FIRST}\) .* is not open: Bad file descriptor"):
        held_sockets(HostSettings())
    pass_sockets(names="grpc")
    monkeypatch.setenv("LISTEN_FDS", "1")
    with (tmp_path / "file").open("w") as file:
        os.dup2(file.fileno(), FIRST)
    with pytest.raises(HostError, match="is no socket"):
        held_sockets(HostSettings())


def test_a_count_that_is_no_number_is_refused(pass_sockets, monkeypatch):
    pass_sockets()
    monkeypatch.setenv("LISTEN_FDS", "two")
    with pytest.raises(HostError, match="LISTEN_FDS must be a number, got 'two'"):
        held_sockets(HostSettings())


def test_those_of_another_process_are_left_alone(pass_sockets):
    with capture_logs() as logs:
        pass_sockets(listening(), pid=1)
        assert ports(held_sockets(HostSettings(port=0))) == ([], [])
    assert [line["other_pid"] for line in logs] == [1]
    os.fstat(FIRST)
    os.close(FIRST)


async def test_the_socket_stays_open_when_the_host_has_ended(pass_sockets):
    """Connections that come while no host runs wait for the next one."""
    grpc, metrics = listening(), listening()
    addresses = []
    for _ in range(2):
        pass_sockets(grpc.dup(), metrics.dup())
        settings = {"port": port_of(grpc), "prometheus_port": port_of(metrics)}
        host = make_host(connector(), **settings)
        host = Host(host.settings, registry=host.registry, held=held_sockets(host.settings))
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                addresses.append(await tasks.start(host.serve))
                await get(addresses[-1])
                await host.shutdown()
            async with await anyio.connect_tcp("127.0.0.1", port_of(grpc)):
                grpc.accept()[0].close()
    assert addresses[0] == addresses[1]
    assert addresses[0].grpc == (("127.0.0.1", port_of(grpc)),)
    metrics.close()
    grpc.close()


class Systemd:
    """The socket that a service notifies."""

    def __init__(self, path, monkeypatch) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        self.lines: list[str] = []

    def read(self) -> list[str]:
        """Return all lines so far."""
        try:
            while True:
                self.lines += self._socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return self.lines

    def fill(self) -> None:
        """Send it lines until there is no room for more, which raises BlockingIOError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)
            while True:
                sending.sendto(b"STATUS=full", str(self.path))

    async def wait_for(self, line: str) -> None:
        with anyio.fail_after(PATIENCE):
            while line not in self.read():  # noqa: ASYNC110 - a socket of datagrams has no event
                await anyio.sleep(0.01)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def notified(tmp_path, monkeypatch):
    """What a service of systemd has in its environment, and its other end."""
    for variable in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(variable, raising=False)
    one = Systemd(tmp_path / "notify", monkeypatch)
    yield one
    one.close()


async def test_systemd_is_told_of_each_state(notified):
    host = make_host(connector(), drain_delay=0.01)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reporting, host.serve, host)
        await notified.wait_for("READY=1")
        await notified.wait_for(f"STATUS=serving 1 task types on {host.addresses.target}")
        assert "STOPPING=1" not in notified.lines
        await host.shutdown()
    lines = notified.read()
    assert lines[0] == "STATUS=starting"
    assert lines.index("READY=1") < lines.index("STOPPING=1")
    assert lines.count("READY=1") == lines.count("STOPPING=1") == 1
    assert "WATCHDOG=1" not in lines
    assert "NOTIFY_SOCKET" not in os.environ


async def test_its_watchdog_hears_of_the_event_loop(notified, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    host = make_host(connector())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reporting, host.serve, host)
        await notified.wait_for("READY=1")
        before = notified.read().count("WATCHDOG=1")
        with anyio.fail_after(PATIENCE):
            while notified.read().count("WATCHDOG=1") < before + 3:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.01)
        await host.shutdown()


@pytest.mark.parametrize(
    ("environment", "watchdog"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 400}, None),
        ({"WATCHDOG_USEC": "1"}, 0.1),
    ],
)
def test_signs_of_life_are_for_whom_they_are_asked(notified, monkeypatch, environment, watchdog):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Notifier.of_environment()._watchdog == watchdog
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


@pytest.mark.parametrize("address", ["", "vsock:2:1234"])
def test_nobody_is_told_without_a_socket(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert Notifier.of_environment() is None


def test_a_socket_may_have_an_abstract_name():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(f"\0connectrio-test-{os.getpid()}")
        other.settimeout(PATIENCE)
        Notifier(f"@connectrio-test-{os.getpid()}", None).tell(make_host())
        assert other.recv(4096) == b"STATUS=starting"


def test_what_systemd_has_no_room_for_is_told_again(notified):
    """READY=1 must not be lost: systemd would stop the service as one that has not started."""
    service = SimpleNamespace(state=systemd.HostState.SERVING, not_ready=[], connectors=1, addresses=None)
    notifier = Notifier.of_environment()
    with pytest.raises(BlockingIOError):
        notified.fill()
    notifier.tell(service)
    assert "READY=1" not in notified.read()
    notifier.tell(service)
    notifier.tell(service)
    assert notified.read().count("READY=1") == 1


def test_the_status_says_why_the_host_is_not_ready(notified):
    broken = SimpleNamespace(
        state=systemd.HostState.SERVING, not_ready=["one\nreason", "x" * 1000], connectors=2, addresses=None
    )
    notifier = Notifier.of_environment()
    notifier.tell(broken)
    assert notified.read()[0] == f"STATUS=not ready: one reason; {'x' * 1000}"[: len("STATUS=") + 500]
    broken.not_ready = []
    notifier.tell(broken)
    notifier.tell(broken)
    assert notified.read()[2:] == ["STATUS=serving 2 task types"]


async def test_the_host_serves_if_systemd_is_gone(notified, tmp_path):
    (tmp_path / "notify").unlink()
    host = make_host(connector(), watchdog=HOUR)
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:

            async def end():
                with anyio.fail_after(PATIENCE):
                    while host.addresses is None:  # noqa: ASYNC110 - as above
                        await anyio.sleep(0.01)
                await get(host.addresses)
                await host.shutdown()

            tasks.start_soon(end)
            await reporting(host.serve, host)
    told = [line for line in logs if line["event"] == "systemd cannot be told the state of this host"]
    assert [line["log_level"] for line in told] == ["warning"]
