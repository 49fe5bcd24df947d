"""Failures of a known kind, and tasks that failed for good."""

from __future__ import annotations

import gc
from contextlib import suppress

import pytest
from grpclib import GRPCError
from grpclib.const import Status
from structlog.testing import capture_logs

from connectrio import (
    ConnectorError,
    InvalidRequestError,
    PermanentFailure,
    Phase,
    TransientError,
    UnknownJobError,
)
from connectrio.rpc.status import MAX_STATUS_MESSAGE_SIZE
from connectrio.service.conversion import encode_failure, failure_in, is_failure
from connectrio.service.telemetry import CallRecord
from service.harness import META, OPERATIONS, Base, Job, Service, attempt, connector, failing, secrets

SPARK = "the cluster policy forbids this; ask for another one"


async def failed_task(text: str = SPARK, **request) -> tuple[Service, bytes]:
    async def create(self, **kwargs):
        raise PermanentFailure(text.format(**kwargs))

    service = Service(connector(create=create))
    return service, (await service.create(**request)).resource_meta


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequestError("no such metric"), Status.INVALID_ARGUMENT, "400"),
        (UnknownJobError("no job 7"), Status.NOT_FOUND, "404"),
        (TransientError("busy"), Status.UNAVAILABLE, "503"),
        (ConnectorError("of some kind"), Status.UNKNOWN, "500"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "function"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_kinds(operation, plain, error, status, code):
    service = Service(failing(lambda: error, plain=plain))
    with capture_logs() as logs, pytest.raises(GRPCError) as caught:
        await service.call(operation)
    assert (caught.value.status, caught.value.message) == (status, str(error))
    assert service.count(operation, code) == 1
    [line] = logs
    assert line["log_level"] == "warning"
    assert "exception" not in line


@pytest.mark.parametrize("operation", ["delete", "get_metrics", "get_logs"])
async def test_a_permanent_failure_of_what_does_not_end_a_task(operation):
    with pytest.raises(GRPCError) as caught:
        await Service(failing(lambda: PermanentFailure("no"))).call(operation)
    assert (caught.value.status, caught.value.message) == (Status.FAILED_PRECONDITION, "no")


async def test_an_error_with_a_cause_is_logged_with_it():
    async def get(self, **kwargs):
        raise UnknownJobError("no job 7") from KeyError("7")

    with capture_logs() as logs, pytest.raises(GRPCError):
        await Service(connector(get=get)).get()
    assert "KeyError: '7'" in logs[0]["exception"]


@pytest.mark.parametrize("metadata", [None, attempt()], ids=["without an id", "with an id"])
async def test_a_task_that_cannot_be_created(metadata):
    with capture_logs() as logs:
        service, meta = await failed_task(task_execution_metadata=metadata)
    assert [(line["event"], line["log_level"], line["error"]) for line in logs] == [("call failed", "warning", SPARK)]
    assert service.count("create", "400") == 1
    assert service.sample("permanent_failures_total", operation="create") == 1
    assert service.sample("client_errors_total", operation="create", error_code="400") == 0
    resource = (await service.get(resource_meta=meta)).resource
    assert (resource.phase, resource.message) == (Phase.FAILED, SPARK)


async def test_any_host_answers_for_it():
    _, meta = await failed_task()

    async def unreachable(self, **kwargs):
        raise AssertionError("there is no job to ask for")

    another = Service(connector(**dict.fromkeys(["get", "delete", "get_metrics", "get_logs"], unreachable)))
    assert (await another.get(resource_meta=meta)).resource.message == SPARK
    await another.delete(resource_meta=meta)
    await another.delete(resource_meta=meta)
    assert (await another.get_metrics(resource_meta=meta)).results == []
    [response] = await another.get_logs(resource_meta=meta)
    assert response.body.results == [SPARK]


async def test_a_failure_in_the_group_of_a_task_group():
    async def create(self, **kwargs):
        raise ExceptionGroup("tasks", [PermanentFailure("no")])

    service = Service(connector(create=create))
    meta = (await service.create()).resource_meta
    assert (await service.get(resource_meta=meta)).resource.message == "no"


async def test_it_holds_no_secret():
    service, meta = await failed_task("bad token {token}", connection=secrets(token="hunter2"))
    assert b"hunter2" not in meta
    assert (await service.get(resource_meta=meta)).resource.message == "bad token [secret token]"


async def test_it_is_short():
    service, meta = await failed_task("é" * 100_000)
    assert len(meta) < MAX_STATUS_MESSAGE_SIZE
    assert (await service.get(resource_meta=meta)).resource.message.endswith("[truncated: 100000 characters in all]")


@pytest.mark.parametrize("text", ["", "plain", "\n{}", "漢字", "no file \udcff"])
def test_round_trip(text):
    meta = encode_failure(text)
    assert is_failure(meta)
    assert failure_in(meta) == text.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize(
    "meta",
    [META, b"", b"connectrio", b"{}", b"\x80\x04", encode_failure("x")[1:], META + encode_failure("x")],
)
def test_what_connectors_encode_is_something_else(meta):
    assert not is_failure(meta)


async def test_a_connector_cannot_encode_it():
    class Fake(Job):
        def encode(self):
            return encode_failure("made up")

    async def create(self, **kwargs):
        return Fake("7")

    with pytest.raises(GRPCError, match="marks failed tasks; return other bytes: this prefix is reserved"):
        await Service(connector(Base, create=create)).create()


@pytest.mark.parametrize("retries", [1, 3])
async def test_it_is_not_remembered_as_a_job(retries):
    calls = []

    async def create(self, **kwargs):
        calls.append(1)
        raise PermanentFailure("no")

    service = Service(connector(create=create))
    for _ in range(retries):
        assert is_failure((await service.create(task_execution_metadata=attempt())).resource_meta)
    assert len(calls) == retries


# errors whose own code harms whoever describes them


class HostileError(Exception):
    def __str__(self):
        raise SystemExit(9)

    __repr__ = __str__


class HostileFailure(PermanentFailure):
    __str__ = HostileError.__str__


class HidingError(Exception):
    @property
    def __class__(self):
        raise SystemExit(9)


class OddStatusError(ConnectorError):
    status = "odd"


def nested():
    error = ValueError("innermost")
    for _ in range(5000):
        error = ExceptionGroup("g", [error, HostileError()])
    return error


HOSTILE = "(SystemExit in the error's own text)"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (HostileError, HOSTILE),
        (lambda: KeyError(HostileError()), f"KeyError: {HOSTILE}"),
        (lambda: ExceptionGroup("g", [HostileError(), ValueError("b")]), f"HostileError: {HOSTILE}; ValueError: b"),
        (nested, "ValueError: innermost; HostileError: " + HOSTILE),
        (HidingError, "describing it failed with SystemExit"),
        (lambda: OddStatusError("what"), "what"),
        (lambda: GRPCError(5, "what"), "GRPCError: (5, 'what', None)"),
        (lambda: GRPCError(Status.INTERNAL, HostileError()), HOSTILE),
        (lambda: ValueError("y" * 20_000_000), "y" * 1000),
    ],
    ids=["str", "inside", "in a group", "nested", "class", "status", "number", "message", "long"],
)
@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "function"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_error_that_is_hostile_costs_its_own_call(operation, plain, make, text):
    service = Service(failing(make, plain=plain))
    with capture_logs() as logs, pytest.raises(GRPCError) as caught:
        await service.call(operation)
    assert caught.value.status is Status.INTERNAL
    assert text in caught.value.message
    assert service.count(operation, "500") == 1
    [line] = [line for line in logs if line["event"] == "call failed"]
    assert line["log_level"] == "error"
    assert len(line["exception"]) < 70_000


async def test_many_errors_in_a_group_are_counted():
    group = ExceptionGroup("g", [ValueError(str(number)) for number in range(25)])
    with capture_logs(), pytest.raises(GRPCError) as caught:
        await Service(failing(lambda: group)).get()
    assert caught.value.message.endswith("; ValueError: 19; and 5 more.")


async def test_a_permanent_failure_without_a_text():
    async def create(self, **kwargs):
        raise HostileFailure

    service = Service(connector(create=create))
    with capture_logs():
        meta = (await service.create()).resource_meta
    assert failure_in(meta) == HOSTILE


@pytest.mark.parametrize("absorb", [0, 600])
async def test_a_failed_call_leaves_no_cycle(absorb):
    """What nobody needs is gone at once, not when the garbage collector runs."""
    service = Service(failing(lambda: ConnectionError("gone")), poll_absorb=absorb)
    with suppress(GRPCError):
        await service.get()
    gc.collect()
    gc.disable()
    try:
        with suppress(GRPCError):
            await service.get()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [each for each in gc.garbage if isinstance(each, CallRecord | ConnectionError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []
