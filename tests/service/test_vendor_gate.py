"""The gate: which calls wait, in which order, and what polls are answered that may not pass."""

from __future__ import annotations

from contextlib import nullcontext, suppress

import anyio
import pytest
from grpclib import GRPCError
from grpclib.const import Status
from multidict import MultiDict
from structlog.testing import capture_logs

from connectrio import Phase, TransientError
from connectrio.idl.flyteidl2.core import Connection
from connectrio.rpc.call import Call, Deadline, set_current_call
from connectrio.service.operations import Operation
from connectrio.service.vendor_gate import CallKind, VendorGate, account_key
from rpc.kit.virtual_time import LONG, in_virtual_time
from service.harness import Job, attempt, secrets
from service.vendor import OneByOne, Vendor, gated, polling


async def create(service, number, done=None, **fields):
    """Create a job; note when that was done, or what came of it."""
    began = anyio.current_time()
    try:
        await service.create(task_execution_metadata=attempt(node=f"n{number}"), **fields)
    except GRPCError as error:
        if done is None:
            raise
        done.append(error)
    else:
        if done is not None:
            done.append(round(anyio.current_time() - began, 1))


def expiring(timeout: float) -> anyio.CancelScope:
    """Be a call whose client waits so long."""
    deadline = Deadline.from_timeout(timeout)
    set_current_call(Call("/x", MultiDict(), deadline=deadline))
    return anyio.CancelScope(deadline=deadline.at)


@in_virtual_time
async def test_creates_above_the_rate_wait():
    vendor, done = Vendor(rate=2, seconds=10), []
    service = gated(OneByOne(vendor, rate_calls=2, rate_seconds=10))
    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(create, service, number, done)
        await anyio.sleep(5)
        assert service.sample("gate_waiting_calls") == 4
    assert done == pytest.approx([0, 0, 10.1, 10.1, 20.2, 20.2], abs=0.2)
    assert (vendor.refused, service.sample("gate_waiting_calls")) == (0, 0)


@in_virtual_time
async def test_a_create_that_waits_is_dropped_with_its_client():
    vendor, done = Vendor(), []
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=10))
    await create(service, 0)
    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(5):
            await create(service, 1)
        tasks.start_soon(create, service, 2, done)
        await anyio.sleep(0.5)
        assert service.sample("gate_waiting_calls") == 1
    assert vendor.requests["create"] == 2
    assert done == pytest.approx([5.1], abs=0.1)


@in_virtual_time
async def test_a_create_that_has_begun_goes_on_without_its_client():
    vendor = Vendor(latency=20)
    service = gated(OneByOne(vendor, rate_calls=1))
    with anyio.move_on_after(1):
        await create(service, 0)
    assert vendor.requests["create"] == 1
    await create(service, 0)  # the same job
    assert vendor.requests["create"] == 1


@in_virtual_time
async def test_too_many_waiting_creates_are_refused():
    service = gated(OneByOne(Vendor(), rate_calls=1, rate_seconds=30), max_waiting_calls=1)
    await create(service, 0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create, service, 1)
        await anyio.sleep(1)
        with pytest.raises(GRPCError, match="as many calls wait as max_waiting_calls allows") as raised:
            await create(service, 2)
    assert raised.value.status is Status.RESOURCE_EXHAUSTED
    assert "this host makes at most 1 calls in 30 s to this account (rate_calls)" in raised.value.message


@in_virtual_time
async def test_a_create_gives_up_before_its_clients_deadline():
    """So that the client is told why."""
    service = gated(OneByOne(Vendor(), rate_calls=1, rate_seconds=60))
    await create(service, 0)
    with expiring(10) as scope, pytest.raises(GRPCError, match="the client's deadline is near") as raised:
        await create(service, 1)
    assert raised.value.status is Status.RESOURCE_EXHAUSTED
    assert scope.deadline - anyio.current_time() == pytest.approx(1)


@in_virtual_time
async def test_the_kinds_of_calls_take_turns():
    vendor, order = Vendor(), []
    service = gated(OneByOne(vendor, rate_calls=1))
    gate = service.servicer._dispatcher.methods.get(service.registry.get_connector("tiny"), Operation.GET).gate
    account = gate.account(None)

    async def wait(turn: CallKind):
        with await account.turn(turn):
            order.append(turn.name)

    async with anyio.create_task_group() as tasks:
        await wait(CallKind.CREATE)
        for kind in [CallKind.CREATE] * 2 + [CallKind.DELETE] * 3 + [CallKind.POLL]:
            tasks.start_soon(wait, kind)
            await anyio.sleep(0.01)
    assert order == ["CREATE", "DELETE", "POLL", "CREATE", "DELETE", "CREATE", "DELETE"]


