"""Flyte 1's SyncAgentService: a whole job within one call."""

from __future__ import annotations

from typing import TypeVar

import anyio
import betterproto2
from grpclib import GRPCError
from grpclib.const import Cardinality, Handler, Status
from grpclib.server import Stream

from connectrio.connector.phases import FINAL_PHASES
from connectrio.idl.flyteidl import admin as flyte1
from connectrio.idl.flyteidl2.connector import (
    CreateTaskRequest,
    DeleteTaskRequest,
    GetTaskRequest,
    Resource,
    TaskCategory,
)
from connectrio.logs import get_logger
from connectrio.rpc.backoff import Backoff
from connectrio.rpc.codec import DecodeError, EncodeError, decode, encode
from connectrio.service.async_connector import AsyncConnectorService

__all__ = ["SyncAgentService"]

logger = get_logger("connectrio.service")

M = TypeVar("M", bound=betterproto2.Message)

_METHOD = "/flyteidl.service.SyncAgentService/ExecuteTaskSync"

# seconds between two polls, at first and at most; short, because a client waits in its call
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
# seconds to delete the job of a call that did not wait for its end; a drain of the host waits for that
_DELETE_TIMEOUT = 5.0

_Stream = Stream[flyte1.ExecuteTaskSyncRequest, flyte1.ExecuteTaskSyncResponse]


class SyncAgentService:
    """Executes tasks while the client waits: creates a job, polls it until it ends, and answers with its last state.

    A job is deleted if its call fails, is cancelled or runs out of time. In the metrics and for the limits, each part
    is a call of its own: `create`, `get` and `delete`.

    :param connectors: does the work; a whole job may take its `execute_limit`, whatever deadline the client has set
    """

    def __init__(self, connectors: AsyncConnectorService) -> None:
        self._connectors = connectors

    def __mapping__(self) -> dict[str, Handler]:
        handler = Handler(
            self._handle, Cardinality.STREAM_STREAM, flyte1.ExecuteTaskSyncRequest, flyte1.ExecuteTaskSyncResponse
        )
        return {_METHOD: handler}

    async def _handle(self, stream: _Stream) -> None:
        # no name holds a part while the job runs. Clients of older releases only end their stream after the answer, so
        # nothing waits for its end
        resource = await self.execute(
            _create_request(await _next_part(stream, "header"), await _next_part(stream, "inputs"))
        )
        answer = flyte1.ExecuteTaskSyncResponseHeader(resource=_recast(resource, flyte1.Resource))
        await stream.send_message(flyte1.ExecuteTaskSyncResponse(header=answer))

    async def execute(self, request: CreateTaskRequest) -> Resource:
        """Run the task; return the state of its job at the end.

        :raises GRPCError: a part of it failed, or the job took longer than the limit
        """
        limit = self._connectors.settings.execute_limit
        with anyio.move_on_after(limit):
            return await self._execute(request)
        raise GRPCError(
            Status.DEADLINE_EXCEEDED,
            f"the job was not at its end after {limit:g} s, this host's limit for ExecuteTaskSync, and was deleted;"
            " raise execute_limit, or let Flyte poll the job with CreateTask and GetTask",
        )

    async def _execute(self, request: CreateTaskRequest) -> Resource:
        category = TaskCategory()
        if request.template is not None:
            category = TaskCategory(name=request.template.type, version=request.template.task_type_version)
        # the creation of a job with an identity always goes on to its end; this waits for the name, to delete the job
        identity = await self._connectors.identify(request)
        with anyio.CancelScope(shield=identity is not None):
            meta = (await self._connectors.create_task(request)).resource_meta
        try:
            poll = GetTaskRequest(resource_meta=meta, task_category=category, output_prefix=request.output_prefix)
            backoff = Backoff(_FIRST_PAUSE, factor=1.5, maximum=_LONGEST_PAUSE)
            while True:
                resource = (await self._connectors.get_task(poll)).resource or Resource()
                if resource.phase in FINAL_PHASES:
                    return resource
                await anyio.sleep(backoff.next())
        except BaseException:
            request_to_delete = DeleteTaskRequest(resource_meta=meta, task_category=category)
            await self._delete(request_to_delete, None if identity is None else identity.key)
            raise

    async def _delete(self, request: DeleteTaskRequest, key: str | None) -> None:
        """Delete a job that nobody waits for any more; log it if that fails."""
        problem = f"not within {_DELETE_TIMEOUT:g} s"
        with anyio.move_on_after(_DELETE_TIMEOUT, shield=True):
            try:
                await self._connectors.delete_task(request)
            except GRPCError as error:
                problem = f"{error.status.name}: {error.message}"
            else:
                return
        logger.warning(
            "the job of a call that did not wait for it was not deleted; delete it in the other system",
            task_type=request.task_category.name if request.task_category else "",
            key=key,
            error=problem,
        )


async def _next_part(stream: _Stream, name: str) -> flyte1.ExecuteTaskSyncRequest:
    """Return the next message of a request.

    :raises GRPCError: it is not the part called `name`
    """
    message = await stream.recv_message()
    found = "the end of the stream" if message is None else betterproto2.which_one_of(message, "part")[0] or "nothing"
    if message is None or found != name:
        raise GRPCError(
            Status.INVALID_ARGUMENT, f"a request is a message with the header, then one with the inputs; got {found}"
        )
    return message


def _create_request(header: flyte1.ExecuteTaskSyncRequest, inputs: flyte1.ExecuteTaskSyncRequest) -> CreateTaskRequest:
    """Return the request to CreateTask for the same task."""
    parts = header.header or flyte1.CreateRequestHeader()
    request = flyte1.CreateTaskRequest(
        inputs=inputs.inputs,
        template=parts.template,
        output_prefix=parts.output_prefix,
        task_execution_metadata=parts.task_execution_metadata,
    )
    return _recast(request, CreateTaskRequest)


def _recast(message: betterproto2.Message, cls: type[M]) -> M:
    """Return `message` as a class that has the same form on the wire.

    :raises GRPCError: it is too large to be read again
    """
    try:
        recast: M = decode(encode(message), cls)
    except (DecodeError, EncodeError) as error:
        raise GRPCError(Status.INTERNAL, f"a {cls.__name__} cannot be passed on: {error}") from error
    return recast
