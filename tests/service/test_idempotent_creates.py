"""A job is created once, whoever asks for it however often."""

from __future__ import annotations

import gc
import re
import threading
import time
import weakref
from contextlib import nullcontext, suppress
from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint
from grpclib import GRPCError
from grpclib.const import Status
from structlog.testing import capture_logs

from connectrio import Phase, Resource, TransientError, UnknownJobError, current_call
from connectrio.connector.context import (
    Start,
    pending_start,
    reset_current_call,
    set_creation,
    set_current_call,
)
from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import (
    Identifier,
    Literal,
    Primitive,
    Scalar,
    TaskTemplate,
    TypedInterface,
    Variable,
    VariableEntry,
    VariableMap,
)
from connectrio.idl.flyteidl2.task import Inputs, NamedLiteral
from connectrio.service.job_identity import identify
from connectrio.service.wanted_job import WantedJob
from connectrio.service.workers import Workers
from rpc.kit.virtual_time import in_virtual_time
from service.harness import Base, Gate, Job, Service, attempt, connector, secrets

ORIGINS = ("fresh", "joined", "replayed", "adopted")


class Vendor:
    """Another system. `create` waits until it is told to go on, if `gated`."""

    def __init__(self, *, gated: bool = False) -> None:
        self.jobs: list[str] = []
        self.keys: list[str | None] = []
        self.phase = Phase.RUNNING
        self.errors: list[BaseException] = []
        self.poll_errors: list[BaseException] = []
        self.begun = anyio.Event()
        self.go_on = anyio.Event()
        if not gated:
            self.go_on.set()

    def connector(self, **members):
        async def create(_self, **kwargs):
            self.keys.append(current_call().key)
            self.begun.set()
            await self.go_on.wait()
            if self.errors:
                raise self.errors.pop(0)
            self.jobs.append(str(len(self.jobs)))
            return Job(self.jobs[-1])

        async def get(_self, resource_meta, **kwargs):
            if self.poll_errors:
                raise self.poll_errors.pop(0)
            return Resource(self.phase)

        return connector(Base, **{"create": create, "get": get, **members})


def origins(service: Service) -> dict[str, float]:
    found = {origin: service.sample("creates_total", origin=origin) for origin in ORIGINS}
    return {origin: count for origin, count in found.items() if count}


async def settle() -> None:
    for _ in range(20):
        await checkpoint()


def inputs(**values: int) -> Inputs:
    return Inputs(
        literals=[
            NamedLiteral(name=name, value=Literal(scalar=Scalar(primitive=Primitive(integer=value))))
            for name, value in values.items()
        ]
    )


def template(*names: str, outputs: bool = False, **fields) -> TaskTemplate:
    from connectrio.idl.flyteidl2.core import LiteralType, SimpleType

    def declared(*names):
        number = Variable(type=LiteralType(simple=SimpleType.INTEGER))
        return VariableMap(variables=[VariableEntry(key=name, value=number) for name in names])

    interface = TypedInterface(inputs=declared(*names), outputs=declared(*(["o"] if outputs else [])))
    return TaskTemplate(type="tiny", interface=interface, **fields)


async def test_a_repeated_create_gets_the_same_answer():
    vendor = Vendor()
    service = Service(vendor.connector())
    first = await service.create(task_execution_metadata=attempt())
    assert await service.create(task_execution_metadata=attempt()) == first
    assert vendor.jobs == ["0"]
    assert origins(service) == {"fresh": 1, "replayed": 1}
    assert service.count("create") == 2


