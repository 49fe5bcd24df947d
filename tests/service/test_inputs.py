"""Inputs that are large or stored elsewhere, through a service: read in a thread, or refused with a status."""

from __future__ import annotations

import os
import pickle
import threading

import anyio
import pytest
from anyio import from_thread
from grpclib.const import Status
from structlog.testing import capture_logs

from connectrio.idl.flyteidl2.core import Literal, LiteralOffloadedMetadata
from connectrio.literals import Storage, StorageError, inputs_to_python
from connectrio.service.conversion import InputReader
from connectrio.service.errors import RequestError
from connectrio.service.settings import ServiceSettings
from connectrio.service.workers import Workers
from literals.makers import (
    BINARY,
    INTEGER,
    STRING,
    binary,
    inputs,
    integer,
    interface,
    list_of,
    msgpack,
    sent,
    union_of,
)

X = interface(x=INTEGER)


def reader(**settings):
    return InputReader(ServiceSettings(**settings), Workers(1))


def stored(uri):
    return inputs(x=sent(Literal(offloaded_metadata=LiteralOffloadedMetadata(uri=str(uri)))))


async def test_what_is_stored_is_read_in_a_thread(tmp_path, monkeypatch):
    (tmp_path / "seven").write_bytes(bytes(integer(7)))
    threads = []
    original = Storage._read_file

    def read(self, uri):
        threads.append(threading.current_thread())
        return original(self, uri)

    monkeypatch.setattr(Storage, "_read_file", read)
    assert await reader().read(stored(tmp_path / "seven"), X) == {"x": 7}
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_other_inputs_need_no_thread(monkeypatch):
    monkeypatch.setattr(anyio.to_thread, "run_sync", None)
    assert await reader().read(inputs(x=integer(7)), X) == {"x": 7}
    assert await reader().read(None, None) == {}


async def test_a_call_that_is_cancelled_does_not_wait_for_the_file(monkeypatch):
    begun, end = threading.Event(), threading.Event()

    def hang(self, uri):
        begun.set()
        end.wait()
        return b""

    monkeypatch.setattr(Storage, "_read_file", hang)
    inputs_reader = reader()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(inputs_reader.read, stored("/a"), X)
            await anyio.to_thread.run_sync(begun.wait)
            tasks.cancel_scope.cancel()
    finally:
        end.set()
    await inputs_reader._readers.wait_idle()


async def test_a_read_that_nobody_waits_for_ends(tmp_path, monkeypatch):
    (tmp_path / "two").write_bytes(bytes(integer(2**40)))
    begun, go_on, reads = threading.Event(), threading.Event(), []
    check = from_thread.check_cancelled

    def checked():
        if reads:
            begun.set()
            go_on.wait()
        reads.append(1)
        check()

    monkeypatch.setattr(from_thread, "check_cancelled", checked)
    monkeypatch.setattr("connectrio.literals.storage._CHUNK", 1)
    inputs_reader = reader()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(inputs_reader.read, stored(tmp_path / "two"), X)
        await anyio.to_thread.run_sync(begun.wait)
        tasks.cancel_scope.cancel()
    go_on.set()
    await inputs_reader._readers.wait_idle()
    assert len(reads) == 2


def large(count):
    """A list of so many sevens, and its declaration."""
    return inputs(x=msgpack([7] * count)), interface(x=list_of(INTEGER))


async def test_only_large_inputs_are_read_in_a_thread(monkeypatch):
    threads = []

    def convert(*arguments, **options):
        threads.append(threading.current_thread())
        return inputs_to_python(*arguments, **options)

    monkeypatch.setattr("connectrio.service.conversion.inputs_to_python", convert)
    here = threading.current_thread()
    assert await reader().read(*large(5_000)) == {"x": [7] * 5_000}
    assert threads == [here]
    assert await reader().read(*large(30_000)) == {"x": [7] * 30_000}
    assert threads[1] is here
    assert threads[2] is not here


async def test_what_is_large_and_stored_is_read_by_those_that_may_wait(tmp_path, monkeypatch):
    (tmp_path / "seven").write_bytes(bytes(integer(7)))
    names = []
    original = Workers.run

    async def run(self, function, *, name):
        names.append(name)
        return await original(self, function, name=name)

    monkeypatch.setattr(Workers, "run", run)
    came = inputs(x=msgpack([7] * 30_000), y=stored(tmp_path / "seven").literals[0].value)
    declared = interface(x=list_of(INTEGER), y=INTEGER)
    assert await reader().read(came, declared) == {"x": [7] * 30_000, "y": 7}
    assert names == ["converting large inputs", "reading stored inputs"]


async def test_large_inputs_do_not_wait_for_a_store_that_hangs(tmp_path, monkeypatch):
    begun, end = threading.Semaphore(0), threading.Event()

    def hang(self, uri):
        begun.release()
        end.wait()
        return b""

    monkeypatch.setattr(Storage, "_read_file", hang)
    inputs_reader = reader()
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(inputs_reader.read, stored("/a"), X)
            for _ in range(4):
                await anyio.to_thread.run_sync(begun.acquire)
            assert await inputs_reader.read(*large(30_000)) == {"x": [7] * 30_000}
            tasks.cancel_scope.cancel()
    finally:
        end.set()
    await inputs_reader._readers.wait_idle()


async def test_inputs_that_would_take_too_long_are_refused_by_name():
    wide = interface(x=list_of(union_of(INTEGER, *[STRING] * 200)))
    with pytest.raises(RequestError, match=r"^input 'x'.*more than 2000000 steps.*declare simpler types") as caught:
        await reader().read(large(10_000)[0], wide)
    assert caught.value.status is Status.INVALID_ARGUMENT


UNREADABLE = "^input 'x': the stored value could not be read; the host's log says why$"


async def test_problems_have_statuses(tmp_path, monkeypatch):
    with capture_logs() as logs, pytest.raises(RequestError, match=UNREADABLE) as caught:
        await reader().read(stored(tmp_path / "nothing"), X)
    assert caught.value.status is Status.INVALID_ARGUMENT
    (line,) = logs
    assert line["log_level"] == "warning"
    assert line["error"].startswith("input 'x': ")
    assert "FileNotFoundError" in line["error"]
    with pytest.raises(RequestError, match="not declared") as caught:
        await reader().read(inputs(y=integer(1)), X)
    assert caught.value.status is Status.INVALID_ARGUMENT
    (tmp_path / "seven").write_bytes(bytes(integer(7)))
    for settings in ({"max_stored_input_size": 1}, {"storage_schemes": ["s3"]}):
        with pytest.raises(RequestError, match=UNREADABLE) as caught:
            await reader(**settings).read(stored(tmp_path / "seven"), X)
        assert caught.value.status is Status.INVALID_ARGUMENT

    def fail(self, uri):
        raise StorageError("not now")

    monkeypatch.setattr(Storage, "_read_file", fail)
    with pytest.raises(RequestError, match=UNREADABLE) as caught:
        await reader().read(stored("/a"), X)
    assert caught.value.status is Status.UNAVAILABLE


async def test_pickles_are_read_where_the_host_allows_it():
    pickled = inputs(x=binary(pickle.dumps({1, os.sep})))
    with pytest.raises(RequestError, match="it is refused"):
        await reader().read(pickled, interface(x=BINARY))
    assert await reader(unsafe_pickle=True).read(pickled, interface(x=BINARY)) == {"x": {1, os.sep}}
