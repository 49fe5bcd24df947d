"""Polls that fail: tried again, absorbed for a while, and only then let out."""

from __future__ import annotations

import math

import anyio
import pytest
from grpclib import GRPCError
from grpclib.const import Status
from multidict import MultiDict
from structlog.testing import capture_logs

from connectrio import ConnectorPolicy, PermanentFailure, Phase, Resource, TaskLog, TransientError
from connectrio.rpc.call import Call, Deadline, set_current_call
from rpc.kit.virtual_time import in_virtual_time
from service.harness import META, Job, Service, connector, secrets

LINK = TaskLog(name="console", uri="https://example.com/7")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Script:
    """A `get` that returns or raises what it is given, the last one for ever."""

    def __init__(self, *steps) -> None:
        self.steps = list(steps)
        self.calls = 0

    def connector(self, **members):
        async def get(_self, resource_meta, **kwargs):
            self.calls += 1
            step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
            if isinstance(step, BaseException):
                raise step
            return step

        return connector(get=get, **members)


def reset() -> ConnectionResetError:
    return ConnectionResetError("reset by peer")


@in_virtual_time
async def test_a_transient_error_is_tried_again():
    script = Script(reset(), TimeoutError("slow"), Resource(Phase.RUNNING))
    service = Service(script.connector(), poll_retry=4, poll_absorb=600)
    assert (await service.get()).resource.phase is Phase.RUNNING
    assert script.calls == 3
    assert service.sample("poll_retries_total", kind="connection") == 1
    assert service.sample("poll_retries_total", kind="timeout") == 1
    assert service.sample("absorbed_polls_total") == 0
    assert service.count("get") == 1


@in_virtual_time
async def test_the_pause_is_the_one_that_the_vendor_asks_for():
    script = Script(TransientError("busy", retry_after=3), Resource(Phase.RUNNING))
    service = Service(script.connector(), poll_retry=4, poll_absorb=600)
    began = anyio.current_time()
    assert "could not be read" not in (await service.get()).resource.message
    assert anyio.current_time() - began == pytest.approx(3)


@in_virtual_time
@pytest.mark.parametrize(("retry", "timeout"), [(4, None), (60, 10)])
async def test_a_vendor_that_asks_for_more_time_than_there_is_is_not_asked_again(retry, timeout):
    """Neither the time for retries, nor half of the client's time, has room for the pause."""
    script = Script(TransientError("busy", retry_after=5.5), Resource(Phase.RUNNING))
    service = Service(script.connector(), poll_retry=retry, poll_absorb=600)
    began = anyio.current_time()
    with anyio.CancelScope(deadline=began + (timeout or math.inf)):
        message = (await service.get()).resource.message
    assert "the job's state could not be read" in message
    assert (script.calls, anyio.current_time()) == (1, began)


@in_virtual_time
async def test_then_the_last_phase_is_the_answer():
    script = Script(Resource(Phase.QUEUED, log_links=[LINK]), reset())
    clock = Clock()
    service = Service(script.connector(), poll_retry=1, poll_absorb=600, clock=clock)
    await service.get()
    clock.now += 30
    with capture_logs() as logs:
        resource = (await service.get()).resource
    assert resource.phase is Phase.QUEUED
    assert resource.log_links == [LINK]
    assert resource.message == (
        "QUEUED, as of 30 s ago: the job's state could not be read, which will be tried again."
        " failed to get tiny task with error:\n reset by peer."
    )
    assert service.sample("absorbed_polls_total") == 1
    assert (service.count("get"), service.count("get", "500")) == (1, 1)
    assert service.sample("client_errors_total", operation="get", error_code="500") == 0
    begun, line = logs
    assert (begun["event"], begun["log_level"]) == ("an incident began: the other system fails", "warning")
    assert (begun["error"], begun["kind"]) == ("failed to get tiny task with error:\n reset by peer.", "connection")
    # that is told once; each poll only to who wants to know all
    assert (line["event"], line["log_level"]) == ("poll failed, answered with the last known phase", "debug")
    assert (line["kept_back"], line["task_type"]) == ("INTERNAL", "tiny")


