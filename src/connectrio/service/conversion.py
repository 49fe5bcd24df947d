"""What connectors are given and what they return, converted from and to Flyte's messages.

Inputs that cannot be converted raise `RequestError`, what a connector returned raises `ConnectorFault`.

A task that failed for good while it was created has no job. The failure itself travels as its `resource_meta`, so that
any host can answer for it, also another replica or one that has restarted. It begins with a random mark, which no
connector's encoding begins with by chance; `encode_resource_meta` refuses one that begins with it on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from operator import is_
from typing import Any, TypeVar, cast

from anyio import from_thread
from betterproto2 import Message
from grpclib.const import Status

from connectrio.connector.base import AsyncConnector, EncodedResource, Phase, Resource, TaskLog
from connectrio.idl.flyteidl2 import connector as idl
from connectrio.idl.flyteidl2.core import Literal, VariableMap
from connectrio.idl.flyteidl2.task import Inputs, Outputs
from connectrio.idl.google.protobuf import ListValue, NullValue, Struct, Value
from connectrio.literals import (
    LiteralError,
    Storage,
    StoredElsewhereError,
    StoredInputError,
    TooManyStepsError,
    checked_inputs,
    inputs_to_python,
    outputs_to_literals,
)
from connectrio.literals.errors import quoted_name
from connectrio.literals.plain_data import to_plain_data
from connectrio.literals.steps import limited_steps
from connectrio.logs import get_logger
from connectrio.rpc.codec import EncodeError, decode, encode, encode_field, escape_surrogates, keep_encoded
from connectrio.rpc.garbage import without_collections
from connectrio.rpc.status import fit_status_message
from connectrio.service.errors import ConnectorFault, RequestError, describe_error
from connectrio.service.protobuf import from_protobuf, with_protobuf_replaced
from connectrio.service.settings import ServiceSettings
from connectrio.service.workers import Workers

__all__ = [
    "RECEIVED",
    "EncodedAnswer",
    "InputReader",
    "ReceivedTask",
    "encode_failure",
    "encode_resource_meta",
    "encoded_state",
    "expect",
    "failed_resource",
    "failure_in",
    "inputs_refused",
    "is_failure",
    "resource_to_message",
    "sendable",
    "sort_of",
]

logger = get_logger("connectrio.service")

T = TypeVar("T")
M = TypeVar("M", bound=Message)

# threads that may read stored inputs at once. They are not the connectors' threads, so a file server that hangs takes
# none of those
_READERS = 4
# threads that may convert large inputs at once: one does as much as many, which would keep the event loop waiting; with
# the second, a shorter conversion is not stuck behind a longer one
_CONVERTERS = 2

# that inputs may take on the event loop: about 20 ms. Others are read in a thread
_STEPS_ON_THE_EVENT_LOOP = 20_000

# bytes that an answer has beside an encoded state
_FRAMING = 16

# UNDEFINED is no phase of a job: Flyte's executor takes it for an error of the system
_PHASES = frozenset(Phase) - {Phase.UNDEFINED}
_PHASE_NAMES = ", ".join(sorted(str(phase.name) for phase in _PHASES))

RECEIVED = "_received_bytes"
"""The attribute of a request that its bytes are in. Who has no use for them removes it: they may be large."""

# outputs that are messages already
_MESSAGES = frozenset({Literal, Struct})

_FAILURE_MARK = b"connectrio/permanent-failure/1/a9f0c4d2e37b4c58b1d6\n"


class ReceivedTask:
    """In place of the class of CreateTask's requests: they keep their bytes, in the attribute `RECEIVED`."""

    @staticmethod
    def FromString(data: bytes) -> idl.CreateTaskRequest:  # noqa: N802 - the name that protobuf's messages have
        """Return the request.

        :raises DecodeError: `data` is no such message
        """
        message: idl.CreateTaskRequest = decode(data, idl.CreateTaskRequest)
        message.__dict__[RECEIVED] = data
        return message


ReceivedTask.__name__ = idl.CreateTaskRequest.__name__  # for errors about malformed requests


