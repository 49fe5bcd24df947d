"""What the hosts are asked to do: requests as the executor sends them, and how a right answer is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flyteidl2.connector import connector_pb2 as pb
from flyteidl2.core import execution_pb2, interface_pb2, literals_pb2, tasks_pb2, types_pb2
from google.protobuf.message import Message

SERVICE = "/flyteidl2.connector.AsyncConnectorService"
MEBIBYTE = 1 << 20
LOG_LINES = 1000
BLOCKING_CALLS = 32
BLOCKED_SECONDS = 0.2


@dataclass(frozen=True)
class Work:
    """One kind of call.

    :ivar name: on the command line
    :ivar title: for people
    :ivar path: of the method
    :ivar request: the message
    :ivar answer_type: of each message of the answer
    :ivar is_right: whether the messages of an answer are what the connector said
    """

    name: str
    title: str
    path: str
    request: Message
    answer_type: Callable[[], Message]
    is_right: Callable[[list[Any]], bool]

    @property
    def body(self) -> bytes:
        """The request as the bytes of its DATA frames: one message of gRPC."""
        return frame(self.request.SerializeToString())

    def check(self, status: str, messages: list[bytes]) -> None:
        """:raises SystemExit: the answer is not the right one; what follows would measure nothing"""
        answers = [self.answer_type() for _ in messages]
        for answer, message in zip(answers, messages, strict=True):
            answer.ParseFromString(message)
        if status != "0" or not self.is_right(answers):
            raise SystemExit(f"{self.title}: not a right answer: status {status}, {str(answers)[:300]}")


def frame(message: bytes) -> bytes:
    """`message` with the prefix that gRPC gives it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _meta(job_id: str = "0123456789abcdef") -> bytes:
    return json.dumps({"job_id": job_id}).encode()


def _get(task_type: str, meta: bytes) -> pb.GetTaskRequest:
    return pb.GetTaskRequest(
        resource_meta=meta, task_category=pb.TaskCategory(name=task_type), output_prefix="s3://bucket/some/prefix"
    )


def _has_succeeded(outputs: Callable[[Any], bool]) -> Callable[[list[Any]], bool]:
    def is_right(answers: list[Any]) -> bool:
        return (
            len(answers) == 1
            and answers[0].resource.phase == execution_pb2.TaskExecution.SUCCEEDED
            and outputs(answers[0].resource.outputs.literals[0].value.scalar.primitive)
        )

    return is_right


_has_rows = _has_succeeded(lambda primitive: primitive.integer == 42)


def _scalar(**value: Any) -> literals_pb2.Literal:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(**value)))


def _simple(kind: str) -> types_pb2.LiteralType:
    return types_pb2.LiteralType(simple=types_pb2.SimpleType.Value(kind))


def _inputs() -> dict[str, tuple[types_pb2.LiteralType, literals_pb2.Literal]]:
    """The six inputs."""
    integers = literals_pb2.LiteralCollection(literals=[_scalar(integer=number) for number in range(10)])
    texts = literals_pb2.LiteralMap(literals={f"key{n}": _scalar(string_value=f"value {n}") for n in range(10)})
    return {
        "count": (_simple("INTEGER"), _scalar(integer=42)),
        "ratio": (_simple("FLOAT"), _scalar(float_value=0.25)),
        "text": (_simple("STRING"), _scalar(string_value="select * from orders where day = $day")),
        "flag": (_simple("BOOLEAN"), _scalar(boolean=True)),
        "items": (types_pb2.LiteralType(collection_type=_simple("INTEGER")), literals_pb2.Literal(collection=integers)),
        "table": (types_pb2.LiteralType(map_value_type=_simple("STRING")), literals_pb2.Literal(map=texts)),
    }


def _create() -> pb.CreateTaskRequest:
    inputs = _inputs()
    template = tasks_pb2.TaskTemplate(type="bench", interface=interface_pb2.TypedInterface())
    for name, (declared, _) in inputs.items():
        template.interface.inputs.variables.add(key=name, value=interface_pb2.Variable(type=declared))
    request = pb.CreateTaskRequest(template=template, output_prefix="s3://bucket/some/prefix")
    for name, (_, literal) in inputs.items():
        request.inputs.literals.add(name=name, value=literal)
    return request


GET = Work("get", "GetTask", f"{SERVICE}/GetTask", _get("bench", _meta()), pb.GetTaskResponse, _has_rows)
CREATE = Work(
    "create",
    "CreateTask, six inputs",
    f"{SERVICE}/CreateTask",
    _create(),
    pb.CreateTaskResponse,
    lambda answers: len(answers) == 1 and b"0123456789abcdef" in answers[0].resource_meta,
)
LOGS = Work(
    "logs",
    "GetTaskLogs, 1,000 messages of one line",
    f"{SERVICE}/GetTaskLogs",
    pb.GetTaskLogsRequest(resource_meta=_meta(), task_category=pb.TaskCategory(name="bench")),
    pb.GetTaskLogsResponse,
    lambda answers: sum(len(answer.body.lines) for answer in answers) == LOG_LINES,
)
LARGE = Work(
    "large",
    "GetTask, 1 MiB each way",
    f"{SERVICE}/GetTask",
    _get("bench-large", _meta("x" * MEBIBYTE)),
    pb.GetTaskResponse,
    _has_succeeded(lambda primitive: len(primitive.string_value) == MEBIBYTE),
)
BLOCKING = Work(
    "blocking",
    f"{BLOCKING_CALLS} GetTask at once that block for {BLOCKED_SECONDS} s",
    f"{SERVICE}/GetTask",
    _get("bench-blocking", _meta()),
    pb.GetTaskResponse,
    _has_rows,
)
