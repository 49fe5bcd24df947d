"""The messages between the supervisor and its processes, over a pair of connected sockets.

Each message is its size in four bytes, then MessagePack: settings and metrics may be infinite or NaN, which JSON lacks.

supervisor → process   Order, first and once; then "announce" once, and any number of the other requests
process → supervisor   a StateReport and Serving once, or Failed; then an answer to each request, see `Request`;
                       Announced for "announce", if the log is JSON
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
from anyio.abc import UNIXSocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from connectrio.connector.failures import LoadFailure
from connectrio.diagnostics import encodable
from connectrio.host.samples import Sample
from connectrio.host.settings import Backend, HostSettings
from connectrio.logs import LogFormat
from connectrio.processes.exposition import Family
from connectrio.rpc.sockets import prepare
from connectrio.telemetry.report import HostReport, StackReport

__all__ = [
    "MAX_SIZE", "Alive", "Announced", "Control", "Described", "Failed", "Message", "Order", "Request", "ServeOptions",
    "Serving", "Stacks", "StateReport", "StatusReport", "encode", "process_command", "read_options", "receive_order",
    "write_options",
]  # fmt: skip

MAX_SIZE = 16 * 1024 * 1024
"""Bytes of a message. A StateReport has all metrics, some hundred bytes each."""

_PREFIX = 4


class ServeOptions(msgspec.Struct, frozen=True):
    """The options of `connectrio serve`, for a supervisor and its processes.

    :ivar processes: the number of processes
    """

    settings: HostSettings
    processes: int
    backend: Backend
    log_level: list[str]
    log_format: LogFormat


class Order(msgspec.Struct, tag=True, frozen=True):
    """How one of the processes has to host.

    :ivar number: the number of the process, from 0
    :ivar http: the addresses of the supervisor's exporter
    :ivar broken: why the modules cannot be loaded, and the process hosts without them, see `Registry.broken`
    :ivar held: the descriptors of listening sockets for gRPC, which the process inherits; empty if it opens its own
    """

    number: int
    options: ServeOptions
    http: list[tuple[str, int]]
    broken: LoadFailure | None = None
    held: list[int] = []


class Request(msgspec.Struct, tag=True, frozen=True):
    """Asks a process to "announce" what is served, for a `StateReport` ("report"), for `Alive` ("live"), for a
    `StatusReport` ("status"), for `Stacks` ("stacks"), or for `Described` ("describe")."""

    what: str


class Serving(msgspec.Struct, tag=True, frozen=True):
    """The process answers calls."""


class Announced(msgspec.Struct, tag=True, frozen=True):
    """What is served, and how, for the supervisor's log."""

    fields: dict[str, Any]


class Alive(msgspec.Struct, tag=True, frozen=True):
    """The event loop of the process has its turns."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The process cannot start, or has ended, for this reason.

    :ivar picture: see `HostError`
    """

    error: str
    picture: str = ""


class StateReport(msgspec.Struct, tag=True, frozen=True):
    """The state of a process, for probes and scrapes.

    :ivar not_ready: why it takes no new work
    :ivar failures: the connectors that could not be loaded, or whose lifespan is not open
    :ivar is_listening: whether it takes new connections
    """

    state: str
    is_ready: bool
    connectors: int
    failures: list[LoadFailure]
    metrics: list[Family]
    not_ready: list[str] = []
    is_listening: bool = True


class StatusReport(msgspec.Struct, tag=True, frozen=True):
    """What a process tells of itself, for the status page and /api."""

    report: HostReport


class Described(msgspec.Struct, tag=True, frozen=True):
    """What the process serves, for its author.

    :ivar connectors: name, task types and source of each
    :ivar samples: a sample task for each connector of `modules`
    :ivar not_loaded: what could not be loaded, and why
    """

    connectors: list[tuple[str, str, str]]
    samples: list[Sample]
    not_loaded: list[str]


class Stacks(msgspec.Struct, tag=True, frozen=True):
    """Where the tasks and threads of a process are."""

    stacks: list[StackReport]


