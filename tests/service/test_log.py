"""One line for each call, and nothing secret in it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import time
from contextlib import suppress

import pytest
import structlog
from grpclib import GRPCError
from grpclib.const import Status
from structlog.testing import capture_logs

from connectrio import Phase, Resource, TaskLog
from connectrio.diagnostics import dropped_lines, shorten
from connectrio.idl.flyteidl2.connector import GetTaskMetricsResponse
from connectrio.idl.flyteidl2.core import ExecutionMetricResult
from connectrio.logs import configure_logging
from connectrio.masking import SecretMask
from connectrio.service.job_secrets import JobSecrets
from service.harness import META, OPERATIONS, Base, Job, Service, connector, failing, log_lines, secrets


async def lines_of(service: Service, operation: str, *args, **kwargs) -> list[dict]:
    with capture_logs() as logs, suppress(GRPCError):
        await service.call(operation, *args, **kwargs)
    return logs


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_success(operation):
    began = time.perf_counter()
    [line] = await lines_of(Service(), operation)
    # in milliseconds: no more than what has passed here, but for the rounding
    assert 0 < line.pop("duration_ms") <= (time.perf_counter() - began) * 1000 + 0.001
    assert line == {
        "event": "call finished",
        "log_level": "info" if operation in ("create", "delete") else "debug",
        "operation": operation,
        "task_type": "tiny",
        "task_type_version": 0,
        "job": hashlib.sha256(META).hexdigest()[:12],
        "status": "OK",
    }


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_bug_is_an_error_with_a_traceback(operation):
    [line] = await lines_of(Service(failing(lambda: ValueError("boom"))), operation)
    assert (line["event"], line["log_level"], line["status"]) == ("call failed", "error", "INTERNAL")
    assert line["error"].endswith("boom.")
    assert line["exception"].startswith("Traceback (most recent call last):")
    assert line["exception"].endswith("ValueError: boom")
    assert "harness.py" in line["exception"]


@pytest.mark.parametrize("status", [Status.PERMISSION_DENIED, Status.UNAVAILABLE, Status.INTERNAL])
async def test_a_status_of_the_connectors_own(status):
    [line] = await lines_of(Service(failing(lambda: GRPCError(status, "no"))), "get")
    assert line["log_level"] == ("error" if status is Status.INTERNAL else "warning")
    assert line["exception"].endswith("'no', None)")


@pytest.mark.parametrize("operation", OPERATIONS[1:])
async def test_the_clients_fault_is_a_warning(operation):
    [line] = await lines_of(Service(), operation, resource_meta=b"{")
    assert (line["log_level"], line["status"]) == ("warning", "INVALID_ARGUMENT")
    assert "exception" not in line


async def test_what_a_connector_does_not_have_is_no_bug():
    for operation in ("get_logs", "get_metrics"):
        service = Service(connector(Base))
        [line] = await lines_of(service, operation)
        assert (line["event"], line["log_level"], line["status"]) == ("call failed", "debug", "UNIMPLEMENTED")
        assert line["error"].startswith("Tiny Connector has no ")
        assert "exception" not in line
        account = service.servicer.account
        assert (account.rates.totals("tiny").calls, account.rates.totals("tiny").failures) == (1, 0)
        assert account.failures() == []
        assert service.count(operation, "501") == 1


async def test_a_hosted_connector_has_no_logs_either():
    service = Service(failing(lambda: NotImplementedError("no logs")))
    [line] = await lines_of(service, "get_logs")
    assert (line["log_level"], line["status"]) == ("debug", "UNIMPLEMENTED")
    assert service.servicer.account.failures() == []


async def test_where_a_method_raised_that_it_is_not_implemented():
    [line] = await lines_of(Service(failing(lambda: NotImplementedError("later"))), "get")
    assert (line["log_level"], line["status"]) == ("warning", "UNIMPLEMENTED")
    assert "harness.py" in line["exception"]


async def test_long_names_and_texts_are_cut():
    [line] = await lines_of(Service(), "get", "x" * 10_000)
    assert len(line["task_type"]) < 300
    [line] = await lines_of(Service(failing(lambda: ValueError("y" * 1_000_000))), "get")
    assert len(line["error"]) < 70_000
    assert len(line["exception"]) < 70_000
    assert line["exception"].startswith("Traceback")
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abc [… 1 characters …] efg"


TOKEN = "hunter2-é\n'token"


async def leaks(self, **kwargs):
    token = kwargs["token"]
    try:
        raise ValueError(f"bad token {token}")
    except ValueError as error:
        raise asyncio.CancelledError({"headers": token}) from error


async def leaks_a_status(self, **kwargs):
    raise GRPCError(Status.UNAUTHENTICATED, f"{kwargs['token']} is not valid")


@pytest.mark.parametrize("operation", ["create", "get", "delete"])
@pytest.mark.parametrize("method", [leaks, leaks_a_status])
async def test_secrets_are_neither_logged_nor_sent(operation, method):
    """Not even by a console that shows tracebacks with local variables, as structlog's does by default."""
    service = Service(connector(**{operation: method}))
    output = io.StringIO()
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.StackInfoRenderer(), structlog.dev.ConsoleRenderer(colors=False)],
        logger_factory=structlog.PrintLoggerFactory(output),
    )
    try:
        with pytest.raises(GRPCError) as caught:
            await service.call(operation, connection=secrets(token=TOKEN))
    finally:
        structlog.configure(**before)
    assert "[secret token]" in caught.value.message
    assert "[secret token]" in output.getvalue()
    for text in (caught.value.message, output.getvalue()):
        assert "hunter2" not in text


