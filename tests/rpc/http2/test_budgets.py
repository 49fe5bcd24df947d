"""What a client may make the server's core do that is no call: the budgets, frame by frame."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest
from anyio.abc import SocketAttribute
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc._http2.stream import Stream
from connectrio.rpc.options import MIB
from connectrio.rpc.sockets import prepare
from rpc.kit.core import TimedCore
from rpc.kit.frames import FrameFactory

BUDGET = 10
MANY = 100
LARGEST_WINDOW = 2**31 - 1
# bytes; the kernel's buffers hold a few MiB
FAR_TOO_MUCH = 64 * MIB


def answered(server: TimedCore, stream_id: int) -> Stream:
    """A stream that is over, and that the core has forgotten."""
    stream = server.request(stream_id, end_stream=True)
    stream.send_headers([("grpc-status", "0")], end_stream=True)
    stream.release()
    return stream


Make = Callable[[FrameFactory], bytes]
NO_CALLS: dict[str, Make] = {
    "SETTINGS": lambda peer: peer.settings({}),
    "an acknowledgement of SETTINGS": lambda peer: peer.settings_ack(),
    "an answer to a PING": lambda peer: peer.ping(ack=True),
    "empty DATA": lambda peer: peer.data(3),
    "padding": lambda peer: peer.data(3, padding=5),
    "PRIORITY": lambda peer: peer.raw(0x2, 0, 3, b"\0\0\0\1\1"),
    "WINDOW_UPDATE": lambda peer: peer.window_update(0, 1),
    "GOAWAY": lambda peer: peer.goaway(0),
    "an unknown frame": lambda peer: peer.raw(0x42, 0, 0, b"?"),
    "a late WINDOW_UPDATE": lambda peer: peer.window_update(1, 1),
    "a late RST_STREAM": lambda peer: peer.reset(1),
}


@pytest.mark.parametrize("make", NO_CALLS.values(), ids=NO_CALLS)
def test_frames_that_carry_no_call_have_a_budget(make: Make):
    server = TimedCore(control_budget=BUDGET)
    answered(server, 1)
    server.request(3)

    server.receive(make(server.peer) * (BUDGET // 2))
    assert server.connection.state is ConnectionState.OPEN
    server.receive(make(server.peer) * BUDGET)

    assert server.was_told_to_be_calm


@pytest.mark.parametrize("make", NO_CALLS.values(), ids=NO_CALLS)
def test_the_budget_is_by_the_second(make: Make):
    server = TimedCore(control_budget=BUDGET)
    answered(server, 1)
    server.request(3)

    for _ in range(5):
        server.clock.now += 1
        server.receive(make(server.peer) * (BUDGET - 1))

    assert server.connection.state is ConnectionState.OPEN


def test_data_that_comes_too_late_has_no_budget():
    """A client cannot know how many of its messages are on their way when its call is ended."""
    server = TimedCore(control_budget=BUDGET)
    stream = server.request(1)
    stream.reset(ErrorCodes.NO_ERROR)
    stream.release()

    server.receive(server.peer.data(1, b"message") * MANY)

    assert server.connection.state is ConnectionState.OPEN


def test_windows_that_open_by_a_byte_at_a_time_are_an_attack():
    server = TimedCore(control_budget=BUDGET)
    server.receive(server.peer.settings({SettingCodes.INITIAL_WINDOW_SIZE: 0}))
    stream, left = server.request(1), memoryview(bytes(MIB))
    stream.send_headers([(":status", "200")])

    for _ in range(MANY):
        server.receive(server.peer.window_update(1, 1))
        left = left[stream.send_some(left) :] if server.connection.state is ConnectionState.OPEN else left

    assert server.was_told_to_be_calm
    assert len(left) > MIB - 2 * BUDGET


def test_a_client_may_open_windows_for_all_it_is_sent():
    """As C core's does: for the stream and for the connection, with each small message."""
    server = TimedCore(control_budget=BUDGET)
    stream = server.request(1)
    stream.send_headers([(":status", "200")])

    for _ in range(MANY):
        assert stream.send_some(memoryview(b"a message")) == 9
        server.receive(server.peer.window_update(1, 9) + server.peer.window_update(0, 9))

    assert server.connection.state is ConnectionState.OPEN


def test_a_piece_of_data_earns_two_frames_and_no_more():
    server = TimedCore(control_budget=BUDGET)
    stream = server.request(1)
    stream.send_headers([(":status", "200")])
    for _ in range(2):
        stream.send_some(memoryview(b"a message"))

    handshake, earned = 2, 4  # frames
    server.receive(server.peer.window_update(0, 1) * (BUDGET - handshake + earned))
    assert server.connection.state is ConnectionState.OPEN
    server.receive(server.peer.window_update(0, 1))

    assert server.was_told_to_be_calm


