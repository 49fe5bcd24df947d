"""What a host answered, as a text: the same for the same answer."""

from __future__ import annotations

import json
from typing import Any

import grpc
import msgspec
from flyteidl2.connector import connector_pb2 as pb
from flyteidl2.core.literals_pb2 import Literal
from google.protobuf import json_format

from differential.asking import Request
from differential.programs.mirror import shown

__all__ = ["Outcome", "ask"]


class Outcome(str):
    """An answer: a status, a space, and what came with it."""

    __slots__ = ()

    @property
    def status(self) -> str:
        """ "OK", or the status that the call failed with."""
        return self.partition(" ")[0]


def ask(request: Request, channel: Any, deadline: float) -> Outcome:
    """What comes back."""
    try:
        answer = request.send(channel, deadline)
    except grpc.RpcError as error:
        return Outcome(f"{error.code().name} {error.details()}")
    return Outcome(f"OK {described(answer)}")


def described(answer: Any) -> str:
    if isinstance(answer, bytes):
        return f"{len(answer)} bytes"
    if isinstance(answer, pb.CreateTaskResponse):
        return made(answer.resource_meta)
    if isinstance(answer, pb.GetTaskResponse):
        return resource(answer.resource)
    if isinstance(answer, pb.ListConnectorsResponse):
        return " ".join(sorted(map(as_json, answer.connectors)))
    return as_json(answer) if not isinstance(answer, list) else " ".join(map(as_json, answer))


def made(resource_meta: bytes) -> str:
    """What the mirror's `create` got, or the bytes where that returned something else."""
    try:
        return str(json.loads(resource_meta)["argument"])
    except (ValueError, KeyError):
        return repr(resource_meta)


def as_json(message: Any) -> str:
    try:
        return json.dumps(json_format.MessageToDict(message), sort_keys=True, ensure_ascii=False)
    except json_format.SerializeToJsonError:  # a duration or a number that JSON does not have
        return " ".join(str(message).split())


def resource(message: pb.Resource) -> str:
    outputs = ""
    if message.HasField("outputs"):
        named = sorted(message.outputs.literals, key=lambda literal: literal.name)
        outputs = " ".join(f"{literal.name}={output(literal.value)}" for literal in named) or "outputs of nothing"
        message.ClearField("outputs")
    return f"{as_json(message)} {outputs}".strip()


def output(literal: Literal) -> str:
    scalar = literal.scalar
    if not scalar.HasField("binary"):
        return as_json(literal)
    if scalar.binary.tag == "msgpack":
        return f"msgpack {shown(msgspec.msgpack.decode(scalar.binary.value, strict=False))} {literal.hash}".strip()
    # a pickle's bytes are another's in another version of Python
    untagged = "a pickle" if scalar.binary.value.startswith(b"\x80") else repr(scalar.binary.value)
    return f"binary of tag {scalar.binary.tag!r}: {untagged} {literal.hash}".strip()
