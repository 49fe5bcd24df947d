"""The host's life cycle inside a program."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import anyio
import pytest
from anyio.abc import SocketListener
from grpclib import GRPCError
from grpclib.const import Status
from structlog.testing import capture_logs

import connectrio.host.ports
from connectrio import ConnectorPolicy, Phase, Registry, Resource
from connectrio.connector.context import process_count, unsafe_sql, worker_limit
from connectrio.connector.failures import LoadFailure
from connectrio.host import lifespans
from connectrio.host.host import Addresses, Host, HostError, HostState, ProcessOfSeveral
from connectrio.host.runner import announce
from connectrio.host.settings import HostSettings
from connectrio.host.watchdog import Culprit
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub, GetTaskRequest, TaskCategory
from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthStub
from connectrio.idl.grpc.health.v1 import HealthCheckResponseServingStatus as ServingStatus
from connectrio.logs import line_fields
from connectrio.rpc import Channel
from connectrio.rpc.exceptions import leaves, only_leaf
from connectrio.service.workers import call_soon_from_threads
from rpc.kit.virtual_time import in_virtual_time
from service.harness import META, connector

PATIENCE = 30.0
HOUR = 3600.0


def make_host(*connectors, one_of=None, listeners=None, **settings):
    registry = Registry()
    for each in connectors:
        registry.register(each)
    # no test fails because the watchdog sees a slow machine
    local = {"host": "127.0.0.1", "port": 0, "prometheus_port": 0, "watchdog": HOUR}
    return Host(HostSettings(**{**local, **settings}), registry=registry, one_of=one_of, listeners=listeners)


@asynccontextmanager
async def serving(host):
    """Yield the addresses of a host that serves; shut it down at the end."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            yield await tasks.start(host.serve)
            await host.shutdown()


async def get(addresses, task_type="tiny"):
    async with Channel(addresses.target) as channel:
        request = GetTaskRequest(resource_meta=META, task_category=TaskCategory(name=task_type))
        return await AsyncConnectorServiceStub(channel).get_task(request)


async def status_of(addresses, task_type="tiny"):
    try:
        await get(addresses, task_type)
    except GRPCError as error:
        return error.status
    return Status.OK


class Held:
    """A `get` that waits for `let_go`."""

    def __init__(self):
        self.called = anyio.Event()
        self.let_go = anyio.Event()
        self.ended = False

    def connector(self, **members):
        async def get(_, resource_meta, **kwargs):
            self.called.set()
            try:
                await self.let_go.wait()
            finally:
                self.ended = True
            return Resource(phase=Phase.RUNNING)

        return connector(get=get, **members)


# states


async def test_the_states_of_a_host():
    held = Held()
    host = make_host(held.connector())
    assert (host.state, host.is_ready) == (HostState.STARTING, False)
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        assert (host.state, host.is_ready) == (HostState.SERVING, True)
        tasks.start_soon(get, addresses)
        await held.called.wait()
        async with Channel(addresses.target) as channel:
            watch = HealthStub(channel).watch(HealthCheckRequest())
            assert (await anext(watch)).status is ServingStatus.SERVING
            tasks.start_soon(host.shutdown)
            assert (await anext(watch)).status is ServingStatus.NOT_SERVING
            assert (host.state, host.is_ready) == (HostState.DRAINING, False)
            held.let_go.set()
            with suppress(GRPCError):
                await anext(watch)
    assert host.state is HostState.STOPPED


async def test_options_for_a_task_type_that_nobody_serves_are_told():
    """They end no host: perhaps the connector could not be loaded."""
    options = ["tinny.rate_calls=1", "tiny.rate_calls=1", "x.rate_calls=1"]
    with capture_logs() as logs:
        async with serving(make_host(connector(), connector_options=options)):
            pass
    event = "connector_options names a task type that no connector serves; its options have no effect"
    lines = [line for line in logs if line["event"] == event]
    assert [(line["task_type"], line.get("nearest")) for line in lines] == [("tinny", "tiny"), ("x", None)]


