"""Where this host answers otherwise than flytekit's own, and why: the rows of the table in docs/how-to/flytekit.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flyteidl.admin.agent_pb2 import GetAgentRequest, TaskExecutionMetadata
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.core.literals_pb2 import Blob, BlobMetadata, Literal, LiteralOffloadedMetadata, Scalar
from flyteidl.core.types_pb2 import BlobType, LiteralType

from flytekit_sdk.client import Client, outcome, task
from flytekit_sdk.requests import identifier

SUCCEEDED = '{"phase": 3}'


@dataclass
class Difference:
    """A request that both hosts do not answer alike.

    :ivar case: what is asked, in the words of the document
    :ivar ask: sends it, and returns the answer in the words of the document
    :ivar theirs: flytekit's status, or its answer
    :ivar ours: the same of this host
    """

    case: str
    ask: Callable[[Client], Any]
    theirs: str
    ours: str

    @property
    def row(self) -> str:
        return f"| {self.case} | {self.theirs} | {self.ours} |"

    def answer(self, client: Client) -> str:
        found = outcome(self.ask, client)
        if not isinstance(found, tuple):
            return found
        code = found[0].name
        return f"{code}: no answer" if code == "DEADLINE_EXCEEDED" else code


def meta(order: str) -> bytes:
    return json.dumps({"said": order}).encode()


def raising(kind: str, text: str = "the disk is full") -> str:
    return json.dumps({"raises": kind, "text": text})


def named(phase: int) -> str:
    names = TaskExecution.Phase
    return f"phase {names.Name(phase) if phase in names.values() else phase}"


def phase(client: Client, order: str) -> str:
    return named(client.get("mirror", meta(order)).resource.phase)


def cancelled(client: Client) -> str:
    return named(client.get("mirror", meta(raising("CancelledError")), deadline=client.unanswered).resource.phase)


def create(client: Client, message: Any) -> str:
    client.create(message)
    return "passed on"


def with_input(kind: LiteralType, literal: Literal) -> Any:
    message = task("mirror")
    message.template.interface.inputs.variables["x"].type.CopyFrom(kind)
    message.inputs.literals["x"].CopyFrom(literal)
    return message


RUNNING = task("immediate", '{"phase": 2}', 2)
PICKLE = BlobType(format="PythonPickle")
PICKLED = Literal(scalar=Scalar(blob=Blob(uri="s3://b/x", metadata=BlobMetadata(type=PICKLE))))
OFFLOADED = Literal(offloaded_metadata=LiteralOffloadedMetadata(uri="s3://b/x", size_bytes=9))


def twice(client: Client) -> str:
    """Create the job of one attempt two times; the second request differs in what says nothing of the job."""
    metadata = TaskExecutionMetadata(namespace="one")
    attempt = metadata.task_execution_id
    attempt.task_id.CopyFrom(identifier("t"))
    attempt.node_execution_id.node_id = "sent-twice"
    attempt.node_execution_id.execution_id.name = "run"
    first = client.create(task("mirror", task_execution_metadata=metadata))
    metadata.namespace = "two"
    second = client.create(task("mirror", task_execution_metadata=metadata))
    return "one job" if first == second else "two jobs"


def infinite(client: Client) -> str:
    found = client.get("mirror", meta('{"phase": 3, "custom": {"a": NaN}}')).resource.custom_info["a"]
    return "a text" if isinstance(found, str) else "a number, which JSON lacks"


def surrogate(client: Client) -> str:
    return (
        str(client.get("mirror", meta('{"phase": 3, "message": "a\\udcff"}')).resource.message).replace("a\\", "`\\")
        + "`"
    )


DIFFERENCES = [
    Difference(
        "GetTaskMetrics or GetTaskLogs of an unknown task type", lambda c: c.get_logs("nope", b""),
        "UNKNOWN", "NOT_FOUND",
    ),
    Difference(
        "GetAgent of an unknown name", lambda c: c.agents.GetAgent(GetAgentRequest(name="Nope")),
        "UNKNOWN", "NOT_FOUND",
    ),
    Difference(
        "`get_metrics` or `get_logs` raises", lambda c: c.get_metrics("mirror", meta(raising("ValueError"))),
        "UNKNOWN", "INTERNAL",
    ),
    Difference(
        "the connector has no `get_metrics` or `get_logs`", lambda c: c.get_logs("bare", meta("")),
        "UNKNOWN", "UNIMPLEMENTED",
    ),
    Difference(
        "another method raises NotImplementedError", lambda c: phase(c, raising("NotImplementedError")),
        "INTERNAL", "UNIMPLEMENTED",
    ),
    Difference(
        "a method raises FlyteConnectorNotFound", lambda c: phase(c, raising("FlyteConnectorNotFound")),
        "NOT_FOUND", "INTERNAL",
    ),
    Difference(
        "`get` raises what is transient, such as TimeoutError", lambda c: phase(c, raising("TimeoutError")),
        "INTERNAL", "phase RUNNING",
    ),
    Difference(
        "a method raises CancelledError", cancelled,
        "DEADLINE_EXCEEDED: no answer", "INTERNAL",
    ),
    Difference(
        "an error with a text of 20 kB", lambda c: phase(c, raising("ValueError", "x" * 20_000)),
        "RESOURCE_EXHAUSTED", "INTERNAL",
    ),
    Difference(
        "a log line from `get_logs`", lambda c: f"{len(c.get_logs('mirror', meta(SUCCEEDED)))} sent",
        "0 sent", "1 sent",
    ),
    Difference(
        "a resource meta of another connector", lambda c: c.get("mirror", b"\xff"),
        "INTERNAL", "INVALID_ARGUMENT",
    ),
    Difference("phase UNDEFINED", lambda c: phase(c, '{"phase": 0}'), "phase UNDEFINED", "INTERNAL"),
    Difference("a phase that Flyte does not have", lambda c: phase(c, '{"phase": 99}'), "phase 99", "INTERNAL"),
    Difference("half a surrogate pair in a text", surrogate, "INTERNAL", "`\\udcff`"),
    Difference("NaN in `custom_info`", infinite, "a number, which JSON lacks", "a text"),
    Difference(
        "CreateTask for a sync connector", lambda c: create(c, task("immediate", version=2)),
        "INTERNAL", "passed on",
    ),
    Difference(
        "ExecuteTaskSync for an async connector", lambda c: named(c.execute(task("bare")).phase),
        "INTERNAL", "phase SUCCEEDED",
    ),
    Difference(
        "`do` returns a phase that is not final",
        lambda c: named(c.execute(RUNNING).phase),
        "phase RUNNING", "INTERNAL",
    ),
    Difference("a CreateTask that is sent again", twice, "two jobs", "one job"),
    Difference(
        "an input that is a pickle", lambda c: create(c, with_input(LiteralType(blob=PICKLE), PICKLED)),
        "passed on", "INVALID_ARGUMENT",
    ),
    Difference(
        "an input that Flyte has stored elsewhere", lambda c: create(c, with_input(LiteralType(simple=1), OFFLOADED)),
        "passed on", "UNAVAILABLE",
    ),
]  # fmt: skip
