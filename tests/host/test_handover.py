"""A host that drains hands its ports over to its successor."""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from connectrio.host import handover
from connectrio.host.handover import ask_predecessor
from connectrio.host.held import HeldSockets
from connectrio.host.host import HostError, HostState
from connectrio.host.settings import HostSettings
from connectrio.rpc.sockets import listen_unix
from host.test_host import HOUR, PATIENCE, Held, get, make_host, serving
from service.harness import connector

# of all Unix sockets
NAMES = Path("/proc/net/unix")

pytestmark = pytest.mark.skipif(not NAMES.exists(), reason="ports are handed over on Linux only")


def successor_of(old, *connectors, **settings):
    """Return a host for the ports of another one."""
    ports = {"port": old.addresses.port, "prometheus_port": old.addresses.prometheus_port}
    return make_host(*connectors, **{**ports, **settings})


async def eventually(condition):
    """Wait until the condition holds."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what it asks has no event
            await anyio.sleep(0.01)


def is_refused(port):
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return False
    except ConnectionRefusedError:
        return True


async def drained(host, tasks):
    """Let a host drain, and return when it offers its ports."""
    tasks.start_soon(host.shutdown)
    name = f"@connectrio-handover-{host.addresses.port}\n"
    await eventually(lambda: name in NAMES.read_text())
    assert host.state is HostState.DRAINING


async def accepts(addresses):
    """Whether a fresh connection is answered, by whichever host."""
    await get(addresses)
    return True


async def test_the_successor_has_the_ports_and_the_host_ends_before_its_time():
    old = make_host(connector(), drain_delay=HOUR)
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(old.serve)
        await drained(old, tasks)
        assert await accepts(addresses)
        async with serving(successor_of(old, connector())) as taken:
            assert taken == addresses
            with anyio.fail_after(PATIENCE):
                await old.shutdown()
            assert old.state is HostState.STOPPED
            assert await accepts(addresses)
            async with await anyio.connect_tcp(*addresses.http[0]):
                pass
    with pytest.raises(OSError, match=r"attempts failed|refused"):
        await anyio.connect_tcp(*addresses.grpc[0])


async def test_calls_in_flight_end_at_the_host_that_drains():
    held = Held()
    old = make_host(held.connector(), drain_delay=HOUR)
    answers = []
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(old.serve)

        async def call():
            answers.append(await get(addresses))

        tasks.start_soon(call)
        await held.called.wait()
        await drained(old, tasks)
        async with serving(successor_of(old, connector())):
            assert await accepts(addresses)
            assert old.state is HostState.DRAINING
            assert answers == []
            held.let_go.set()
            await old.shutdown()
    assert len(answers) == 1


async def test_connections_that_wait_are_not_lost_if_the_host_ends_while_its_successor_starts():
    old = make_host(connector(), drain_delay=HOUR)
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        addresses = await tasks.start(old.serve)
        new = successor_of(old, connector())
        await drained(old, tasks)
        predecessor = await ask_predecessor(new.settings, stack)
        await predecessor.succeed()
        await old.shutdown()
        with anyio.fail_after(PATIENCE):  # nobody accepts now
            async with await anyio.connect_tcp(*addresses.grpc[0]) as waiting:
                accepted, _ = predecessor.sockets.grpc[0].accept()
                with accepted:
                    await waiting.send(b"x")


async def test_a_host_that_does_not_drain_keeps_its_port():
    old = make_host(connector(), drain_delay=HOUR)
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(old.serve)
        with pytest.raises(HostError, match="another process has it"):
            await successor_of(old, connector()).serve()
        assert await accepts(addresses)
        tasks.cancel_scope.cancel()


async def test_one_that_drains_at_once_hands_nothing_over():
    held = Held()
    old = make_host(held.connector(), grace=HOUR)
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(old.serve)
        tasks.start_soon(get, addresses)
        await held.called.wait()
        tasks.start_soon(old.shutdown)
        await eventually(lambda: not old.is_listening)
        with pytest.raises(HostError, match="for the metrics: another process has it"):
            await successor_of(old, connector()).serve()
        held.let_go.set()


async def test_a_successor_that_ends_before_it_serves_changes_nothing():
    old = make_host(connector(), drain_delay=HOUR)
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(old.serve)
        await drained(old, tasks)
        for _ in range(2):
            with capture_logs() as logs:
                async with AsyncExitStack() as stack:
                    assert await ask_predecessor(successor_of(old).settings, stack) is not None
                await eventually(lambda seen=logs: "the successor has ended before it served" in str(seen))
            assert await accepts(addresses)
        async with serving(successor_of(old, connector())):
            await old.shutdown()


async def test_of_two_successors_one_gets_the_ports():
    old = make_host(connector(), drain_delay=HOUR)
    async with anyio.create_task_group() as tasks:
        await tasks.start(old.serve)
        await drained(old, tasks)
        first, second, outcomes = successor_of(old, connector()), successor_of(old, connector()), []

        async def start(host):
            try:
                async with serving(host):
                    outcomes.append("serves")
                    await old.shutdown()
                    await eventually(lambda: len(outcomes) == 2)
            except* HostError as error:
                outcomes.append(str(error.exceptions[0]))

        async with anyio.create_task_group() as starting:
            starting.start_soon(start, first)
            starting.start_soon(start, second)
    assert max(outcomes) == "serves"
    assert "another process has it" in min(outcomes)


async def test_another_user_gets_nothing(monkeypatch):
    monkeypatch.setattr(handover, "_peer", lambda stream: (4711, False))
    old = make_host(connector(), drain_delay=HOUR)
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(old.serve)
        await drained(old, tasks)
        # the successor does not trust it either
        with pytest.raises(HostError, match="another process has it"):
            await successor_of(old, connector()).serve()
        with capture_logs() as logs:
            async with await anyio.connect_unix(f"\0connectrio-handover-{addresses.port}") as asking:
                with anyio.fail_after(PATIENCE), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await asking.receive_fds(1024, 8)
        assert 4711 in [line["other_pid"] for line in logs if "another user" in line["event"]]
        monkeypatch.undo()
        async with serving(successor_of(old, connector())):
            await old.shutdown()


async def test_other_addresses_are_not_taken_over():
    old = make_host(connector(), drain_delay=HOUR)
    async with anyio.create_task_group() as tasks:
        await tasks.start(old.serve)
        await drained(old, tasks)
        with pytest.raises(HostError, match="but it listens on other addresses: give the same --host"):
            await successor_of(old, connector(), host=None).serve()
        # another port for the metrics is fine
        async with serving(successor_of(old, connector(), prometheus_port=0)) as taken:
            assert taken.prometheus_port != old.addresses.prometheus_port
            await old.shutdown()
            # nobody would answer there; the watchdog's thread closes its sockets a moment later
            await eventually(lambda: is_refused(old.addresses.prometheus_port))


async def test_the_metrics_may_have_a_socket_of_systemd():
    old = make_host(connector(), drain_delay=HOUR)
    async with anyio.create_task_group() as tasks:
        await tasks.start(old.serve)
        await drained(old, tasks)
        with socket.create_server(("127.0.0.1", 0)) as metrics:
            metrics.setblocking(False)
            own = metrics.getsockname()[1]
            new = successor_of(old, connector(), prometheus_port=own)
            new._held = HeldSockets(http=[metrics])
            async with serving(new) as taken:
                assert taken.prometheus_port == own
                await old.shutdown()


async def test_a_successor_has_the_ports_from_when_they_are_sent_until_it_ends():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        offer = handover._Offer([listening], [])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(offer.run)
            await eventually(lambda: f"@connectrio-handover-{port}\n" in NAMES.read_text())
            async with AsyncExitStack() as stack:
                settings = HostSettings(host="127.0.0.1", port=port, prometheus_port=0)
                assert await ask_predecessor(settings, stack) is not None
                # the time may be over now, so it counts before it serves
                await eventually(lambda: offer.successor == os.getpid())
            await eventually(lambda: offer.successor is None)
            tasks.cancel_scope.cancel()


def test_all_addresses_of_the_machine_must_be_among_the_sockets():
    with socket.create_server(("127.0.0.1", 0)) as one:
        here, port = one.getsockname()
        known, other, foreign = ((socket.AF_INET, (host, port)) for host in (here, "127.0.0.2", "203.0.113.9"))
        assert handover._are_those([one], [known])
        assert handover._are_those([one], [known, foreign])
        assert not handover._are_those([one], [known, other])
        assert not handover._are_those([one], [other])
        assert not handover._are_those([], [foreign])


@pytest.mark.parametrize("message", [b"", b"\xff", b"[]", b"{}", b'{"grpc": "1"}', b'{"grpc": 0}', b'{"grpc": 3}'])
def test_a_message_that_says_nothing_is_none(message):
    assert handover._count(message, 2) is None


def test_descriptors_are_closed_if_one_is_no_socket(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with (tmp_path / "file").open("w") as file, socket.create_server(("127.0.0.1", 0)) as listening:
        given = [os.dup(each.fileno()) for each in (listening, file, listening)]
        with pytest.raises(HostError, match="what was given is no socket"):
            handover._adopted(given, "what was given")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_name_that_is_taken_costs_nothing_but_the_hand_over():
    old = make_host(connector(), drain_delay=0.01)
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(old.serve)
            async with await listen_unix(f"unix-abstract:connectrio-handover-{addresses.port}"):
                await old.shutdown()
    assert [
        line["log_level"] for line in logs if line["event"] == "this host cannot hand its ports over to another one"
    ] == ["warning"]


def test_the_peer_is_known_by_the_kernel():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = type("Stream", (), {"extra": lambda self, _: ours})()
        pid, is_ours = handover._peer(stream)
    assert pid > 0
    assert is_ours