@pytest.mark.parametrize("is_plain", [False, True])
async def test_jobs_are_polled_in_the_background_until_the_drain(is_plain):
    """With one request for many; also by a plain `def`."""
    calls, called = 0, anyio.Event()
    on_event_loop = call_soon_from_threads()

    def answer(resource_metas):
        nonlocal calls
        calls += 1
        if calls == 3:
            on_event_loop(called.set)
        return [Resource(Phase.QUEUED) for _ in resource_metas]

    async def get_many(self, resource_metas, **kwargs):
        return answer(resource_metas)

    def plain_get_many(self, resource_metas, **kwargs):
        return answer(resource_metas)

    policy = ConnectorPolicy(poll_max_age=0.02)
    host = make_host(connector(policy=policy, get_many=plain_get_many if is_plain else get_many))
    async with serving(host) as addresses:
        assert (await get(addresses)).resource.phase is Phase.RUNNING
        await called.wait()
        await host.shutdown()
        ended = calls
        await anyio.sleep(0.1)
        assert calls == ended
    assert not host.service.known_jobs.is_running


async def test_it_counts_why_connections_ended():
    host = make_host(connector())
    async with serving(host) as addresses:
        await status_of(addresses)
        async with Channel(addresses.target) as channel:
            await HealthStub(channel).check(HealthCheckRequest())
            await host.shutdown()
    value = host.collectors.get_sample_value
    assert value("connectrio_connections_closed_total", {"reason": "closed_by_peer"}) == 1
    assert value("connectrio_connections_closed_total", {"reason": "drained"}) == 1


async def test_shutdown_returns_when_all_has_ended():
    held = Held()
    host = make_host(held.connector())
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        tasks.start_soon(get, addresses)
        await held.called.wait()
        async with anyio.create_task_group() as enders:
            enders.start_soon(host.shutdown)
            enders.start_soon(host.shutdown)
            await anyio.wait_all_tasks_blocked()
            held.let_go.set()
        assert held.ended
        assert host.state is HostState.STOPPED
        await host.shutdown()


async def test_shutdown_with_a_grace_of_its_own():
    held = Held()
    host = make_host(held.connector(), grace=1000)
    statuses = []

    async def call(addresses):
        statuses.append(await status_of(addresses))

    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        tasks.start_soon(call, addresses)
        await held.called.wait()
        await host.shutdown(grace=0)
    assert statuses == [Status.UNAVAILABLE]
    assert held.ended


async def test_cancelling_stops_at_once():
    held = Held()
    host = make_host(held.connector(), grace=1000)
    async with anyio.create_task_group() as clients:
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(host.serve)
            clients.start_soon(status_of, addresses)
            await held.called.wait()
            tasks.cancel_scope.cancel()
        assert held.ended
        assert host.state is HostState.STOPPED
    assert await status_of(addresses) is Status.UNAVAILABLE


async def test_shutdown_before_it_serves():
    host = make_host(connector())
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.shutdown)
            await anyio.wait_all_tasks_blocked()
            await host.serve()
    assert host.state is HostState.STOPPED


async def test_the_timeout_ends_it():
    host = make_host(connector(), timeout=0.01)
    with anyio.fail_after(PATIENCE):
        await host.serve()
    assert host.state is HostState.STOPPED


@asynccontextmanager
async def draining(host, held):
    """Yield the addresses of a host that drains while a call is held, and a health watch that has reported it."""
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        async with Channel(addresses.target) as channel:
            watch = HealthStub(channel).watch(HealthCheckRequest())
            assert (await anext(watch)).status is ServingStatus.SERVING
            tasks.start_soon(status_of, addresses)
            await held.called.wait()
            tasks.start_soon(host.shutdown)
            assert (await anext(watch)).status is ServingStatus.NOT_SERVING
            yield addresses, watch
        tasks.cancel_scope.cancel()


async def test_it_accepts_during_the_drain_delay():
    held = Held()
    host = make_host(held.connector(), connector(task_type_name="other"), drain_delay=HOUR)
    async with draining(host, held) as (addresses, _):
        assert await status_of(addresses, "other") is Status.OK
        assert not held.ended


