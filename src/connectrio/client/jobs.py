"""The calls about the jobs of one task type, and how to read a job's log and wait for its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import cast

from grpclib.exceptions import GRPCError

from connectrio.idl.flyteidl2.connector import (
    AsyncConnectorServiceStub,
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskLogsRequest,
    GetTaskLogsResponse,
    GetTaskMetricsRequest,
    GetTaskRequest,
    Resource,
    TaskCategory,
)
from connectrio.idl.flyteidl2.core import (
    Connection,
    ExecutionMetricResult,
    TaskTemplate,
    WorkflowExecutionIdentifier,
)
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.masking import SecretMask
from connectrio.rpc.backoff import Backoff

__all__ = ["Jobs", "LogReader", "category_of", "error_text", "execution_of", "log_lines", "poll_backoff"]


def category_of(request: CreateTaskRequest) -> TaskCategory:
    """Return the task type and version that `request` is for."""
    template = request.template or TaskTemplate()
    return TaskCategory(name=template.type, version=template.task_type_version)


def execution_of(request: CreateTaskRequest) -> WorkflowExecutionIdentifier:
    """Return the execution that the job of `request` belongs to."""
    metadata = request.task_execution_metadata
    task = None if metadata is None else metadata.task_execution_id
    node = None if task is None else task.node_execution_id
    return (None if node is None else node.execution_id) or WorkflowExecutionIdentifier()


def error_text(error: GRPCError) -> str:
    """Return the status and message of a failed call, as people read it."""
    return f"{error.status.name}: {error.message}" if error.message else error.status.name


@dataclass(frozen=True)
class Jobs:
    """The jobs of one task type on one host. Every call raises `GRPCError` when it fails.

    :ivar category: the task type and its version
    :ivar connection: sent with each create, get and delete
    :ivar timeout: seconds for each call; streams of log lines have no limit
    :ivar output_prefix: where the jobs write their outputs, for connectors that ask
    :ivar log_metadata: sent with calls for logs and metrics
    :ivar mask: finds the secrets that the answers must not show, but for outputs; None: answers are left as they are
    """

    stub: AsyncConnectorServiceStub
    category: TaskCategory
    connection: Connection | None = None
    timeout: float = 10.0
    output_prefix: str = ""
    mask: SecretMask | None = None
    log_metadata: Mapping[str, str | bytes] = field(default_factory=dict)

    @contextmanager
    def masked(self) -> Iterator[None]:
        """Hide the secrets in the message of a call that fails in this block."""
        try:
            yield
        except GRPCError as error:
            if self.mask is None or not error.message:
                raise
            raise GRPCError(error.status, self.mask.text(error.message)) from None

    async def create(self, request: CreateTaskRequest) -> bytes:
        """Start a job and return its resource meta."""
        with self.masked():
            return (await self.stub.create_task(request, timeout=self.timeout)).resource_meta

    async def get(self, meta: bytes) -> Resource:
        """Return the state of a job."""
        request = GetTaskRequest(
            resource_meta=meta,
            task_category=self.category,
            output_prefix=self.output_prefix,
            connection=self.connection,
        )
        with self.masked():
            resource = (await self.stub.get_task(request, timeout=self.timeout)).resource or Resource()
        if self.mask is not None:
            self.mask.resource(resource)
        return resource

    async def delete(self, meta: bytes) -> None:
        """Cancel a job."""
        request = DeleteTaskRequest(resource_meta=meta, task_category=self.category, connection=self.connection)
        with self.masked():
            await self.stub.delete_task(request, timeout=self.timeout)

    async def logs(self, meta: bytes, token: str = "", lines: int = 0) -> AsyncGenerator[GetTaskLogsResponse]:
        """Stream the log of a job. Close this generator if you leave it early.

        :param token: where an earlier stream ended
        :param lines: how many to ask for; 0 leaves it to the connector
        """
        request = GetTaskLogsRequest(resource_meta=meta, task_category=self.category, token=token, lines=lines)
        stream = cast(
            "AsyncGenerator[GetTaskLogsResponse]", self.stub.get_task_logs(request, metadata=self.log_metadata)
        )
        with self.masked():
            async with aclosing(stream):
                async for response in stream:
                    yield response if self.mask is None else self.mask.log_lines(response)

    async def metrics(self, meta: bytes, queries: Sequence[str] = ()) -> list[ExecutionMetricResult]:
        """Return the metrics of a job."""
        request = GetTaskMetricsRequest(resource_meta=meta, task_category=self.category, queries=list(queries))
        with self.masked():
            response = await self.stub.get_task_metrics(request, timeout=self.timeout, metadata=self.log_metadata)
        return (response if self.mask is None else self.mask.metrics(response)).results


def poll_backoff(shortest: float, longest: float) -> Backoff:
    """Return the pauses between two polls of a job, in seconds, each half as long again as the one before."""
    return Backoff(shortest, factor=1.5, maximum=longest)


def log_lines(response: GetTaskLogsResponse) -> list[LogLine]:
    """Return the log lines in `response`. Old connectors send bare texts."""
    if response.body is None:
        return []
    return response.body.lines or [LogLine(message=text) for text in response.body.results]


class LogReader:
    """Reads a job's log piece by piece. Each piece begins where the one before it ended.

    A connector that uses tokens ends each piece with one, and the last piece with an empty one. If a connector uses no
    tokens, each piece is the whole log.

    :ivar token: where the next piece begins
    :ivar ended: the log has been read to its end
    """

    def __init__(self, jobs: Jobs, meta: bytes, token: str = "", lines: int = 0) -> None:
        self.token = token
        self.ended = False
        self._jobs = jobs
        self._meta = meta
        self._lines = lines
        self._seen = 0  # lines since `token`

    async def read_all(self) -> AsyncGenerator[LogLine]:
        """Yield the new lines, piece by piece until a piece has none. Close this generator if you leave it early.

        :raises GRPCError: a call failed; the next call goes on behind the lines that were read
        """
        is_more = True
        while is_more:
            before, is_empty = self.token, True
            async with aclosing(self.read()) as lines:
                async for line in lines:
                    is_empty = False
                    yield line
            is_more = not (is_empty or self.ended or self.token == before)

    async def read(self) -> AsyncGenerator[LogLine]:
        """Yield the new lines of the next piece. Close this generator if you leave it early.

        :raises GRPCError: the call failed; the next call goes on behind the lines that were read
        """
        began_at, following, skip = self.token, "", self._seen
        stream = self._jobs.logs(self._meta, began_at, self._lines)
        async with aclosing(stream) as responses:
            async for response in responses:
                if response.header is not None:
                    following = response.header.token
                for line in log_lines(response):
                    if skip:
                        skip -= 1
                        continue
                    self._seen += 1
                    yield line
        if following not in ("", began_at):
            self.token, self._seen = following, 0
        self.ended = bool(began_at) and not following
