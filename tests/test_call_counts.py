"""How far the code of a call is spread: own Python calls, files, and frames from a frame of HTTP/2 to its effect.

A reader who follows a call hops as often as the interpreter does. These figures may fall, not grow: whoever makes them
smaller lowers the limits. `python tests/test_call_counts.py` prints them, with each file's share.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import anyio

import connectrio
from connectrio.idl.flyteidl2.connector import CreateTaskRequest, GetTaskRequest, TaskCategory
from connectrio.idl.flyteidl2.core import TaskTemplate, TypedInterface
from connectrio.rpc import Server
from connectrio.rpc.codec import encode
from literals import makers
from rpc.kit.raw import RawPeer, raw_client
from service.harness import META, Service, attempt, connector

PACKAGE = Path(connectrio.__file__).parent
SERVICE = "/flyteidl2.connector.AsyncConnectorService/"
TINY = TaskCategory(name="tiny")

# what a call may take
CREATE_CALLS, CREATE_FILES, GET_CALLS, CANCEL_FRAMES = 208, 38, 180, 4


class Trace:
    """Our own Python calls while a block runs, coroutines that go on included, generated code not.

    :ivar calls: how often each function was called, by its file and name
    :ivar deepest: own frames on the stack when a scope was cancelled, from the first one of ours; 0 if none was
    """

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.deepest = 0

    @property
    def files(self) -> Counter[str]:
        """How many calls were made to the functions of each file."""
        found: Counter[str] = Counter()
        for (file, _), count in self.calls.items():
            found[file] += count
        return found

    @contextmanager
    def running(self) -> Iterator[None]:
        """Trace this thread while the block runs."""
        sys.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        file = _own(code.co_filename)
        if file is not None:
            self.calls[file, code.co_qualname] += 1
        elif code.co_name == "cancel" and "anyio" in code.co_filename:
            self.deepest = max(self.deepest, sum(_own(each.f_code.co_filename) is not None for each in _stack(frame)))


def _own(file: str) -> str | None:
    path = Path(file)
    if PACKAGE not in path.parents or PACKAGE / "idl" in path.parents:
        return None
    return str(path.relative_to(PACKAGE))


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _request(client: RawPeer, stream_id: int, method: str, message: Any) -> bytes:
    headers = client.make.request(stream_id, SERVICE + method, extra=[("grpc-timeout", "1M")])
    return headers + client.make.message(stream_id, encode(message), end_stream=True)


def _create(number: int) -> CreateTaskRequest:
    """What the executor asks for when a task with two inputs begins."""
    variables = makers.interface(n=makers.INTEGER, query=makers.STRING)
    return CreateTaskRequest(
        inputs=makers.inputs(n=makers.integer(21), query=makers.string("SELECT 1")),
        template=TaskTemplate(type="tiny", interface=TypedInterface(inputs=variables)),
        output_prefix="s3://bucket/run/n0",
        task_execution_metadata=attempt(node=f"n{number}"),
    )


async def create_task() -> Trace:
    """Answer one CreateTask, after some that were like it."""
    return await _last_of("CreateTask", [_create(number) for number in range(6)])


async def get_task() -> Trace:
    """Answer one GetTask, after some that were like it."""
    return await _last_of("GetTask", [GetTaskRequest(resource_meta=META, task_category=TINY)] * 6)


async def _last_of(method: str, messages: list[Any]) -> Trace:
    """Answer these requests one by one, and trace the last one."""
    trace = Trace()
    service = Service(connector())
    async with raw_client(Server([service.servicer])) as client:
        for number, message in enumerate(messages):
            stream_id = 2 * number + 1
            request = _request(client, stream_id, method, message)
            with trace.running() if number == len(messages) - 1 else nullcontext():
                await client.send(request)
                trailers = await client.trailers(stream_id)
            assert trailers["grpc-status"] == "0"
        await client.transport.aclose()
    return trace


async def cancelled_get_task() -> Trace:
    """Take back one GetTask that waits."""
    trace, waits, left = Trace(), anyio.Event(), anyio.Event()

    async def get(self: Any, **_: Any) -> None:
        waits.set()
        try:
            await anyio.sleep_forever()
        finally:
            left.set()

    message = GetTaskRequest(resource_meta=META, task_category=TINY)
    async with raw_client(Server([Service(connector(get=get)).servicer])) as client:
        await client.send(_request(client, 1, "GetTask", message))
        await waits.wait()
        with trace.running():
            await client.send(client.make.reset(1))
            await left.wait()
        await client.transport.aclose()
    return trace


def test_a_create_is_read_in_few_files() -> None:
    trace = anyio.run(create_task)
    assert len(trace.files) <= CREATE_FILES
    assert trace.calls.total() <= CREATE_CALLS


def test_a_poll_makes_few_calls() -> None:
    assert anyio.run(get_task).calls.total() <= GET_CALLS


def test_a_reset_reaches_the_scope_of_its_call_in_few_frames() -> None:
    assert 0 < anyio.run(cancelled_get_task).deepest <= CANCEL_FRAMES


if __name__ == "__main__":
    for ran in (create_task, get_task, cancelled_get_task):
        trace = anyio.run(ran)
        print(
            f"{ran.__name__}: {trace.calls.total()} calls, {len(trace.files)} files, {trace.deepest} frames to a scope"
        )
        for file, count in trace.files.most_common():
            names = ", ".join(f"{name} {n}" for (where, name), n in trace.calls.most_common() if where == file)
            print(f"  {count:4} {file}: {names}")
