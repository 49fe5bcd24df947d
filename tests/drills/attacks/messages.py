"""Messages that are too large, grow too large, or take long to read."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from itertools import count
from typing import Any

from flyteidl2.connector.connector_pb2 import CreateTaskRequest
from flyteidl2.core.literals_pb2 import Binary, Literal, LiteralCollection, Scalar
from flyteidl2.core.types_pb2 import SimpleType
from google.protobuf.struct_pb2 import Struct

from drills.attacks.attack import Attack, Attacker
from drills.orders import GET, order
from drills.process import MIB
from rpc.kit.frames import request_headers

_COMPRESSED = {":path": GET, "grpc-encoding": "gzip"}
_CREATE = "/flyteidl2.connector.AsyncConnectorService/CreateTask"
# messages of 4 MiB that the host's max_request_memory is enough for
_HELD = 4


def oversize(attacker: Attacker) -> None:
    """Messages that say they are of 4 GiB."""
    with attacker.connection() as wire:
        wire.open()
        for stream_id in _streams(attacker, 100):
            wire.send(wire.request(stream_id) + wire.make.data(stream_id, b"\0\xff\xff\xff\xff" + bytes(10)), frames=2)
        wire.wait_for_answers(attacker.some(100))


def decompression_bomb(attacker: Attacker) -> None:
    """Messages of 64 KiB that are 64 MiB when decompressed."""
    bomb = gzip.compress(bytes(64 * MIB), compresslevel=9)
    framed = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    with attacker.connection() as wire:
        wire.open()
        for answered, stream_id in zip(count(1), _streams(attacker, 20), strict=False):
            wire.send(wire.make.headers(stream_id, request_headers(_COMPRESSED)))
            for chunk in _frames(framed):
                wire.send(wire.make.data(stream_id, chunk))
            wire.send(wire.make.data(stream_id, end_stream=True))
            wire.wait_for_answers(answered)


def held_messages(attacker: Attacker) -> None:
    """Messages of 4 kB that are 4 MiB when decompressed, for calls that last; the host has memory for some of them."""
    request = order("hold", task_type="attacked")
    request.output_prefix = "x" * (4 * MIB - 1000)
    packed = gzip.compress(request.SerializeToString(), compresslevel=9)
    framed = b"\1" + len(packed).to_bytes(4, "big") + packed
    with attacker.connection() as wire:
        wire.open()
        refused = attacker.some(50)
        for stream_id in range(1, 2 * (_HELD + refused), 2):
            wire.send(wire.make.headers(stream_id, request_headers(_COMPRESSED)))
            wire.send(wire.make.data(stream_id, framed, end_stream=True))
        wire.wait_for_answers(refused)


def junk(attacker: Attacker) -> None:
    """Messages that are nothing at all."""
    with attacker.connection() as wire:
        wire.open()
        for stream_id in _streams(attacker, 1000):
            wire.send(wire.call(stream_id, b"\xff" * 64), frames=2)
        wire.wait_for_answers(attacker.some(1000))


def many_parts(attacker: Attacker) -> None:
    """Messages of more parts than may be decoded."""
    empty_list = Literal()
    empty_list.collection.SetInParent()
    _create(attacker, _task(empty_list, 600_000))


def many_inputs(attacker: Attacker) -> None:
    """Tasks with as many inputs as may be decoded."""
    number = Literal()
    number.scalar.primitive.integer = 7
    _create(attacker, _task(number, attacker.some(100_000)))


def secrets_bomb(attacker: Attacker) -> None:
    """Secrets whose names hold each other's values, and an error that holds them all, with escapes within escapes."""
    values = [letter * (30 - number) for number, letter in enumerate("abcdefghijklmnopqrst")]
    text = "".join(values) * 50 + r"\x26%26&amp;" * 2000
    request = order("fail", text, task_type="attacked")
    for value, following in zip(values, [*values[1:], "x"], strict=True):
        request.connection.secrets[f"{following} " * 10] = value
    with attacker.connection() as wire:
        wire.open()
        for answered, stream_id in zip(count(1), _streams(attacker, 50), strict=False):
            wire.send(wire.make.headers(stream_id, request_headers({":path": GET})))
            for frame in _frames(wire.make.message(stream_id, request.SerializeToString(), end_stream=True)):
                wire.send(frame)
            wire.wait_for_answers(answered)


