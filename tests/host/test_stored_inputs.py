"""Stored inputs and pickles, through a whole host with the settings for them."""

from __future__ import annotations

import os
import pickle
from contextlib import asynccontextmanager

import anyio
import pytest
from grpclib import GRPCError
from grpclib.const import Status
from structlog.testing import capture_logs

from connectrio import Registry
from connectrio.host.host import Host
from connectrio.host.settings import HostSettings
from connectrio.idl.flyteidl2.connector import AsyncConnectorServiceStub, CreateTaskRequest
from connectrio.idl.flyteidl2.core import Literal, LiteralOffloadedMetadata, TaskTemplate, TypedInterface
from connectrio.rpc import Channel
from literals.flyte_types import type_of, values_of
from literals.makers import BINARY, INTEGER, STRING, binary, inputs, interface, sent, string
from service.harness import Job, connector

PATIENCE = 30.0


@asynccontextmanager
async def creating(**settings):
    """Yield a function that sends a CreateTask with the input `x`, and the list of what the connector gets."""
    came = []

    async def create(_, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        came.append(inputs["x"])
        return Job("job 1")

    registry = Registry()
    registry.register(connector(create=create))
    host = Host(HostSettings(host="127.0.0.1", port=0, prometheus_port=0, **settings), registry=registry)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(host.serve)
            async with Channel(addresses.target) as channel:
                stub = AsyncConnectorServiceStub(channel)

                async def send(literal, literal_type):
                    declared = TypedInterface(inputs=interface(x=literal_type))
                    template = TaskTemplate(type="tiny", interface=declared)
                    await stub.create_task(CreateTaskRequest(template=template, inputs=inputs(x=literal)))
                    return came[-1]

                yield send
            await host.shutdown()


def stored(path):
    return sent(Literal(offloaded_metadata=LiteralOffloadedMetadata(uri=str(path))))


async def test_what_is_stored_is_fetched_up_to_the_hosts_limit(tmp_path):
    (tmp_path / "text").write_bytes(bytes(string("x" * 1000)))
    (tmp_path / "more").write_bytes(bytes(string("x" * 2000)))
    async with creating(max_stored_input_size=1500) as send:
        assert await send(stored(tmp_path / "text"), STRING) == "x" * 1000
        with capture_logs() as logs, pytest.raises(GRPCError, match="input 'x': the stored value could not") as caught:
            await send(stored(tmp_path / "more"), STRING)
        assert caught.value.status is Status.INVALID_ARGUMENT
    assert "for one task this host reads 1500 bytes" in logs[0]["error"]


async def test_what_is_wrong_with_what_is_stored_is_for_the_log_alone(tmp_path):
    """A client could otherwise find out which files the host has, and what is in them."""
    secret = "x-secret-x"
    (tmp_path / "text").write_text(secret)
    (tmp_path / "literal").write_bytes(bytes(string(secret)))
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    names = ["text", "literal", "empty", "pipe", "nothing", "text/nothing", "x" * 300, ""]
    uris = [
        *(tmp_path / name for name in names),
        "/proc/kmsg",
        "/dev/zero",
        "http://127.0.0.1:1/",
        "local:///etc/passwd",
    ]
    answers = set()
    async with creating() as send:
        with capture_logs() as logs:
            for uri in uris:
                with pytest.raises(GRPCError) as caught:
                    await send(stored(uri), INTEGER)
                answers.add((caught.value.status, caught.value.message))
        assert len(answers) == 1
        assert [line["event"] for line in logs].count("a stored input could not be read") == len(uris)
        assert await send(stored(tmp_path / "literal"), STRING) == secret


async def test_pickles_are_refused_by_default():
    async with creating() as send:
        with pytest.raises(GRPCError, match="it is refused") as caught:
            await send(binary(pickle.dumps({1})), BINARY)
        assert caught.value.status is Status.INVALID_ARGUMENT


async def test_a_host_that_reads_pickles_says_so():
    with capture_logs() as logs:
        async with creating(unsafe_pickle=True) as send:
            assert await send(binary(pickle.dumps({1})), BINARY) == {1}
            assert await send(binary(pickle.dumps(None)), BINARY) is None
    (warning,) = [line for line in logs if "pickles are read" in line["event"]]
    assert warning["log_level"] == "warning"


async def test_a_pickle_that_ends_the_program_ends_its_call():
    async with creating(unsafe_pickle=True) as send:
        with pytest.raises(GRPCError, match="SystemExit") as caught:
            await send(binary(pickle.dumps(Exits())), BINARY)
        assert caught.value.status is Status.INTERNAL
        assert await send(binary(pickle.dumps({1})), BINARY) == {1}


class Exits:
    """Ends the program when it is unpickled."""

    def __reduce__(self):
        return exit_with, (3,)


def exit_with(code):
    raise SystemExit(code)


async def test_typed_objects_reach_the_connector():
    async with creating() as send:
        value = await send(values_of("Nested")[1], type_of("Nested"))
        assert (value.point.x, value["perhaps"]["x"], value.perhaps_not.label) == (1, 2, "here")