Message = Order | Request | Serving | Announced | Alive | Failed | StateReport | StatusReport | Stacks | Described


def _encode_path(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be sent to a process")


def _decode_path(wanted: type[Any], value: Any) -> Any:
    return wanted(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_path)
_decoder = msgspec.msgpack.Decoder(Message, dec_hook=_decode_path)


def encode(message: Message) -> bytes:
    """Return the bytes of `message` on the socket.

    In what a process tells, `encodable` replaces what UTF-8 cannot encode: an error's text must not end the process.

    :raises UnicodeEncodeError: a setting or a path in an `Order` cannot be encoded
    """
    try:
        encoded = _encoder.encode(message)
    except UnicodeEncodeError:
        if isinstance(message, Order):
            raise
        plain = msgspec.to_builtins(message, builtin_types=[bytes], enc_hook=_encode_path)
        encoded = _encoder.encode(encodable(plain))
    return len(encoded).to_bytes(_PREFIX, "big") + encoded


def _size(prefix: bytes) -> int:
    size = int.from_bytes(prefix, "big")
    _check(size)
    return size


def _check(size: int) -> None:
    if size > MAX_SIZE:
        raise ValueError(f"a message of {size} bytes between processes; at most {MAX_SIZE} are allowed")


class Control:
    """One end of the pair. The owner closes it with `aclose`."""

    def __init__(self, stream: UNIXSocketStream) -> None:
        self._stream = stream
        self._received = BufferedByteReceiveStream(stream)
        self._sending = anyio.Lock()

    @classmethod
    async def over(cls, end: socket.socket) -> Control:
        """Return the control over a connected socket, which it owns from here on."""
        stream = await UNIXSocketStream.from_socket(end)
        prepare(stream)
        return cls(stream)

    async def send(self, message: Message) -> None:
        """Send `message`. If the other end is gone, do nothing: `receive` reports that.

        If this is cancelled while it sends, close the pair: the other end has got a part of the message.

        :raises ValueError: it is longer than `MAX_SIZE`, which would end the process that receives it
        """
        encoded = encode(message)
        _check(len(encoded) - _PREFIX)
        async with self._sending:
            try:
                await self._stream.send(encoded)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    async def receive(self) -> Message | None:
        """Return the next message of the other end; None when it is gone."""
        try:
            size = _size(await self._received.receive_exactly(_PREFIX))
            encoded = await self._received.receive_exactly(size)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return None
        message: Message = _decoder.decode(encoded)
        return message

    async def aclose(self) -> None:
        """Close this end."""
        await anyio.aclose_forcefully(self._stream)


def process_command(role: Literal["supervise", "host"], descriptor: int) -> list[str]:
    """Return the command line of a supervisor or a host that reads what to do from `descriptor`."""
    # -P: files in the working directory do not shadow the standard library; hosts add the directory when they load
    return [sys.executable, "-P", "-m", "connectrio.cli.process", role, str(descriptor)]


def write_options(options: ServeOptions) -> int:
    """Write options for the program that replaces this one. Return the file descriptor to read them from."""
    with tempfile.TemporaryFile() as file:
        file.write(_encoder.encode(options))
        file.flush()
        file.seek(0)
        descriptor = os.dup(file.fileno())
    os.set_inheritable(descriptor, True)
    return descriptor


def read_options(descriptor: int) -> ServeOptions:
    """Return the options that `write_options` has written, and close the descriptor."""
    with os.fdopen(descriptor, "rb") as file:
        return msgspec.msgpack.decode(file.read(), type=ServeOptions, dec_hook=_decode_path)


def receive_order(end: socket.socket) -> Order:
    """Return the order for this process, which has no event loop yet.

    :raises EOFError: the supervisor has gone
    """
    encoded = _receive_exactly(end, _size(_receive_exactly(end, _PREFIX)))
    return msgspec.msgpack.decode(encoded, type=Order, dec_hook=_decode_path)


def _receive_exactly(end: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        chunk = end.recv(size - len(received))
        if not chunk:
            raise EOFError("the supervisor ended before it sent its order")
        received += chunk
    return bytes(received)
