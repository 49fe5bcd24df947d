"""What flyte-sdk's own service does around a connector's method: protobuf's bytes in, bytes out.

Runs on a hosted loop. The order and the names of the arguments are flyte-sdk's (`flyte/connectors/_server.py`), and so
are the functions that convert inputs and outputs: connectors get what they got there.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from flyte._internal.runtime.convert import Inputs, convert_from_inputs_to_native
from flyte.connectors import AsyncConnector
from flyte.connectors._connector import get_resource_proto
from flyte.models import NativeInterface
from flyte.types import TypeEngine
from flyteidl2.connector.connector_pb2 import GetTaskLogsResponse, GetTaskMetricsResponse, TaskExecutionMetadata
from flyteidl2.core.tasks_pb2 import TaskTemplate
from flyteidl2.task.common_pb2 import Inputs as InputsMessage

from connectrio.failures import InvalidRequestError

__all__ = ["create", "delete", "get", "get_logs", "get_metrics"]

Connector = AsyncConnector[Any]
Connection = Mapping[str, str]


async def create(
    connector: Connector,
    template: bytes,
    inputs: bytes | Mapping[str, Any],
    output_prefix: str,
    metadata: bytes,
    connection: Connection,
) -> bytes:
    """Start a job; the encoded resource meta.

    :param inputs: the `Inputs` message, or Python values
    """
    message = TaskTemplate.FromString(template)
    values = await _native_inputs(message, inputs) if isinstance(inputs, bytes) else dict(inputs)
    meta = await connector.create(
        task_template=message,
        inputs=values,
        output_prefix=output_prefix,
        task_execution_metadata=TaskExecutionMetadata.FromString(metadata),
        **connection,
    )
    data: bytes = meta.encode()
    return data


async def get(connector: Connector, meta: bytes, connection: Connection) -> bytes:
    """The `Resource` message of a job."""
    resource = await connector.get(resource_meta=_decoded(connector, meta), **connection)
    data: bytes = (await get_resource_proto(resource)).SerializeToString()
    return data


async def delete(connector: Connector, meta: bytes, connection: Connection) -> None:
    """Cancel a job."""
    await connector.delete(resource_meta=_decoded(connector, meta), **connection)


async def get_metrics(connector: Connector, meta: bytes) -> bytes:
    """The `GetTaskMetricsResponse` of a job."""
    response = await connector.get_metrics(resource_meta=_decoded(connector, meta))
    return _serialized(response, GetTaskMetricsResponse, f"{type(connector).__qualname__}.get_metrics")


async def get_logs(connector: Connector, meta: bytes, token: str) -> AsyncGenerator[bytes, None]:
    """The `GetTaskLogsResponse`s of a job."""
    label = f"{type(connector).__qualname__}.get_logs"
    result: Any = connector.get_logs(resource_meta=_decoded(connector, meta), token=token)
    if not inspect.isasyncgen(result):
        yield _serialized(await result, GetTaskLogsResponse, label)
        return
    try:
        async for response in result:
            yield _serialized(response, GetTaskLogsResponse, label)
    finally:
        await result.aclose()


async def _native_inputs(template: TaskTemplate, inputs: bytes) -> dict[str, Any]:
    """:raises InvalidRequestError: flyte-sdk's type engine does not take them"""
    try:
        types: Any = {
            variable.key: (TypeEngine.guess_python_type(variable.value.type), inspect.Parameter.empty)
            for variable in template.interface.inputs.variables
        }
        interface = NativeInterface.from_types(inputs=types, outputs={})
        return await convert_from_inputs_to_native(interface, Inputs(proto_inputs=InputsMessage.FromString(inputs)))
    except Exception as error:
        raise _refused(f"flyte-sdk cannot convert the inputs of this {template.type} task", error) from error


def _decoded(connector: Connector, meta: bytes) -> Any:
    """:raises InvalidRequestError: this connector has not made it"""
    try:
        return connector.metadata_type.decode(meta)
    except Exception as error:
        what = f"the resource_meta of this {connector.task_type_name} task was not made by this connector"
        raise _refused(what, error) from error


def _refused(what: str, error: Exception) -> InvalidRequestError:
    return InvalidRequestError(f"{what}: {str(error) or type(error).__name__}")


def _serialized(message: Any, cls: Any, label: str) -> bytes:
    if not isinstance(message, cls):
        raise TypeError(f"{label} returned an object of class {type(message).__qualname__}, not a {cls.__qualname__}")
    data: bytes = message.SerializeToString()
    return data
