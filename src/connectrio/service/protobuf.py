"""Protobuf's messages in place of connectrio's, for connectors that were written for flyte-sdk or flytekit.

What a connector returns may hold messages of `flyteidl2`, `flyteidl` and `google.protobuf`. They are recognised by the
full name in their descriptor, and only where connectrio's own message was expected and did not come. What a connector
is given are protobuf's messages if it works with protobuf. The package protobuf is imported for no other connector.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import fields
from functools import cache, reduce
from importlib import import_module
from importlib.resources import files
from types import CodeType, FunctionType
from typing import Any, TypeVar

from betterproto2 import Message

from connectrio.connector.base import AsyncConnector
from connectrio.idl.flyteidl2.connector import TaskExecutionMetadata
from connectrio.idl.flyteidl2.core import LiteralMap, TaskTemplate
from connectrio.idl.flyteidl2.task import Outputs
from connectrio.idl.message_pool import default_message_pool
from connectrio.rpc.codec import DecodeError, decode, encode
from connectrio.service.errors import ConnectorFault

__all__ = ["from_protobuf", "takes_protobuf", "to_protobuf", "with_protobuf_replaced", "wrong_messages"]

M = TypeVar("M", bound=Message)

_TYPE_URL = "type.googleapis.com/"
# Flyte 1's packages, and Flyte 2's with the same messages. What a connector returns is the same on the wire
_FLYTE_2 = {"flyteidl.admin": "flyteidl2.connector", "flyteidl.core": "flyteidl2.core"}
_FLYTE_1_LOG_LINE = "flyteidl.admin.LogLine"
# what a connector is given, and the module of flyteidl2 with protobuf's class for it
_GIVEN: dict[type[Message], str] = {
    TaskTemplate: "flyteidl2.core.tasks_pb2",
    TaskExecutionMetadata: "flyteidl2.connector.connector_pb2",
}
# what only protobuf's messages have
_PROTOBUFS_OWN = frozenset(
    {"ClearField", "CopyFrom", "DESCRIPTOR", "HasField", "ListFields", "MergeFrom", "ParseFromString", "WhichOneof"}
)
_JSON_FORMAT = "google.protobuf.json_format"


# from connectors


def from_protobuf(value: Any, cls: type[M]) -> M | None:
    """Return the `cls` that a message of protobuf is; None if `value` is not such a message.

    A LiteralMap is an `Outputs` too: both are the same on the wire.
    """
    found = _own_class(value)
    if found is not cls and not (found is LiteralMap and cls is Outputs):
        return None
    message: M = _read(value, cls)
    return message


def with_protobuf_replaced(value: Any) -> Any:
    """Return `value` with connectrio's messages in place of protobuf's; messages and containers are copied."""
    match value:
        case Message():
            result = copy(value)
            result._unknown_fields = value._unknown_fields  # noqa: SLF001 - which betterproto2's copies lack
            for field in fields(value):  # type: ignore[arg-type]  # every message is a dataclass
                setattr(result, field.name, with_protobuf_replaced(getattr(value, field.name)))
            return result
        case list():
            return [with_protobuf_replaced(item) for item in value]
        case tuple() if type(value) is tuple:
            return tuple(map(with_protobuf_replaced, value))
        case dict():
            return {key: with_protobuf_replaced(item) for key, item in value.items()}
        case _:
            cls = _own_class(value)
            return value if cls is None else _read(value, cls)


def _read(value: Any, cls: type[Message]) -> Any:
    """Return the `cls` that a message of protobuf is.

    :raises ConnectorFault: it cannot be read; nobody else could read it either
    """
    try:
        return decode(value.SerializeToString(), cls)
    except DecodeError as error:
        name = value.DESCRIPTOR.full_name
        raise ConnectorFault(f"the connector returned a message {name} that cannot be sent: {error}") from error


def _own_class(value: Any) -> type[Message] | None:
    """Return connectrio's class for a message of protobuf; None for anything else."""
    name = getattr(getattr(type(value), "DESCRIPTOR", None), "full_name", None)
    return _class_named(name) if isinstance(name, str) else None


@cache
def _class_named(name: str) -> type[Message] | None:
    package, _, message = name.rpartition(".")
    if name == _FLYTE_1_LOG_LINE:
        package = "flyteidl2.logs.dataplane"
    return default_message_pool.url_to_type.get(f"{_TYPE_URL}{_FLYTE_2.get(package, package)}.{message}")


# to connectors


