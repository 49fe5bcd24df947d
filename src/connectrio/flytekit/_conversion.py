"""Call a connector's methods as flytekit's own service does, with connectrio's messages as arguments and results.

All of this runs on a hosted loop. The names of the arguments and their classes are those of flytekit
(`flytekit/extend/backend/connector_service.py`): flytekit's models, made from Flyte 1's messages. On the wire these
equal Flyte 2's (docs/flyte1.md), so requests of both executors are read alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from flyteidl.admin.agent_pb2 import GetTaskLogsResponse, GetTaskMetricsResponse
from flyteidl.admin.agent_pb2 import TaskExecutionMetadata as MetadataMessage
from flyteidl.core.literals_pb2 import LiteralMap as LiteralMapMessage
from flyteidl.core.tasks_pb2 import TaskTemplate as TemplateMessage
from flytekit import FlyteContextManager
from flytekit.core.context_manager import flyte_context_Var
from flytekit.core.type_engine import TypeEngine
from flytekit.extend.backend.base_connector import AsyncConnectorBase, Resource, SyncConnectorBase
from flytekit.extend.backend.utils import mirror_async_methods
from flytekit.models.literals import LiteralMap
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate

from connectrio.connector.failures import InvalidRequestError
from connectrio.connector.phases import FINAL_PHASES
from connectrio.diagnostics import text_of, type_name
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.idl.flyteidl2 import core, task
from connectrio.rpc.codec import decode, encode, escape_surrogates

__all__ = ["create", "delete", "do", "get", "get_logs", "get_metrics", "in_own_context", "result_of"]

T = TypeVar("T")
P = ParamSpec("P")

# begins the resource meta of a sync connector's job; the rest is its result
_RESULT = b"flytekit result\0"

# not the errors of stores that outputs are written to: those may pass
_NOT_ENCODABLE = (TypeError, ValueError, AttributeError)


async def in_own_context(function: Callable[P, Awaitable[T]], *arguments: P.args, **named: P.kwargs) -> T:
    """Await `function(*arguments)` with a stack of flytekit's contexts of its own.

    flytekit keeps the stack in a list, in a context variable, and a copied context has the same list. So contexts that
    a connector enters (`FlyteContextManager.with_context`) would be those of all calls at the same time.
    """
    flyte_context_Var.set([FlyteContextManager.current_context()])
    return await function(*arguments, **named)


async def create(
    connector: AsyncConnectorBase,
    template: core.TaskTemplate,
    inputs: task.Inputs | Mapping[str, Any],
    output_prefix: str,
    metadata: idl.TaskExecutionMetadata,
) -> bytes:
    """Start a job. Return its encoded resource meta.

    :param inputs: the request's message, or Python values
    """
    meta = await mirror_async_methods(
        connector.create,
        task_template=_template(template),
        inputs=await _literal_map(inputs),
        output_prefix=output_prefix,
        task_execution_metadata=TaskExecutionMetadata.from_flyte_idl(MetadataMessage.FromString(encode(metadata))),
    )
    data: bytes = meta.encode()
    return data


async def do(
    connector: SyncConnectorBase,
    template: core.TaskTemplate,
    inputs: task.Inputs | Mapping[str, Any],
    output_prefix: str,
) -> bytes:
    """Run a task to its end. Return its result in the form of a resource meta.

    :raises ValueError: the connector has returned a phase that is not final
    """
    resource = await mirror_async_methods(
        connector.do,
        task_template=_template(template),
        inputs=await _literal_map(inputs),
        output_prefix=output_prefix,
    )
    label = f"{type(connector).__qualname__}.do"
    message = await _resource(resource, label)
    if message.phase not in FINAL_PHASES:
        raise ValueError(f"{label} returned the phase {message.phase!r}; nobody polls its task, so return a final one")
    return _RESULT + encode(message)


def result_of(connector: SyncConnectorBase, meta: bytes) -> idl.Resource:
    """Return the result of a task that `do` has run.

    :raises InvalidRequestError: `meta` is not from `do`
    """
    if not meta.startswith(_RESULT):
        raise _not_made_by(connector, "it holds no result")
    message: idl.Resource = decode(meta.removeprefix(_RESULT), idl.Resource)
    return message


async def get(connector: AsyncConnectorBase, meta: bytes) -> idl.Resource:
    """Return the state of a job."""
    resource = await mirror_async_methods(connector.get, resource_meta=_decoded(connector, meta))
    return await _resource(resource, f"{type(connector).__qualname__}.get")


async def delete(connector: AsyncConnectorBase, meta: bytes) -> None:
    """Cancel a job."""
    await mirror_async_methods(connector.delete, resource_meta=_decoded(connector, meta))


async def get_metrics(connector: AsyncConnectorBase, meta: bytes) -> idl.GetTaskMetricsResponse:
    """Return the metrics of a job."""
    response = await mirror_async_methods(connector.get_metrics, resource_meta=_decoded(connector, meta))
    data = _serialized(response, GetTaskMetricsResponse, f"{type(connector).__qualname__}.get_metrics")
    message: idl.GetTaskMetricsResponse = decode(data, idl.GetTaskMetricsResponse)
    return message


async def get_logs(connector: AsyncConnectorBase, meta: bytes) -> idl.GetTaskLogsResponse:
    """Return the log lines of a job."""
    response = await mirror_async_methods(connector.get_logs, resource_meta=_decoded(connector, meta))
    data = _serialized(response, GetTaskLogsResponse, f"{type(connector).__qualname__}.get_logs")
    message: idl.GetTaskLogsResponse = decode(data, idl.GetTaskLogsResponse)
    return message


def _template(template: core.TaskTemplate) -> TaskTemplate:
    return TaskTemplate.from_flyte_idl(TemplateMessage.FromString(encode(template)))


async def _literal_map(inputs: task.Inputs | Mapping[str, Any]) -> LiteralMap:
    if isinstance(inputs, Mapping):
        context = FlyteContextManager.current_context()
        message = await TypeEngine.dict_to_literal_map_pb(context, dict(inputs))
    else:
        message = LiteralMapMessage.FromString(encode(inputs))
    return LiteralMap.from_flyte_idl(message)


async def _resource(resource: Any, label: str) -> idl.Resource:
    """Return the message for what a connector returned, with lone surrogates escaped.

    :raises TypeError: it is no Resource, or it cannot be encoded
    """
    if not isinstance(resource, Resource):
        raise TypeError(f"{label} returned an object of class {type(resource).__qualname__}, not a Resource")
    try:
        data = (await resource.to_flyte_idl()).SerializeToString()
    except _NOT_ENCODABLE as error:
        try:
            escaped = Resource(
                phase=resource.phase,
                message=escape_surrogates(resource.message),
                log_links=resource.log_links,
                outputs=resource.outputs,
                custom_info=escape_surrogates(resource.custom_info),
            )
            data = (await escaped.to_flyte_idl()).SerializeToString()
        except _NOT_ENCODABLE as reason:
            problem = text_of(reason) or type_name(reason)
            raise TypeError(f"{label} returned a Resource that cannot be encoded: {problem}") from error
    message: idl.Resource = decode(data, idl.Resource)
    return message


def _decoded(connector: AsyncConnectorBase, meta: bytes) -> Any:
    """Return the connector's own metadata of a job.

    :raises InvalidRequestError: `meta` is not from this connector
    """
    try:
        return connector.metadata_type.decode(meta)
    except Exception as error:
        raise _not_made_by(connector, text_of(error) or type_name(error)) from error


def _not_made_by(connector: AsyncConnectorBase | SyncConnectorBase, reason: str) -> InvalidRequestError:
    what = f"the resource_meta of this {connector.task_category.name} task was not made by this connector"
    return InvalidRequestError(f"{what}: {reason}")


def _serialized(message: Any, cls: Any, label: str) -> bytes:
    if not isinstance(message, cls):
        raise TypeError(f"{label} returned an object of class {type(message).__qualname__}, not a {cls.__qualname__}")
    data: bytes = message.SerializeToString()
    return data