def costly_schemas(attacker: Attacker) -> None:
    """Tasks with an input whose schema has unions that refer to one another."""
    names = [f"U{number}" for number in range(60)]
    union = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    properties = {f"p{number}": {"$ref": "#/$defs/U0"} for number in range(100)}
    schema = {"type": "object", "properties": properties, "$defs": dict.fromkeys(names, union)}
    request = _request(Literal(scalar=Scalar(generic=_struct(dict.fromkeys(properties, 1)))))
    declared = request.template.interface.inputs.variables[0].value.type
    declared.simple = SimpleType.STRUCT
    declared.metadata.CopyFrom(_struct(schema))
    _create(attacker, request.SerializeToString())


def lists_as_keys(attacker: Attacker) -> None:
    """Tasks with a dictionary whose keys are lists, which their sender can give one hash."""
    keys = 50_000
    data = b"\xdf" + keys.to_bytes(4, "big") + b"\x92\x01\x02\xc0" * keys
    request = _request(Literal(scalar=Scalar(binary=Binary(value=data, tag="msgpack"))))
    request.template.interface.inputs.variables[0].value.type.simple = SimpleType.BINARY
    _create(attacker, request.SerializeToString())


def submits(attacker: Attacker) -> None:
    """Tasks that are submitted all at once, each of them twice."""
    count = attacker.some(900)
    request = CreateTaskRequest()
    request.template.type = "attacked"
    node = request.task_execution_metadata.task_execution_id.node_execution_id
    node.execution_id.name = "burst"
    with attacker.connection() as wire:
        wire.open()
        calls = []
        for number in range(count):
            node.node_id = f"n{number // 2}"
            stream_id = 2 * number + 1
            calls.append(wire.make.headers(stream_id, request_headers({":path": _CREATE})))
            calls.append(wire.make.message(stream_id, request.SerializeToString(), end_stream=True))
        wire.send(b"".join(calls), frames=2 * count)
        wire.wait_for_answers(count)


def _request(literal: Literal) -> CreateTaskRequest:
    """A task with the input `x`, of no type yet."""
    request = CreateTaskRequest()
    request.template.type = "attacked"
    request.template.interface.inputs.variables.add(key="x")
    request.inputs.literals.add(name="x").value.CopyFrom(literal)
    return request


def _struct(data: dict[str, Any]) -> Struct:
    struct = Struct()
    struct.update(data)
    return struct


def _task(literal: Literal, count: int) -> bytes:
    """A task whose input is a list of so many of these."""
    request = _request(Literal())
    request.template.interface.inputs.variables[0].value.type.collection_type.simple = SimpleType.INTEGER
    one = LiteralCollection(literals=[literal]).SerializeToString()
    request.inputs.literals[0].value.collection.MergeFromString(one * count)
    return bytes(request.SerializeToString())


def _create(attacker: Attacker, message: bytes) -> None:
    with attacker.connection() as wire:
        wire.open()
        for answered, stream_id in zip(count(1), _streams(attacker, 10), strict=False):
            wire.send(wire.make.headers(stream_id, request_headers({":path": _CREATE})))
            for frame in _frames(wire.make.message(stream_id, message, end_stream=True)):
                wire.send(frame)
            wire.wait_for_answers(answered)


def _frames(data: bytes) -> Iterator[bytes]:
    return (data[start : start + 16_384] for start in range(0, len(data), 16_384))


def _streams(attacker: Attacker, number: int) -> Iterator[int]:
    return iter(range(1, 2 * attacker.some(number), 2))


ATTACKS = [
    Attack("oversize", "messages that say they are of 4 GiB", oversize, ("open",), "8"),
    Attack(
        "decompression-bomb", "messages of 64 KiB that are 64 MiB when decompressed", decompression_bomb, ("open",), "8"
    ),
    Attack("held-messages", "messages of 4 kB that are 4 MiB, for calls that last", held_messages, ("open",), "8"),
    Attack("junk", "messages that are nothing", junk, ("open",), "13"),
    Attack("many-parts", "messages of more parts than may be decoded", many_parts, ("open",), "13"),
    Attack("many-inputs", "tasks with 100,000 inputs", many_inputs, ("open",), "0"),
    Attack("secrets-bomb", "secrets whose names hold each other's values", secrets_bomb, ("open",), "13"),
    Attack("costly-schemas", "tasks with schemas of unions that refer to one another", costly_schemas, ("open",), "3"),
    Attack("submits", "450 tasks that are submitted at once, each twice", submits, ("open",), "0"),
    Attack("lists-as-keys", "tasks with dictionaries whose keys are lists", lists_as_keys, ("open",), "3"),
]