def reset(server: TimedCore, count: int, *, after: float = 0.0, first: int = 1) -> None:
    """Let the client open so many streams, and reset each after so many seconds."""
    streams = range(first, first + 2 * count, 2)
    server.receive(b"".join(server.peer.request(stream_id) for stream_id in streams))
    server.clock.now += after
    server.receive(b"".join(server.peer.reset(stream_id) for stream_id in streams))
    for stream in list(server.connection.streams.values()):
        stream.release()


def test_resets_have_a_budget_that_comes_back_slowly():
    """However slow the server is: it could not answer `reset_budget` calls a second, and never see more resets."""
    server = TimedCore(reset_budget=BUDGET)

    reset(server, BUDGET)
    assert server.connection.state is ConnectionState.OPEN
    server.clock.now += 1
    reset(server, 2, first=101)

    assert server.was_told_to_be_calm


def test_all_calls_may_be_cancelled_every_half_minute():
    server = TimedCore(reset_budget=BUDGET)

    for turn in range(4):
        reset(server, BUDGET, first=1 + 100 * turn)
        server.clock.now += 30

    assert server.connection.state is ConnectionState.OPEN


def test_calls_that_took_long_may_be_cancelled_without_end():
    """It is what deadlines look like from here."""
    server = TimedCore(reset_budget=BUDGET)

    for turn in range(MANY):
        reset(server, BUDGET, after=1, first=1 + 100 * turn)

    assert server.connection.state is ConnectionState.OPEN


TIMEOUT = 0.02


@pytest.mark.parametrize(
    ("timeout", "waited", "is_free"),
    [
        (TIMEOUT, 0.02, True),
        (TIMEOUT, 0.011, True),  # the client's clock began before ours
        (TIMEOUT, 0.009, False),
        (TIMEOUT, 0.0, False),
        (0.3, 0.26, True),
        (0.3, 0.24, False),
        (1e-9, 0.004, False),  # else rapid resets were free for all who say that they have no time
        (1e-9, 0.006, True),
        (100.0, 0.99, False),
        (100.0, 1.0, True),
    ],
)
def test_calls_may_be_cancelled_at_their_deadline_without_end(timeout: float, waited: float, is_free: bool):
    server = TimedCore(reset_budget=BUDGET)

    for stream_id in range(1, 4 * BUDGET, 2):
        stream = server.request(stream_id)
        stream.deadline = server.clock.now + timeout
        server.clock.now += waited
        server.receive(server.peer.reset(stream_id))
        stream.release()
        if server.connection.state is ConnectionState.CLOSED:
            break

    assert server.was_told_to_be_calm is not is_free


def test_a_call_that_comes_with_its_reset_was_not_waited_for():
    """However long it takes to read them."""
    server = TimedCore(reset_budget=BUDGET)
    streams = range(1, 4 * BUDGET, 2)
    make = server.peer

    server.connection.feed(b"".join(make.request(stream_id) + make.reset(stream_id) for stream_id in streams))
    while server.connection.process(max_frames=1):
        for event in server.connection.take_events():
            event.stream.deadline = event.stream.opened_at + TIMEOUT
        server.clock.now += TIMEOUT

    assert server.was_told_to_be_calm


def test_an_answer_earns_the_reset_that_crosses_it():
    """As when both sides see the same deadline pass."""
    server = TimedCore(control_budget=BUDGET)
    for stream_id in range(1, 2 * MANY, 2):
        answered(server, stream_id)
        server.receive(server.peer.reset(stream_id))
    assert server.connection.state is ConnectionState.OPEN

    server.receive(server.peer.reset(1) * 3 * BUDGET)
    assert server.was_told_to_be_calm


def test_resets_that_we_are_made_to_send_count_at_any_age():
    server = TimedCore(reset_budget=BUDGET)
    streams = range(1, 1 + 4 * BUDGET, 2)
    server.receive(b"".join(server.peer.request(stream_id) for stream_id in streams))
    server.clock.now += 1

    server.receive(b"".join(server.peer.window_update(stream_id, LARGEST_WINDOW) for stream_id in streams))

    assert server.was_told_to_be_calm


def test_streams_beyond_the_limit_count_as_resets():
    server = TimedCore(reset_budget=BUDGET, max_concurrent_streams=1)

    for number in range(2 * BUDGET):
        server.receive(server.peer.request(2 * number + 1))

    assert server.was_told_to_be_calm


async def test_an_accepted_stream_is_not_read_ahead():
    """What is sent stays with the sender until somebody receives it; the kernel's buffers alone take more."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        with socket.create_connection(listener.extra(SocketAttribute.local_address)) as client:
            client.setblocking(False)
            async with await listener.listeners[0].accept() as accepted:
                prepare(accepted)
                client.send(b"hello")
                await anyio.sleep(0.05)  # it would be read now
                await accepted.receive(1)
                sent = quiet = 0
                while sent < FAR_TOO_MUCH and quiet < 20:
                    more = send_all_that_fits(client)
                    sent, quiet = sent + more, 0 if more else quiet + 1
                    await anyio.sleep(0.005)

    assert sent < FAR_TOO_MUCH


def send_all_that_fits(client: socket.socket) -> int:
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += client.send(bytes(1 << 16))
    return sent
