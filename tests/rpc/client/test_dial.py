"""Which of several addresses is connected to, and that nothing stays open but that."""

from __future__ import annotations

import math

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectrio.rpc._client.target import ConnectError, TcpAddress, UnixAddress, dial, interleaved
from rpc.kit.addresses import Fake
from rpc.kit.serving import eventually, turns
from rpc.kit.virtual_time import in_virtual_time


async def plain(transport):
    return transport


async def dialled(*addresses: Fake, delay: float = 0.25, secure=plain):
    """Dial; return the address that won, and after how many seconds."""
    began = anyio.current_time()
    transport = await dial(addresses, delay=delay, secure=secure)
    took = anyio.current_time() - began
    await transport.send(b"hello")
    [winner] = [address for address in addresses if was_written_to(address)]
    await transport.aclose()
    return winner, took


def was_written_to(address: Fake) -> bool:
    return any(other.receive_stream.statistics().current_buffer_used for other in address.others)


@in_virtual_time
async def test_the_first_that_answers_is_taken_and_no_other_is_tried():
    first, second = Fake("first"), Fake("second")
    winner, _ = await dialled(first, second)
    assert winner is first
    assert not second.begun
    assert await first.open() == 0


@in_virtual_time
async def test_a_failure_leads_to_the_next_at_once():
    first, second = Fake("first", error=ConnectionRefusedError("refused")), Fake("second")
    winner, took = await dialled(first, second)
    assert winner is second
    assert took < 0.1
    await second.open()


@in_virtual_time
async def test_silence_leads_to_the_next_after_the_delay():
    first, second = Fake("first", seconds=math.inf), Fake("second", seconds=1)
    winner, took = await dialled(first, second)
    assert winner is second
    assert took == pytest.approx(1.25, abs=0.1)
    assert first.given_up == 1
    await second.open()


@in_virtual_time
async def test_a_slow_one_that_began_first_may_still_win():
    first, second = Fake("first", seconds=0.5), Fake("second", seconds=10)
    winner, took = await dialled(first, second)
    assert winner is first
    assert took == pytest.approx(0.5, abs=0.1)
    assert second.given_up == 1
    await first.open()


async def test_two_that_answer_together_do_not_both_stay_open():
    gate = anyio.Event()
    addresses = [Fake("a", gate=gate), Fake("b", gate=gate)]
    async with anyio.create_task_group() as tasks:

        async def open_gate() -> None:
            await eventually(lambda: bool(addresses[1].begun))
            gate.set()

        tasks.start_soon(open_gate)
        transport = await dial(addresses, delay=0.001, secure=plain)
    assert await addresses[0].open() + await addresses[1].open() == 1
    assert len(addresses[0].others) + len(addresses[1].others) == 2, "both have answered"
    await transport.aclose()


@in_virtual_time
async def test_all_failures_are_told():
    addresses = [Fake("a", error=OSError("is down")), Fake("b", 3, OSError("is full")), Fake("c", error=OSError())]
    with pytest.raises(ConnectError) as raised:
        await dial(addresses, delay=0.25, secure=plain)
    assert str(raised.value) == "a: is down; c: OSError(); b: is full"


@in_virtual_time
async def test_a_single_failure_is_told_with_its_address():
    with pytest.raises(ConnectError) as raised:
        await dial([Fake("a", error=OSError("is down"))], delay=0.25, secure=plain)
    assert str(raised.value) == "a: is down"


async def test_no_addresses():
    with pytest.raises(ConnectError, match="no addresses"):
        await dial([], delay=0.25, secure=plain)


@in_virtual_time
async def test_whoever_cannot_be_made_secure_has_failed():
    async def secure(transport):
        if not trusted:
            trusted.append(True)
            await transport.aclose()
            raise OSError("the certificate is another's")
        return transport

    trusted: list[bool] = []
    first, second = Fake("first"), Fake("second")
    winner, _ = await dialled(first, second, secure=secure)
    assert winner is second
    await first.open()
    await second.open()


@pytest.mark.parametrize("seconds", [0, 0.001])
async def test_cancelled_at_any_time_nothing_stays_open(seconds: float):
    """Whether the cancellation comes before, with or after the answer."""
    for patience in (0, 0.0005, 0.001, 0.002):
        address = Fake("a", seconds=seconds)
        transport = None
        with anyio.move_on_after(patience):
            transport = await dial([address, Fake("b", seconds=math.inf)], delay=0.0001, secure=plain)
        await turns(3)
        assert await address.open() == (0 if transport is None else 1)
        if transport is not None:
            await transport.aclose()


V4 = [TcpAddress(f"127.0.0.{number}", 1) for number in range(1, 5)]
V6 = [TcpAddress(f"::{number}", 1) for number in range(1, 5)]


def test_families_take_turns_beginning_with_the_first():
    assert interleaved([*V6[:2], *V4]) == [V6[0], V4[0], V6[1], V4[1], V4[2], V4[3]]
    assert interleaved([V4[0], *V6[:2]]) == [V4[0], V6[0], V6[1]]
    assert interleaved([UnixAddress("/a"), *V4[:2]]) == [UnixAddress("/a"), *V4[:2]]
    assert interleaved([]) == []


@given(st.lists(st.sampled_from(V4 + V6), unique=True))
def test_taking_turns_loses_nobody_and_keeps_each_familys_order(addresses):
    result = interleaved(addresses)
    assert sorted(map(str, result)) == sorted(map(str, addresses))
    assert result[:1] == addresses[:1]
    for family in (True, False):
        assert [one for one in result if one.is_ipv6 is family] == [one for one in addresses if one.is_ipv6 is family]
