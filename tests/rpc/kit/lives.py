"""Lives of calls, as Hypothesis makes them up, in a client's frames; and a model of what may become of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import HeadersFrame, RstStreamFrame
from hypothesis import strategies as st

from connectrio.rpc._grpc import frame_message
from rpc.kit.frames import PREFACE, AnyFrame, FrameFactory, Headers, Reset
from rpc.kit.script import BIDI, CLIENT_STREAMING, SERVER_STREAMING, UNARY, Script, Stream, echo, echo_last

MAX_CALLS = 3
MAX_MESSAGE = 1000
UNARY_REQUEST, UNARY_RESPONSE = (UNARY, SERVER_STREAMING), (UNARY, CLIENT_STREAMING)

# what can be wrong with a message, and the status that this is
BROKEN = {
    "flag": (b"\2\0\0\0\0", Status.INTERNAL),
    "too large": (b"\0" + (MAX_MESSAGE + 1).to_bytes(4, "big"), Status.RESOURCE_EXHAUSTED),
    "no UTF-8": (frame_message(b"\xff"), Status.INTERNAL),
    "cut short": (frame_message(b"abcdef")[:8], Status.INTERNAL),
}


class Theatre(Script):
    """A servicer that does what a call's metadata say, and counts.

    :ivar begun: how many of its methods have begun
    :ivar ended: and how many of them are over
    """

    def __init__(self) -> None:
        super().__init__(self._play, self._play, self._play_last, self._play)
        self.begun = self.ended = 0

    async def _play(self, stream: Stream) -> None:
        await self._act(stream, echo)

    async def _play_last(self, stream: Stream) -> None:
        await self._act(stream, echo_last)

    async def _act(self, stream: Stream, usual: Callable[[Stream], Any]) -> None:
        self.begun += 1
        try:
            await {"echo": usual, **ACTS}[(stream.metadata or {})["x-act"]](stream)
        finally:
            self.ended += 1


async def wait(stream: Stream) -> None:
    await anyio.sleep_forever()


async def fail(stream: Stream) -> None:
    raise GRPCError(Status.ABORTED, "as it should")


async def crash(stream: Stream) -> None:
    raise ZeroDivisionError


async def leave(stream: Stream) -> None:
    await stream.send_initial_metadata()


async def cancel(stream: Stream) -> None:
    await stream.cancel()


async def end(stream: Stream) -> None:
    await stream.send_trailing_metadata(status=Status.NOT_FOUND)


async def cancel_itself(stream: Stream) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.recv_message()


ACTS = {
    "wait": wait,
    "fail": fail,
    "crash": crash,
    "leave": leave,
    "cancel": cancel,
    "end": end,
    "cancel itself": cancel_itself,
}


@dataclass(frozen=True)
class Life:
    """One call, from the client's side.

    :ivar messages: texts, or keys of `BROKEN`
    :ivar endings: what the client does in the end: "half-close", "reset", both, or nothing
    """

    path: str
    act: str
    timeout: str | None
    messages: tuple[str, ...]
    endings: tuple[str, ...]

    def frames(self, make: FrameFactory, stream_id: int) -> list[Callable[[], bytes]]:
        """What makes the client's frames: in the order of sending, for HPACK's sake."""
        extra = [("x-act", self.act)] + ([("grpc-timeout", self.timeout)] if self.timeout else [])
        made: list[Callable[[], bytes]] = [lambda: make.request(stream_id, self.path, extra=extra)]
        for text in self.messages:
            payload = BROKEN[text][0] if text in BROKEN else frame_message(text.encode())
            made.append(lambda payload=payload: make.data(stream_id, payload))
        ends = {
            "half-close": lambda: make.data(stream_id, end_stream=True),
            "reset": lambda: make.reset(stream_id, ErrorCodes.CANCEL),
        }
        return made + [ends[ending] for ending in self.endings]

    @property
    def is_reset(self) -> bool:
        return "reset" in self.endings

    @property
    def is_endless(self) -> bool:
        """Whether only the client, or the server's end, can end it."""
        return self.act == "wait" and self.timeout in (None, "1H")

    def outcomes(self) -> set[Status | ErrorCodes]:
        """How it may end, once it is half-closed; the empty set when it does not."""
        if self.timeout == "0S":
            return {Status.DEADLINE_EXCEEDED}
        if self.timeout == "1x":
            return {Status.INTERNAL}
        late: set[Status | ErrorCodes] = {Status.DEADLINE_EXCEEDED} if self.timeout == "1n" else set()
        return late | self._outcomes_in_time()

    def _outcomes_in_time(self) -> set[Status | ErrorCodes]:
        returned = Status.UNKNOWN if self.path in UNARY_RESPONSE else Status.OK
        usual: dict[str, set[Status | ErrorCodes]] = {
            "wait": set(),
            "fail": {Status.ABORTED},
            "crash": {Status.UNKNOWN},
            "leave": {returned},
            "cancel": {ErrorCodes.CANCEL},
            "end": {Status.NOT_FOUND},
            "cancel itself": {returned},
        }
        return usual[self.act] if self.act in usual else {self._echoed()}

    def _echoed(self) -> Status:
        broken = [BROKEN[text][1] if text in BROKEN else None for text in self.messages]
        if self.path not in UNARY_REQUEST:
            return next(filter(None, broken), Status.OK)
        if not broken:
            return Status.UNIMPLEMENTED
        # a message is decoded only when it is known to be the only one
        framing = [None if text == "no UTF-8" else status for text, status in zip(self.messages, broken, strict=True)]
        if framing[0] is not None:
            return framing[0]
        if len(framing) > 1:
            return framing[1] or Status.UNIMPLEMENTED
        return broken[0] or Status.OK

    def replies(self) -> list[str]:
        """What an echo that ends with OK has answered."""
        return ["".join(self.messages)] if self.path == CLIENT_STREAMING else list(self.messages)


