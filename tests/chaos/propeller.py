"""A model of Flyte's executor: its deadlines, polls, counter of errors and attempts."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import anyio
from grpclib import GRPCError

from connectrio import Phase
from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceStub,
    CreateTaskRequest,
    GetTaskRequest,
    TaskCategory,
    TaskExecutionMetadata,
)
from connectrio.idl.flyteidl2.core import (
    LiteralType,
    NodeExecutionIdentifier,
    SimpleType,
    TaskExecutionIdentifier,
    TaskTemplate,
    TypedInterface,
    Variable,
    VariableEntry,
    VariableMap,
    WorkflowExecutionIdentifier,
)

# seconds: its defaults
TIMEOUT = 10.0
POLL_INTERVAL = 30.0
MAX_ERRORS = 5
# a task that is refused so often is given up; its user looks at the error
REFUSALS = 3

FAILED = {Phase.FAILED, Phase.ABORTED, Phase.RETRYABLE_FAILED}
NUMBER = Variable(type=LiteralType(simple=SimpleType.INTEGER))
INTERFACE = TypedInterface(outputs=VariableMap(variables=[VariableEntry(key="result", value=NUMBER)]))


@dataclass
class Task:
    """The result of a task.

    :ivar attempts: how many there were
    :ivar errors: what GetTask has failed with, over all attempts; the executor's counter never goes back
    :ivar create_errors: what CreateTask has failed with
    """

    name: str
    task_type: str = "chaos"
    attempts: int = 0
    errors: list[str] = field(default_factory=list)
    create_errors: list[str] = field(default_factory=list)
    phase: Phase | None = None
    result: int | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the executor has given up the task."""
        return self.phase is None


class AnswerLostError(Exception):
    """The host's answer was sent but lost."""


class Propeller:
    """Runs tasks.

    :param lost: the part of the answers to CreateTask that never arrives
    :param restarts: how likely it is that it has restarted when one was lost: then it sends the same request again
    :param max_attempts: of a task, retries of the system included
    :param timeout: seconds that it waits for an answer
    :param poll_interval: seconds between two polls of a task
    :param pause: seconds between two attempts
    """

    def __init__(
        self,
        stub: AsyncConnectorServiceStub,
        random: Random,
        *,
        lost: float,
        restarts: float = 0.5,
        max_attempts: int,
        timeout: float = TIMEOUT,
        poll_interval: float = POLL_INTERVAL,
        pause: float = 0.0,
    ) -> None:
        self._stub = stub
        self._random = random
        self._lost = lost
        self._restarts = restarts
        self._max_attempts = max_attempts
        self._timeout = timeout
        self._poll_interval = poll_interval
        self._pause = pause

    async def run(self, task: Task) -> None:
        """Run a task until it ends or is given up."""
        for number in range(self._max_attempts):
            task.attempts += 1
            meta = await self._create(task, number)
            if meta is not None and await self._poll_to_the_end(task, meta, number):
                return
            if sum(error.startswith("FAILED_PRECONDITION") for error in task.create_errors) == REFUSALS:
                return
            await anyio.sleep(self._pause)

    async def _create(self, task: Task, number: int) -> bytes | None:
        """Return the `resource_meta`; None if this attempt has failed."""
        while True:
            try:
                response = await self._stub.create_task(self._request(task, number), timeout=self._timeout)
                if self._random.random() < self._lost:
                    raise AnswerLostError
            except GRPCError as error:
                task.create_errors.append(f"{error.status.name}: {error.message}")
                return None
            except AnswerLostError:
                if self._random.random() < self._restarts:
                    continue
                return None
            return response.resource_meta

    async def _poll_to_the_end(self, task: Task, meta: bytes, number: int) -> bool:
        """Return whether the task has ended; else only this attempt has."""
        category = TaskCategory(name=task.task_type)
        request = GetTaskRequest(resource_meta=meta, task_category=category, output_prefix=_prefix(task, number))
        errors = 0
        while errors <= MAX_ERRORS:
            await anyio.sleep(self._poll_interval)
            try:
                resource = (await self._stub.get_task(request, timeout=self._timeout)).resource
            except GRPCError as error:
                errors += 1
                task.errors.append(f"{error.status.name}: {error.message}")
                continue
            if resource.phase is Phase.SUCCEEDED:
                task.phase = resource.phase
                [output] = resource.outputs.literals
                task.result = output.value.scalar.primitive.integer
                return True
            if resource.phase in FAILED:
                task.phase = resource.phase if resource.phase is Phase.FAILED else None
                return task.phase is not None
        return True

    def _request(self, task: Task, number: int) -> CreateTaskRequest:
        execution = WorkflowExecutionIdentifier(project="chaos", domain="test", name=task.name)
        node = NodeExecutionIdentifier(node_id="n0", execution_id=execution)
        return CreateTaskRequest(
            template=TaskTemplate(type=task.task_type, interface=INTERFACE),
            output_prefix=_prefix(task, number),
            task_execution_metadata=TaskExecutionMetadata(
                task_execution_id=TaskExecutionIdentifier(node_execution_id=node, retry_attempt=number)
            ),
        )


def _prefix(task: Task, number: int) -> str:
    return f"s3://bucket/{task.name}/{number}"