async def test_concurrent_creates_join_the_first():
    vendor = Vendor(gated=True)
    service = Service(vendor.connector())
    answers = []

    async def create():
        answers.append(await service.create(task_execution_metadata=attempt()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create)
        await vendor.begun.wait()
        tasks.start_soon(create)
        tasks.start_soon(create)
        await settle()
        vendor.go_on.set()
    assert [answer.resource_meta for answer in answers] == [Job("0").encode()] * 3
    assert vendor.jobs == ["0"]
    assert origins(service) == {"fresh": 1, "joined": 2}


async def test_without_a_task_execution_id_each_create_is_a_job():
    vendor = Vendor()
    service = Service(vendor.connector())
    for metadata in (None, None, attempt(node=""), attempt(node=""), attempt(execution=""), attempt(execution="")):
        await service.create(task_execution_metadata=metadata)
    assert len(vendor.jobs) == 6
    assert set(vendor.keys) == {None}
    assert origins(service) == {}


@pytest.mark.parametrize("waiting", [0, 1], ids=["nobody waits", "another waits"])
async def test_the_first_clients_end_is_not_the_jobs(waiting):
    vendor = Vendor(gated=True)
    service = Service(vendor.connector())
    answers = []

    async def join():
        answers.append(await service.create(task_execution_metadata=attempt()))

    async with anyio.create_task_group() as tasks:
        with capture_logs() as logs:
            async with anyio.create_task_group() as first:
                first.start_soon(partial(service.create, task_execution_metadata=attempt()))
                await vendor.begun.wait()
                for _ in range(waiting):
                    tasks.start_soon(join)
                await settle()
                first.cancel_scope.cancel()
                await anyio.lowlevel.cancel_shielded_checkpoint()
                vendor.go_on.set()
        event = (
            "a job was created that nobody waits for any more; unless a retry takes it, delete it in the other system"
        )
        warned = [line for line in logs if line["event"] == event]
        assert {line["task_type"] for line in warned} <= {"tiny"}
        assert [line["key"] for line in warned] == ([] if waiting else vendor.keys)
        [job] = service.servicer.account.jobs
        orphans = service.sample("orphaned_jobs")
        report = job.report(service.servicer.account.clock(), 0.0)
        if waiting:
            assert (report.orphaned, report.error, orphans) == (None, "", 0)
        else:
            [line] = warned
            assert (line["execution"], line["node"], line["attempt"]) == ("run", "n0", 0)
            assert line["job"] == report.job
            assert report.error.startswith("created for a client that had gone, and nobody has asked for it since;")
            assert (report.orphaned is not None, report.trouble, orphans) == (True, 2, 1)
    await join()
    assert [job.orphaned for job in service.servicer.account.jobs] == [None]
    assert vendor.jobs == ["0"]
    assert [answer.resource_meta for answer in answers] == [Job("0").encode()] * (waiting + 1)
    assert service.count("create", "499") == 1


async def test_one_who_joined_may_leave():
    vendor = Vendor(gated=True)
    service = Service(vendor.connector())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(service.create, task_execution_metadata=attempt()))
        await vendor.begun.wait()
        with anyio.move_on_after(0.01) as scope:
            await service.create(task_execution_metadata=attempt())
        assert scope.cancelled_caught
        vendor.go_on.set()
    assert vendor.jobs == ["0"]


def blocking(gate: Gate, created: list[str]):
    """A connector whose `create` is a plain function that waits in its thread."""

    def create(_self, **kwargs):
        gate.pass_through()
        created.append(current_call().key or "")
        return Job(str(len(created)))

    return connector(Base, create=create)