@in_virtual_time
async def test_an_absorbed_poll_leaves_the_name_of_a_job_that_was_created_elsewhere():
    """Its output prefix: all that polls tell of the task."""
    script = Script(Resource(Phase.RUNNING), reset())
    service = Service(script.connector(), poll_retry=0, poll_absorb=600)
    for _ in range(2):
        await service.get(output_prefix="s3://bucket/f7/n0")
        (job,) = service.servicer.account.jobs
        assert job.task.output_prefix == "s3://bucket/f7/n0"


@in_virtual_time
async def test_only_for_a_while():
    script = Script(Resource(Phase.RUNNING), reset())
    clock = Clock()
    service = Service(script.connector(), poll_retry=1, poll_absorb=60, clock=clock)
    await service.get()
    for _ in range(2):
        clock.now += 30
        assert (await service.get()).resource.phase is Phase.RUNNING
    clock.now += 30
    for _ in range(2):
        with pytest.raises(GRPCError, match="reset by peer"):
            await service.get()
        clock.now += 30
    # an answer starts the time anew
    script.steps = [Resource(Phase.RUNNING), reset()]
    await service.get()
    assert (await service.get()).resource.phase is Phase.RUNNING


@in_virtual_time
async def test_a_job_that_this_host_knows_nothing_of_is_running():
    service = Service(Script(reset()).connector(), poll_retry=0, poll_absorb=600)
    resource = (await service.get()).resource
    assert resource.phase is Phase.RUNNING
    assert resource.message.startswith("RUNNING, not seen by this host yet: ")


@in_virtual_time
async def test_a_final_phase_is_not_made_up():
    """Its outputs are not known any more."""
    script = Script(Resource(Phase.QUEUED), Resource(Phase.SUCCEEDED, outputs={"n": 1}), reset())
    service = Service(script.connector(), poll_retry=0, poll_absorb=600)
    for phase in (Phase.QUEUED, Phase.SUCCEEDED, Phase.RUNNING):
        assert (await service.get()).resource.phase is phase


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), KeyError("x"), GRPCError(Status.NOT_FOUND, "gone"), SystemExit(3)],
    ids=lambda error: type(error).__name__,
)
async def test_other_errors_come_out_at_once(error):
    script = Script(error)
    service = Service(script.connector(), poll_retry=4, poll_absorb=600)
    with pytest.raises(GRPCError):
        await service.get()
    assert script.calls == 1


@in_virtual_time
async def test_the_author_says_what_is_transient():
    def is_transient(self, error):
        return "again" in str(error)

    service = Service(Script(KeyError("again")).connector(is_transient=is_transient), poll_retry=1, poll_absorb=600)
    assert (await service.get()).resource.phase is Phase.RUNNING
    service = Service(Script(reset()).connector(is_transient=is_transient), poll_retry=1, poll_absorb=600)
    with pytest.raises(GRPCError, match="reset"):
        await service.get()


class JobIsBusyError(Exception):
    """Of a vendor's client, which nobody but the operator knows."""


@in_virtual_time
async def test_the_operator_names_what_is_transient():
    error = RuntimeError("polling failed")
    error.__cause__ = JobIsBusyError("in a transaction")
    options = [f"tiny.transient=409,{JobIsBusyError.__module__}.JobIsBusyError"]
    script = Script(error, Resource(Phase.RUNNING), error)
    service = Service(script.connector(), poll_retry=1, poll_absorb=600, connector_options=options)
    assert (await service.get()).resource.message == ""
    assert script.calls == 2
    assert "could not be read" in (await service.get()).resource.message
    assert service.sample("vendor_errors_total", operation="get", kind="other") == 1
    # the connector's own word counts as before
    script.steps = [reset()]
    assert "could not be read" in (await service.get()).resource.message
    script.steps = [ValueError("a bug")]
    with pytest.raises(GRPCError, match="a bug"):
        await service.get()


@in_virtual_time
async def test_the_author_names_what_is_transient():
    policy = ConnectorPolicy(transient=(f"{__name__.partition('.')[0]}.JobIsBusyError",))
    service = Service(Script(JobIsBusyError()).connector(policy=policy), poll_retry=0, poll_absorb=600)
    assert "could not be read" in (await service.get()).resource.message


