"""Users' programs pass `mypy --strict`: generated stubs take our channels as they are, and servers take servicers.

`GREETER` is compiled by betterproto2's plugin and by grpclib's, as users would.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GREETER = """
syntax = "proto3";
package demo;
message HelloRequest { string name = 1; }
message HelloReply { string text = 1; }
service Greeter {
  rpc SayHello(HelloRequest) returns (HelloReply);
  rpc Repeat(HelloRequest) returns (stream HelloReply);
  rpc Collect(stream HelloRequest) returns (HelloReply);
  rpc Chat(stream HelloRequest) returns (stream HelloReply);
}
"""

WITH_BETTERPROTO = """
from collections.abc import AsyncIterator

import anyio
from betterproto.demo import GreeterBase, GreeterStub, HelloReply, HelloRequest

from connectrio.rpc import Channel, Server, closing


class Greeter(GreeterBase):
    async def say_hello(self, message: HelloRequest) -> HelloReply:
        return HelloReply(text=message.name)

    async def repeat(self, message: HelloRequest) -> AsyncIterator[HelloReply]:
        yield HelloReply(text=message.name)


async def names() -> AsyncIterator[HelloRequest]:
    yield HelloRequest(name="a")


async def main() -> None:
    server = Server([Greeter()])
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as tasks:
        [address, *_] = await tasks.start(server.serve, listener)
        async with Channel(f"127.0.0.1:{address[1]}") as channel:
            stub = GreeterStub(channel)
            text: str = (await stub.say_hello(HelloRequest(name="you"), timeout=1)).text
            print(text)
            async for reply in stub.repeat(HelloRequest(name="you"), metadata={"a": "b"}):
                print(reply.text.upper())
            print((await stub.collect([HelloRequest(name="you")])).text)
            async with closing(stub.chat(names())) as replies:
                print((await anext(replies)).text)
            async for reply in stub.chat(names()):
                print(reply.text)
            await GreeterStub(channel.when_ready).say_hello(HelloRequest())
        await server.shutdown(grace=10)
"""

WITH_GRPCLIB = """
from grpclib.server import Stream

from connectrio.rpc import Channel, Server
from plain.greeter_grpc import GreeterBase, GreeterStub
from plain.greeter_pb2 import HelloReply, HelloRequest


class Greeter(GreeterBase):
    async def SayHello(self, stream: Stream[HelloRequest, HelloReply]) -> None:
        request = await stream.recv_message()
        if request is not None:
            await stream.send_message(HelloReply(text=request.name))

    async def Repeat(self, stream: Stream[HelloRequest, HelloReply]) -> None: ...
    async def Collect(self, stream: Stream[HelloRequest, HelloReply]) -> None: ...
    async def Chat(self, stream: Stream[HelloRequest, HelloReply]) -> None: ...


async def main() -> None:
    Server([Greeter()])
    async with Channel("127.0.0.1:50051") as channel:
        stub = GreeterStub(channel)
        print((await stub.SayHello(HelloRequest(name="you"))).text)
        async with stub.Chat.open() as stream:
            await stream.send_message(HelloRequest(name="you"), end=True)
            async for reply in stream:
                print(reply.text)
"""

MISTAKES = """
from betterproto.demo import GreeterStub, HelloRequest

from connectrio.rpc import Channel, Server

GreeterStub("localhost:50051")
Server([GreeterStub])


async def main(channel: Channel) -> None:
    reply: int = await GreeterStub(channel).say_hello(HelloRequest())
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the stubs of both generators."""
    directory = tmp_path_factory.mktemp("types")
    (directory / "greeter.proto").write_text(GREETER)
    outputs = [
        "--python_betterproto2_out=betterproto", "--python_betterproto2_opt=server_generation=async",
        "--python_betterproto2_opt=client_generation=async",
        "--python_out=plain", "--pyi_out=plain", "--grpclib_python_out=plain",
    ]  # fmt: skip
    for package in "betterproto", "plain":
        (directory / package).mkdir()
        (directory / package / "__init__.py").touch()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, "greeter.proto"]
    subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True)
    return directory


def errors_of_mypy(project: Path, program: str) -> list[str]:
    """The errors in the program itself: generated code is not the user's."""
    (project / "program.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary", "program.py"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("program.py:") and ": error: " in line]


@pytest.mark.parametrize("program", [WITH_BETTERPROTO, WITH_GRPCLIB], ids=["betterproto2", "grpclib"])
def test_a_users_program_is_typed(project: Path, program: str):
    assert errors_of_mypy(project, program) == []


def test_mistakes_are_found(project: Path):
    errors = errors_of_mypy(project, MISTAKES)
    assert [(error.split(":")[1], error.rpartition("  ")[2]) for error in errors] == [
        ("6", "[arg-type]"),
        ("7", "[list-item]"),
        ("11", "[assignment]"),
    ]
