"""What the supervisor and its processes say to each other over a pair of connected sockets.

Each message is MessagePack (JSON has neither infinities nor NaN, settings and metrics do) after its size in four bytes.

supervisor → process   Order, first and once; then "announce" once, and "report" whenever it wants one
process → supervisor   Serving once, or Failed; a Report for each "report"
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
from anyio.abc import UNIXSocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from connectrio.host.settings import Backend, HostSettings
from connectrio.logs import LogFormat, LogLevel
from connectrio.processes.exposition import Family

__all__ = ["Control", "Failed", "Message", "Order", "Report", "Request", "Serving", "Task"]

M = TypeVar("M")

# a report has all metrics, some hundred bytes each
_MAX_SIZE = 16 * 1024 * 1024
_PREFIX = 4


class Order(msgspec.Struct, tag=True, frozen=True):
    """How a process is to host.

    :ivar number: which one it is, from 0
    :ivar processes: how many they are
    :ivar http: where the supervisor's exporter is
    """

    number: int
    processes: int
    settings: HostSettings
    backend: Backend
    log_level: LogLevel
    log_format: LogFormat
    http: list[tuple[str, int]]


class Task(msgspec.Struct, frozen=True):
    """What a supervisor is to do."""

    settings: HostSettings
    processes: int
    backend: Backend
    log_level: LogLevel
    log_format: LogFormat


class Request(msgspec.Struct, tag=True, frozen=True):
    """Something to do: "announce" prints what is served, "report" asks for a `Report`."""

    what: str


class Serving(msgspec.Struct, tag=True, frozen=True):
    """The process answers calls, at these addresses."""

    grpc: list[tuple[str, int]]


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The process cannot start, and why."""

    error: str


class Report(msgspec.Struct, tag=True, frozen=True):
    """How the process is.

    :ivar failures: (source, error) of what could not be loaded
    """

    state: str
    is_ready: bool
    connectors: int
    failures: list[tuple[str, str]]
    metrics: list[Family]


Message = Order | Request | Serving | Failed | Report


def _encode_path(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be sent to a process")


def _decode_path(wanted: type[Any], value: Any) -> Any:
    return wanted(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_path)
_decoder = msgspec.msgpack.Decoder(Message, dec_hook=_decode_path)


def encode(message: Message) -> bytes:
    """`message` as it is sent."""
    encoded = _encoder.encode(message)
    return len(encoded).to_bytes(_PREFIX, "big") + encoded


def _size(prefix: bytes) -> int:
    size = int.from_bytes(prefix, "big")
    if size > _MAX_SIZE:
        raise ValueError(f"a message of {size} bytes between processes; at most {_MAX_SIZE} are expected")
    return size


class Control:
    """One end of the pair. The owner closes it with `aclose`."""

    def __init__(self, stream: UNIXSocketStream) -> None:
        self._stream = stream
        self._received = BufferedByteReceiveStream(stream)
        self._sending = anyio.Lock()

    @classmethod
    async def over(cls, end: socket.socket) -> Control:
        """A control over a connected socket, which belongs to it from here on."""
        return cls(await UNIXSocketStream.from_socket(end))

    async def send(self, message: Message) -> None:
        """Say something; nothing happens when the other end is gone, which `receive` tells.

        Cancelled half-way, the pair is of no use any more: close it.
        """
        async with self._sending:
            try:
                await self._stream.send(encode(message))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    async def receive(self) -> Message | None:
        """What the other end says next; None when it is gone."""
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


def write_task(task: Task) -> int:
    """Put a task where the program that replaces this one can read it; the number of the descriptor."""
    with tempfile.TemporaryFile() as file:
        file.write(_encoder.encode(task))
        file.flush()
        file.seek(0)
        descriptor = os.dup(file.fileno())
    os.set_inheritable(descriptor, True)
    return descriptor


def read_task(descriptor: int) -> Task:
    """The task that `write_task` has written; the descriptor is closed."""
    with os.fdopen(descriptor, "rb") as file:
        return msgspec.msgpack.decode(file.read(), type=Task, dec_hook=_decode_path)


def receive_order(end: socket.socket) -> Order:
    """The order of a process, before it has an event loop.

    :raises EOFError: the supervisor has gone
    """
    encoded = _receive_exactly(end, _size(_receive_exactly(end, _PREFIX)))
    return msgspec.msgpack.decode(encoded, type=Order, dec_hook=_decode_path)


def _receive_exactly(end: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        chunk = end.recv(size - len(received))
        if not chunk:
            raise EOFError("the supervisor has gone before it said what to host")
        received += chunk
    return bytes(received)