class UnreadableJob(Job):
    """The meta of a job that another connector has created; to read it fails like a connection."""

    @classmethod
    def decode(cls, data):
        raise ConnectionResetError("reset by peer")


@in_virtual_time
async def test_a_request_that_is_wrong_is_not_transient_whatever_it_was_raised_from():
    retried = []
    service = Service(Script(reset()).connector(metadata_type=UnreadableJob), poll_retry=4, poll_absorb=600)
    service.servicer.metrics.retried = lambda *arguments: retried.append(arguments)
    with pytest.raises(GRPCError, match="was not made by this connector"):
        await service.get()
    assert not retried


async def test_an_author_who_says_it_wrong():
    def is_transient(self, error):
        raise LookupError("oops")

    service = Service(Script(reset()).connector(is_transient=is_transient), poll_retry=1, poll_absorb=600)
    with capture_logs() as logs, pytest.raises(GRPCError, match="reset"):
        await service.get()
    assert "is_transient failed; the error counts as lasting" in [line["event"] for line in logs]


@in_virtual_time
async def test_a_transient_error_in_the_group_of_a_task_group():
    service = Service(Script(ExceptionGroup("tasks", [reset()])).connector(), poll_retry=0, poll_absorb=600)
    assert (await service.get()).resource.phase is Phase.RUNNING


@in_virtual_time
async def test_a_poll_that_hangs_is_answered_before_the_clients_deadline():
    async def get(self, resource_meta, **kwargs):
        await anyio.sleep_forever()

    service = Service(connector(get=get), poll_retry=4, poll_absorb=600)
    deadline = Deadline.from_timeout(10)
    set_current_call(Call("/x", MultiDict(), deadline=deadline))
    with anyio.CancelScope(deadline=deadline.at):
        resource = (await service.get()).resource
    assert resource.phase is Phase.RUNNING
    assert "stopped after 9 s, to have an answer before the client's deadline" in resource.message
    assert 0.9 < deadline.time_remaining() < 1.1


@in_virtual_time
@pytest.mark.parametrize(
    ("absorb", "timeout", "stopped_after"),
    [(600, 30, 29), (600, 10, 9), (600, 2, 1.8), (600, 0.5, 0.45), (600, 0.01, 0.009), (0, 10, None)],
)
async def test_a_poll_that_hangs_is_given_up_early_enough_for_an_answer(absorb, timeout, stopped_after):
    """However short the client's deadline is; but not if there is no answer, because nothing is absorbed."""

    async def get(self, resource_meta, **kwargs):
        await anyio.sleep_forever()

    service = Service(connector(get=get), poll_retry=4, poll_absorb=absorb)
    began = anyio.current_time()
    deadline = Deadline.from_timeout(timeout)
    set_current_call(Call("/x", MultiDict(), deadline=deadline))
    with anyio.CancelScope(deadline=deadline.at) as scope:
        await service.get()
    assert scope.cancelled_caught is (stopped_after is None)
    assert anyio.current_time() - began == pytest.approx(timeout if stopped_after is None else stopped_after)


@in_virtual_time
@pytest.mark.parametrize("operation", ["create", "delete", "get_metrics", "get_logs"])
async def test_nothing_but_a_poll_is_answered_before_the_clients_deadline(operation):
    async def hang(self, **kwargs):
        await anyio.sleep_forever()

    service = Service(connector(**{operation: hang}), poll_retry=4, poll_absorb=600)
    deadline = Deadline.from_timeout(10)
    set_current_call(Call("/x", MultiDict(), deadline=deadline))
    with anyio.CancelScope(deadline=deadline.at) as scope:
        await service.call(operation)
    assert scope.cancelled_caught


@in_virtual_time
async def test_a_poll_without_a_deadline_waits_for_the_connector():
    async def get(self, resource_meta, **kwargs):
        await anyio.sleep(3600)
        return Resource(Phase.QUEUED)

    service = Service(connector(get=get), get_limit=math.inf, poll_retry=4, poll_absorb=600)
    set_current_call(Call("/x", MultiDict()))
    assert (await service.get()).resource.phase is Phase.QUEUED