async def test_it_accepts_nothing_after_the_drain_delay():
    held = Held()
    host = make_host(held.connector(), connector(task_type_name="other"), drain_delay=0.01, grace=HOUR)
    async with draining(host, held) as (addresses, watch):
        with pytest.raises(GRPCError):  # after the delay, watches end
            await anext(watch)
        with anyio.fail_after(PATIENCE):
            while await status_of(addresses, "other") is Status.OK:
                pass
        assert not held.ended


# errors at the start


@pytest.mark.parametrize(
    ("setting", "flag", "purpose"),
    [("port", "--port", "gRPC"), ("prometheus_port", "--prometheus-port", "the metrics")],
)
async def test_a_taken_port(setting, flag, purpose):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HostError) as raised:
            await make_host(connector(), **{setting: port}).serve()
    assert str(raised.value) == (
        f"cannot listen on 127.0.0.1:{port} for {purpose}: another process has it. Stop that one, or choose another"
        f" port with {flag} (0 takes any free one)"
    )


@pytest.mark.parametrize(("host", "where"), [("192.0.2.1", "192.0.2.1:0"), ("2001:db8::1", "[2001:db8::1]:0")])
async def test_an_address_that_is_not_here(host, where):
    with pytest.raises(HostError, match=rf"^cannot listen on {re.escape(where)} for gRPC: "):
        await make_host(connector(), host=host).serve()