@in_virtual_time
async def test_who_waits_next_does_not_wait_for_the_end_of_the_call_before():
    vendor, done = Vendor(latency=25), []
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=10))
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(create, service, number, done)
    assert done == pytest.approx([25, 35.1, 45.2], abs=0.2)


@in_virtual_time
async def test_nobody_passes_those_who_wait():
    account = VendorGate(OneByOne(Vendor()), OneByOne(Vendor(), max_vendor_calls=1).policy).account(None)
    first = account.try_begin()
    passed = []

    async def wait():
        with await account.turn(CallKind.CREATE):
            passed.append("the one who waited")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(1)
        with first:
            pass
        assert account.try_begin() is None
    assert passed == ["the one who waited"]
    assert account.try_begin() is not None


@in_virtual_time
async def test_a_poll_finds_out_whether_the_vendor_is_back():
    """Rather than a create, whose failure costs an attempt."""
    account = VendorGate(OneByOne(Vendor()), OneByOne(Vendor(), breaker_failures=1).policy).account(None)
    with pytest.raises(ConnectionResetError), account.try_begin():
        raise ConnectionResetError
    order = []

    async def wait(turn: CallKind):
        with await account.turn(turn):
            order.append(turn.name)

    async with anyio.create_task_group() as tasks:
        for turn in (CallKind.DELETE, CallKind.CREATE, CallKind.POLL):
            tasks.start_soon(wait, turn)
            await anyio.sleep(1)
    assert order[0] == "POLL"


@in_virtual_time
async def test_calls_at_once_are_limited():
    vendor = Vendor(latency=1)
    service = gated(OneByOne(vendor, max_vendor_calls=3))
    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(create, service, number)
            tasks.start_soon(service.delete)
    assert vendor.most_active == 3
    assert vendor.requests == {"create": 8, "delete": 8}


@in_virtual_time
async def test_a_poll_over_the_limit_is_answered_with_the_last_phase_and_its_age():
    vendor = Vendor()
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=100))
    await service.get()
    await anyio.sleep(12)
    with capture_logs() as logs:
        resource = (await service.get()).resource
    assert resource.phase is Phase.RUNNING
    assert resource.message == (
        "RUNNING, as of 12 s ago: get tiny task: the other system is not asked now: this host makes at most 1 calls in"
        " 100 s to this account (rate_calls), and others come first"
    )
    assert (vendor.requests["get"], service.count("get")) == (1, 2)
    assert (service.sample("limited_polls_total"), service.sample("absorbed_polls_total")) == (1, 0)
    assert logs == []
    assert list(service.servicer.account.incidents) == []


@in_virtual_time
async def test_a_limited_poll_ends_no_incident():
    """It has not asked the other system."""
    vendor = Vendor()
    vendor.error = ConnectionResetError("reset")
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=LONG), poll_retry=0)
    await service.get()
    account = service.servicer.account
    assert len(account.incidents.open) == 1
    await service.get()
    await anyio.sleep(30)
    account.incidents.settle()
    assert len(account.incidents.open) == 1


@in_virtual_time
async def test_a_refusal_of_the_gate_is_not_tried_again():
    """Whatever the connector calls transient."""
    service = gated(OneByOne(Vendor(), rate_calls=1, rate_seconds=LONG), poll_retry=4)
    service.registry.get_connector("tiny").is_transient = lambda error: True
    await service.get()
    began = anyio.current_time()
    await service.get()
    assert anyio.current_time() - began < 0.1


@in_virtual_time
async def test_a_job_that_is_polled_seldom_because_of_a_limit_is_not_forgotten():
    service = gated(OneByOne(Vendor(), rate_calls=1, rate_seconds=LONG))
    await service.get()
    await anyio.sleep(400)
    await service.get()
    (job,) = service.servicer.account.jobs
    now = anyio.current_time()
    assert job.report(now, now).trouble == 0
    assert job.report(now, now).polled == pytest.approx(now - 400, abs=1)


@in_virtual_time
async def test_a_limit_never_becomes_an_error():
    """However long it lasts: nothing has failed."""
    service = gated(OneByOne(Vendor(), rate_calls=1, rate_seconds=LONG), poll_absorb=60)
    for _ in range(50):
        assert (await service.get()).resource.phase is Phase.RUNNING
        await anyio.sleep(30)


