"""Where a connector for flyte-sdk is answered for otherwise than in its own host: rows of flyte-connectors.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc
from flyteidl2.connector.connector_pb2 import TaskExecutionMetadata
from flyteidl2.core.execution_pb2 import TaskExecution
from flyteidl2.core.interface_pb2 import TypedInterface, Variable, VariableEntry, VariableMap
from flyteidl2.core.literals_pb2 import Literal, Primitive, Scalar
from flyteidl2.core.security_pb2 import Connection
from flyteidl2.core.tasks_pb2 import TaskTemplate
from flyteidl2.core.types_pb2 import LiteralType, SimpleType
from flyteidl2.task.common_pb2 import Inputs, NamedLiteral
from google.protobuf.json_format import MessageToDict

from e2e.client import Client
from flyte_sdk.connectors.mirror import Mirrored

# seconds, for a call that flyte-sdk's host never answers
UNANSWERED = 5.0


@dataclass
class Difference:
    """A request that both hosts do not answer alike.

    :ivar case: what is asked, in the words of the document
    :ivar ask: sends it, and returns the answer in the words of the document
    :ivar theirs: flyte-sdk's status, or its answer
    :ivar ours: the same of this host
    """

    case: str
    ask: Callable[[Client], str]
    theirs: str
    ours: str

    @property
    def row(self) -> str:
        return f"| {self.case} | {self.theirs} | {self.ours} |"

    def answer(self, client: Client) -> str:
        try:
            return self.ask(client)
        except grpc.RpcError as error:
            code = error.code().name
            return "no answer" if code == "DEADLINE_EXCEEDED" else code


def get(client: Client, said: str, **options):
    return client.call("get", task_type="mirror", meta=Mirrored(said).encode(), **options).resource


def phase(client: Client, said: str, **options) -> str:
    return f"phase {TaskExecution.Phase.Name(get(client, said, **options).phase)}"


def refused(client: Client) -> str:
    variable = Variable(type=LiteralType(simple=SimpleType.INTEGER))
    interface = TypedInterface(inputs=VariableMap(variables=[VariableEntry(key="x", value=variable)]))
    text = NamedLiteral(name="x", value=Literal(scalar=Scalar(primitive=Primitive(string_value="seven"))))
    template = TaskTemplate(type="mirror", interface=interface)
    client.call("create", template=template, inputs=Inputs(literals=[text]), meta=b"s3://x")
    return "passed on"


def named_as_a_parameter(client: Client) -> str:
    connection = Connection(secrets={"inputs": "secret"})
    client.call("create", template=TaskTemplate(type="mirror"), connection=connection, meta=b"s3://x")
    return "passed on"


def infinite(client: Client) -> str:
    kind = get(client, "nan").custom_info.fields["a"].WhichOneof("kind")
    return {"number_value": "a number, which JSON lacks", "string_value": "a text"}[kind]


def named(client: Client) -> str:
    try:
        return str(MessageToDict(get(client, "not a text")))
    except grpc.RpcError as error:
        field = ", with the name of the field" if "whose message cannot be encoded" in error.details() else ""
        return f"{error.code().name}{field}"


def twice(client: Client) -> str:
    """Create the job of one attempt two times; the second request differs in what says nothing of the job."""
    metadata = TaskExecutionMetadata(namespace="one")
    node = metadata.task_execution_id.node_execution_id
    node.node_id, node.execution_id.name = "sent-twice", "run"

    def create() -> bytes:
        template = TaskTemplate(type="mirror")
        request = {"template": template, "task_execution_metadata": metadata, "meta": b"s3://x"}
        return client.call("create", **request).resource_meta

    first = create()
    metadata.namespace = "two"
    return "one job" if create() == first else "two jobs"


DIFFERENCES = [
    Difference("an input that the type engine refuses", refused, "INTERNAL", "INVALID_ARGUMENT"),
    Difference(
        "a resource meta of another connector",
        lambda c: str(c.call("get", task_type="mirror", meta=b"\xff")),
        "INTERNAL", "INVALID_ARGUMENT",
    ),
    Difference("a secret or config with the name of a parameter", named_as_a_parameter, "INTERNAL", "INVALID_ARGUMENT"),
    Difference(
        "the connector has no `get_metrics` or `get_logs`",
        lambda c: str(c.call("get_logs", task_type="bare", meta=Mirrored().encode())),
        "UNKNOWN", "UNIMPLEMENTED",
    ),
    Difference(
        "`get_metrics` or `get_logs` raises",
        lambda c: str(c.call("get_metrics", task_type="bare", meta=Mirrored().encode())),
        "UNKNOWN", "INTERNAL",
    ),
    Difference(
        "another method raises NotImplementedError", lambda c: phase(c, "not implemented"),
        "INTERNAL", "UNIMPLEMENTED",
    ),
    Difference(
        "`get` raises what is transient, such as TimeoutError", lambda c: phase(c, "time-out"),
        "INTERNAL", "phase RUNNING",
    ),
    Difference(
        "a method raises CancelledError", lambda c: phase(c, "cancelled", deadline=UNANSWERED),
        "no answer", "INTERNAL",
    ),
    Difference("an error with a text of 20 kB", lambda c: phase(c, "long"), "RESOURCE_EXHAUSTED", "INTERNAL"),
    Difference("phase UNDEFINED", lambda c: phase(c, "undefined"), "phase UNDEFINED", "INTERNAL"),
    Difference(
        "half a surrogate pair in a text that is returned",
        lambda c: get(c, "half a pair").message.replace("a", "`", 1) + "`",
        "INTERNAL", "`\\udcff`",
    ),
    Difference("NaN in `custom_info`", infinite, "a number, which JSON lacks", "a text"),
    Difference("another field that cannot be encoded", named, "INTERNAL", "INTERNAL, with the name of the field"),
    Difference("a CreateTask that is sent again", twice, "two jobs", "one job"),
]  # fmt: skip
