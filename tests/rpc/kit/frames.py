"""HTTP/2 frames, one by one: made by hand, valid or not, and read back as values that compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Decoder, Encoder
from hyperframe import frame as hf

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HeaderList: TypeAlias = list[tuple[str, str]]


@dataclass(frozen=True)
class Headers:
    stream_id: int
    headers: tuple[tuple[str, str], ...]
    end_stream: bool = False

    def __getitem__(self, name: str) -> str:
        return dict(self.headers)[name]


@dataclass(frozen=True)
class Data:
    stream_id: int
    data: bytes
    end_stream: bool = False


@dataclass(frozen=True)
class Reset:
    stream_id: int
    error_code: ErrorCodes


@dataclass(frozen=True)
class GoAway:
    last_stream_id: int
    error_code: ErrorCodes


@dataclass(frozen=True)
class WindowUpdate:
    stream_id: int
    increment: int


@dataclass(frozen=True)
class Ping:
    data: bytes
    ack: bool = False


@dataclass(frozen=True)
class Settings:
    values: tuple[tuple[SettingCodes, int], ...]

    def __getitem__(self, code: SettingCodes) -> int:
        return dict(self.values)[code]


@dataclass(frozen=True)
class SettingsAck:
    pass


AnyFrame: TypeAlias = Headers | Data | Reset | GoAway | WindowUpdate | Ping | Settings | SettingsAck


class FrameReader:
    """Cuts what one side sends into frames, and decodes them."""

    def __init__(self) -> None:
        self._buffer = b""
        self._decoder = Decoder()
        self._block: hf.HeadersFrame | None = None

    def read(self, data: bytes) -> list[AnyFrame]:
        """The frames that `data` completes."""
        self._buffer += data
        self._buffer = self._buffer.removeprefix(PREFACE)
        frames = []
        while len(self._buffer) >= 9:
            frame, length = hf.Frame.parse_frame_header(memoryview(self._buffer[:9]))
            if len(self._buffer) < 9 + length:
                break
            frame.parse_body(memoryview(self._buffer[9 : 9 + length]))
            self._buffer = self._buffer[9 + length :]
            value = self._value(frame)
            if value is not None:
                frames.append(value)
        return frames

    def is_between_frames(self) -> bool:
        return not self._buffer

    def _value(self, frame: hf.Frame) -> AnyFrame | None:
        match frame:
            case hf.HeadersFrame():
                self._block = frame
                return self._header_block()
            case hf.ContinuationFrame():
                assert self._block is not None
                self._block.data += frame.data
                self._block.flags |= frame.flags
                return self._header_block()
            case hf.DataFrame():
                return Data(frame.stream_id, bytes(frame.data), "END_STREAM" in frame.flags)
            case hf.RstStreamFrame():
                return Reset(frame.stream_id, ErrorCodes(frame.error_code))
            case hf.GoAwayFrame():
                return GoAway(frame.last_stream_id, ErrorCodes(frame.error_code))
            case hf.WindowUpdateFrame():
                return WindowUpdate(frame.stream_id, frame.window_increment)
            case hf.PingFrame():
                return Ping(frame.opaque_data, "ACK" in frame.flags)
            case hf.SettingsFrame() if "ACK" in frame.flags:
                return SettingsAck()
            case hf.SettingsFrame():
                return Settings(tuple((SettingCodes(code), value) for code, value in frame.settings.items()))
        raise AssertionError(f"nobody sends this: {frame}")

    def _header_block(self) -> Headers | None:
        frame = self._block
        assert frame is not None
        if "END_HEADERS" not in frame.flags:
            return None
        self._block = None
        # hpack's are tuples with something more; here only the pairs count
        pairs = tuple((str(name), str(value)) for name, value in self._decoder.decode(frame.data))
        return Headers(frame.stream_id, pairs, "END_STREAM" in frame.flags)


REQUEST = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/test.Script/Unary",
    ":authority": "localhost",
    "te": "trailers",
    "content-type": "application/grpc",
}


def request_headers(
    changes: Mapping[str, str | None] | None = None, extra: Iterable[tuple[str, str]] = ()
) -> HeaderList:
    """A valid request's headers, with some replaced or (None) left out, and some added."""
    merged = {**REQUEST, **(changes or {})}
    return [(name, value) for name, value in merged.items() if value is not None] + list(extra)


class FrameFactory:
    """Puts frames into bytes without any notion of what is allowed when."""

    def __init__(self) -> None:
        self._encoder = Encoder()

    def preface(self, values: Mapping[SettingCodes, int] | None = None) -> bytes:
        """What a client opens a connection with."""
        return PREFACE + self.settings(values or {})

    def settings(self, values: Mapping[SettingCodes, int]) -> bytes:
        return hf.SettingsFrame(0, settings={int(code): value for code, value in values.items()}).serialize()

    def settings_ack(self) -> bytes:
        return hf.SettingsFrame(0, flags=["ACK"]).serialize()

    def headers(self, stream_id: int, headers: HeaderList, *, end_stream: bool = False) -> bytes:
        flags = ["END_HEADERS"] + (["END_STREAM"] if end_stream else [])
        return hf.HeadersFrame(stream_id, self.block(headers), flags=flags).serialize()

    def block(self, headers: HeaderList) -> bytes:
        """A header block alone; each one that is made must be sent, for the sake of HPACK's state."""
        return self._encoder.encode(headers)

    def request(
        self,
        stream_id: int,
        path: str = REQUEST[":path"],
        *,
        extra: Iterable[tuple[str, str]] = (),
        end_stream: bool = False,
    ) -> bytes:
        """The headers of a valid gRPC request."""
        return self.headers(stream_id, request_headers({":path": path}, extra), end_stream=end_stream)

    def data(self, stream_id: int, data: bytes = b"", *, end_stream: bool = False, padding: int | None = None) -> bytes:
        frame = hf.DataFrame(stream_id, data, pad_length=padding or 0)
        if padding is not None:
            frame.flags.add("PADDED")
        if end_stream:
            frame.flags.add("END_STREAM")
        return frame.serialize()

    def message(self, stream_id: int, message: bytes, *, end_stream: bool = False) -> bytes:
        """A gRPC message in DATA frames of the usual maximum size."""
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        chunks = [framed[start : start + 16_384] for start in range(0, len(framed), 16_384)]
        ends = [False] * (len(chunks) - 1) + [end_stream]
        return b"".join(self.data(stream_id, chunk, end_stream=end) for chunk, end in zip(chunks, ends, strict=True))

    def reset(self, stream_id: int, error_code: int = ErrorCodes.CANCEL) -> bytes:
        return hf.RstStreamFrame(stream_id, error_code=error_code).serialize()

    def goaway(self, last_stream_id: int, error_code: int = ErrorCodes.NO_ERROR, reason: bytes = b"") -> bytes:
        return hf.GoAwayFrame(
            0, last_stream_id=last_stream_id, error_code=error_code, additional_data=reason
        ).serialize()

    def window_update(self, stream_id: int, increment: int) -> bytes:
        return hf.WindowUpdateFrame(stream_id, window_increment=increment).serialize()

    def ping(self, data: bytes = b"12345678", *, ack: bool = False) -> bytes:
        return hf.PingFrame(0, data, flags=["ACK"] if ack else []).serialize()

    def raw(self, frame_type: int, flags: int, stream_id: int, body: bytes) -> bytes:
        """Any frame at all."""
        return len(body).to_bytes(3, "big") + bytes([frame_type, flags]) + stream_id.to_bytes(4, "big") + body
