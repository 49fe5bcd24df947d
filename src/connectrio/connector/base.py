"""The classes that the author of a connector writes against.

The vocabulary and the signatures are flyte-sdk's (`flyte.connectors`), so that porting a connector means changing its
imports (`docs/how-to/porting.md`). Beyond flyte-sdk, each method may be `async def` or a plain `def` (which runs in a
worker thread), and a connector may have a `lifespan`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, Generic, Self, TypeAlias, TypeVar, get_args, get_origin

import msgspec

from connectrio.connector.policy import ConnectorPolicy
from connectrio.connector.transient import passes
from connectrio.idl.flyteidl2.connector import (
    GetTaskLogsResponse,
    GetTaskMetricsResponse,
)
from connectrio.idl.flyteidl2.connector import Resource as ResourceMessage
from connectrio.idl.flyteidl2.core import TaskExecutionPhase as Phase
from connectrio.idl.flyteidl2.core import TaskLog, TaskTemplate
from connectrio.idl.flyteidl2.task import Outputs
from connectrio.idl.google.protobuf import Struct

__all__ = [
    "AsyncConnector",
    "LogsResult",
    "Phase",
    "Resource",
    "ResourceMeta",
    "ResourceMetaError",
    "TaskLog",
]


class ResourceMetaError(ValueError):
    """The bytes of a `resource_meta` are not what this connector's `ResourceMeta` encodes to."""