async def test_who_joins_keeps_its_inputs_until_the_connectors_code_has_begun(gate):
    """It may have to take the place of the first. Repeats of a large request may be many, and `create` slow."""
    seen, answers, parts = [], [], []
    busy = Gate()

    def create(_self, task_template, inputs, **kwargs):
        (gate if inputs else busy).pass_through()
        seen.append((task_template.id and task_template.id.name, inputs))
        return Job(str(len(seen)))

    service = Service(connector(Base, create=create), worker=1)

    async def ask():
        sent = CreateTaskRequest(
            template=template("x", id=Identifier(name="large")),
            inputs=inputs(x=7),
            task_execution_metadata=attempt(),
        )
        parts.extend(map(weakref.ref, (sent.template, sent.inputs)))
        answers.append(await service.servicer.create_task(sent))

    def kept() -> list[bool]:
        gc.collect()
        return [part() is not None for part in parts]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(service.create, task_execution_metadata=attempt(node="first")))
        await busy.wait_entered()
        async with anyio.create_task_group() as first:
            first.start_soon(ask)
            await settle()
            tasks.start_soon(ask)
            tasks.start_soon(ask)
            await settle()
            assert kept()[2:] == [True] * 4
            first.cancel_scope.cancel()
        busy.open()
        await gate.wait_entered()
        await settle()
        tasks.start_soon(ask)
        await settle()
        # the one that has taken over has given the connector its template
        assert sum(kept()) == 1
        gate.open()
    assert seen[1:] == [("large", {"x": 7})]
    assert [answer.resource_meta for answer in answers] == [Job("2").encode()] * 3


async def test_a_create_that_waits_for_a_thread_is_dropped_with_its_client(gate):
    created = []
    service = Service(blocking(gate, created), worker=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(service.create, task_execution_metadata=attempt(node="first")))
        await gate.wait_entered()
        async with anyio.create_task_group() as second:
            second.start_soon(partial(service.create, task_execution_metadata=attempt()))
            await settle()
            second.cancel_scope.cancel()
        gate.open()
    assert len(created) == 1
    assert len(service.creates) == 1
    await service.create(task_execution_metadata=attempt())
    assert len(created) == 2
    assert origins(service)["fresh"] == 3


async def test_who_joined_a_create_that_is_dropped_takes_its_place(gate):
    created, answers = [], []
    service = Service(blocking(gate, created), worker=1)

    async def join():
        answers.append(await service.create(task_execution_metadata=attempt()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(service.create, task_execution_metadata=attempt(node="first")))
        await gate.wait_entered()
        async with anyio.create_task_group() as second:
            second.start_soon(partial(service.create, task_execution_metadata=attempt()))
            await settle()
            tasks.start_soon(join)
            tasks.start_soon(join)
            await settle()
            second.cancel_scope.cancel()
        gate.open()
    assert [answer.resource_meta for answer in answers] == [Job("2").encode()] * 2
    assert len(created) == 2
    assert origins(service)["joined"] == 1


async def test_a_create_whose_thread_has_begun_is_not_dropped(gate):
    created = []
    service = Service(blocking(gate, created))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(service.create, task_execution_metadata=attempt()))
        await gate.wait_entered()
        tasks.cancel_scope.cancel()
        tasks.start_soon(anyio.lowlevel.cancel_shielded_checkpoint)
        gate.open()
    assert len(created) == 1
    answer = await service.create(task_execution_metadata=attempt())
    assert (answer.resource_meta, len(created)) == (Job("1").encode(), 1)


@pytest.mark.parametrize(
    ("usual", "left", "in_time"), [(0.0, 5.0, True), (4.0, 5.0, True), (6.0, 5.0, False), (16.0, 5.0, True)]
)
async def test_a_create_that_waited_too_long_does_not_begin(usual, left, in_time):
    """It has waited for ten seconds. The last one would have been too long without any wait, so it may try."""
    ran = []
    start = Start(anyio.CancelScope(), lambda: usual, arrived=time.monotonic() - 10)
    current = set_current_call("", {}, time.monotonic() + left)
    token = set_creation("key", start)
    workers = Workers(1)
    try:
        with nullcontext() if in_time else pytest.raises(TransientError, match="could not be created before"):
            await workers.run(partial(ran.append, 1), name="Tiny.create")
    finally:
        reset_current_call(token)
        reset_current_call(current)
    assert (len(ran), start.scope.shield, workers.busy) == (int(in_time), in_time, 0)


