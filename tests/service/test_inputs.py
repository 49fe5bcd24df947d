"""Inputs that are stored elsewhere, through a service: read beside the event loop, or refused with a status."""

from __future__ import annotations

import os
import pickle
import threading

import anyio
import pytest
from grpclib.const import Status

from connectrio.idl.flyteidl2.core import Literal, LiteralOffloadedMetadata
from connectrio.literals import Storage, StorageError
from connectrio.service.conversion import InputReader
from connectrio.service.errors import RequestError
from connectrio.service.settings import ServiceSettings
from literals.makers import BINARY, INTEGER, binary, inputs, integer, interface, sent

X = interface(x=INTEGER)


def reader(**settings):
    return InputReader(ServiceSettings(**settings))


def stored(uri):
    return inputs(x=sent(Literal(offloaded_metadata=LiteralOffloadedMetadata(uri=str(uri)))))


async def test_what_is_stored_is_read_in_a_thread(tmp_path, monkeypatch):
    (tmp_path / "seven").write_bytes(bytes(integer(7)))
    threads = []
    original = Storage.read

    def read(self, uri):
        threads.append(threading.current_thread())
        return original(self, uri)

    monkeypatch.setattr(Storage, "read", read)
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

    monkeypatch.setattr(Storage, "read", hang)
    inputs_reader = reader()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(inputs_reader.read, stored("/a"), X)
            await anyio.to_thread.run_sync(begun.wait)
            tasks.cancel_scope.cancel()
    finally:
        end.set()
    await inputs_reader._readers.wait_idle()


async def test_problems_have_statuses(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="FileNotFoundError") as caught:
        await reader().read(stored(tmp_path / "nothing"), X)
    assert caught.value.status is Status.INVALID_ARGUMENT
    with pytest.raises(RequestError, match="not declared") as caught:
        await reader().read(inputs(y=integer(1)), X)
    assert caught.value.status is Status.INVALID_ARGUMENT
    (tmp_path / "seven").write_bytes(bytes(integer(7)))
    with pytest.raises(RequestError, match="this host reads 1 bytes") as caught:
        await reader(max_stored_input_size=1).read(stored(tmp_path / "seven"), X)
    assert caught.value.status is Status.INVALID_ARGUMENT

    def fail(self, uri):
        raise StorageError("not now")

    monkeypatch.setattr(Storage, "read", fail)
    with pytest.raises(RequestError, match="not now") as caught:
        await reader().read(stored("/a"), X)
    assert caught.value.status is Status.UNAVAILABLE


async def test_pickles_are_read_where_the_host_allows_it():
    pickled = inputs(x=binary(pickle.dumps({1, os.sep})))
    with pytest.raises(RequestError, match="it is refused"):
        await reader().read(pickled, interface(x=BINARY))
    assert await reader(unsafe_pickle=True).read(pickled, interface(x=BINARY)) == {"x": {1, os.sep}}