def takes_protobuf(connector: AsyncConnector[Any]) -> bool:
    """Return whether `create` is given protobuf's messages.

    The class's `takes_protobuf` says so. Otherwise the annotation of `task_template` does, if it is a message's class,
    or the import of protobuf's `json_format`, which takes no other messages, in the module of the connector's class.
    """
    if connector.takes_protobuf is not None or connector.converts_inputs:
        return bool(connector.takes_protobuf)
    function = inspect.unwrap(connector.create)
    declared = _declared(getattr(function, "__func__", function), "task_template")
    if declared is not None:
        return not issubclass(declared, Message)
    return any(map(_imports_json_format, _modules(type(connector))))


def _declared(function: Any, name: str) -> type | None:
    """Return the message's class that a parameter is annotated with; None if it is not, or with something else."""
    try:
        declared = function.__annotations__.get(name)
        if isinstance(declared, str):
            first, *others = declared.split(".")
            declared = reduce(getattr, others, function.__globals__[first])
        is_message = issubclass(type(declared), type) and (
            issubclass(declared, Message) or hasattr(declared, "DESCRIPTOR")
        )
    except Exception:  # noqa: BLE001 - annotations are the author's code, and need not exist when the program runs
        return None
    return declared if is_message else None


def _modules(cls: type) -> Iterator[Mapping[str, Any]]:
    """Yield the content of each module that a connector's class is made of."""
    for name in {base.__module__ for base in cls.__mro__ if issubclass(base, AsyncConnector)}:
        if name != AsyncConnector.__module__ and name in sys.modules:
            yield vars(sys.modules[name])
    function = inspect.unwrap(cls.create)  # type: ignore[attr-defined]  # of a connector's class
    yield getattr(function, "__globals__", {})  # also of a module that is not in sys.modules


def _imports_json_format(module: Mapping[str, Any]) -> bool:
    """Return whether a module has `json_format` or functions of it, or functions that import it when they run.

    Only modules, functions and classes are looked at: other objects may do anything when they are asked for a name.
    """
    json_format = sys.modules.get(_JSON_FORMAT)
    for value in list(module.values()):
        if value is json_format is not None:
            return True
        for each in list(vars(value).values()) if issubclass(type(value), type) else [value]:
            if type(each) is FunctionType and (each.__module__ == _JSON_FORMAT or _mentions_json_format(each.__code__)):
                return True
    return False


def _mentions_json_format(code: CodeType) -> bool:
    """Return whether a function imports protobuf's `json_format` when it runs."""
    names = code.co_names
    if _JSON_FORMAT in names or ("google.protobuf" in names and "json_format" in names):
        return True
    return any(isinstance(each, CodeType) and _mentions_json_format(each) for each in code.co_consts)


def to_protobuf(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return `arguments` with protobuf's messages in place of connectrio's."""
    converted = dict(arguments)
    for name, value in arguments.items():
        cls: Any = type(value)
        if cls in _GIVEN:
            converted[name] = _protobuf_class(cls).FromString(encode(value))
    return converted


@cache
def _protobuf_class(cls: type[Message]) -> Any:
    """Return protobuf's class for a message: that of flyteidl2, or one from connectrio's descriptors without it."""
    try:
        return getattr(import_module(_GIVEN[cls]), cls.__name__)
    except ImportError:
        pass
    pool = import_module("google.protobuf.descriptor_pool").DescriptorPool()
    descriptors = import_module("google.protobuf.descriptor_pb2").FileDescriptorSet
    for file in descriptors.FromString(files("connectrio.idl").joinpath("descriptors.binpb").read_bytes()).file:
        pool.Add(file)
    descriptor = pool.FindMessageTypeByName(default_message_pool.type_to_url[cls].removeprefix(_TYPE_URL))
    return import_module("google.protobuf.message_factory").GetMessageClass(descriptor)


def wrong_messages(error: AttributeError, label: str) -> ConnectorFault | None:
    """Return what to tell the author of a connector that was given the other kind of messages; None if it was not."""
    ours = isinstance(error.obj, Message)
    if ours and error.name not in _PROTOBUFS_OWN:
        return None
    if not ours and (_own_class(error.obj) is None or not hasattr(Message, str(error.name))):
        return None
    kinds = ("connectrio's", "protobuf's") if ours else ("protobuf's", "connectrio's")
    return ConnectorFault(
        f"{label}: {error}; it was given {kinds[0]} messages. If it is written for {kinds[1]}, say so in its class:"
        f" takes_protobuf = {ours}"
    )
