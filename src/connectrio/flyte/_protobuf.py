"""What hosted connectors return, as protobuf's messages of flyte-sdk or flytekit, turned into what the host expects."""

from __future__ import annotations

from typing import Any

from connectrio.connector.base import EncodedResource, Phase, Resource
from connectrio.connector.failures import InvalidRequestError
from connectrio.diagnostics import text_of, type_name
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.idl.flyteidl2 import core
from connectrio.rpc.codec import decode

__all__ = ["decoded_meta", "job_state", "not_made_by", "serialized", "whole_state"]

_PHASES: dict[int, Phase] = {phase.value: phase for phase in Phase}


def job_state(proto: Any) -> Resource:
    """Return the state of a job; encoded, unless the host has to look at all of it."""
    encoded = proto.SerializeToString()
    if proto.HasField("custom_info"):  # which may hold numbers that JSON does not have
        return whole_state(encoded)
    links = [decode(link.SerializeToString(), core.TaskLog) for link in proto.log_links]
    phase = _PHASES.get(proto.phase, proto.phase)  # a number that is none is for the host to refuse
    return EncodedResource(phase, proto.message, links, encoded=encoded, decode=_decode_resource)


def whole_state(encoded: bytes) -> Resource:
    """Return the state of a job that is encoded as a `Resource`, with all of its parts."""
    whole = _decode_resource(encoded)
    return Resource(whole.phase, whole.message, whole.log_links, whole.outputs, whole.custom_info)


def _decode_resource(encoded: bytes) -> idl.Resource:
    message: idl.Resource = decode(encoded, idl.Resource)
    return message


def decoded_meta(metadata_type: Any, meta: bytes, task_type: str) -> Any:
    """Return the connector's own metadata of a job.

    :raises InvalidRequestError: `meta` is not from this connector
    """
    try:
        return metadata_type.decode(meta)
    except Exception as error:
        raise not_made_by(task_type, text_of(error) or type_name(error)) from error


def not_made_by(task_type: str, reason: str) -> InvalidRequestError:
    """Return the error for a `resource_meta` that is not from the connector of `task_type`."""
    return InvalidRequestError(f"the resource_meta of this {task_type} task was not made by this connector: {reason}")


def serialized(message: Any, cls: Any, label: str) -> bytes:
    """Return a message of protobuf as bytes.

    :param label: what has returned it
    :raises TypeError: it is no `cls`
    """
    if not isinstance(message, cls):
        raise TypeError(f"{label} returned an object of class {type(message).__qualname__}, not a {cls.__qualname__}")
    data: bytes = message.SerializeToString()
    return data