@dataclass
class ResourceMeta:
    """What a connector needs to find its job again: a dataclass, sent to the executor and back as JSON.

    Subclass it as a `@dataclass`. Flyte's executor writes it to its logs, so it must hold no secret.
    """

    def encode(self) -> bytes:
        """Return this object as JSON.

        :raises ResourceMetaError: JSON has no form for the value of a field, or the value does not have the declared
            type, so that `decode` would refuse it at each poll
        """
        name = type(self).__name__
        try:
            data = msgspec.json.encode(self)
            msgspec.json.decode(data, type=type(self))
        except msgspec.DecodeError as error:
            raise ResourceMetaError(f"{name} cannot be read back from JSON: {error}") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise ResourceMetaError(f"{name} cannot be encoded as JSON: {error}") from error
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the object that `encode` made `data` from.

        :raises ResourceMetaError: `data` is not a JSON object, or its names or types are not those of this class
        """
        try:
            raw = msgspec.json.decode(data)
            if not isinstance(raw, dict):
                raise ResourceMetaError(f"{cls.__name__}: expected a JSON object, got {type(raw).__name__}")
            known = _field_names(cls)  # type: ignore[arg-type]  # mypy: classes are hashable
            if unknown := raw.keys() - known:
                names, fields = ", ".join(map(repr, sorted(unknown))), ", ".join(sorted(known)) or "none"
                raise ResourceMetaError(f"{cls.__name__} has no field named {names}; its fields: {fields}")
            return msgspec.convert(raw, cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ResourceMetaError(f"{cls.__name__}: {error}") from error


@cache
def _field_names(cls: type[ResourceMeta]) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(cls))


M = TypeVar("M", bound=ResourceMeta)


@dataclass
class Resource:
    """The state of a job, as `get` reports it.

    :ivar phase: where the job stands; SUCCEEDED, FAILED, ABORTED and RETRYABLE_FAILED are final
    :ivar message: shown to the user for failed and queued jobs
    :ivar log_links: links to the job's logs or console
    :ivar outputs: output name → value; only read once the job has SUCCEEDED. None leaves the outputs unset, and the
        executor then reads `output_prefix/outputs.pb`. There the host writes outputs that are too large for an
        answer. An `Outputs` message goes out as it is
    :ivar custom_info: anything else about the job, in types that JSON has. A `Struct` message goes out as it is
    """

    phase: Phase
    message: str | None = None
    log_links: list[TaskLog] | None = None
    outputs: Mapping[str, Any] | Outputs | None = None
    custom_info: Mapping[str, Any] | Struct | None = None


class EncodedResource(Resource):
    """The state of a job that is encoded already. The host sends it as it is, if nothing in it must change.

    `outputs` and `custom_info` are decoded for those who read them.

    :param encoded: a whole `flyteidl2.connector.Resource`
    :param decode: makes our message of it
    """

    message: str
    log_links: list[TaskLog]

    def __init__(
        self,
        phase: Phase,
        message: str,
        log_links: list[TaskLog],
        *,
        encoded: bytes,
        decode: Callable[[bytes], ResourceMessage],
    ) -> None:
        self.phase, self.message, self.log_links = phase, message, log_links
        self.encoded = encoded
        self._decode = decode

    @cached_property
    def _whole(self) -> ResourceMessage:
        return self._decode(self.encoded)

    @property
    def outputs(self) -> Outputs | None:  # type: ignore[override]  # a field of the base, which is never set here
        """The outputs as a message."""
        return self._whole.outputs

    @property
    def custom_info(self) -> Struct | None:  # type: ignore[override]  # same
        """Anything else about the job, as a message."""
        return self._whole.custom_info


LogsResult: TypeAlias = Awaitable[GetTaskLogsResponse] | AsyncIterator[GetTaskLogsResponse] | GetTaskLogsResponse


class AsyncConnector(ABC, Generic[M]):
    """The base class of all connectors: how to create, poll and delete one type of task.

    A method is either `async def`, and is cancelled when its call's deadline passes or its client goes away, or a
    plain `def`, and runs in one of the host's worker threads. Whatever a method raises ends that one call.

    The secrets and configs of the request's connection arrive as further keyword arguments. The host passes all
    arguments by name, so a method may take them in any order, name those that it needs, and take the others as
    `**kwargs`. (Here `*args: Any, **kwargs: Any` stand for any further parameters: type checkers accept each override.)

    :cvar name: what people see in listings
    :cvar task_type_name: the task type this connector serves
    :cvar task_type_version: the version of that task type
    :cvar metadata_type: the `ResourceMeta` subclass that `create` returns; by default the X of `AsyncConnector[X]`
    :cvar converts_inputs: whether `create` converts the inputs itself, because they belong to another type system: it
        then gets the encoded CreateTaskRequest in place of the values, or an `Inputs` message with what is stored
        elsewhere fetched, and raises `LiteralError` for what it cannot convert
    :cvar queues_calls: whether its methods wait for a place to run, and call `begin_work` when they have one
    :cvar is_sync: whether its tasks end within `create`, so that the executor of Flyte 1 is told to run each in one
        call (ExecuteTaskSync), without polls
    :cvar create_is_idempotent: whether calling `create` again under the same `current_call().key` finds the job that
        exists already. Then the host calls it again after transient errors, within the call's deadline
    :cvar adopts_lost_jobs: whether the job of an attempt whose answer was lost may serve the next attempt. That one has
        another `output_prefix`: so say True if `get` reports all outputs. Jobs of tasks that declare no outputs are
        always taken over
    :cvar policy: what the host keeps to when it calls the other system; the setting `connector_options` overrides it
    :cvar takes_protobuf: whether `create` is given protobuf's `TaskTemplate` and `TaskExecutionMetadata` in place of
        connectrio's. None: it is if `task_template` is annotated so, or if the class's module imports
        `google.protobuf.json_format`
    """

    name: ClassVar[str] = "Async Connector"
    task_type_name: ClassVar[str]
    task_type_version: ClassVar[int] = 0
    metadata_type: type[M]
    converts_inputs: ClassVar[bool] = False
    queues_calls: ClassVar[bool] = False
    is_sync: ClassVar[bool] = False
    create_is_idempotent: ClassVar[bool] = False
    adopts_lost_jobs: ClassVar[bool] = False
    policy: ClassVar[ConnectorPolicy] = ConnectorPolicy()
    takes_protobuf: ClassVar[bool | None] = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        stated = _type_argument(cls)
        if isinstance(stated, type) and issubclass(stated, ResourceMeta) and not hasattr(cls, "metadata_type"):
            cls.metadata_type = stated  # type: ignore[assignment]  # it is the M of this class

    def __init__(
        self,
        *,
        task_type_name: str | None = None,
        task_type_version: int | None = None,
        metadata_type: type[M] | None = None,
        name: str | None = None,
        **further: Any,
    ) -> None:
        """Say what the connector serves, in place of the class variables of the same names.

        A subclass need not call this.

        :param further: for the next class that the connector inherits from
        """
        super().__init__(**further)
        stated = {"task_type_name": task_type_name, "task_type_version": task_type_version, "name": name}
        for attribute, value in {**stated, "metadata_type": metadata_type}.items():
            if value is not None:
                setattr(self, attribute, value)

    @abstractmethod
    def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> Awaitable[M] | M:
        """Start the job and return what is needed to find it again.

        A parameter named `task_execution_metadata` (a `TaskExecutionMetadata`, or None if the client sends none) says
        who runs this, under which execution, in which attempt.

        :param task_template: the task, its interface and its custom configuration: see `read_custom`
        :param output_prefix: where outputs are to be written: a path or a URL
        :param inputs: input name → Python value, in the interface's order
        """

    @abstractmethod
    def get(self, resource_meta: M, *args: Any, **kwargs: Any) -> Awaitable[Resource] | Resource:
        """Report the state of the job.

        A parameter named `output_prefix` gets the request's.
        """

    def get_many(
        self, resource_metas: Sequence[M], *args: Any, **kwargs: Any
    ) -> Awaitable[Sequence[Resource | Exception | None]] | Sequence[Resource | Exception | None]:
        """Report the state of many jobs of one account with one request to the other system, or few.

        Optional. If overridden, the host calls it in the background for the jobs that clients poll, and answers
        GetTask with what is at most `policy.poll_max_age` seconds old. It calls `get` at a job's first poll.

        :param resource_metas: at most `policy.many_limit`
        :returns: an item for each job, in the same order: its state; the error that `get` would raise; or None if the
            other system did not list it, so that the host calls `get`
        """
        raise NotImplementedError(f"{self.name} polls one job at a time")

    @abstractmethod
    def delete(self, resource_meta: M, *args: Any, **kwargs: Any) -> Awaitable[None] | None:
        """Cancel the job. Deleting a job that has ended, or twice, is not an error."""

    def is_transient(self, error: Exception) -> bool:
        """Return whether a failed `get` may succeed in a moment, so that the host tries again and absorbs the error.

        By default: `TransientError`; connections that fail or break, and time-outs, Python's and those of well-known
        clients; HTTP statuses and codes by which vendors throttle or say that they are unavailable; gRPC's UNAVAILABLE,
        DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED. docs/explanation/failure-model.md has the table. Override it to name
        others. It is called on the event loop, so it must not block.
        """
        return passes(error)

    def get_metrics(
        self, resource_meta: M, *args: Any, **kwargs: Any
    ) -> Awaitable[GetTaskMetricsResponse] | GetTaskMetricsResponse:
        """Report the job's metrics. Not overridden: the client sees UNIMPLEMENTED.

        Parameters named `queries` (list of str), `start_time`, `end_time` (aware datetimes or None) and `step`
        (timedelta or None) get the request's.
        """
        raise NotImplementedError(f"{self.name} has no metrics")

    def get_logs(self, resource_meta: M, *args: Any, **kwargs: Any) -> LogsResult:
        """Report the job's log lines. Not overridden: the client sees UNIMPLEMENTED.

        Either a coroutine (or plain function) that returns one response, or an async generator of many. Parameters
        named `token` (str, where the previous page ended; "" at first) and `lines` (int, how many are wanted; 0 for
        the connector's choice) get the request's.
        """
        raise NotImplementedError(f"{self.name} has no logs")

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Return what holds the connector's resources: entered before the host serves, left after its last call.

        A task group opened here may run for as long as the host does. If this fails, or ends earlier, the host calls
        it again after a while, so it must return a new context manager each time.
        """
        return _no_resources()


def _type_argument(connector: type[AsyncConnector[Any]]) -> Any:
    """Return the X of the `AsyncConnector[X]` that a class inherits from; None if the class does not say it."""
    for base in vars(connector).get("__orig_bases__", ()):
        origin = get_origin(base)
        if origin is AsyncConnector:
            return get_args(base)[0]
        if isinstance(origin, type) and issubclass(origin, AsyncConnector):
            # what the class in between leaves open is a type variable, for which this base has the argument
            found = _type_argument(origin)
            return dict(zip(origin.__parameters__, get_args(base), strict=True)).get(found, found)  # type: ignore[attr-defined]
    return None


@asynccontextmanager
async def _no_resources() -> AsyncIterator[None]:
    yield