@pytest.mark.parametrize("operation", ["create", "get", "delete"])
async def test_a_success_logs_no_secrets(operation):
    service = Service()
    logs = await lines_of(service, operation, connection=secrets(token="hunter2"))
    assert "hunter2" not in str(logs)


async def test_a_secret_in_the_resource_meta_is_reported():
    async def create(self, **kwargs):
        return Job(f"job of {kwargs['token']}")

    connection = secrets(token="hunter2", pin="12", unused="hunter3")
    logs = await lines_of(Service(connector(create=create)), "create", connection=connection)
    [line] = [line for line in logs if line["log_level"] == "error"]
    assert (line["method"], line["secrets"]) == ("Tiny.create", ["[secret token]"])
    assert line["event"].startswith("the resource_meta holds secrets")
    assert "hunter2" not in str(logs)


MANY = {f"secret {number}": f"value {number:05}" for number in range(100)}


@pytest.mark.parametrize(("escapes", "given"), [("\\n" * 26_000, {"token": "hunter2"}), ("", MANY)])
async def test_a_resource_meta_that_cannot_be_checked_is_reported(escapes, given):
    async def create(self, **kwargs):
        return Job(f"{escapes} {' '.join(given.values())}")

    logs = await lines_of(Service(connector(create=create)), "create", connection=secrets(**given))
    [line] = [line for line in logs if line["log_level"] == "warning"]
    assert line["event"].startswith("the resource_meta could not be checked for secrets")
    assert line["method"] == "Tiny.create"


async def test_details_that_cannot_be_checked_for_secrets_are_left_out():
    async def get(self, **kwargs):
        raise GRPCError(Status.UNAUTHENTICATED, "no", [{"header": MANY["secret 7"]}])

    with pytest.raises(GRPCError) as caught:
        await Service(connector(get=get)).get(connection=secrets(**MANY))
    assert caught.value.details is None


async def test_secrets_that_hold_each_others_values():
    """They would multiply each other if what stands in place of one were searched for the next."""
    values = [letter * (13 - number) for number, letter in enumerate("abcdefgh")]
    given = {f"{following} " * 10: value for value, following in zip(values, [*values[1:], "x"], strict=True)}

    async def create(self, **kwargs):
        raise RuntimeError(f"<{values[0]}>")

    with capture_logs() as logs, pytest.raises(GRPCError, match="<\\[secret]>") as caught:
        await Service(connector(create=create)).create(connection=secrets(**given))
    assert len(caught.value.message) < 100
    assert sum(len(str(line)) for line in logs) < 3000


async def test_the_details_of_a_status_that_hold_a_secret_are_left_out():
    async def get(self, **kwargs):
        raise GRPCError(Status.UNAUTHENTICATED, "no", [{"header": "Bearer hunter2"}])

    service = Service(connector(get=get))
    for token, sent in (("hunter2", None), ("hunter3", [{"header": "Bearer hunter2"}])):
        with pytest.raises(GRPCError) as caught:
            await service.get(connection=secrets(token=token))
        assert caught.value.details == sent


async def test_a_secret_sent_as_the_task_type():
    logs = await lines_of(Service(), "get", "hunter2", connection=secrets(token="hunter2"))
    assert "[secret token]" in logs[0]["task_type"]
    assert "hunter2" not in str(logs)


async def test_a_task_type_that_is_a_secret_of_its_client():
    [line] = await lines_of(Service(), "create", connection=secrets(token="tiny"))
    assert line["task_type"] == "tiny"


async def test_thousands_of_secrets_for_a_method_that_takes_none():
    async def get(self, resource_meta):
        return Resource(Phase.RUNNING)

    given = {f"{number:04}{'x' * 200}": "short" for number in range(5000)}
    with pytest.raises(GRPCError) as caught:
        await Service(connector(get=get)).get(connection=secrets(**given))
    assert len(caught.value.message) < 2000
    assert "and 4990 more" in caught.value.message


async def test_the_state_of_a_job_does_not_show_its_secrets():
    link = TaskLog(name="console", uri="https://example.com/?key=hunter2")

    async def get(self, resource_meta, token, **kwargs):
        return Resource(
            Phase.SUCCEEDED,
            message=f"done with {token}",
            log_links=[link],
            custom_info={"url": f"https://{token}@example.com"},
            outputs={"key": token},
        )

    resource = (await Service(connector(get=get)).get(connection=secrets(token="hunter2"))).resource
    assert resource.message == "done with [secret token]"
    assert [found.uri for found in resource.log_links] == ["https://example.com/?key=[secret token]"]
    assert resource.custom_info.to_dict() == {"url": "https://[secret token]@example.com"}
    assert link.uri.endswith("hunter2")  # the connector's own
    # outputs are the task's data
    assert resource.outputs.literals[0].value.scalar.primitive.string_value == "hunter2"