async def test_the_host_learns_how_long_a_create_takes():
    took = []

    async def create(_self, **kwargs):
        await anyio.sleep(0.01)
        took.append(pending_start().usual())
        return Job("7")

    service = Service(connector(Base, create=create))
    for node in "ab":
        await service.create(task_execution_metadata=attempt(node=node))
    assert took[0] == 0.0
    assert took[1] > 0.01


async def test_failures_are_not_replayed():
    vendor = Vendor(gated=True)
    vendor.errors = [ValueError("boom")]
    service = Service(vendor.connector())
    errors = []

    async def fail():
        with pytest.raises(GRPCError, match="boom") as caught:
            await service.create(task_execution_metadata=attempt())
        errors.append(caught.value.status)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail)
        await vendor.begun.wait()
        tasks.start_soon(fail)
        await settle()
        vendor.go_on.set()
    assert errors == [Status.INTERNAL] * 2
    assert (await service.create(task_execution_metadata=attempt())).resource_meta == Job("0").encode()


async def test_the_hosts_limit_ends_the_create_and_those_who_joined():
    vendor = Vendor(gated=True)
    service = Service(vendor.connector(), create_limit=0.05)
    statuses, messages = [], []

    async def create():
        with pytest.raises(GRPCError) as caught:
            await service.create(task_execution_metadata=attempt())
        statuses.append(caught.value.status)
        messages.append(caught.value.message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create)
        await vendor.begun.wait()
        tasks.start_soon(create)
    assert all("create_limit" in message and "shutting down" not in message for message in messages)
    assert sorted(status.name for status in statuses) in (
        ["DEADLINE_EXCEEDED", "UNAVAILABLE"],
        ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"],
    )
    vendor.go_on.set()
    assert (await service.create(task_execution_metadata=attempt())).resource_meta == Job("0").encode()


async def test_the_end_of_the_host_ends_creates_that_nobody_waits_for():
    vendor = Vendor(gated=True)
    service = Service(vendor.connector())
    creates = service.creates
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(service.create, task_execution_metadata=attempt()))
            await vendor.begun.wait()
            tasks.cancel_scope.cancel()
            creates.end_by(anyio.current_time())
    assert len(creates) == 0


async def test_the_end_of_the_host_for_those_who_wait():
    service = Service(Vendor(gated=True).connector())
    creates = service.creates
    creates.end_by(anyio.current_time())
    with pytest.raises(GRPCError, match=r"the host is shutting down, .* \(grace\) has passed before") as caught:
        await service.create(task_execution_metadata=attempt())
    assert caught.value.status is Status.UNAVAILABLE


# which requests ask for the same job


async def keys_of(*requests) -> list[str]:
    vendor = Vendor()
    service = Service(vendor.connector())
    for request in requests:
        await service.create(**{"task_execution_metadata": attempt(), **request})
    return vendor.keys


@pytest.mark.parametrize("errors", [[], [ValueError("no")]], ids=["created", "failed"])
async def test_a_key_is_of_its_create_alone(errors):
    vendor = Vendor()
    vendor.errors = errors
    service = Service(vendor.connector())
    with suppress(GRPCError):
        await service.create(task_execution_metadata=attempt())
    assert vendor.keys != [None]
    assert current_call().key is None


async def test_a_key_can_be_a_vendors_job_id():
    [key] = await keys_of({})
    assert re.fullmatch("cr-[0-9a-f]{40}", key)


async def test_a_key_is_the_same_on_every_host():
    [recorded] = await keys_of(
        {"template": template("a", "b"), "inputs": inputs(a=1, b=2), "output_prefix": "s3://bucket/run/n0/0"}
    )
    assert recorded == "cr-0bd4dfb8869910a0822171525c3039191cf66a6b"