@in_virtual_time
async def test_the_breaker():
    vendor, done = Vendor(), []
    service = gated(OneByOne(vendor, breaker_failures=3, breaker_pause=60), poll_retry=0)
    await service.get()
    vendor.error = ConnectionResetError("reset")
    with capture_logs() as logs:
        for _ in range(5):
            resource = (await service.get()).resource
    assert vendor.requests["get"] == 4
    assert resource.phase is Phase.RUNNING
    assert "3 calls in a row have failed, so none is made for 60 s (breaker_pause)" in resource.message
    opened = [line for line in logs if line["event"].startswith("the circuit breaker has opened")]
    assert [(line["task_type"], line["failures"], line["delay_seconds"]) for line in opened] == [("tiny", 3, 60.0)]
    assert service.sample("open_breakers") == 1
    assert service.sample("vendor_errors_total", operation="get", kind="connection") == 3
    with expiring(10):
        await create(service, 0, done)
    assert done[0].status is Status.UNAVAILABLE
    vendor.error = None
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                set_current_call(None)
                tasks.start_soon(create, service, number, done)
            await anyio.sleep(30)
            assert vendor.requests["create"] == 0
    assert vendor.requests["create"] == 3
    assert [line["event"] for line in logs if "breaker" in line["event"]] == [
        "the circuit breaker is closed again: the other system answers"
    ]
    assert service.sample("open_breakers") == 0


@in_virtual_time
async def test_an_open_breaker_does_not_hide_an_outage_for_ever():
    """As without one: the client gets an error when polls have failed for `poll_absorb` seconds."""
    vendor = Vendor()
    service = gated(OneByOne(vendor, breaker_failures=1, breaker_pause=LONG), poll_retry=0, poll_absorb=600)
    vendor.error = ConnectionResetError("reset")
    for _ in range(20):
        await service.get()
        await anyio.sleep(30)
    with pytest.raises(GRPCError, match="calls in a row have failed") as raised:
        await service.get()
    assert raised.value.status is Status.UNAVAILABLE
    assert vendor.requests["get"] == 1


@in_virtual_time
async def test_a_poll_that_hangs_opens_the_breaker():
    vendor = Vendor(latency=LONG)
    service = gated(OneByOne(vendor, breaker_failures=2))
    for _ in range(3):
        with expiring(10):
            assert (await service.get()).resource.phase is Phase.RUNNING
    assert vendor.requests["get"] == 2
    assert service.sample("open_breakers") == 1


@in_virtual_time
async def test_a_client_that_leaves_says_nothing_of_the_vendor():
    vendor = Vendor(latency=LONG)
    service = gated(OneByOne(vendor, breaker_failures=1))
    with anyio.move_on_after(3):
        await service.get()
    assert service.sample("open_breakers") == 0


@in_virtual_time
async def test_a_poll_is_tried_again_only_within_the_limits():
    vendor = Vendor()
    vendor.error = ConnectionResetError("reset")
    service = gated(OneByOne(vendor, rate_calls=2, rate_seconds=100))
    resource = (await service.get()).resource
    assert "reset" in resource.message
    assert vendor.requests["get"] == 2


@in_virtual_time
async def test_accounts_do_not_share_their_limits():
    vendor = Vendor()
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=LONG))
    for token in ("a", "b", "a", "c"):
        await service.get(connection=secrets(token=token))
    assert vendor.requests["get"] == 3


@in_virtual_time
async def test_the_author_says_what_an_account_is():
    vendor = Vendor()
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=LONG, account_names=("user",)))
    for user, token in [("ann", "a"), ("ann", "b"), ("bob", "a")]:
        await service.get(connection=Connection(secrets={"token": token}, configs={"user": user}))
    assert vendor.requests["get"] == 2
    # as the setting says, all of them are one
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=LONG), connector_options=["tiny.account_names="])
    for user in ("ann", "bob"):
        await service.get(connection=Connection(configs={"user": user}))
    assert vendor.requests["get"] == 3


def test_the_key_of_an_account():
    one = Connection(secrets={"a": "1", "b": "2"}, configs={"c": "3"})
    same = Connection(secrets={"b": "2", "a": "1"}, configs={"c": "3"})
    assert account_key(one) == account_key(same)
    assert account_key(one) != account_key(Connection(secrets={"a": "1", "b": "2"}, configs={"c": "4"}))
    assert account_key(one, ["a"]) == account_key(Connection(configs={"a": "1"}), ["a"])
    assert account_key(None) == account_key(Connection()) == account_key(one, []) == account_key(one, ["d"]) == b""
    assert account_key(Connection(secrets={"a": "\udcff"})) != b""
    assert len(account_key(one)) == 16


