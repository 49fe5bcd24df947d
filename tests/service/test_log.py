"""One line for each call, and nothing secret in it."""

from __future__ import annotations

import asyncio
import io
import time
from contextlib import suppress

import pytest
import structlog
from grpclib import GRPCError
from grpclib.const import Status
from structlog.testing import capture_logs

from connectrio.idl.flyteidl2.core import Connection
from connectrio.service.telemetry import _shorten, redact
from service.harness import OPERATIONS, Base, Job, Service, connector, failing, secrets


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
    [line] = await lines_of(Service(connector(Base)), "get_logs")
    assert (line["log_level"], line["status"]) == ("warning", "UNIMPLEMENTED")
    assert "exception" not in line


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
    assert _shorten("abcdef", 6) == "abcdef"
    assert _shorten("abcdefg", 6) == "abc [… 1 characters …] efg"


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
    assert (line["method"], line["secrets"]) == ("Tiny.create", ["token"])
    assert line["event"].startswith("the resource_meta holds secrets")
    assert "hunter2" not in str(logs)


def test_redaction():
    connection = Connection(secrets={"a": "abcd", "b": "abcdef", "short": "xyz", "empty": ""}, configs={"c": "config"})
    text = "abcdef abcd xyz config"
    assert redact(text, connection) == "[secret b] [secret a] xyz config"
    assert redact(text, None) == text
    words = "one\ntwo"
    assert redact(f"{words}, {[words]}", Connection(secrets={"words": words})) == "[secret words], ['[secret words]']"