@pytest.mark.parametrize(
    "other",
    [
        {"inputs": inputs(b=2, a=1)},
        {"connection": secrets(token="rotated")},
        {"template": template("b", "a")},
    ],
    ids=["inputs in another order", "another secret", "the interface in another order"],
)
async def test_what_does_not_matter(other):
    base = {"template": template("a", "b"), "inputs": inputs(a=1, b=2), "connection": secrets(token="first")}
    assert len(await keys_of(base, base | other)) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"task_execution_metadata": attempt(1)},
        {"task_execution_metadata": attempt(node="n1")},
        {"task_execution_metadata": attempt(execution="another")},
        {"inputs": inputs(a=2)},
        {"output_prefix": "s3://another"},
        {"template": template("a", config={"another": "config"})},
        {"template": template("a", outputs=True)},
    ],
    ids=["attempt", "node", "execution", "inputs", "prefix", "template", "outputs"],
)
async def test_what_makes_another_job(other):
    base = {"template": template("a", outputs=False), "inputs": inputs(a=1)}

    async def adopts_nothing(self, resource_meta, **kwargs):
        return Resource(Phase.FAILED)

    vendor = Vendor()
    service = Service(vendor.connector(get=adopts_nothing))
    for request in (base, base | other, base, base | other):
        await service.create(**{"task_execution_metadata": attempt(), **request})
    assert len(vendor.jobs) == len(set(vendor.keys)) == 2


async def test_a_key_is_only_for_create():
    keys = []

    async def get(self, resource_meta, **kwargs):
        keys.append(current_call().key)
        return Resource(Phase.RUNNING)

    await Service(connector(get=get)).get()
    assert keys == [None]


@pytest.mark.parametrize("plain", [False, True])
async def test_a_plain_method_has_the_key_too(plain):
    keys = []

    def create(self, **kwargs):
        keys.append(current_call().key)
        return Job("1")

    await Service(connector(create=create)).create(task_execution_metadata=attempt())
    assert keys[0].startswith("cr-")


# lost answers


def restarted(number: int, **fields):
    """The request for an attempt, whose outputs go to a place of its own."""
    return {"task_execution_metadata": attempt(number), "output_prefix": f"s3://bucket/{number}", **fields}


@pytest.mark.parametrize("adopts", [False, True])
@pytest.mark.parametrize("outputs", [False, True])
async def test_the_next_attempt_gets_the_job_whose_answer_was_lost(adopts, outputs):
    """Unless it was to write its outputs where the earlier attempt's are expected."""
    vendor = Vendor()
    service = Service(vendor.connector(adopts_lost_jobs=adopts))
    first = await service.create(**restarted(0, template=template(outputs=outputs)))
    second = await service.create(**restarted(1, template=template(outputs=outputs)))
    again = await service.create(**restarted(1, template=template(outputs=outputs)))
    assert (second == first) is (adopts or not outputs)
    assert second == again
    adopted = {"fresh": 1, "adopted": 1, "replayed": 1} if adopts or not outputs else {"fresh": 2, "replayed": 1}
    assert origins(service) == adopted


@pytest.mark.parametrize("operation", ["get", "delete"])
async def test_a_job_that_was_asked_for_is_not_lost(operation):
    vendor = Vendor()
    service = Service(vendor.connector())
    first = await service.create(**restarted(0))
    await service.call(operation, resource_meta=first.resource_meta)
    assert await service.create(**restarted(1)) != first


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.RETRYABLE_FAILED, Phase.ABORTED])
async def test_a_job_that_has_failed_is_no_good(phase):
    vendor = Vendor()
    vendor.phase = phase
    service = Service(vendor.connector())
    first = await service.create(**restarted(0))
    assert await service.create(**restarted(1)) != first


async def test_a_job_that_is_not_there_any_more_is_no_good():
    vendor = Vendor()
    service = Service(vendor.connector())
    first = await service.create(**restarted(0))
    vendor.poll_errors = [UnknownJobError("gone")]
    assert await service.create(**restarted(1)) != first


async def test_a_job_that_cannot_be_asked_for_just_now_will_do():
    vendor = Vendor()
    service = Service(vendor.connector())
    first = await service.create(**restarted(0))
    vendor.poll_errors = [ConnectionResetError("reset")]
    assert await service.create(**restarted(1)) == first


