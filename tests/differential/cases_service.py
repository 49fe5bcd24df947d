"""Requests about everything else: outputs, statuses, connectors, health."""

from __future__ import annotations

from collections.abc import Iterator

from flyteidl2.connector import connector_pb2 as pb
from flyteidl2.core.security_pb2 import Connection
from flyteidl2.core.tasks_pb2 import TaskTemplate

from differential.asking import Request, create, health, metadata, order, raw, task
from differential.programs.mirror import ERRORS, OUTPUTS, RESOURCES

__all__ = ["service_requests"]

METHODS = ("CreateTask", "GetTask", "DeleteTask", "GetTaskMetrics", "GetTaskLogs")
CONNECTION = Connection(secrets={"a": "s", "b": "s"}, configs={"b": "c"})
SERVICES = (
    "",
    "flyteidl2.connector.AsyncConnectorService",
    "flyteidl2.connector.ConnectorMetadataService",
    "grpc.health.v1.Health",
    "no.such.Service",
)
# with these flyte-sdk's host answers nothing, and with the last two never again
UNANSWERED = ("CancelledError",)
FATAL = ("SystemExit", "KeyboardInterrupt")
IMPATIENT = 0.5


def service_requests() -> Iterator[Request]:
    """All that flyte-sdk's host survives."""
    for name in OUTPUTS:
        yield task(f"output: {name}", "GetTask", order("output", name))
    for name in RESOURCES:
        yield task(f"resource: {name}", "GetTask", order("resource", name))
    for method in METHODS:
        yield from of_method(method)
    yield task("GetTask: nothing", "GetTask", order("nothing"))
    yield task("CreateTask: a resource_meta that cannot be encoded", "CreateTask", order("unencodable"))
    yield task("GetTask: connection", "GetTask", order(), connection=CONNECTION)
    yield task("DeleteTask: connection", "DeleteTask", order(), connection=CONNECTION)
    yield task("GetTask: connection, no such parameters", "GetTask", order(), "strict", connection=CONNECTION)
    clash = Connection(configs={"resource_meta": "mine"})
    yield task("GetTask: connection with the name of a parameter", "GetTask", order(), connection=clash)
    yield task("GetTask: no parameters", "GetTask", order(), "strict")
    yield task("GetTaskLogs: token", "GetTaskLogs", order(), token="t")
    yield task("GetTaskLogs: of a coroutine", "GetTaskLogs", order(), "single", token="t")
    yield task("GetTaskMetrics: not implemented", "GetTaskMetrics", order(), "bare")
    yield task("GetTaskLogs: not implemented", "GetTaskLogs", order(), "bare")
    yield create("CreateTask: no template", pb.CreateTaskRequest())
    yield create("CreateTask: no interface", pb.CreateTaskRequest(template=TaskTemplate(type="mirror")))
    yield task("GetTask: version 2", "GetTask", order(), "single", 2)
    yield task("GetTask: bare", "GetTask", order(), "bare")
    path = "/flyteidl2.connector.AsyncConnectorService/"
    yield raw("request: undecodable", f"{path}GetTask", b"\xff\xff")
    yield raw("request: empty", f"{path}GetTask", b"")
    yield raw("request: of 5 MiB", f"{path}GetTask", b"\x1a\x80\x80\xc0\x02" + bytes(5 * 2**20))
    yield raw("request: of an unknown method", f"{path}NoSuchTask", b"")
    yield raw("request: to an unknown service", "/no.such.Service/GetTask", b"")
    yield raw("List: all services", "/grpc.health.v1.Health/List", b"")
    yield metadata("ListConnectors", "ListConnectors", pb.ListConnectorsRequest())
    for name in ("Mirror", "Single", "mirror", "nobody", ""):
        yield metadata(f"GetConnector: {name}", "GetConnector", pb.GetConnectorRequest(name=name))
    for service in SERVICES:
        yield health(f"Check: {service}", "Check", service)
        yield health(f"Watch: {service}", "Watch", service)


def of_method(method: str) -> Iterator[Request]:
    """A call that goes well, and all that can go wrong with it."""
    yield task(f"{method}: fine", method, order())
    yield task(f"{method}: unknown type", method, order(), "nope")
    yield task(f"{method}: unknown version", method, order(), "mirror", 7)
    if method != "GetTaskLogs":
        yield task(f"{method}: junk", method, order("junk"))
    for name in ERRORS:
        if name not in (*UNANSWERED, *FATAL):
            yield task(f"{method}: raises {name}", method, order("raise", name))
    for name in UNANSWERED if method in ("CreateTask", "GetTask") else ():
        yield task(f"{method}: raises {name}", method, order("raise", name), their_deadline=IMPATIENT)
    if method != "CreateTask":
        for name, meta in BAD_METAS.items():
            yield task(f"{method}: resource_meta {name}", method, meta)


BAD_METAS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "no object": b"[1]",
    "no text": b"\xff",
    "of another": b'{"job": 1}',
    "of a wrong type": b'{"does": 1}',
}


def fatal_requests() -> Iterator[Request]:
    """What flyte-sdk's host does not survive, and what it answers afterwards, in order."""
    for name in FATAL:
        yield task(f"GetTask: raises {name}", "GetTask", order("raise", name), their_deadline=IMPATIENT)
        yield task(f"GetTask: after {name}", "GetTask", order(), their_deadline=IMPATIENT)