def bound_to(host):
    return [f"[{address}]" if ":" in address else address for address, _ in host]


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("[::1]", ["[::1]"]),
        (None, ["0.0.0.0", "[::]"]),
        ("::", ["0.0.0.0", "[::]"]),
        ("[::]", ["0.0.0.0", "[::]"]),
        ("0.0.0.0", ["0.0.0.0"]),
    ],
)
async def test_what_it_listens_on_is_announced(host, bound, capsys):
    if "[::1]" in bound and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    bound = [each for each in bound if each != "[::]" or has_ipv6()]
    served = make_host(connector(), host=host, unix_socket="unix-abstract:announced-here")
    async with serving(served) as addresses:
        assert sorted(bound_to(addresses.grpc)) == sorted(bound_to(addresses.http)) == bound
        announce(served, addresses)
        for target in (addresses.target, "unix-abstract:announced-here"):
            async with Channel(target) as channel:
                assert await HealthStub(channel).check(HealthCheckRequest())
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"  gRPC     {addresses.target}")
    assert lines[2] == "           unix-abstract:announced-here"
    assert lines[3].startswith(f"  metrics  {addresses.url}/metrics")
    for line, port in ((lines[1], addresses.port), (lines[3], addresses.prometheus_port)):
        assert all(f"{each}:{port}" in line for each in bound)
        assert ("listening on" in line) == (bound not in (["127.0.0.1"], ["[::1]"]))


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_a_name_that_is_no_address_of_this_machine(monkeypatch):
    async def getaddrinfo(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("anyio.getaddrinfo", getaddrinfo)
    with pytest.raises(HostError) as raised:
        await make_host(connector(), host="nobody.invalid").serve()
    assert str(raised.value) == (
        "cannot listen on nobody.invalid:0 for gRPC: Name or service not known. Choose an address of this machine with"
        " --host, or leave it out for all of them"
    )


async def test_no_port_is_left_bound_when_the_other_one_is_taken(monkeypatch):
    bound = []
    bind = connectrio.host.ports.bind_tcp

    async def spy(*args, **kwargs):
        found = await bind(*args, **kwargs)
        bound.extend(found)
        return found

    monkeypatch.setattr(connectrio.host.ports, "bind_tcp", spy)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(HostError):
        await make_host(connector(), prometheus_port=taken.getsockname()[1]).serve()
    assert [each.fileno() for each in bound] == [-1]


async def test_a_bad_module():
    with pytest.raises(HostError, match=r"^cannot load connectors from 'no_such': ModuleNotFoundError: "):
        await make_host(modules=["no_such"]).serve()


# lifespans


class Lifespan:
    """A lifespan that records its events."""

    def __init__(self, *, opening=None, later=None, closing=None):
        self.events = []
        self.steps = opening, later, closing
        self.fail = anyio.Event()
        self.failed = anyio.Event()

    def connector(self, **members):
        @asynccontextmanager
        async def lifespan(_):
            opening, later, closing = self.steps
            try:
                await self.do("open", opening)
                async with anyio.create_task_group() as tasks:
                    if later:
                        tasks.start_soon(self.fail_later, later)
                    yield
                    tasks.cancel_scope.cancel()
                await self.do("close", closing)
            finally:
                self.events.append("left")

        return connector(lifespan=lifespan, **members)

    async def do(self, event, step):
        self.events.append(event)
        if step is not None:
            await step()

    async def fail_later(self, step):
        await self.fail.wait()
        await step()


def raising(error):
    async def step():
        raise error

    return step


async def test_a_lifespan_is_told_how_many_threads_it_may_use():
    seen = []

    @asynccontextmanager
    async def lifespan(_):
        seen.append(worker_limit.get())
        yield

    async with serving(make_host(connector(lifespan=lifespan), worker=3)):
        assert seen == [3]
    assert worker_limit.get() == 10


async def test_lines_of_a_lifespan_and_of_its_tasks_name_the_connector():
    seen = []

    async def background():
        seen.append(line_fields.get()())

    @asynccontextmanager
    async def lifespan(_):
        seen.append(line_fields.get()())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(background)
            yield

    async with serving(make_host(connector(lifespan=lifespan))):
        pass
    assert seen == 2 * [{"connector": "Tiny Connector", "task_type": "tiny", "task_type_version": 0}]
    assert line_fields.get() is None


async def test_a_lifespan_is_told_how_many_processes_share_the_machine():
    seen = []

    @asynccontextmanager
    async def lifespan(_):
        seen.append(process_count.get())
        yield

    place = ProcessOfSeveral(3, (("127.0.0.1", 9090),))
    async with serving(make_host(connector(lifespan=lifespan), one_of=place)) as addresses:
        assert seen == [3]
        assert addresses.prometheus_port == 9090


async def test_a_lifespan_is_told_whether_sql_is_confined_and_the_log_as_well():
    seen = []

    @asynccontextmanager
    async def lifespan(_):
        seen.append(unsafe_sql.get())
        yield

    for unsafe in (False, True):
        with capture_logs() as logs:
            async with serving(make_host(connector(lifespan=lifespan), unsafe_sql=unsafe)):
                assert seen.pop() is unsafe
        assert any("SQL is not confined" in line["event"] for line in logs) == unsafe


async def test_a_lifespan_is_open_for_as_long_as_calls_run():
    lifespan, held = Lifespan(), Held()
    host = make_host(lifespan.connector(get=held.connector().get.__func__))
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        assert lifespan.events == ["open"]
        tasks.start_soon(get, addresses)
        await held.called.wait()
        tasks.start_soon(host.shutdown)
        await anyio.wait_all_tasks_blocked()
        assert lifespan.events == ["open"]
        held.let_go.set()
    assert lifespan.events == ["open", "close", "left"]
    assert host.failures == []


FOREIGN = [
    OSError("no such host"),
    SystemExit(3),
    ExceptionGroup("one", [OSError("no such host")]),
    BaseExceptionGroup("mixed", [SystemExit(3), OSError("no")]),
]


async def error_of(addresses, task_type="tiny"):
    with pytest.raises(GRPCError) as raised:
        await get(addresses, task_type)
    return raised.value


@pytest.mark.parametrize("error", FOREIGN, ids=repr)
async def test_a_lifespan_that_cannot_be_opened(error):
    """Its connector is not called, and says why; the others are served."""
    lifespan = Lifespan(opening=raising(error))
    host = make_host(lifespan.connector(), connector(task_type_name="other"), poll_absorb=0)
    leaf = only_leaf(error)
    with capture_logs() as logs:
        async with serving(host) as addresses:
            refused = await error_of(addresses)
            assert refused.status is Status.UNAVAILABLE
            assert refused.message == (
                f"get tiny task: Tiny Connector: its lifespan could not be opened: {type(leaf).__name__}: {leaf}."
                " This host will try again"
            )
            assert await status_of(addresses, "other") is Status.OK
            assert host.is_ready
            assert (up(host), up(host, "other")) == (0, 1)
            assert await health(addresses) is ServingStatus.SERVING
            (failure,) = host.failures
    assert failure.kind == f"lifespan failed ({type(leaf).__name__})"
    assert failure.error == f"Tiny Connector: its lifespan could not be opened: {type(leaf).__name__}: {leaf}"
    line = next(line for line in logs if line["log_level"] == "error")
    assert (line["event"], line["connector"], line["opened"]) == (
        "a connector's lifespan failed",
        "Tiny Connector",
        False,
    )
    assert line["exception"]


def up(host, task_type="tiny"):
    labels = {"task_type": task_type, "version": "0"}
    return host.collectors.get_sample_value("connectrio_connector_up", labels)


async def health(addresses):
    async with Channel(addresses.target) as channel:
        return (await HealthStub(channel).check(HealthCheckRequest())).status


async def test_the_error_of_a_lifespan_is_masked():
    lifespan = Lifespan(opening=raising(ConnectionError("postgres://me:s3cr3t@db: refused")))
    host = make_host(lifespan.connector(), poll_absorb=0)
    with capture_logs() as logs:
        async with serving(host) as addresses:
            assert (await error_of(addresses)).message.endswith(
                "ConnectionError: postgres://***@db: refused. This host will try again"
            )
    assert "s3cr3t" not in f"{logs} {host.failures}"


async def test_the_announcement_says_what_is_not_served(capsys):
    host = make_host(Lifespan(opening=raising(OSError("token=t0k3n"))).connector())
    host.registry.failures.append(LoadFailure("entry point x", "ImportError", "ImportError: no x"))
    async with serving(host) as addresses:
        announce(host, addresses)
    out = capsys.readouterr().out
    assert "not loaded: entry point x: ImportError: no x\n" in out
    assert ": Tiny Connector: its lifespan could not be opened: OSError: token=***\n" in out


async def test_a_poll_for_a_connector_that_is_not_open_is_absorbed():
    """The executor would give the task up after six errors."""
    lifespan = Lifespan(opening=raising(OSError("no such host")))
    async with serving(make_host(lifespan.connector())) as addresses:
        resource = (await get(addresses)).resource
    assert resource.phase is Phase.RUNNING
    assert "its lifespan could not be opened: OSError: no such host" in resource.message


@pytest.mark.parametrize("required", [False, True])
async def test_a_lifespan_that_opens_at_the_fourth_attempt(required, monkeypatch):
    monkeypatch.setattr(lifespans, "_FIRST_PAUSE", 0.05)
    attempts = 0
    may_open = anyio.Event()

    async def fail_three_times():
        nonlocal attempts
        attempts += 1
        if attempts == 4:
            await may_open.wait()
        else:
            raise OSError("no such host")

    lifespan = Lifespan(opening=fail_three_times)
    host = make_host(lifespan.connector(), require_lifespans=required, poll_absorb=0)
    not_ready = ServingStatus.NOT_SERVING if required else ServingStatus.SERVING
    with capture_logs() as logs:
        async with serving(host) as addresses, Channel(addresses.target) as channel:
            watch = HealthStub(channel).watch(HealthCheckRequest())
            assert (await anext(watch)).status is not_ready
            assert host.is_ready is not required
            assert await status_of(addresses) is Status.UNAVAILABLE
            may_open.set()
            if required:
                assert (await anext(watch)).status is ServingStatus.SERVING
            while await status_of(addresses) is not Status.OK:
                pass
            assert host.is_ready
            assert host.failures == []
            assert up(host) == 1
            await watch.aclose()
    assert attempts == 4
    assert lifespan.events == ["open", "left"] * 3 + ["open", "close", "left"]
    assert [line["event"] for line in logs if "lifespan" in line["event"]] == [
        *["a connector's lifespan failed"] * 3,
        "a connector's lifespan is open now, after it had failed",
    ]


async def test_a_host_that_stops_before_it_serves_leaves_no_port_to_children():
    lifespan = Lifespan(opening=anyio.sleep_forever)
    bound = socket.create_server(("127.0.0.1", 0))
    bound.setblocking(False)
    address = bound.getsockname()
    host = make_host(lifespan.connector(), listeners=[await SocketListener.from_socket(bound)])
    with bound.dup():  # as a child has it
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.serve)
            await anyio.wait_all_tasks_blocked()
            await host.shutdown()
        with pytest.raises(ConnectionRefusedError), socket.socket() as client:
            client.connect(address)


