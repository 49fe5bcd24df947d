"""protobuf reads a request's bytes as our decoder does: what the host has checked is what a connector gets.

The host checks the inputs that it has decoded, and hands protobuf the bytes that came. A field that comes twice, in any
order, at any depth, must mean the same to both; else a pickle could hide from the check.
"""

from __future__ import annotations

import random

import pytest
from flyteidl2.connector.connector_pb2 import CreateTaskRequest
from google.protobuf.internal.encoder import _VarintBytes

from connectrio.idl.flyteidl2 import connector as idl
from connectrio.rpc.codec import DecodeError, decode, encode

REQUESTS = 300
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
DEPTH = 9
# of a message that holds others: those on the way to values come more often
WANTED = {
    "inputs",
    "literals",
    "value",
    "scalar",
    "binary",
    "collection",
    "map",
    "union",
    "generic",
    "blob",
    "metadata",
}


class Writer:
    """Writes the bytes of random messages: fields twice, in any order, unknown ones, half entries of maps."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def message(self, descriptor, depth=0):
        fields = list(descriptor.fields)
        if not fields or depth > DEPTH:
            return b""
        wanted = [field for field in fields if field.name in WANTED] or fields
        chosen = [self.random.choice(wanted)]
        chosen += self.random.choices(fields, k=self.random.choice([0, 0, 1]))
        chosen += self.random.choices(chosen, k=self.random.choice([0, 0, 1]))
        parts = [self.field(field, depth) for field in chosen]
        if self.random.random() < 0.05:
            parts.append(self.tag(self.random.choice([90, 2000]), VARINT) + b"\x07")
        self.random.shuffle(parts)
        return b"".join(parts)

    def tag(self, number, kind):
        return _VarintBytes(number << 3 | kind)

    def record(self, number, data):
        return self.tag(number, LENGTH) + _VarintBytes(len(data)) + data

    def field(self, field, depth):
        kind, number = field.type, field.number
        if kind == field.TYPE_MESSAGE:
            return self.record(number, self.message(field.message_type, depth + 1))
        if kind in (field.TYPE_STRING, field.TYPE_BYTES):
            return self.record(number, self.random.choice([b"", b"a", b"b", b"msgpack", b"pickle"]))
        if kind == field.TYPE_DOUBLE:
            return self.tag(number, FIXED64) + self.random.randbytes(6) + b"\0\0"
        if kind == field.TYPE_FLOAT:
            return self.tag(number, FIXED32) + self.random.randbytes(2) + b"\0\0"
        return self.tag(number, VARINT) + _VarintBytes(self.random.choice([0, 1, 2, 300]))


def known(data):
    """What protobuf finds in known fields; ours keep no others within times and wrappers."""
    request = CreateTaskRequest.FromString(data)
    request.DiscardUnknownFields()
    return request.SerializeToString(deterministic=True)


@pytest.mark.parametrize("seed", range(5))
def test_protobuf_reads_what_the_host_has_checked(seed):
    writer = Writer(seed)
    read = 0
    for _ in range(REQUESTS):
        data = writer.message(CreateTaskRequest.DESCRIPTOR)
        try:
            checked = encode(decode(data, idl.CreateTaskRequest))
        except DecodeError:
            continue
        read += len(data) > 0
        assert known(data) == known(checked)
    assert read > REQUESTS / 2