class EncodedAnswer(idl.GetTaskResponse):
    """The answer to a poll that is sent as a connector has encoded it, and decoded only for who reads it here."""

    def __init__(self, state: EncodedResource) -> None:
        self._state = state
        self._unknown_fields = b""
        keep_encoded(self, encode_field(1, state.encoded))

    @cached_property
    def resource(self) -> idl.Resource:  # type: ignore[override]  # a field of the message, which is never set here
        """The job's state."""
        return resource_to_message(self._state, "get")


class InputReader:
    """Converts the literals of requests to Python values. What is large or stored elsewhere is read in a thread.

    :param workers: those of the connectors, which tell of further threads that are stuck
    """

    def __init__(self, settings: ServiceSettings, workers: Workers) -> None:
        self._max_stored_size = settings.max_stored_input_size
        self._schemes = frozenset(settings.storage_schemes)
        self._pickles = settings.unsafe_pickle
        self._readers = workers.further(
            _READERS, purpose="stored inputs", remedy="find out why their storage does not answer"
        )
        self._converters = workers.further(
            _CONVERTERS, purpose="large inputs", remedy="report the stacks in its log (SIGUSR1) as a bug of connectrio"
        )

    async def read(self, inputs: Inputs | None, variables: VariableMap | None) -> dict[str, Any]:
        """Return the inputs as Python values, in the order in which `variables` declares them.

        :raises RequestError: they do not fit what is declared, or cannot be read
        """
        try:
            return await self._convert(partial(inputs_to_python, inputs, variables, pickles=self._pickles))
        except LiteralError as error:
            raise inputs_refused(error) from error

    async def run_in_thread(self, function: Callable[[], T], *, name: str) -> T:
        """Call `function`, which computes something of a large request, in one of the threads for that.

        :param name: what runs, for people
        """

        def compute() -> T:
            with without_collections():  # they would visit all of the request
                return function()

        return await self._converters.run(compute, name=name)

    async def check(self, inputs: Inputs | None, variables: VariableMap | None) -> tuple[Inputs | None, str | None]:
        """Return the inputs for a connector that converts them itself, with what is stored elsewhere fetched.

        The second value is the name of an input that was stored elsewhere, None for none.

        :raises RequestError: the connector may not have them, or they cannot be read
        """
        try:
            checked = await self._convert(partial(checked_inputs, inputs, variables, pickles=self._pickles))
        except LiteralError as error:
            raise inputs_refused(error) from error
        if inputs is None or checked is None or checked is inputs:
            return checked, None
        pairs = zip(inputs.literals, checked.literals, strict=True)
        return checked, next((old.name for old, new in pairs if old.value is not new.value), None)

    async def _convert(self, convert: Callable[..., T]) -> T:
        """Convert inputs on the event loop, or in a thread if that takes long or needs a storage."""
        try:
            try:
                return convert(max_steps=_STEPS_ON_THE_EVENT_LOOP)
            except TooManyStepsError:
                return await self.run_in_thread(convert, name="converting large inputs")
        except StoredElsewhereError:
            decode_literal = partial(decode, message_type=Literal)
            storage = Storage(self._max_stored_size, self._schemes, decode_literal, from_thread.check_cancelled)
            return await self._readers.run(partial(convert, storage=storage), name="reading stored inputs")


def inputs_refused(error: LiteralError, stored: str | None = None) -> RequestError:
    """Return the error for inputs that cannot be converted. What is wrong with a stored one is for the log alone.

    :param stored: the name of an input that was stored elsewhere, if `error` does not say so by its class
    """
    if stored is not None:
        error = StoredInputError(error)
        error.about(f"input {quoted_name(stored)}")
    if not isinstance(error, StoredInputError):
        return RequestError(str(error))
    logger.warning("a stored input could not be read", error=str(error.reason))
    return RequestError(str(error), Status.UNAVAILABLE if error.passes else Status.INVALID_ARGUMENT)


def encode_failure(message: str) -> bytes:
    """Return the `resource_meta` of a task that failed with `message`. Flyte's executor logs it."""
    return _FAILURE_MARK + fit_status_message(message).encode()