@in_virtual_time
async def test_the_pauses_between_attempts_grow():
    lifespan = Lifespan(opening=raising(OSError("no")))
    host = make_host(lifespan.connector(), listeners=[], watchdog=0)
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            await tasks.start(host.serve)
            await anyio.sleep(600)
            asked = anyio.current_time()
            await host.shutdown()
            assert anyio.current_time() - asked < 1  # of virtual time: it waits for no pause
    pauses = [line["delay_seconds"] for line in logs if line["event"] == "a connector's lifespan failed"]
    expected = [1, 2, 4, 8, 16, 32, *[60] * (len(pauses) - 6)]
    assert len(pauses) >= 12
    for pause, base in zip(pauses, expected, strict=True):
        assert 0.79 * base <= pause <= 1.21 * base
    assert len(set(pauses[6:])) > 1


@in_virtual_time
@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_lifespan_that_hangs_as_it_opens(stubborn):
    """It is cancelled at its time limit and tried again. The host serves the rest, even if it cannot be cancelled."""

    async def hang():
        with anyio.CancelScope(shield=stubborn):
            await anyio.sleep(100)

    hanging, other = Lifespan(opening=hang), Lifespan()
    host = make_host(
        hanging.connector(), other.connector(task_type_name="other"), listeners=[], watchdog=0, lifespan_timeout=5
    )
    async with anyio.create_task_group() as tasks:
        began = anyio.current_time()
        await tasks.start(host.serve)
        assert 5 <= anyio.current_time() - began <= 7
        assert other.events == ["open"]
        (failure,) = host.failures
        if stubborn:
            assert failure.error == "Tiny Connector: its lifespan is not open yet"
        else:
            assert failure.error == (
                "Tiny Connector: its lifespan could not be opened: TimeoutError: it took longer than lifespan_timeout,"
                " 5 s"
            )
            assert hanging.events == ["open", "left"]
            await anyio.sleep(3)
            assert hanging.events == ["open", "left", "open"]
        await host.shutdown()
    assert hanging.events[-1] == "left"
    assert other.events == ["open", "close", "left"]


