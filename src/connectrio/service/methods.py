"""How a connector's methods are called: where they run, and which arguments they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import Any

from grpclib.const import Status

from connectrio.connector.base import AsyncConnector
from connectrio.connector.context import Start, begin_work
from connectrio.diagnostics import shorten
from connectrio.idl.flyteidl2.core import Connection
from connectrio.service.errors import RequestError, describe_error
from connectrio.service.operations import Operation
from connectrio.service.protobuf import takes_protobuf
from connectrio.service.vendor_gate import VendorGate, VendorGates
from connectrio.service.workers import Workers

__all__ = ["UNTRACED", "ConnectorMethod", "ConnectorMethods", "Span"]

UNTRACED: AbstractContextManager[object] = nullcontext()
"""In place of a span where nothing is traced."""

# names, and characters of a name, in an error
_MOST_NAMES = 10
_LONGEST_NAME = 100

_NAMED = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


@dataclass(frozen=True)
class ConnectorMethod:
    """One method of one connector.

    :ivar gate: which its calls have to pass
    :ivar label: "DuckDBConnector.create"
    :ivar owner: the connector's task type
    :ivar operation: what it is for
    :ivar overridden: whether the connector has this method of its own
    :ivar blocking: whether calling it may block, so that it needs a worker thread
    :ivar parameters: the names that its signature has
    :ivar required: those of them that have no default
    :ivar takes_any: whether it has `**kwargs`
    :ivar takes_protobuf: whether it is a `create` that is given protobuf's messages
    :ivar self_name: the name of the parameter that is the connector itself, which no keyword may have
    """

    connector: AsyncConnector[Any]
    gate: VendorGate
    function: Callable[..., Any]
    label: str
    owner: str
    operation: Operation
    overridden: bool
    blocking: bool
    parameters: frozenset[str]
    required: frozenset[str]
    takes_any: bool
    takes_protobuf: bool
    self_name: str | None

    @classmethod
    def of(
        cls, connector: AsyncConnector[Any], operation: Operation, gate: VendorGate | None = None
    ) -> ConnectorMethod:
        """Inspect the method of `connector` for `operation`.

        :param gate: the connector's; a new one if None
        """
        bound = getattr(connector, operation.value)
        function = getattr(bound, "__func__", bound)
        overridden = function is not getattr(AsyncConnector, operation.value)
        # calling a function of these kinds runs none of its code yet
        returns_at_once = (
            inspect.iscoroutinefunction(bound)
            or inspect.isasyncgenfunction(bound)
            or inspect.isgeneratorfunction(bound)
        )
        parameters = inspect.signature(bound).parameters.values()
        named = [parameter for parameter in parameters if parameter.kind in _NAMED]
        return cls(
            connector=connector,
            gate=gate or VendorGate(connector, connector.policy),
            function=bound,
            label=f"{type(connector).__qualname__}.{operation.value}",
            owner=connector.task_type_name,
            operation=operation,
            overridden=overridden,
            blocking=overridden and not returns_at_once,
            parameters=frozenset(parameter.name for parameter in named),
            required=frozenset(parameter.name for parameter in named if parameter.default is parameter.empty),
            takes_any=any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters),
            takes_protobuf=operation is Operation.CREATE and takes_protobuf(connector),
            self_name=None if function is bound else next(iter(inspect.signature(function).parameters), None),
        )

    def arguments(
        self, resource_meta: bytes, offered: Mapping[str, Any], connection: Connection | None = None
    ) -> dict[str, Any]:
        """Return the arguments for a call about a job that exists.

        :param resource_meta: the job's, as the client sent it
        :param offered: arguments for the parameters of these names, where the method's signature has them
        :raises RequestError: the connector cannot decode `resource_meta`, or does not take what the connection has
        """
        return self.with_connection({"resource_meta": self.decode(resource_meta), **self.named(offered)}, connection)

    def decode(self, resource_meta: bytes) -> Any:
        """Return the connector's object for the job.

        :raises RequestError: the connector cannot decode `resource_meta`
        """
        try:
            return self.connector.metadata_type.decode(resource_meta)
        except Exception as error:
            # any: `decode` may be the connector's own, and can raise anything on foreign bytes
            raise RequestError(
                f"the resource_meta of this {self.owner} task was not made by this connector: {describe_error(error)}"
            ) from error

    def named(self, offered: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of `offered` that the signature names; `**kwargs` does not count."""
        return {name: value for name, value in offered.items() if name in self.parameters}

    def accepted(self, connection: Connection, own: Collection[str]) -> Connection:
        """Return those secrets and configs of `connection` that the method takes.

        :param own: the names of the arguments that the method gets anyway
        """
        taken = {*own, "resource_meta", self.self_name}

        def takes(name: str) -> bool:
            return name not in taken and (self.takes_any or name in self.parameters)

        return Connection(
            secrets={name: value for name, value in connection.secrets.items() if takes(name)},
            configs={name: value for name, value in connection.configs.items() if takes(name)},
        )

    def with_connection(self, arguments: dict[str, Any], connection: Connection | None) -> dict[str, Any]:
        """Return `arguments` with the secrets and configs of the request's connection; configs override secrets.

        :raises RequestError: the method does not take them
        """
        if connection is None and self.required <= arguments.keys():
            return arguments
        extra = {**connection.secrets, **connection.configs} if connection is not None else {}
        clashing = extra.keys() & {*arguments, self.self_name}
        if clashing:
            raise RequestError(
                f"the connection has {_names(clashing)}, a name that {self.label} needs for a parameter of its own;"
                " rename it in the connection's secrets or configs"
            )
        unknown = set() if self.takes_any else extra.keys() - self.parameters
        if unknown:
            raise RequestError(f"the connection has {_names(unknown)}, but {self.label} takes no such parameter")
        missing = self.required - arguments.keys() - extra.keys()
        if missing:
            raise RequestError(
                f"{self.label} needs {_names(missing)}, and the connection has no secret or config of that name"
            )
        return {**arguments, **extra}

    async def __call__(
        self, arguments: Mapping[str, Any], workers: Workers, span: Span | None = None, start: Start | None = None
    ) -> Any:
        """Call the method, and await what it returns where that is awaitable.

        :param span: makes a span of the trace around that
        :param start: of the job that `create` is called for; it is recorded just before the connector's code begins
        :raises RequestError: the connector does not have this method
        :raises BaseException: whatever the connector raises
        """
        if span is not None:
            with span(self):
                return await self(arguments, workers, start=start)
        if self.blocking:  # the start is recorded when there is a thread
            result = await workers.run(partial(self.function, **arguments), name=self.label, owner=self.owner)
        elif self.overridden:
            if start is not None and start.record is not None:
                await start.record()
            if not self.connector.queues_calls:
                begin_work()
            result = self.function(**arguments)
        else:
            try:
                result = self.function(**arguments)
            except NotImplementedError as error:  # from the base class's method
                raise RequestError(str(error), Status.UNIMPLEMENTED) from None
        return await result if isinstance(result, CoroutineType) or inspect.isawaitable(result) else result


Span = Callable[[ConnectorMethod], AbstractContextManager[object]]
"""Makes the span of one call of a method."""


class ConnectorMethods:
    """The methods of all connectors, each inspected once."""

    def __init__(self, gates: VendorGates | None = None) -> None:
        self._gates = VendorGates() if gates is None else gates
        # by identity: connectors may be dataclasses, which are not hashable. The method keeps its connector alive
        self._methods: dict[tuple[int, Operation], ConnectorMethod] = {}

    def get(self, connector: AsyncConnector[Any], operation: Operation) -> ConnectorMethod:
        """Return the method of `connector` for `operation`."""
        key = (id(connector), operation)
        method = self._methods.get(key)
        if method is None:
            method = self._methods[key] = ConnectorMethod.of(connector, operation, self._gates.of(connector))
        return method


def _names(names: set[str] | frozenset[str]) -> str:
    """Return the first names; a client may have sent thousands, and long ones."""
    shown = ", ".join(repr(shorten(name, _LONGEST_NAME)) for name in sorted(names)[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"
