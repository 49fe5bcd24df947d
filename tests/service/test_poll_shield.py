"""Polls that fail: tried again, absorbed for a while, and only then let out."""

from __future__ import annotations

import errno
import http.client
import math
import socket
import ssl
import urllib.error
from types import SimpleNamespace
from typing import get_args

import anyio
import httpx
import pytest
import urllib3
from grpclib import GRPCError
from grpclib.const import Status
from multidict import MultiDict
from structlog.testing import capture_logs

from connectrio import PermanentFailure, Phase, Resource, TaskLog, TransientError
from connectrio.connector.failures import _FOREIGN, FailureKind, UnknownJobError, failure_kind, passes
from connectrio.rpc.call import Call, Deadline, set_current_call
from rpc.kit.virtual_time import in_virtual_time
from service.harness import META, Service, connector, secrets

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
    assert service.sample("poll_retries_total") == 2
    assert service.sample("absorbed_polls_total") == 0
    assert service.count("get") == 1


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


async def test_an_author_who_says_it_wrong():
    def is_transient(self, error):
        raise LookupError("oops")

    service = Service(Script(reset()).connector(is_transient=is_transient), poll_retry=1, poll_absorb=600)
    with capture_logs() as logs, pytest.raises(GRPCError, match="reset"):
        await service.get()
    assert "is_transient failed; the error counts as lasting" in [line["event"] for line in logs]


class ServerTimeoutError(TimeoutError):
    pass


def foreign(name: str, *bases: type, **members) -> Exception:
    """An error of a client that need not be installed, by its class's full name."""
    module, _, cls = name.rpartition(".")
    return type(cls, bases or (Exception,), {"__module__": module, **members})()


def status_error(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "https://example.com")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def aws(code: str, status: int) -> Exception:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return foreign("botocore.exceptions.ClientError", response=response)


def grpcio(code: str) -> Exception:
    return foreign(
        "grpc.aio._call.AioRpcError", type(foreign("grpc.RpcError")), code=lambda self: SimpleNamespace(name=code)
    )


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (ConnectionRefusedError(), True),
        (BrokenPipeError(), True),
        (TimeoutError(), True),
        (ServerTimeoutError(), True),
        (socket.gaierror(), True),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ssl.SSLEOFError(), True),
        (ssl.SSLCertVerificationError(), False),
        (TransientError("busy"), True),
        (GRPCError(Status.UNAVAILABLE), True),
        (GRPCError(Status.DEADLINE_EXCEEDED), True),
        (GRPCError(Status.RESOURCE_EXHAUSTED), True),
        (GRPCError(Status.INTERNAL), False),
        (grpcio("UNAVAILABLE"), True),
        (grpcio("INTERNAL"), False),
        (foreign("grpc.RpcError"), False),
        (httpx.ConnectTimeout("slow"), True),
        (httpx.ReadError("reset"), True),
        (httpx.HTTPStatusError("404", request=None, response=None), False),
        *[(status_error(status), True) for status in (429, 500, 502, 503, 504)],
        *[(status_error(status), False) for status in (400, 401, 404, 501)],
        (foreign("aiohttp.client_exceptions.ClientResponseError", status=503), True),
        (foreign("aiohttp.client_exceptions.ClientResponseError", status=403), False),
        (foreign("openai.APIStatusError", status_code=429), True),
        (urllib.error.URLError("no route"), True),
        (urllib.error.HTTPError("https://example.com", 503, "busy", {}, None), True),
        (urllib.error.HTTPError("https://example.com", 404, "not found", {}, None), False),
        (http.client.IncompleteRead(b""), True),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "slow"), True),
        (urllib3.exceptions.LocationParseError("x"), False),
        (aws("ThrottlingException", 400), True),
        (aws("ServiceUnavailable", 503), True),
        (aws("AccessDenied", 403), False),
        (foreign("google.api_core.exceptions.TooManyRequests", code=429), True),
        (foreign("google.api_core.exceptions.NotFound", code=404), False),
        (foreign("snowflake.connector.errors.ProgrammingError"), False),
        # a number that is no HTTP status says nothing
        (foreign("vendor.VendorError", status=3), False),
        (foreign("vendor.VendorTimeout", TimeoutError, status=404), True),
        (FileNotFoundError(), False),
        (OSError(), False),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_transient_by_default(error, passing):
    assert passes(error) is passing


@pytest.mark.parametrize("name", sorted(_FOREIGN))
def test_errors_of_well_known_clients_are_transient(name):
    assert passes(foreign("somewhere.Special", type(foreign(name))))


def caused(error, cause):
    error.__cause__ = cause
    return error


class HostileError(Exception):
    @property
    def response(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(), "connection"),
        (socket.gaierror(), "connection"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "connection"),
        (OSError(errno.ENOSPC, "No space left on device"), "other"),
        (ssl.SSLEOFError(), "connection"),
        (TimeoutError(), "timeout"),
        (ServerTimeoutError(), "timeout"),
        (httpx.ConnectTimeout("slow"), "timeout"),
        (httpx.ReadError("reset"), "connection"),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "slow"), "timeout"),
        (foreign("vendor.VendorTimeout", TimeoutError, status=404), "not_found"),
        (TransientError("busy"), "unavailable"),
        (caused(TransientError("busy"), status_error(429)), "throttled"),
        (caused(TransientError("busy"), ValueError()), "unavailable"),
        (UnknownJobError("gone"), "not_found"),
        (PermanentFailure("bad SQL"), "other"),
        (GRPCError(Status.UNAVAILABLE), "unavailable"),
        (GRPCError(Status.RESOURCE_EXHAUSTED), "throttled"),
        (GRPCError(Status.DEADLINE_EXCEEDED), "timeout"),
        (GRPCError(Status.UNAUTHENTICATED), "denied"),
        (GRPCError(Status.INVALID_ARGUMENT), "other"),
        (grpcio("INTERNAL"), "server_error"),
        (grpcio("NOT_FOUND"), "not_found"),
        (foreign("grpc.RpcError"), "other"),
        *[(status_error(status), "server_error") for status in (500, 501)],
        *[(status_error(status), "unavailable") for status in (502, 503)],
        *[(status_error(status), "denied") for status in (401, 403)],
        (status_error(504), "timeout"),
        (status_error(404), "not_found"),
        (status_error(400), "other"),
        (urllib.error.HTTPError("https://example.com", 429, "busy", {}, None), "throttled"),
        (urllib.error.URLError("no route"), "connection"),
        (aws("ThrottlingException", 400), "throttled"),
        (aws("AccessDenied", 403), "denied"),
        (foreign("google.api_core.exceptions.TooManyRequests", code=429), "throttled"),
        (foreign("google.api_core.exceptions.NotFound", code=404), "not_found"),
        (foreign("databricks.sdk.errors.platform.PermissionDenied"), "denied"),
        (foreign("snowflake.connector.errors.ProgrammingError"), "other"),
        (FileNotFoundError(), "other"),
        (ValueError(), "other"),
        (HostileError(), "other"),
        (KeyboardInterrupt(), "other"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_kind_of_an_error(error, kind):
    assert failure_kind(error) == kind
    assert kind in get_args(FailureKind)


@pytest.mark.parametrize("name", sorted(_FOREIGN))
def test_transient_errors_of_well_known_clients_have_a_kind(name):
    assert failure_kind(foreign("somewhere.Special", type(foreign(name)))) not in ("other", "denied", "not_found")


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
    assert [(line["event"], line["log_level"]) for line in logs] == [("call failed", "warning")]