def is_failure(resource_meta: bytes) -> bool:
    """Return whether `encode_failure` made this."""
    return resource_meta.startswith(_FAILURE_MARK)


def failure_in(resource_meta: bytes) -> str:
    """Return the message that `encode_failure` put into this."""
    return resource_meta[len(_FAILURE_MARK) :].decode("utf-8", "replace")


def failed_resource(message: str) -> idl.Resource:
    """Return the state of a task that failed with `message`."""
    return idl.Resource(phase=Phase.FAILED, message=message)


def sort_of(value: Any) -> str:
    """Return the class of what a connector returned, as a phrase; never its content."""
    return "None" if value is None else f"an object of class {type(value).__qualname__}"


def expect(value: Any, cls: type[T], claim: str) -> T:
    """Return `value`, which must be a `cls`, or protobuf's message for it.

    :param claim: the beginning of a sentence that says where it came from: "DuckDBConnector.get returned"
    """
    if not isinstance(value, cls):
        if issubclass(cls, Message) and (message := from_protobuf(value, cls)) is not None:
            return cast("T", message)
        wanted = cls.__qualname__
        if type(value).__qualname__ == wanted:  # such as the message `Resource` in place of ours
            raise ConnectorFault(f"{claim} a {wanted} of {type(value).__module__}, not the one of {cls.__module__}")
        raise ConnectorFault(f"{claim} {sort_of(value)}, not a {wanted}")
    return value


def encode_resource_meta(connector: AsyncConnector[Any], value: Any, label: str) -> bytes:
    """Return the bytes by which the client will ask for the job that `create` has started."""
    meta = expect(value, connector.metadata_type, f"{label} returned")
    try:
        data = meta.encode()
    except Exception as error:
        raise ConnectorFault(
            f"{label} returned an object of class {type(meta).__qualname__} that {_cannot_encode(error)}"
        ) from error
    encoded = expect(data, bytes, f"{type(meta).__qualname__}.encode returned")
    if is_failure(encoded):
        raise ConnectorFault(
            f"{type(meta).__qualname__}.encode returned bytes that begin as those with which the host marks failed"
            " tasks; return other bytes: this prefix is reserved"
        )
    return encoded


def _cannot_encode(error: Exception) -> str:
    return f"cannot be encoded: {describe_error(error)}"


def sendable(message: M, claim: str) -> M:
    """Return `message`, which a connector has made, so that it can be encoded: with lone surrogates escaped, and
    with connectrio's messages in place of protobuf's.

    :param claim: the beginning of a sentence that says where it came from
    :raises ConnectorFault: it cannot be encoded even so
    """
    try:
        encode(message)
    except EncodeError as error:
        try:
            message = escape_surrogates(with_protobuf_replaced(message))
            encode(message)
        except (EncodeError, RecursionError):
            raise ConnectorFault(
                f"{claim} a {type(message).__qualname__} that {_cannot_encode(error)}; give each field a value of the"
                " type that the message declares for it"
            ) from error
    return message


def encoded_state(value: Any, most: int) -> EncodedResource | None:
    """Return what `get` returned if that can be sent as it is.

    :param most: bytes that the answer may have
    """
    if type(value) is EncodedResource and value.phase in _PHASES and len(value.encoded) + _FRAMING <= most:
        return value
    return None


def resource_to_message(value: Any, label: str) -> idl.Resource:
    """Return the state of a job as a message."""
    resource = expect(value, Resource, f"{label} returned")
    claim = f"{label} returned a Resource whose"
    phase: Any = resource.phase
    if not isinstance(phase, int) or isinstance(phase, bool) or phase not in _PHASES:
        raise ConnectorFault(f"{claim} phase is {phase!r}, not one of {_PHASE_NAMES}")
    message = "" if resource.message is None else expect(resource.message, str, f"{claim} message is")
    links = expect(resource.log_links or [], Iterable, f"{claim} log_links are")  # type: ignore[type-abstract]  # isinstance takes it
    return idl.Resource(
        phase=phase if isinstance(phase, Phase) else Phase(phase),
        message=escape_surrogates(message),
        log_links=[
            sendable(expect(link, TaskLog, f"{claim} log_links hold"), f"{claim} log_links hold") for link in links
        ],
        outputs=_outputs(resource.outputs, claim),
        custom_info=_custom_info(resource.custom_info, claim),
    )