@st.composite
def lives(draw: Callable) -> Life:
    messages = draw(st.lists(st.text("ab", max_size=20), max_size=3))
    if draw(st.integers(0, 3)) == 0:
        messages.append(draw(st.sampled_from(sorted(BROKEN))))
    return Life(
        path=draw(st.sampled_from([UNARY, SERVER_STREAMING, CLIENT_STREAMING, BIDI])),
        act=draw(st.sampled_from(["echo"] * 5 + sorted(ACTS))),
        timeout=draw(st.sampled_from([None, None, None, "1H", "1n", "0S", "1x"])),
        messages=tuple(messages),
        endings=draw(st.sampled_from([(), ("half-close",), ("half-close",), ("reset",), ("half-close", "reset")])),
    )


@dataclass(frozen=True)
class Conversation:
    """Some calls, mixed with each other and with frames that belong to none.

    :ivar data: the client's bytes, its preface first
    """

    lives: list[Life]
    data: bytes
    make: FrameFactory = field(default_factory=FrameFactory)

    def numbered(self) -> list[tuple[int, Life]]:
        """Each call and its stream."""
        return [(1 + 2 * index, life) for index, life in enumerate(self.lives)]

    def may_be_refused(self, stream_id: int) -> bool:
        """Whether all slots may be taken, by calls that the client has not reset before it begins this one."""
        not_reset: set[int] = set()
        for begun, is_reset in self._beginnings_and_resets():
            if is_reset:
                not_reset.discard(begun)
            elif begun == stream_id:
                break
            else:
                not_reset.add(begun)
        return len(not_reset) >= MAX_CALLS

    def must_be_refused(self, stream_id: int) -> bool:
        """Whether all slots are taken, for ever."""
        before = [(number, life) for number, life in self.numbered() if number < stream_id]
        for_ever = [number for number, life in before if life.is_endless and not life.is_reset]
        return sum(not self.may_be_refused(number) for number in for_ever) >= MAX_CALLS

    def admitted_without_answers(self) -> set[int]:
        """The streams that a server takes that answers none."""
        taken: set[int] = set()
        running: set[int] = set()
        for stream_id, is_reset in self._beginnings_and_resets():
            if is_reset:
                running.discard(stream_id)
            elif len(running) < MAX_CALLS:
                taken.add(stream_id)
                running.add(stream_id)
        return taken

    def _beginnings_and_resets(self) -> Iterator[tuple[int, bool]]:
        """The streams that are begun or reset, in the order of sending, and whether it is the one or the other."""
        data = self.data.removeprefix(PREFACE)
        while data:
            kind, stream_id = data[3], int.from_bytes(data[5:9], "big")
            if kind in (HeadersFrame.type, RstStreamFrame.type):
                yield stream_id, kind == RstStreamFrame.type
            data = data[9 + int.from_bytes(data[:3], "big") :]


def between_calls(draw: Callable, make: FrameFactory) -> list[Callable[[], bytes]]:
    """Frames of the connection's own. PINGs have a limit; windows are opened again in the end."""
    sizes = draw(st.lists(st.sampled_from([0, 7, 100_000]), max_size=2))
    made = [lambda size=size: make.settings({SettingCodes.INITIAL_WINDOW_SIZE: size}) for size in sizes]
    made += [lambda: make.window_update(0, 10)] * draw(st.integers(0, 2))
    made += [make.ping] * draw(st.integers(0, 2))
    made += [lambda: make.goaway(0)] * draw(st.integers(0, 1))
    return made + [lambda: make.raw(0x42, 0xFF, 1, b"a type that nobody knows")] * draw(st.integers(0, 1))


@st.composite
def conversations(draw: Callable) -> Conversation:
    made = draw(st.lists(lives(), min_size=1, max_size=5))
    make = FrameFactory()
    lines = [life.frames(make, 1 + 2 * index) for index, life in enumerate(made)]
    # streams are opened in the order of their numbers; what follows may be mixed at will
    sent = [make.preface(), make.settings_ack()]
    waiting, running = lines, [between_calls(draw, make)]
    while waiting or any(running):
        running = [line for line in running if line]
        choice = draw(st.integers(0, len(running) if waiting else len(running) - 1))
        if choice == len(running):
            running.append(waiting.pop(0))
        sent.append(running[choice].pop(0)())
    return Conversation(made, b"".join(sent), make)


@st.composite
def cut(draw: Callable, data: bytes) -> list[bytes]:
    """`data` as a socket may deliver it: byte by byte, in some pieces, or in one."""
    if draw(st.integers(0, 4)) == 0:
        return [data[index : index + 1] for index in range(len(data))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def outcome(frames: list[AnyFrame]) -> Status | ErrorCodes | None:
    """How a call has ended, by what its client was sent."""
    for frame in frames:
        if isinstance(frame, Headers) and frame.end_stream:
            return Status(int(frame["grpc-status"]))
        if isinstance(frame, Reset):
            return frame.error_code
    return None