async def reports_metrics(self, resource_meta, **kwargs):
    return GetTaskMetricsResponse(results=[ExecutionMetricResult(metric="hunter2")])


async def reports_logs(self, resource_meta, **kwargs):
    yield log_lines("key: hunter2")
    yield log_lines("key: aHVudGVyMg==")
    raise ValueError("hunter2")


@pytest.mark.parametrize("first", ["create", "get"])
async def test_logs_and_metrics_do_not_show_the_secrets_that_the_job_came_with(first):
    """Flyte sends no secrets with these calls."""
    service = Service(connector(get_metrics=reports_metrics, get_logs=reports_logs))
    assert "hunter2" in repr(await service.get_metrics())  # this host has not seen the job's secrets
    await service.call(first, connection=secrets(token="hunter2"))
    assert (await service.get_metrics()).results[0].metric == "[secret token]"
    sent = []

    async def send(response):
        sent.extend(response.body.results)

    with capture_logs() as logs, pytest.raises(GRPCError, match="\\[secret token]"):
        await service.get_logs(send=send)
    assert sent == ["key: [secret token]", "key: [secret token]g=="]
    assert "hunter2" not in str(logs)
    # other jobs are not touched
    assert "hunter2" in repr(await service.get_metrics(resource_meta=Job("8").encode()))


def test_the_secrets_of_few_jobs_are_kept():
    job_secrets = JobSecrets()
    for number in range(5000):
        job_secrets.remember(("tiny", 0, b"%d" % number), SecretMask({"k": "x" * 10}))
    assert len(job_secrets) == 4096
    large = SecretMask({"k": "x" * 1024 * 1024})
    for number in range(3):
        job_secrets.remember(("tiny", 0, b"large %d" % number), large)
        job_secrets.remember(("tiny", 0, b"large %d" % number), large)  # no more for that
    assert len(job_secrets) == 2
    assert job_secrets.find(("tiny", 0, b"large 2")) is large
    assert job_secrets.find(("tiny", 0, b"large 0")) is None
    assert job_secrets.find(("tiny", 0, b"4999")) is None


async def test_an_author_who_says_wrong_what_is_transient_tells_no_secrets():
    async def get(self, resource_meta, token, **kwargs):
        raise ConnectionError(f"401 for {token}")

    def is_transient(self, error):
        raise LookupError(str(error))

    service = Service(connector(get=get, is_transient=is_transient), poll_retry=1)
    logs = await lines_of(service, "get", connection=secrets(token="hunter2"))
    line = next(line for line in logs if line["event"].startswith("is_transient failed"))
    assert line["exception"].endswith("LookupError")
    assert "test_log.py" in line["exception"]
    assert "hunter2" not in str(logs)


# logs of programs that embed a host


class FailingHandler(logging.Handler):
    def __init__(self, error):
        super().__init__()
        self._error = error

    def emit(self, record):
        raise self._error


ERRORS = [ValueError(), RecursionError(), SystemExit(3), KeyboardInterrupt()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_handler_that_fails_costs_the_line(error):
    logger, handler = logging.getLogger("connectrio"), FailingHandler(error)
    logger.addHandler(handler)
    before = dropped_lines()
    try:
        service = Service(failing(lambda: ValueError("boom")))
        with pytest.raises(GRPCError, match="boom"):
            await service.get()
    finally:
        logger.removeHandler(handler)
    assert dropped_lines() == before + 1
    samples = service.metrics.registry.get_sample_value("connectrio_log_lines_dropped_total")
    assert samples == dropped_lines()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_processor_that_fails_costs_the_line(error):
    def fail(logger, method, event):
        raise error

    structlog.configure(processors=[fail])
    before = dropped_lines()
    with pytest.raises(GRPCError, match="boom"):
        await Service(failing(lambda: ValueError("boom"))).get()
    assert dropped_lines() == before + 1


@pytest.mark.parametrize("operation", ["create", "get", "delete", "get_logs", "get_metrics"])
async def test_what_a_connector_writes_shows_no_secret(capsys, operation):
    async def writes(self, *args, **kwargs):
        structlog.get_logger("author").info("it is hunter2", token="hunter2")
        raise ValueError

    configure_logging("info", "json")
    service = Service(connector(get=answers, **{} if operation == "get" else {operation: writes}))
    # the requests for logs and metrics have no secrets: those of the last poll count
    await service.call("get", connection=secrets(token="hunter2"))
    service = Service(connector(**{operation: writes})) if operation == "get" else service
    given = {} if operation in ("get_logs", "get_metrics") else {"connection": secrets(token="hunter2")}
    with suppress(GRPCError):
        await service.call(operation, **given)
    written = capsys.readouterr().err
    assert "hunter2" not in written
    assert "it is [secret token]" in written
    structlog.get_logger("author").info("after the call: hunter2")
    assert "after the call: hunter2" in capsys.readouterr().err


async def answers(self, **kwargs):
    return Resource(phase=Phase.RUNNING)