def _outputs(outputs: Any, claim: str) -> Outputs | None:
    if isinstance(outputs, Outputs):
        return sendable(outputs, f"{claim} outputs are")
    if not outputs:
        return None
    if not isinstance(outputs, dict) and (message := from_protobuf(outputs, Outputs)) is not None:
        return message
    mapping = expect(outputs, Mapping, f"{claim} outputs are")  # type: ignore[type-abstract]  # same
    try:
        made = outputs_to_literals(mapping)
        # a connector's own messages are not looked into
        return made if _MESSAGES.isdisjoint(map(type, mapping.values())) else sendable(made, f"{claim} outputs are")
    except LiteralError as error:
        try:
            return outputs_to_literals(escape_surrogates(with_protobuf_replaced(dict(mapping))))
        except (LiteralError, RecursionError):
            raise ConnectorFault(f"{claim} outputs {_cannot_encode(error)}") from error


def _custom_info(custom_info: Any, claim: str) -> Struct | None:
    if isinstance(custom_info, Struct):
        return _with_texts(sendable(custom_info, f"{claim} custom_info is"))
    if not custom_info:
        return None
    # first of all: protobuf registers its Struct as a mapping
    if not isinstance(custom_info, dict) and (message := from_protobuf(custom_info, Struct)) is not None:
        return _with_texts(message)
    mapping = expect(custom_info, Mapping, f"{claim} custom_info is")  # type: ignore[type-abstract]  # same
    try:
        with limited_steps():
            return _struct(to_plain_data(dict(mapping)))
    except LiteralError as error:
        raise ConnectorFault(f"{claim} custom_info {_cannot_encode(error)}") from error


def _with_texts(struct: Struct) -> Struct:
    """Return `struct` with texts for what JSON has no numbers for; the same object if it holds no such number."""
    fields = {key: _with_texts_in(value) for key, value in struct.fields.items()}
    return struct if all(map(is_, fields.values(), struct.fields.values())) else Struct(fields=fields)


def _with_texts_in(value: Value) -> Value:
    if value.number_value is not None:
        return value if math.isfinite(value.number_value) else _number(value.number_value)
    if value.struct_value is not None:
        struct = _with_texts(value.struct_value)
        return value if struct is value.struct_value else Value(struct_value=struct)
    if value.list_value is not None:
        values = [_with_texts_in(item) for item in value.list_value.values]
        is_same = all(map(is_, values, value.list_value.values))
        return value if is_same else Value(list_value=ListValue(values=values))
    return value


def _struct(data: Mapping[str | int, Any]) -> Struct:
    fields: dict[str, Value] = {}
    key: str | int = ""
    try:
        for key, item in data.items():
            fields[escape_surrogates(str(key))] = _value(item)
    except LiteralError as error:
        error.inside(key)
        raise
    return Struct(fields=fields)


def _value(data: Any) -> Value:
    match data:
        case None:
            return Value(null_value=NullValue.NULL_VALUE)
        case bool():
            return Value(bool_value=data)
        case int() | float():
            return _number(data)
        case str():
            return Value(string_value=escape_surrogates(data))
        case list():
            return Value(list_value=ListValue(values=[_value(item) for item in data]))
        case dict():
            return Value(struct_value=_struct(data))
        case _:
            raise LiteralError(f"{sort_of(data)} is not JSON")


def _number(number: float) -> Value:
    """Return a number; what JSON has no number for, as its text in protobuf's JSON."""
    try:
        result = float(number)
    except OverflowError:
        raise LiteralError("an integer that is too large for JSON's numbers; give it as a text") from None
    if math.isnan(result):
        return Value(string_value="NaN")
    if math.isinf(result):
        return Value(string_value="Infinity" if result > 0 else "-Infinity")
    return Value(number_value=result)