@in_virtual_time
async def test_few_idle_accounts_are_remembered(monkeypatch):
    monkeypatch.setattr("connectrio.service.vendor_gate._MOST_ACCOUNTS", 3)
    gate = VendorGate(OneByOne(Vendor()), OneByOne(Vendor(), rate_calls=1).policy)
    busy = gate.account(secrets(token="busy"))
    with busy.try_begin():
        for number in range(10):
            gate.account(secrets(token=str(number)))
        assert gate.account(secrets(token="busy")) is busy
    await anyio.sleep(60)
    for number in range(10):
        gate.account(secrets(token=f"new {number}"))
    assert len(gate.accounts) == 3


@in_virtual_time
async def test_an_account_that_is_kept_keeps_no_others(monkeypatch):
    """Tokens change every hour, and each new one is an account: those that are used no more must be forgotten."""
    monkeypatch.setattr("connectrio.service.vendor_gate._MOST_ACCOUNTS", 3)
    vendor = Vendor()
    gate = VendorGate(OneByOne(vendor), OneByOne(vendor, rate_calls=1).policy)
    with suppress(ConnectionError), gate.account(secrets(token="failed")).try_begin():
        raise ConnectionError("gone")
    polled = gate.account(secrets(token="polled"))
    polled.is_needed = True
    for number in range(10):
        await anyio.sleep(30)
        gate.account(secrets(token=str(number)))
    assert len(gate.accounts) == 3
    assert polled in gate.accounts


@in_virtual_time
async def test_a_lost_job_counts_as_alive_if_it_may_not_be_polled():
    """Otherwise a limit would make a second job."""
    vendor = Vendor()
    service = gated(OneByOne(vendor, rate_calls=1, rate_seconds=30))
    await service.create(task_execution_metadata=attempt(0), output_prefix="a")
    answer = await service.create(task_execution_metadata=attempt(1), output_prefix="b")
    assert answer.resource_meta == Job("a").encode()
    assert vendor.requests == {"create": 1}


@in_virtual_time
@pytest.mark.parametrize("error", [ValueError("a bug"), SystemExit(3)])
async def test_a_bug_of_the_connector_opens_no_breaker(error):
    vendor = Vendor()
    vendor.error = error
    service = gated(OneByOne(vendor, breaker_failures=1))
    for _ in range(2):
        with pytest.raises(GRPCError, match="failed to get"):
            await service.get()
    assert service.sample("open_breakers") == 0


@in_virtual_time
@pytest.mark.parametrize("policy", [{}, {"rate_calls": 100}])
@pytest.mark.parametrize("operation", ["get", "create", "delete"])
async def test_an_account_is_left_alone_for_as_long_as_it_asks(policy, operation):
    """Also without a policy; polls are answered meanwhile, creates and deletes wait."""
    vendor, done = Vendor(), []
    service = gated(OneByOne(vendor, **policy), poll_retry=0)
    async with polling(service):
        await service.get()
        vendor.error = TransientError("slow down", retry_after=20)
        with nullcontext() if operation == "get" else pytest.raises(GRPCError, match="slow down"):
            await service.call(operation)
        vendor.error = None
        requests = vendor.requests.total()
        await anyio.sleep(10)
        resource = (await service.get()).resource
        assert resource.message.startswith("RUNNING, as of 10 s ago: get tiny task: the other system is not asked now")
        assert resource.message.endswith(": it has asked to come again in 10 s")
        other = (await service.get(connection=secrets(token="another account"))).resource
        assert other.message == "at work"
        await create(service, 0, done)
        assert done == pytest.approx([10.1], abs=0.1)
        assert vendor.requests.total() - requests == 3  # the job that waited was polled, too
        await service.get()
    gate = service.servicer._dispatcher.methods.get(service.registry.get_connector("tiny"), Operation.GET).gate
    assert gate.applies is bool(policy)


async def test_a_connector_without_a_policy_passes_no_gate():
    """Neither does its account keep a hash of secrets, nor is any job known."""
    service = gated(OneByOne(Vendor(latency=0)))
    await create(service, 0)
    await service.get(connection=secrets(token="t"))
    gate = service.servicer._dispatcher.methods.get(service.registry.get_connector("tiny"), Operation.GET).gate
    assert (gate.applies, gate.accounts) == (False, [])
    assert service.metrics.registry.get_sample_value("connectrio_limited_polls_total", {"task_type": "tiny"}) is None
