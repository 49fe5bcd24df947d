"""Call a connector's methods as flyte-sdk's own service does, with connectrio's messages as arguments and results.

All of this runs on a hosted loop, also what protobuf decodes and encodes, which takes long for large messages. The
order and the names of the arguments are those of flyte-sdk (`flyte/connectors/_server.py`), and flyte-sdk's functions
convert inputs and outputs, but for those of plain types (`_plain_values.py`), so connectors get the same values as
there.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from flyte._internal.runtime.convert import Inputs, convert_from_inputs_to_native
from flyte.connectors import AsyncConnector
from flyte.connectors import Resource as FlyteResource
from flyte.connectors._connector import get_resource_proto
from flyte.models import NativeInterface
from flyte.types import TypeEngine
from flyteidl2.connector.connector_pb2 import CreateTaskRequest, GetTaskLogsResponse, GetTaskMetricsResponse
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]  # its stubs are a package of their own

from connectrio.connector.base import Resource
from connectrio.diagnostics import text_of, type_name
from connectrio.flyte._plain_values import plain_inputs, plain_outputs
from connectrio.flyte._protobuf import decoded_meta, job_state, serialized
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.literals import LiteralError
from connectrio.rpc.codec import decode, encode, escape_surrogates

__all__ = ["create", "delete", "get", "get_logs", "get_metrics"]

Connector = AsyncConnector[Any]
Connection = Mapping[str, str]

# not the errors of stores that outputs are written to: those may pass
_NOT_ENCODABLE = (TypeError, ValueError, AttributeError, ParseError)


async def create(
    connector: Connector,
    request: bytes | idl.CreateTaskRequest,
    inputs: Mapping[str, Any] | None,
    connection: Connection,
) -> bytes:
    """Start a job. Return its encoded resource meta.

    :param request: its connection is not used
    :param inputs: Python values in place of the request's inputs, or None
    :raises LiteralError: flyte-sdk's type engine cannot convert the inputs
    """
    message = CreateTaskRequest.FromString(request if isinstance(request, bytes) else encode(request))
    meta = await connector.create(
        task_template=message.template,
        inputs=await _native_inputs(message) if inputs is None else dict(inputs),
        output_prefix=message.output_prefix,
        task_execution_metadata=message.task_execution_metadata,
        **connection,
    )
    data: bytes = meta.encode()
    return data


async def get(connector: Connector, meta: bytes, connection: Connection) -> Resource:
    """Return the state of a job; encoded, unless the host has to look at all of it."""
    state = await connector.get(resource_meta=_own_meta(connector, meta), **connection)
    return job_state(await _resource_proto(state, f"{type(connector).__qualname__}.get"))


async def delete(connector: Connector, meta: bytes, connection: Connection) -> None:
    """Cancel a job."""
    await connector.delete(resource_meta=_own_meta(connector, meta), **connection)


async def get_metrics(connector: Connector, meta: bytes) -> idl.GetTaskMetricsResponse:
    """Return the metrics of a job."""
    response = await connector.get_metrics(resource_meta=_own_meta(connector, meta))
    data = serialized(response, GetTaskMetricsResponse, f"{type(connector).__qualname__}.get_metrics")
    message: idl.GetTaskMetricsResponse = decode(data, idl.GetTaskMetricsResponse)
    return message


async def get_logs(connector: Connector, meta: bytes, token: str) -> AsyncGenerator[idl.GetTaskLogsResponse, None]:
    """Yield the log lines of a job."""
    label = f"{type(connector).__qualname__}.get_logs"
    result: Any = connector.get_logs(resource_meta=_own_meta(connector, meta), token=token)
    if not inspect.isasyncgen(result):
        yield _log_lines(await result, label)
        return
    try:
        async for response in result:
            yield _log_lines(response, label)
    finally:
        await result.aclose()


async def _native_inputs(request: CreateTaskRequest) -> dict[str, Any]:
    """Return the inputs as Python values.

    :raises LiteralError: flyte-sdk's type engine cannot convert them
    """
    template, variables = request.template, request.template.interface.inputs
    try:
        plain = plain_inputs(variables, request.inputs)
        if plain is not None:
            return plain
        types: Any = {
            variable.key: (TypeEngine.guess_python_type(variable.value.type), inspect.Parameter.empty)
            for variable in variables.variables
        }
        interface = NativeInterface.from_types(inputs=types, outputs={})
        return await convert_from_inputs_to_native(interface, Inputs(proto_inputs=request.inputs))
    except Exception as error:
        reason = text_of(error) or type_name(error)
        raise LiteralError(f"flyte-sdk cannot convert the inputs of this {template.type} task: {reason}") from error


async def _resource_proto(resource: Any, label: str) -> Any:
    """Return flyte-sdk's message for what a connector returned, with lone surrogates escaped.

    :raises TypeError: a field cannot be encoded; the error names it
    """
    try:
        return await _encoded(resource)
    except _NOT_ENCODABLE as error:
        if not isinstance(resource, FlyteResource):
            raise
        escaped = FlyteResource(phase=None)
        for name in ("phase", "message", "log_links", "outputs", "custom_info"):
            try:
                setattr(escaped, name, escape_surrogates(getattr(resource, name)))
                proto = await get_resource_proto(escaped)
            except (*_NOT_ENCODABLE, RecursionError) as reason:
                problem = text_of(reason) or type_name(reason)
                raise TypeError(f"{label} returned a Resource whose {name} cannot be encoded: {problem}") from error
        return proto


async def _encoded(resource: Any) -> Any:
    outputs = plain_outputs(resource.outputs) if type(resource) is FlyteResource and resource.outputs else None
    if outputs is None:
        return await get_resource_proto(resource)
    others = FlyteResource(resource.phase, resource.message, resource.log_links, custom_info=resource.custom_info)
    proto = await get_resource_proto(others)
    proto.outputs.CopyFrom(outputs)
    return proto


def _own_meta(connector: Connector, meta: bytes) -> Any:
    return decoded_meta(connector.metadata_type, meta, connector.task_type_name)


def _log_lines(response: Any, label: str) -> idl.GetTaskLogsResponse:
    message: idl.GetTaskLogsResponse = decode(serialized(response, GetTaskLogsResponse, label), idl.GetTaskLogsResponse)
    return message
