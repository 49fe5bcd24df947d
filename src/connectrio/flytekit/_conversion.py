"""Call a connector's methods as flytekit's own service does, with connectrio's messages as arguments and results.

All of this runs on a hosted loop. The names of the arguments and their classes are those of flytekit
(`flytekit/extend/backend/connector_service.py`): flytekit's models, made from Flyte 1's messages. On the wire these
equal Flyte 2's (docs/how-to/flyte1.md), so the bytes of both executors' requests are read alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from flyteidl.admin.agent_pb2 import CreateTaskRequest, GetTaskLogsResponse, GetTaskMetricsResponse
from flytekit import FlyteContextManager
from flytekit.core.context_manager import flyte_context_Var
from flytekit.core.type_engine import TypeEngine
from flytekit.extend.backend.base_connector import AsyncConnectorBase, SyncConnectorBase
from flytekit.extend.backend.base_connector import Resource as FlytekitResource
from flytekit.extend.backend.utils import mirror_async_methods
from flytekit.models.literals import LiteralMap
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate

from connectrio.connector.base import Resource
from connectrio.connector.phases import FINAL_PHASES
from connectrio.diagnostics import text_of, type_name
from connectrio.flyte._protobuf import decoded_meta, job_state, not_made_by, serialized, whole_state
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.rpc.codec import decode, encode, escape_surrogates

__all__ = ["create", "delete", "do", "get", "get_logs", "get_metrics", "result_of"]

T = TypeVar("T")
P = ParamSpec("P")

# begins the resource meta of a sync connector's job; the rest is its result
_RESULT = b"flytekit result\0"

# not the errors of stores that outputs are written to: those may pass
_NOT_ENCODABLE = (TypeError, ValueError, AttributeError)


def _in_own_context(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return `function` with a stack of flytekit's contexts of its own for each call.

    flytekit keeps the stack in a list, in a context variable, and a copied context has the same list. So contexts that
    a connector enters (`FlyteContextManager.with_context`) would be those of all calls at the same time.
    """

    @wraps(function)
    async def call(*arguments: P.args, **named: P.kwargs) -> T:
        flyte_context_Var.set([FlyteContextManager.current_context()])
        return await function(*arguments, **named)

    return call


@_in_own_context
async def create(
    connector: AsyncConnectorBase, request: bytes | idl.CreateTaskRequest, inputs: Mapping[str, Any] | None
) -> bytes:
    """Start a job. Return its encoded resource meta.

    :param request: its connection is not used
    :param inputs: Python values in place of the request's inputs, or None
    """
    message = _message(request)
    meta = await mirror_async_methods(
        connector.create,
        task_template=TaskTemplate.from_flyte_idl(message.template),
        inputs=await _literal_map(message, inputs),
        output_prefix=message.output_prefix,
        task_execution_metadata=TaskExecutionMetadata.from_flyte_idl(message.task_execution_metadata),
    )
    data: bytes = meta.encode()
    return data


@_in_own_context
async def do(
    connector: SyncConnectorBase, request: bytes | idl.CreateTaskRequest, inputs: Mapping[str, Any] | None
) -> bytes:
    """Run a task to its end. Return its result in the form of a resource meta.

    :param request: its connection is not used
    :param inputs: Python values in place of the request's inputs, or None
    :raises ValueError: the connector has returned a phase that is not final
    """
    message = _message(request)
    resource = await mirror_async_methods(
        connector.do,
        task_template=TaskTemplate.from_flyte_idl(message.template),
        inputs=await _literal_map(message, inputs),
        output_prefix=message.output_prefix,
    )
    label = f"{type(connector).__qualname__}.do"
    proto = await _resource_proto(resource, label)
    if proto.phase not in FINAL_PHASES:
        raise ValueError(f"{label} returned the phase {proto.phase}; nobody polls its task, so return a final one")
    data: bytes = proto.SerializeToString()
    return _RESULT + data


def result_of(connector: SyncConnectorBase, meta: bytes) -> Resource:
    """Return the result of a task that `do` has run.

    :raises InvalidRequestError: `meta` is not from `do`
    """
    if not meta.startswith(_RESULT):
        raise not_made_by(connector.task_category.name, "it holds no result")
    return whole_state(meta.removeprefix(_RESULT))


@_in_own_context
async def get(connector: AsyncConnectorBase, meta: bytes) -> Resource:
    """Return the state of a job; encoded, unless the host has to look at all of it."""
    resource = await mirror_async_methods(connector.get, resource_meta=_own_meta(connector, meta))
    return job_state(await _resource_proto(resource, f"{type(connector).__qualname__}.get"))


@_in_own_context
async def delete(connector: AsyncConnectorBase, meta: bytes) -> None:
    """Cancel a job."""
    await mirror_async_methods(connector.delete, resource_meta=_own_meta(connector, meta))


@_in_own_context
async def get_metrics(connector: AsyncConnectorBase, meta: bytes) -> idl.GetTaskMetricsResponse:
    """Return the metrics of a job."""
    response = await mirror_async_methods(connector.get_metrics, resource_meta=_own_meta(connector, meta))
    data = serialized(response, GetTaskMetricsResponse, f"{type(connector).__qualname__}.get_metrics")
    message: idl.GetTaskMetricsResponse = decode(data, idl.GetTaskMetricsResponse)
    return message


@_in_own_context
async def get_logs(connector: AsyncConnectorBase, meta: bytes) -> idl.GetTaskLogsResponse:
    """Return the log lines of a job."""
    response = await mirror_async_methods(connector.get_logs, resource_meta=_own_meta(connector, meta))
    data = serialized(response, GetTaskLogsResponse, f"{type(connector).__qualname__}.get_logs")
    message: idl.GetTaskLogsResponse = decode(data, idl.GetTaskLogsResponse)
    return message


def _own_meta(connector: AsyncConnectorBase, meta: bytes) -> Any:
    return decoded_meta(connector.metadata_type, meta, connector.task_category.name)


def _message(request: bytes | idl.CreateTaskRequest) -> Any:
    return CreateTaskRequest.FromString(request if isinstance(request, bytes) else encode(request))


async def _literal_map(request: Any, values: Mapping[str, Any] | None) -> LiteralMap:
    if values is None:
        return LiteralMap.from_flyte_idl(request.inputs)
    context = FlyteContextManager.current_context()
    return LiteralMap.from_flyte_idl(await TypeEngine.dict_to_literal_map_pb(context, dict(values)))


async def _resource_proto(resource: Any, label: str) -> Any:
    """Return flytekit's message for what a connector returned, with lone surrogates escaped.

    :raises TypeError: it is no Resource, or it cannot be encoded
    """
    if not isinstance(resource, FlytekitResource):
        raise TypeError(f"{label} returned an object of class {type(resource).__qualname__}, not a Resource")
    try:
        return await resource.to_flyte_idl()
    except _NOT_ENCODABLE as error:
        escaped = FlytekitResource(
            phase=resource.phase,
            message=escape_surrogates(resource.message),
            log_links=resource.log_links,
            outputs=resource.outputs,
            custom_info=escape_surrogates(resource.custom_info),
        )
        try:
            return await escaped.to_flyte_idl()
        except _NOT_ENCODABLE as reason:
            problem = text_of(reason) or type_name(reason)
            raise TypeError(f"{label} returned a Resource that cannot be encoded: {problem}") from error
