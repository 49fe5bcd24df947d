"""Flyte 1's AsyncAgentService and AgentMetadataService: the same connectors, for the executor of Flyte 1.

On the wire, Flyte 1's messages are Flyte 2's with further fields. So requests and responses are read and written as
Flyte 2's. Only messages whose further fields matter have classes of their own here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from grpclib import GRPCError
from grpclib.const import Cardinality, Handler, Status
from grpclib.server import Stream

from connectrio.connector.registry import ConnectorNotFoundError, Registry
from connectrio.idl.flyteidl import admin as flyte1
from connectrio.idl.flyteidl.service import AgentMetadataServiceBase
from connectrio.idl.flyteidl2.connector import (
    Connector,
    CreateTaskRequest,
    CreateTaskResponse,
    DeleteTaskRequest,
    DeleteTaskResponse,
    GetTaskLogsRequest,
    GetTaskLogsResponse,
    GetTaskMetricsRequest,
    GetTaskMetricsResponse,
    GetTaskRequest,
    GetTaskResponse,
    TaskCategory,
)
from connectrio.rpc.status import fit_status_message
from connectrio.service.async_connector import AsyncConnectorService

__all__ = ["AgentMetadataService", "AsyncAgentService"]

Q = TypeVar("Q")
R = TypeVar("R")

_Request = flyte1.GetTaskRequest | flyte1.DeleteTaskRequest | flyte1.GetTaskMetricsRequest | flyte1.GetTaskLogsRequest


class AsyncAgentService:
    """Creates, polls, reads and deletes tasks for Flyte 1, through the service for Flyte 2.

    So each call takes the same steps for both. Flyte 1 has no connections: its executor sends no secrets.

    :param connectors: does the work
    """

    def __init__(self, connectors: AsyncConnectorService) -> None:
        self._connectors = connectors

    def __mapping__(self) -> dict[str, Handler]:
        methods = {
            "CreateTask": _unary(self._connectors.create_task, CreateTaskRequest, CreateTaskResponse),
            "GetTask": _unary(self.get_task, flyte1.GetTaskRequest, GetTaskResponse),
            "DeleteTask": _unary(self.delete_task, flyte1.DeleteTaskRequest, DeleteTaskResponse),
            "GetTaskMetrics": _unary(self.get_task_metrics, flyte1.GetTaskMetricsRequest, GetTaskMetricsResponse),
            "GetTaskLogs": Handler(
                self._handle_get_task_logs, Cardinality.UNARY_STREAM, flyte1.GetTaskLogsRequest, GetTaskLogsResponse
            ),
        }
        return {f"/flyteidl.service.AsyncAgentService/{name}": handler for name, handler in methods.items()}

    async def get_task(self, message: flyte1.GetTaskRequest) -> GetTaskResponse:
        """Report the state of a task."""
        return await self._connectors.get_task(
            GetTaskRequest(
                resource_meta=message.resource_meta,
                task_category=_category(message),
                output_prefix=message.output_prefix,
            )
        )

    async def delete_task(self, message: flyte1.DeleteTaskRequest) -> DeleteTaskResponse:
        """Cancel a task."""
        return await self._connectors.delete_task(
            DeleteTaskRequest(resource_meta=message.resource_meta, task_category=_category(message))
        )

    async def get_task_metrics(self, message: flyte1.GetTaskMetricsRequest) -> GetTaskMetricsResponse:
        """Report the metrics of a task."""
        return await self._connectors.get_task_metrics(
            GetTaskMetricsRequest(
                resource_meta=message.resource_meta,
                queries=message.queries,
                start_time=message.start_time,
                end_time=message.end_time,
                step=message.step,
                task_category=_category(message),
            )
        )

    async def _handle_get_task_logs(self, stream: Stream[flyte1.GetTaskLogsRequest, GetTaskLogsResponse]) -> None:
        message = await stream.recv_message()
        if message is not None:
            request = GetTaskLogsRequest(
                resource_meta=message.resource_meta,
                lines=message.lines,
                token=message.token,
                task_category=_category(message),
            )
            await self._connectors.send_task_logs(request, stream.send_message)


class AgentMetadataService(AgentMetadataServiceBase):
    """Lists the connectors of a registry for Flyte 1, which calls them agents."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def list_agents(
        self,
        message: flyte1.ListAgentsRequest,  # noqa: ARG002 - the base's signature; the request has no fields
    ) -> flyte1.ListAgentsResponse:
        """Return all connectors."""
        return flyte1.ListAgentsResponse(agents=[self._agent(connector) for connector in self._registry.describe()])

    async def get_agent(self, message: flyte1.GetAgentRequest) -> flyte1.GetAgentResponse:
        """Return one connector, by its name.

        :raises GRPCError: NOT_FOUND
        """
        try:
            return flyte1.GetAgentResponse(agent=self._agent(self._registry.describe_one(message.name)))
        except ConnectorNotFoundError as error:
            raise GRPCError(Status.NOT_FOUND, fit_status_message(str(error))) from error

    def _agent(self, connector: Connector) -> flyte1.Agent:
        categories = connector.supported_task_categories
        # of several connectors with one name, the first decides, as in flytekit's registry
        first = self._registry.get_connector(categories[0].name, categories[0].version)
        return flyte1.Agent(
            name=connector.name,
            supported_task_types=[category.name for category in categories],
            is_sync=first.is_sync,
            supported_task_categories=[
                flyte1.TaskCategory(name=category.name, version=category.version) for category in categories
            ],
        )


def _unary(method: Callable[[Q], Awaitable[R]], request: type[Q], response: type[R]) -> Handler:
    async def handle(stream: Stream[Any, Any]) -> None:
        message = await stream.recv_message()
        if message is not None:
            await stream.send_message(await method(message))

    return Handler(handle, Cardinality.UNARY_UNARY, request, response)


def _category(message: _Request) -> TaskCategory:
    """Return the category that selects the connector; older executors send only the task type."""
    category = message.task_category
    if category is not None and category.name:
        return TaskCategory(name=category.name, version=category.version)
    return TaskCategory(name=message.task_type)
