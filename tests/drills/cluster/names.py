"""A name server for one name, as a headless Service has: each answer has the addresses of the moment."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from types import TracebackType
from typing import Self

NAME = "connectors.test"
_A, _IN = 1, 1
# of header: id, flags, and the numbers of questions, answers, authorities and additional records (RFC 1035)
_HEADER = struct.Struct("!6H")
# of an answer: the name (the one that is asked for), type, class, seconds to live, length
_RECORD = struct.Struct("!HHHIH")
_TTL = 5


class NameServer:
    """Answers queries for A records over UDP, on the loopback interface. Knows each name.

    :ivar addresses: the answer from now on
    :ivar queries: queries for A records so far
    """

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.queries = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", _HEADER.size) + 5
        question = query[_HEADER.size : end]
        is_a = struct.unpack("!H", question[-4:-2])[0] == _A
        self.queries += is_a
        found = self.addresses if is_a else []
        header = _HEADER.pack(struct.unpack("!H", query[:2])[0], 0x8580, 1, len(found), 0, 0)
        records = [_RECORD.pack(0xC00C, _A, _IN, _TTL, 4) + ipaddress.IPv4Address(each).packed for each in found]
        return header + question + b"".join(records)


def look_up(name: str, server: tuple[str, int]) -> list[str]:
    """Return the addresses that a `NameServer` has for a name.

    :raises OSError: it does not answer
    """
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    question = labels + struct.pack("!HH", _A, _IN)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.sendto(_HEADER.pack(1, 0x0100, 1, 0, 0, 0) + question, server)
        answer = asking.recv(4096)
    count = _HEADER.unpack(answer[: _HEADER.size])[3]
    records = answer[_HEADER.size + len(question) :]
    return [str(ipaddress.IPv4Address(records[at * 16 + 12 : at * 16 + 16])) for at in range(count)]