@in_virtual_time
async def test_retries_leave_time_for_the_answer():
    script = Script(reset())
    service = Service(script.connector(), poll_retry=60, poll_absorb=600)
    deadline = Deadline.from_timeout(10)
    set_current_call(Call("/x", MultiDict(), deadline=deadline))
    assert (await service.get()).resource.phase is Phase.RUNNING
    assert deadline.time_remaining() > 5
    assert script.calls > 3


@in_virtual_time
async def test_the_hosts_own_limit_is_absorbed():
    async def get(self, resource_meta, **kwargs):
        await anyio.sleep_forever()

    service = Service(connector(get=get), get_limit=5, poll_retry=4, poll_absorb=600)
    assert "this host's own limit for get" in (await service.get()).resource.message


@in_virtual_time
async def test_a_host_that_is_too_busy():
    async def get(self, resource_meta, **kwargs):
        await anyio.sleep(5)
        return Resource(Phase.QUEUED)

    service = Service(connector(get=get), poll_retry=0, poll_absorb=600, max_calls=1, max_waiting_calls=0)
    answers = []

    async def poll():
        answers.append((await service.get()).resource)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poll)
        tasks.start_soon(poll)
    assert sorted(answer.phase.name for answer in answers) == ["QUEUED", "RUNNING"]
    assert service.sample("absorbed_polls_total") == 1


async def test_nothing_is_absorbed_with_0():
    service = Service(Script(Resource(Phase.RUNNING), reset()).connector(), poll_retry=0, poll_absorb=0)
    await service.get()
    with pytest.raises(GRPCError, match="reset"):
        await service.get()
    assert service.sample("client_errors_total", operation="get", error_code="500") == 1


async def test_jobs_are_told_apart():
    service = Service(Script(Resource(Phase.QUEUED)).connector(), poll_absorb=600)
    await service.get()
    await service.get()
    assert len(service.servicer.account.jobs) == 1
    await service.get(resource_meta=b'{"id": "8"}')
    assert len(service.servicer.account.jobs) == 2


@pytest.mark.parametrize(
    ("links", "kept"),
    [
        ([LINK] * 21, 20),
        ([TaskLog(name="n" * 1000, uri="u" * 1000)] * 3, 2),
        ([TaskLog(uri="u" * 4097)], 0),
    ],
)
async def test_few_links_are_kept_of_each_job(links, kept):
    service = Service(Script(Resource(Phase.QUEUED, log_links=links), reset()).connector(), poll_absorb=600)
    assert len((await service.get()).resource.log_links) == len(links)
    assert len((await service.get()).resource.log_links) == kept


async def test_no_secret_is_in_an_absorbed_message():
    async def get(self, resource_meta, **kwargs):
        raise ConnectionError(f"401 for {kwargs['token']}")

    service = Service(connector(get=get), poll_retry=0, poll_absorb=600)
    with capture_logs() as logs:
        resource = (await service.get(connection=secrets(token="hunter2"))).resource
    assert "[secret token]" in resource.message
    assert "hunter2" not in str(logs) + repr(resource)


# log links


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.INITIALIZING, Phase.WAITING_FOR_RESOURCES, Phase.RUNNING])
async def test_links_go_out_with_the_first_poll(phase):
    service = Service(Script(Resource(phase, log_links=[LINK])).connector(), poll_retry=1, poll_absorb=600)
    assert (await service.get()).resource.log_links == [LINK]


# permanent failures in `get`


@pytest.mark.parametrize("absorb", [0, 600])
async def test_a_permanent_failure_is_the_jobs_end(absorb):
    script = Script(PermanentFailure("the table is gone; make it again"))
    service = Service(script.connector(), poll_retry=1, poll_absorb=absorb)
    with capture_logs() as logs:
        resource = (await service.get(resource_meta=META)).resource
    assert (resource.phase, resource.message) == (Phase.FAILED, "the table is gone; make it again")
    assert service.sample("permanent_failures_total", operation="get") == 1
    assert service.count("get", "400") == 1
    assert service.sample("client_errors_total", operation="get", error_code="400") == 0
    assert [(line["event"], line["log_level"]) for line in logs] == [("call failed", "warning")]
