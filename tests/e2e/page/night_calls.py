"""What Flyte's executor asks of the connectors of night.py before the night is as bad as it gets."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from flyteidl2.connector.connector_pb2 import TaskExecutionMetadata

from e2e.client import Client

NIGHT = Path(__file__).parent / "night.py"

# seconds; calls that hang end with the night
_LONG = 600.0


def line_of(comment: str) -> str:
    """Return the line of night.py that has this comment, as the page writes it."""
    lines = NIGHT.read_text().splitlines()
    number = next(index for index, line in enumerate(lines) if line.endswith(f"# {comment}"))
    method = next(line for line in reversed(lines[:number]) if line.startswith("    ") and "def " in line)
    return f"{NIGHT.name}:{number + 1} in {method.partition('def ')[2].partition('(')[0]}"


@dataclass
class Begun:
    """A night that has begun.

    :ivar jobs: how many there are
    :ivar failing: an execution whose polls fail
    :ivar hung: the execution whose poll hangs
    :ivar calls: those that are not answered before the night ends
    """

    jobs: int
    failing: str
    hung: str
    calls: list[Any] = field(default_factory=list)


def create(client: Client, task_type: str, name: str, does: str = "run", *, wait: bool = True) -> Any:
    """Create a job for an execution of that name; the answer, or a future of it."""
    metadata = TaskExecutionMetadata()
    node = metadata.task_execution_id.node_execution_id
    node.node_id = "n0"
    node.execution_id.project, node.execution_id.domain, node.execution_id.name = "night", "production", name
    prefix = f"s3://night/{name}/n0/0/{does}".encode()
    call = client.start("create", task_type=task_type, meta=prefix, task_execution_metadata=metadata, deadline=_LONG)
    return call.result() if wait else call


def begin(client: Client, jobs: int = 200) -> Begun:
    """Create that many jobs, and poll each, the warehouse's twice; then let a thread hang."""
    begun = Begun(jobs, failing="night-001", hung="night-hung")
    polls = []
    for number in range(jobs - 1):
        task_type = "warehouse_query" if number % 8 == 1 else "spark_on_k8s"
        meta = create(client, task_type, f"night-{number:03}").resource_meta
        polls += [client.start("get", task_type=task_type, meta=meta) for _ in range(1 + (number % 8 == 1))]
    for poll in polls:
        with suppress(grpc.RpcError):
            poll.result()
    meta = create(client, "nightly_reports", begun.hung, "hang").resource_meta
    begun.calls.append(client.start("get", task_type="nightly_reports", meta=meta, deadline=_LONG))
    return begun


def block(client: Client, begun: Begun) -> None:
    """Let a `create` block the event loop, until the night ends; nothing else is answered from here on."""
    begun.calls.append(create(client, "nightly_reports", "night-blocked", "block", wait=False))