async def test_the_next_attempt_waits_for_a_create_that_still_goes_on():
    """Its client had waited for ten seconds, and given up."""
    vendor = Vendor(gated=True)
    service = Service(vendor.connector())
    answers = []

    async def later():
        answers.append(await service.create(**restarted(1)))

    async with anyio.create_task_group() as tasks, anyio.create_task_group() as first:
        first.start_soon(partial(service.create, **restarted(0)))
        await vendor.begun.wait()
        first.cancel_scope.cancel()
        tasks.start_soon(later)
        with anyio.CancelScope(shield=True):
            await settle()
        vendor.go_on.set()
    assert vendor.jobs == ["0"]
    assert origins(service) == {"fresh": 1, "adopted": 1}


@in_virtual_time
async def test_a_job_that_hangs_when_it_is_asked_for_will_do():
    async def get(self, resource_meta, **kwargs):
        await anyio.sleep_forever()

    vendor = Vendor()
    service = Service(vendor.connector(get=get))
    first = await service.create(**restarted(0))
    with anyio.fail_after(10):
        assert await service.create(**restarted(1)) == first


@in_virtual_time
async def test_an_attempt_that_failed_meanwhile_does_not_hide_the_one_before():
    """The third attempt waits for the second, which fails, and takes over the first one's job."""
    vendor = Vendor()
    service = Service(vendor.connector(), create_limit=60)
    first = await service.create(**restarted(0))
    creates = service.creates
    [earlier] = creates._records.values()
    blocked = anyio.Event()

    async def is_alive(resource_meta):
        blocked.set()
        await anyio.sleep_forever()

    answers = []

    async def second():
        wanted = WantedJob(
            identify(request(1)),
            "tiny",
            vendor_create,
            True,
            False,
            False,
            is_alive,
            0.2,
            lambda origin: None,
            lambda meta: None,
            lambda: None,
        )
        with pytest.raises(GRPCError):
            await creates.once(wanted)

    async def vendor_create():
        raise AssertionError("nothing is to be created")

    async def third():
        answers.append(await service.create(**restarted(2)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        await blocked.wait()
        tasks.start_soon(third)
    assert answers == [first]
    assert earlier.asked_for
    assert vendor.jobs == ["0"]


def request(number: int) -> CreateTaskRequest:
    return CreateTaskRequest(template=TaskTemplate(type="tiny"), **restarted(number))


async def test_an_earlier_attempt_never_gets_a_later_ones_job():
    vendor = Vendor()
    service = Service(vendor.connector())
    await service.create(**restarted(1))
    await service.create(**restarted(0))
    assert len(vendor.jobs) == 2


async def test_a_failed_attempt_does_not_hide_the_one_before():
    vendor = Vendor()
    service = Service(vendor.connector())
    first = await service.create(**restarted(0, template=template(outputs=True)))
    vendor.errors = [ValueError("boom")]
    with pytest.raises(GRPCError):
        await service.create(**restarted(1, template=template(outputs=True)))
    assert first.resource_meta == Job("0").encode()
    assert len(await_records(service)) == 1


def await_records(service: Service):
    return service.creates._latest


# bounds


async def test_the_oldest_are_forgotten():
    vendor = Vendor()
    service = Service(vendor.connector(), create_memory_size=2)
    creates = service.creates
    for number in range(4):
        await service.create(task_execution_metadata=attempt(execution=str(number)))
    assert len(creates) == 2
    assert len(creates._latest) == len(creates._unasked) == 2
    await service.create(task_execution_metadata=attempt(execution="3"))
    await service.create(task_execution_metadata=attempt(execution="0"))
    assert len(vendor.jobs) == 5


async def test_age():
    vendor = Vendor()
    service = Service(vendor.connector(), create_memory=0.02)
    creates = service.creates
    await service.create(task_execution_metadata=attempt())
    await anyio.sleep(0.03)
    await service.create(task_execution_metadata=attempt())
    assert len(vendor.jobs) == 2
    assert len(creates) == 1


async def test_nothing_is_remembered_with_age_0():
    vendor = Vendor()
    service = Service(vendor.connector(), create_memory=0)
    creates = service.creates
    for _ in range(2):
        await service.create(task_execution_metadata=attempt())
    assert len(vendor.jobs) == 2
    assert len(creates) == len(creates._latest) == len(creates._unasked) == 0


async def test_what_is_being_created_is_not_forgotten():
    """A second job would be made of it; instead, the oldest that is finished goes."""
    vendor = Vendor(gated=True)
    service = Service(vendor.connector(), create_memory_size=1)
    answers = []

    async def create(execution):
        answers.append(await service.create(task_execution_metadata=attempt(execution=execution)))

    async with anyio.create_task_group() as tasks:
        for execution in ("0", "1", "2", "0"):
            tasks.start_soon(create, execution)
            await settle()
        vendor.go_on.set()
    assert len(vendor.jobs) == 3
    assert len({answer.resource_meta for answer in answers}) == 3
    assert len(service.creates) == 3
    await create("3")
    assert len(service.creates) == len(service.creates._unasked) == 1


async def test_few_bytes_are_remembered():
    sizes = iter([400, 300, 500, 1001, 200])

    async def create(self, **kwargs):
        size = next(sizes)
        return Job("x" * (size - len(Job("").encode())))

    service = Service(connector(create=create), create_memory_bytes=1000)
    creates = service.creates
    kept = []
    for number in range(5):
        await service.create(task_execution_metadata=attempt(execution=str(number)))
        kept.append([len(record.meta) for record in creates._records.values()])
    # the oldest makes room; what is larger than all that may be kept moves nothing
    assert kept == [[400], [400, 300], [300, 500], [300, 500], [300, 500, 200]]
    assert len(creates._latest) == len(creates._unasked) == 3


# connectors whose create can be repeated


@in_virtual_time
async def test_a_create_that_is_idempotent_is_tried_again_under_the_same_key():
    vendor = Vendor()
    vendor.errors = [ConnectionResetError("reset"), TransientError("busy")]
    service = Service(vendor.connector(create_is_idempotent=True), poll_retry=5)
    await service.create(task_execution_metadata=attempt())
    assert len(vendor.keys) == 3
    assert len(set(vendor.keys)) == 1
    assert service.sample("create_retries_total", kind="connection") == 1
    assert service.sample("create_retries_total", kind="unavailable") == 1
    assert service.sample("poll_retries_total", kind="connection") == 0


async def test_others_are_not():
    vendor = Vendor()
    vendor.errors = [ConnectionResetError("reset")]
    service = Service(vendor.connector(), poll_retry=5)
    with pytest.raises(GRPCError, match="reset"):
        await service.create(task_execution_metadata=attempt())
    assert len(vendor.keys) == 1


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "thread"])
async def test_where_a_create_was_when_its_time_was_up(plain):
    released = threading.Event()

    async def create(self, **kwargs):
        await anyio.sleep_forever()

    def create_in_a_thread(self, **kwargs):
        released.wait()

    async def place_after(limit: float) -> str:
        service = Service(Vendor().connector(create=function, __module__=__name__), create_limit=limit)
        with pytest.raises(GRPCError):
            await service.create(task_execution_metadata=attempt())
        released.set()
        await service.servicer.workers.wait_idle()
        released.clear()
        [failure] = service.servicer.account.failures()
        return failure.place

    function = create_in_a_thread if plain else create
    limit = 0.05
    while not (place := await place_after(limit)).startswith(__file__):
        limit *= 2  # a busy machine had not called it by then
    assert place == f"{__file__}:{function.__code__.co_firstlineno + 1} in {function.__qualname__}"
