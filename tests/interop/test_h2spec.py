"""h2spec, strict, against our connection driver.

It asks for plain HTTP/2: GET and POST answered with 200 and a body. A gRPC server answers those with 405 and 415, so
the core is given an application that answers as h2spec expects.
"""

from __future__ import annotations

import re

import anyio

from connectrio.rpc import ServerOptions
from connectrio.rpc._http2.connection import ConnectionState
from connectrio.rpc._http2.server_side import RequestArrived, ServerConnection
from connectrio.rpc._http2.stream import StreamTerminatedError
from connectrio.rpc._http2.transport import FRAMES_PER_TURN, receive, run
from interop.tools import run_tool


async def answer(stream):
    try:
        while not stream.is_complete:
            stream.raise_if_terminated()
            if stream.take() is None:
                await stream.readable.wait()
        stream.send_headers([(":status", "200"), ("content-type", "text/plain")])
        body, sent = memoryview(b"hello, world"), 0
        while sent < len(body):
            sent += stream.send_some(body[sent:], end_stream=True)
            if sent < len(body):
                await stream.writable.wait()
    except StreamTerminatedError:
        pass
    finally:
        stream.release()


async def serve(transport):
    async with anyio.create_task_group() as calls:
        core = ServerConnection(ServerOptions())

        async def read(byte_stream):
            while core.state is not ConnectionState.CLOSED:
                await receive(core, byte_stream)
                while core.process(FRAMES_PER_TURN):
                    pass
                for event in core.take_events():
                    if isinstance(event, RequestArrived):
                        calls.start_soon(answer, event.stream)

        async with run(transport, core, read, linger=1):
            while core.state is ConnectionState.OPEN:
                await core.changed.wait()
        calls.cancel_scope.cancel()


async def test_h2spec_strict():
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.start_soon(listener.serve, serve)
        ran = await run_tool("h2spec", "--strict", "--host", "127.0.0.1", "--port", str(port), "--timeout", "20")
        tasks.cancel_scope.cancel()
    output = ran.stdout.decode()
    counts = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", output)
    assert counts is not None, output
    tests, passed, skipped, failed = map(int, counts.groups())
    assert (passed, skipped, failed) == (tests, 0, 0), output
    assert tests >= 146