async def test_a_lifespan_whose_error_cannot_be_described():
    class HostileError(Exception):
        def __str__(self):
            raise SystemExit(9)

    host = make_host(Lifespan(opening=raising(HostileError())).connector(), connector(task_type_name="other"))
    async with serving(host) as addresses:
        assert await status_of(addresses, "other") is Status.OK
    (failure,) = host.failures
    assert failure.error.endswith("HostileError: (SystemExit in the error's own text)")


async def test_a_lifespan_that_fails_later_is_opened_again(monkeypatch):
    monkeypatch.setattr(lifespans, "_FIRST_PAUSE", HOUR)
    lifespan = Lifespan(later=raising(OSError("connection lost")))
    host = make_host(lifespan.connector(), connector(task_type_name="other"), poll_absorb=0)
    async with serving(host) as addresses:
        assert await status_of(addresses) is Status.OK
        lifespan.fail.set()
        while not host.failures:  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.001)
        (failure,) = host.failures
        assert failure.error == "Tiny Connector: its lifespan failed: OSError: connection lost"
        assert await status_of(addresses) is Status.UNAVAILABLE
        assert await status_of(addresses, "other") is Status.OK
        assert up(host) == 0
    # while the host waits for the next attempt, it drains at once
    assert lifespan.events == ["open", "left"]


