"""A host in memory, and a client of it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

import anyio
from grpclib import GRPCError
from grpclib.const import Status

from connectrio.client.jobs import Jobs, category_of
from connectrio.client.task import Task
from connectrio.connector.base import AsyncConnector
from connectrio.connector.registry import Registry
from connectrio.host.host import Host, HostError
from connectrio.host.settings import HostSettings
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub, CreateTaskRequest
from connectrio.idl.flyteidl2.core import Connection
from connectrio.rpc import Channel
from connectrio.rpc.testing import MemoryListener
from connectrio.service.operations import CONNECTION_KEY, Operation
from connectrio.testing._job import Job, State

__all__ = ["LocalHost", "connection_metadata", "hosting", "serving_in_memory"]

T = TypeVar("T")

_LATENCY = "flyte_connector_request_latency_seconds"
# bytes of the secrets and configs that `get_logs` and `get_metrics` get, which arrive as metadata
_LARGEST_SECRETS = 4 * 1024 * 1024
# seconds that a connector may take to end a call whose client has vanished
_END_TIMEOUT = 10.0


class LocalHost:
    """A host in memory. Its methods are those of a client.

    :ivar host: the host itself, with its metrics and its registry
    :ivar channel: for calls of your own
    :ivar secrets_for_logs: whether `get_logs` and `get_metrics` get the task's secrets and configs, too. Flyte's
        executor sends none there; set it to False to see what a connector does then
    """

    def __init__(self, host: Host, channel: Channel) -> None:
        self.host = host
        self.channel = channel
        self.secrets_for_logs = True
        self._lost: frozenset[Operation] = frozenset()

    async def create(self, task: Task | None = None, *, timeout: float = 30.0) -> Job:  # noqa: ASYNC109 - see below
        """Start a task's job.

        :param timeout: seconds for this call and each call about the job: the deadline, which the host enforces
        :raises GRPCError: the call failed
        :raises LiteralError: an input does not fit its type, or Flyte has no type for it
        :raises MissingSecretError: a secret's environment variable is not set
        """
        return await self.submit((task or Task()).request(*self._only_category()), timeout=timeout)

    async def submit(self, request: CreateTaskRequest, *, timeout: float = 30.0) -> Job:  # noqa: ASYNC109 - as above
        """Send a request that you made yourself.

        :param timeout: as in `create`
        :raises GRPCError: the call failed
        """
        jobs = self._jobs(request, timeout)
        return Job(jobs, await self._perform(Operation.CREATE, jobs.create(request)), self._perform)

    async def run(self, task: Task | None = None, *, seconds: float = 60.0) -> State:
        """Start a task's job, and poll it until it has ended.

        :param seconds: how long the job may take
        :raises GRPCError: a call failed
        :raises TimeoutError: it took longer
        """
        return await (await self.create(task)).wait(seconds=seconds)

    def attach(self, meta: bytes, task: Task | None = None, *, timeout: float = 30.0) -> Job:
        """Return a job that was created elsewhere, by its resource meta, as a host finds a job after a restart.

        :param task: the task of the job; its secrets are sent with the calls
        """
        return self.job((task or Task()).request(*self._only_category()), meta, timeout=timeout)

    def job(self, request: CreateTaskRequest, meta: bytes, *, timeout: float = 30.0) -> Job:
        """Return the job that `request` has created elsewhere, by its resource meta."""
        return Job(self._jobs(request, timeout), meta, self._perform)

    @contextmanager
    def losing_answers(self, *operations: str) -> Iterator[None]:
        """Lose the answers to calls in this block: the connector does its work, and the client gets UNAVAILABLE.

        :param operations: "create", "get", "delete", "get_logs", "get_metrics"; by default all of them
        """
        before = self._lost
        self._lost = frozenset(map(Operation, operations)) or frozenset(Operation)
        try:
            yield
        finally:
            self._lost = before

    async def vanish(self, call: Callable[[], Awaitable[Any]], *, when: Callable[[], Awaitable[Any]]) -> None:
        """Make a call and leave before its answer, as a client does whose process is killed.

        Returns when the connector has ended the call, so that the test can look at what it has left behind.

            await host.vanish(job.get, when=vendor.was_asked.wait)

        :param call: makes one call; no other may be in flight meanwhile
        :param when: returns when it is time to leave
        :raises GRPCError: the call failed before it was time to leave
        :raises RuntimeError: the call was answered before that
        :raises TimeoutError: the connector goes on although its call is cancelled
        """
        before = self._ended_calls()
        outcomes: list[Exception | None] = []

        async def make() -> None:
            try:
                await call()
            except Exception as error:  # noqa: BLE001 - raised below, outside of the task group, which would wrap it
                outcomes.append(error)
            else:
                outcomes.append(None)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make)
            await when()
            tasks.cancel_scope.cancel()
        if outcomes:
            raise outcomes[0] or RuntimeError("the call was at its end before it was time to leave")
        with anyio.move_on_after(_END_TIMEOUT):
            while self._ended_calls() == before:  # noqa: ASYNC110 - a counter, which wakes nobody
                await anyio.sleep(0.001)
            return
        raise TimeoutError(f"the connector still answers a call {_END_TIMEOUT:g} s after its client has left")

    def _ended_calls(self) -> float:
        """Return how many calls the connectors have ended."""
        families = self.host.metrics.registry.collect()
        samples = (sample for family in families if family.name == _LATENCY for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == f"{_LATENCY}_count")

    async def _perform(self, operation: Operation, call: Awaitable[T]) -> T:
        answer = await call
        if operation in self._lost:
            raise GRPCError(Status.UNAVAILABLE, f"the answer to {operation.value} was lost, as the test wants")
        return answer

    def _jobs(self, request: CreateTaskRequest, timeout: float) -> Jobs:
        stub = AsyncConnectorServiceStub(cast("Any", self.channel))
        connection = request.connection
        metadata = connection_metadata(connection) if self.secrets_for_logs else {}
        return Jobs(stub, category_of(request), connection, timeout, request.output_prefix, log_metadata=metadata)

    def _only_category(self) -> tuple[str, int]:
        """Return the task type and version of the only connector; no task type if there are several."""
        connectors = [registered.connector for registered in self.host.registry.registered()]
        if len(connectors) != 1:
            return "", 0
        return connectors[0].task_type_name, connectors[0].task_type_version


def connection_metadata(connection: Connection | None) -> dict[str, str | bytes]:
    """Return the metadata with which a host in this process gives `connection` to `get_logs` and `get_metrics`."""
    return {} if connection is None else {CONNECTION_KEY: bytes(connection)}


@asynccontextmanager
async def hosting(*connectors: AsyncConnector[Any], settings: HostSettings | None = None) -> AsyncIterator[LocalHost]:
    """Host these connectors in the block. Their lifespans are open meanwhile.

    :param settings: see `HostSettings`; those about ports, sockets and TLS have no effect here
    :raises HostError: a lifespan could not be opened
    :raises ValueError: two connectors are for the same task type and version
    """
    registry = Registry()
    for connector in connectors:
        registry.register(connector)
    async with serving_in_memory(settings, registry) as host:
        if host.host.failures:
            raise HostError("; ".join(failure.error for failure in host.host.failures))
        yield host


@asynccontextmanager
async def serving_in_memory(
    settings: HostSettings | None = None, registry: Registry | None = None
) -> AsyncIterator[LocalHost]:
    """Serve in the block, in memory, with the connectors that a host in a process would have.

    Connectors that cannot be loaded or opened are not served; `host.failures` says why.

    :param settings: see `HostSettings`; those about ports, sockets and TLS have no effect here
    :param registry: see `Host`
    :raises HostError: a module that the settings name cannot be loaded
    """
    listener = MemoryListener()
    settings = settings or HostSettings()
    settings = dataclasses.replace(
        settings,
        reflection=False,  # it takes time to set up, and no test needs it
        max_header_list_size=max(settings.max_header_list_size, _LARGEST_SECRETS),
    )
    host = Host(settings, registry=registry, listeners=[listener])
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    try:
        await tasks.start(host.serve)
        async with Channel(listener.connect) as channel:
            yield LocalHost(host, channel)
        await host.shutdown()
    finally:
        tasks.cancel_scope.cancel()
        # the task group must not see the block's exception, because it would wrap it in a group
        try:
            await tasks.__aexit__(None, None, None)
        finally:
            await listener.aclose()  # a host that has failed to start has not closed it