async def test_what_a_host_that_starts_waits_for():
    lifespan = Lifespan(opening=anyio.sleep_forever)
    host = make_host(lifespan.connector(), lifespan_timeout=HOUR)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.serve)
        while not lifespan.events:  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.001)
        assert host.not_ready == [
            f"the host is starting: it opens the lifespan of tiny (0), within {HOUR:g} s (lifespan_timeout)"
        ]
        [attention] = (await host.report()).attention
        assert (attention.kind, attention.severity) == ("outage", "warning")
        assert attention.text.endswith("Tiny Connector: its lifespan is not open yet")
        assert "connectrio stacks" in attention.what_to_do
        tasks.cancel_scope.cancel()


async def test_why_a_host_is_not_ready():
    lifespan = Lifespan(opening=raising(OSError("secret text")))
    host = make_host(lifespan.connector(), poll_absorb=0, require_lifespans=True)
    assert host.not_ready[0] == "the host is starting"
    async with serving(host):
        assert host.not_ready == [
            (
                "require_lifespans is set, and that of tiny (0) is not open: lifespan failed (OSError); the host"
                " tries again, the log and the status page say why"
            )
        ]
        host.watchdog = SimpleNamespace(culprit=Culprit("tiny", "get", "Tiny.get", "tiny.py:1 in get"))
        assert host.not_ready[0] == "Tiny.get blocks the event loop at tiny.py:1 in get"
        assert not host.is_ready
        host.registry.outages.clear()
        host.watchdog = None
        assert (host.not_ready, host.is_ready) == ([], True)
    assert host.not_ready == ["the host has stopped"]


@in_virtual_time
async def test_a_lifespan_that_was_open_is_open_again():
    @asynccontextmanager
    async def lifespan(_):
        with anyio.move_on_after(100):
            yield

    host = make_host(connector(lifespan=lifespan), listeners=[], watchdog=0)
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            await tasks.start(host.serve)
            await anyio.sleep(150)
            await host.shutdown()
    events = [line["event"] for line in logs if "lifespan" in line["event"]]
    assert events == ["a connector's lifespan failed", "a connector's lifespan is open again"]


async def test_a_lifespan_that_ends_by_itself():
    @asynccontextmanager
    async def lifespan(_):
        with anyio.move_on_after(0.01):
            yield

    host = make_host(connector(lifespan=lifespan), poll_absorb=0)
    async with serving(host) as addresses:
        while not host.failures:  # noqa: ASYNC110 - there is no event for it
            await anyio.sleep(0.001)
        assert (await error_of(addresses)).message.endswith(
            "its lifespan failed: RuntimeError: it ended by itself, while the host serves. This host will try again"
        )


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_lifespan_that_cancels_itself():
    lifespan = Lifespan(opening=raising(asyncio.CancelledError("by itself")))
    async with serving(make_host(lifespan.connector(), poll_absorb=0)) as addresses:
        assert "CancelledError: by itself" in (await error_of(addresses)).message


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_an_interrupt_in_a_lifespan_is_the_programs():
    """On asyncio, it leaves the event loop without passing through the host."""
    lifespan = Lifespan(opening=raising(KeyboardInterrupt()))
    with pytest.raises(BaseExceptionGroup) as raised:
        await make_host(lifespan.connector()).serve()
    assert [type(each) for each in leaves(raised.value)] == [KeyboardInterrupt]


async def test_a_lifespan_that_fails_to_close():
    lifespan = Lifespan(closing=raising(OSError("connection lost")))
    host = make_host(lifespan.connector())
    async with serving(host):
        pass
    (failure,) = host.failures
    assert failure.error == "Tiny Connector: its lifespan failed: OSError: connection lost"


@pytest.mark.parametrize("step", ["opening", "closing"])
async def test_a_lifespan_that_leaves_scopes_open(step):
    async def leave_open():
        group = await anyio.create_task_group().__aenter__()
        group.start_soon(anyio.sleep_forever)
        anyio.CancelScope().__enter__()

    other = Lifespan()
    host = make_host(Lifespan(**{step: leave_open}).connector(), other.connector(task_type_name="other"))
    async with serving(host) as addresses:
        assert await status_of(addresses, "other") is Status.OK
    (failure,) = host.failures
    assert "its lifespan failed: LeftOpenError: a cancel scope or task group that was entered here" in failure.error
    assert other.events == ["open", "close", "left"]


@in_virtual_time
async def test_a_lifespan_that_hangs_as_it_closes():
    hanging, other = Lifespan(closing=anyio.sleep_forever), Lifespan()
    connectors = hanging.connector(name="Hanging Connector"), other.connector(task_type_name="other")
    host = make_host(*connectors, listeners=[], watchdog=0)
    with capture_logs() as logs:
        async with serving(host):
            pass
    assert hanging.events == ["open", "close", "left"]
    assert other.events == ["open", "close", "left"]
    [line] = [line for line in logs if line["event"] == "a connector's lifespan did not close in time"]
    assert (line["connector"], line["timeout_seconds"]) == ("Hanging Connector", 10)


async def test_a_drain_while_a_lifespan_is_opened_again(monkeypatch):
    """The attempt is cancelled at once; the lifespans that are open stay open until the last call has ended."""
    monkeypatch.setattr(lifespans, "_FIRST_PAUSE", 0.001)
    held, open_one = Held(), Lifespan()

    async def fail_then_hang():
        if failing.events.count("open") == 1:
            raise OSError("no")
        await anyio.sleep_forever()

    failing = Lifespan(opening=fail_then_hang)
    host = make_host(
        failing.connector(), open_one.connector(task_type_name="other", get=held.connector().get.__func__), grace=HOUR
    )
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(host.serve)
            tasks.start_soon(status_of, addresses, "other")
            await held.called.wait()
            for wanted in (["open", "left", "open"], ["open", "left", "open", "left"]):
                while failing.events != wanted:  # noqa: ASYNC110 - there is no event for it
                    await anyio.sleep(0.001)
                tasks.start_soon(host.shutdown)
            assert open_one.events == ["open"]
            held.let_go.set()
    assert open_one.events == ["open", "close", "left"]


async def test_shutdown_while_a_lifespan_hangs_as_it_opens():
    hanging, other = Lifespan(opening=anyio.sleep_forever), Lifespan()
    host = make_host(other.connector(task_type_name="other"), hanging.connector())
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.serve)
            while hanging.events != ["open"]:
                await anyio.wait_all_tasks_blocked()
            await host.shutdown()
    assert hanging.events == ["open", "left"]
    assert other.events == ["open", "close", "left"]
    assert host.failures == []


async def test_cancelling_closes_the_lifespans():
    lifespan = Lifespan()
    host = make_host(lifespan.connector())
    async with anyio.create_task_group() as tasks:
        await tasks.start(host.serve)
        tasks.cancel_scope.cancel()
    assert lifespan.events == ["open", "left"]


async def test_a_lifespan_may_be_any_context_manager():
    host = make_host(connector(lifespan=lambda _: anyio.CancelScope()), connector(task_type_name="other"))
    async with serving(host) as addresses:
        assert await status_of(addresses, "other") is Status.OK
        assert len(host.failures) == 1


# addresses


@pytest.mark.parametrize(
    ("bound", "target"),
    [
        ("127.0.0.1", "127.0.0.1:8000"),
        ("0.0.0.0", "127.0.0.1:8000"),
        ("::", "[::1]:8000"),
        ("::1", "[::1]:8000"),
        ("fe80::1", "[fe80::1]:8000"),
        ("example.org", "example.org:8000"),
    ],
)
def test_where_a_client_on_this_machine_finds_a_host(bound, target):
    addresses = Addresses(grpc=((bound, 8000),), http=((bound, 8000),))
    assert addresses.target == target
    assert addresses.url == f"http://{target}"
    assert (addresses.port, addresses.prometheus_port) == (8000, 8000)
