"""`connectrio rpc gen`: stubs that serve, call, type-check and describe themselves, and errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.harness import CONNECTRIO, PATIENCE

GREETER = """
syntax = "proto3";

package greeter.v1;

import "google/protobuf/empty.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "common/mood.proto";

// Greets people.
service Greeter {
  // Greets one person.
  rpc SayHello(HelloRequest) returns (HelloReply);
  rpc Count(google.protobuf.Empty) returns (stream HelloReply);
}

message HelloRequest {
  string name = 1;
  google.protobuf.Timestamp born = 2;
  common.Mood mood = 3;
  // names that are Python's own
  repeated int32 list = 4;
  string str = 5 [deprecated = true];
}

message HelloReply {
  string text = 1;
  google.protobuf.Struct details = 2;
}
"""
MOOD = 'syntax = "proto3"; package common; enum Mood { MOOD_UNSPECIFIED = 0; MOOD_GOOD = 1; }'

WRITTEN = [
    "__init__.py",
    "common/__init__.py",
    "descriptors.binpb",
    "google/__init__.py",
    "google/protobuf/__init__.py",
    "greeter/__init__.py",
    "greeter/v1/__init__.py",
    "message_pool.py",
    "py.typed",
]

# a server and a client of these stubs
PROGRAM = """
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import anyio

from connectrio.rpc import Reflection, Server
from connectrio.rpc.testing import memory_channel
from stubs.common import Mood
from stubs.google.protobuf import Empty, Struct
from stubs.greeter.v1 import GreeterBase, GreeterStub, HelloReply, HelloRequest


class Greeter(GreeterBase):
    async def say_hello(self, message: HelloRequest) -> HelloReply:
        assert message.born is not None
        details = {"mood": message.mood.name, "year": message.born.year}
        return HelloReply(text=f"Hello, {message.name}!", details=Struct.from_dict(details))

    async def count(self, message: Empty) -> AsyncIterator[HelloReply]:
        for number in range(3):
            yield HelloReply(text=str(number))


async def main() -> None:
    servicers = [Greeter()]
    async with memory_channel(Server([*servicers, Reflection.of(servicers)])) as channel:
        stub = GreeterStub(channel)
        request = HelloRequest(name="Ada", born=datetime(1815, 12, 10, tzinfo=UTC), mood=Mood.GOOD)
        reply = await stub.say_hello(request)
        assert reply.details is not None
        print(reply.text, reply.details.to_dict())
        print([reply.text async for reply in stub.count()])


anyio.run(main, backend="BACKEND")
"""


@pytest.fixture
def protos(tmp_path) -> Path:
    """A working directory with two .proto files."""
    (tmp_path / "greeter.proto").write_text(GREETER)
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "mood.proto").write_text(MOOD)
    return tmp_path


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE * 3)


def files_in(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_it_writes_a_package_and_says_what(protos, run):
    outcome = run("rpc", "gen", "greeter.proto")
    assert (outcome.code, outcome.err) == (0, "")
    assert [line for line in outcome.out.splitlines() if line.startswith("wrote ")] == [
        f"wrote stubs/{name}" for name in WRITTEN
    ]
    assert files_in(protos / "stubs") == WRITTEN


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_stubs_serve_and_call(protos, run, backend):
    run("rpc", "gen", "greeter.proto")
    (protos / "program.py").write_text(PROGRAM.replace("BACKEND", backend))
    ran = python("-W", "error", "program.py")
    assert ran.stderr == ""
    assert ran.stdout == "Hello, Ada! {'mood': 'GOOD', 'year': 1815.0}\n['0', '1', '2']\n"


def test_the_stubs_and_a_servicer_type_check_strictly(protos, run):
    """Whatever the configuration of the project is: here there is none."""
    run("rpc", "gen", "greeter.proto")
    # a channel's type is another test's subject
    servicer = PROGRAM.partition("async def main")[0]
    (protos / "program.py").write_text(servicer + "\nreveal_type(GreeterStub.say_hello)\n")
    ran = python("-m", "mypy", "--strict", "--cache-dir", "cache", "program.py", "stubs")
    assert ran.returncode == 0, ran.stdout
    assert "message: stubs.greeter.v1.HelloRequest" in ran.stdout
    assert "Coroutine[Any, Any, stubs.greeter.v1.HelloReply]" in ran.stdout


def test_the_program_that_it_prints_next_runs(protos, run):
    outcome = run("rpc", "gen", "greeter.proto")
    program = outcome.out.partition("== Next: serve it\n")[2]
    assert "# your methods: say_hello, count" in program
    lines = [line.removeprefix("  ") for line in program.splitlines()]
    # instead of serving for ever on a port that may be taken
    (protos / "program.py").write_text(
        "\n".join(lines[:-1])
        .replace("local_port=50051", "local_port=0")
        .replace("await server.serve(", "print(server, ")
        + "\nfrom connectrio.rpc.testing import memory_channel"
        + "\nfrom stubs.greeter.v1 import GreeterStub, HelloRequest"
        + "\nasync def call():"
        + "\n    servicers = [Greeter()]"
        + "\n    async with memory_channel(Server([*servicers, Reflection.of(servicers)])) as channel:"
        + "\n        await GreeterStub(channel).say_hello(HelloRequest())"
        + "\nanyio.run(call)\n"
    )
    ran = python("program.py")
    assert "UNIMPLEMENTED" in ran.stderr
    assert lines[-1].startswith("anyio.run(main)")


def test_the_next_program_imports_what_lies_in_a_package_from_there(protos, run):
    for package in ("src/shop", "src/shop/api"):
        (protos / package).mkdir(parents=True)
        (protos / package / "__init__.py").touch()
    outcome = run("rpc", "gen", "greeter.proto", "--out", "src/shop/api/stubs")
    assert "from shop.api.stubs.greeter.v1 import GreeterBase" in outcome.out


def test_files_without_a_service_have_no_next_program(protos, run):
    outcome = run("rpc", "gen", "common/mood.proto")
    assert outcome.code == 0
    assert "Next" not in outcome.out


def test_a_file_without_a_package(protos, run):
    (protos / "bare.proto").write_text('syntax = "proto3"; message A {} service Bare { rpc Do(A) returns (A); }')
    outcome = run("rpc", "gen", "bare.proto")
    assert outcome.code == 0
    assert "from stubs import BareBase" in outcome.out
    ran = python("-c", "from stubs import A, BareBase; from connectrio.rpc.reflection import Reflection as R;"
                 "R.of([BareBase()])")  # fmt: skip
    assert ran.stderr == ""


def test_made_again_it_removes_what_is_no_longer_there(protos, run):
    run("rpc", "gen", "greeter.proto")
    outcome = run("rpc", "gen", "common/mood.proto")
    assert outcome.code == 0
    assert files_in(protos / "stubs") == [
        "__init__.py", "common/__init__.py", "descriptors.binpb", "message_pool.py", "py.typed"
    ]  # fmt: skip


def test_the_settings_of_a_project_for_ruff_have_no_effect(protos, run):
    run("rpc", "gen", "greeter.proto")
    before = (protos / "stubs" / "greeter" / "v1" / "__init__.py").read_bytes()
    (protos / "ruff.toml").write_text('line-length = 40\nlint.select = ["ALL"]\n')
    run("rpc", "gen", "greeter.proto")
    assert (protos / "stubs" / "greeter" / "v1" / "__init__.py").read_bytes() == before


# imports


def test_a_file_elsewhere_is_found(protos, run, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = run("rpc", "gen", str(protos / "greeter.proto"))
    assert outcome.code == 0
    assert files_in(tmp_path / "elsewhere" / "stubs") == WRITTEN


@pytest.mark.parametrize("option", [["-I", "common"], ["--proto-path", "common"], ["-I", "other", "-I", "common/"]])
def test_import_paths(protos, run, option):
    (protos / "other").mkdir()
    outcome = run("rpc", "gen", *option, "common/mood.proto")
    assert outcome.code == 0
    assert "# sources: mood.proto\n" in (protos / "stubs" / "common" / "__init__.py").read_text()


def test_an_import_that_is_elsewhere(protos, run):
    (protos / "far.proto").write_text('syntax = "proto3"; import "mood.proto"; message A { common.Mood mood = 1; }')
    (protos / "common" / "near.proto").write_text('syntax = "proto3"; import "mood.proto";')
    outcome = run("rpc", "gen", "common/near.proto")
    assert outcome.code == 1
    assert 'common/near.proto:1:20: Import "mood.proto" was not found' in outcome.err
    assert outcome.err.splitlines()[-1] == "hint: mood.proto is in common: add -I common"


def test_an_import_that_is_nowhere(protos, run):
    (protos / "lost.proto").write_text('syntax = "proto3"; import "google/api/http.proto";')
    outcome = run("rpc", "gen", "lost.proto")
    assert outcome.code == 1
    assert (
        outcome.err.splitlines()[-1] == "hint: name the directory in which google/api/http.proto is with -I DIRECTORY"
    )


# errors


def test_an_error_in_a_file_has_its_line(protos, run):
    (protos / "bad.proto").write_text('syntax = "proto3";\n\nmessage A {\n  string name = 1\n}\n')
    outcome = run("rpc", "gen", "bad.proto")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == 'error: bad.proto:5:1: Expected ";".\n'
    assert not (protos / "stubs").exists()


def test_a_warning_of_protoc_is_shown(protos, run):
    (protos / "idle.proto").write_text('syntax = "proto3";\nimport "common/mood.proto";\n')
    outcome = run("rpc", "gen", "idle.proto")
    assert outcome.code == 0
    assert "idle.proto:2:1: warning: Import common/mood.proto is unused." in outcome.err


def test_what_betterproto2_cannot_render(protos, run):
    (protos / "old.proto").write_text('syntax = "proto2"; message A { optional group B = 1 { } }')
    outcome = run("rpc", "gen", "old.proto")
    assert outcome.code == 1
    assert outcome.err.startswith("error: betterproto2's compiler cannot render these files: ")


@pytest.mark.parametrize("package", ["shop.async.v1", "message_pool.v1"])
def test_a_package_that_python_cannot_import(protos, run, package):
    (protos / "shop.proto").write_text(f'syntax = "proto3"; package {package}; message A {{}}')
    outcome = run("rpc", "gen", "shop.proto")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"error: shop.proto: no Python module of the package {package} can be named '")
    assert not (protos / "stubs").exists()


def test_a_place_where_no_package_can_be_written(protos, run):
    (protos / "stubs").touch()
    outcome = run("rpc", "gen", "greeter.proto")
    assert (outcome.code, outcome.err) == (1, "error: cannot write the package to stubs: Not a directory\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name at least one .proto file"),
        (["nope.proto"], "nope.proto: no such file"),
        (["common"], "common: no such file"),
        (["greeter.proto", "-I", "nope"], "-I nope: no such directory"),
        (["greeter.proto", "-I", "common"], "greeter.proto is in none of the directories of -I: common"),
        (["greeter.proto", "--out", "my-stubs"], "--out my-stubs: a package of this name cannot be imported"),
        (["greeter.proto", "--out", "class"], "--out class: a package of this name cannot be imported"),
    ],
)
def test_wrong_usage(protos, run, arguments, text):
    outcome = run("rpc", "gen", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {text}")
    assert files_in(protos) == ["common/mood.proto", "greeter.proto"]


def test_a_directory_with_other_files_is_left_alone(protos, run):
    (protos / "stubs").mkdir()
    (protos / "stubs" / "thesis.py").write_text("years = 4\n")
    outcome = run("rpc", "gen", "greeter.proto")
    assert (outcome.code, outcome.out) == (2, "")
    assert "stubs holds something else than generated stubs" in outcome.err
    assert files_in(protos / "stubs") == ["thesis.py"]


def test_a_module_of_ones_own_among_the_stubs_is_left_alone(protos, run):
    run("rpc", "gen", "common/mood.proto")
    before = files_in(protos / "stubs")
    (protos / "stubs" / "helpers.py").write_text("years = 4\n")
    outcome = run("rpc", "gen", "greeter.proto")
    assert (outcome.code, outcome.out) == (2, "")
    assert "stubs/helpers.py: not generated; move it" in outcome.err
    assert files_in(protos / "stubs") == sorted([*before, "helpers.py"])


@pytest.mark.parametrize("module", ["betterproto2_compiler", "grpc_tools"])
def test_without_the_extra_it_says_what_to_install(protos, run, monkeypatch, module):
    for name in [name for name in sys.modules if name.split(".")[0] == module or name == "connectrio.codegen"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr("connectrio.codegen", raising=False)
    outcome = run("rpc", "gen", "greeter.proto")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == ("error: this needs betterproto2-compiler and grpcio-tools: pip install 'connectrio[gen]'\n")


def test_alone_it_shows_its_commands(run):
    outcome = run("rpc")
    assert outcome.code == 0
    assert "  gen: Make a Python package of .proto files" in outcome.out


def test_a_wrong_option_leads_to_its_own_help(run):
    outcome = run("rpc", "gen", "--nope")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1] == "hint: see: connectrio rpc gen --help"


def test_it_works_as_a_process_whose_path_lacks_ruff(protos):
    ran = subprocess.run(
        [*CONNECTRIO, "rpc", "gen", "greeter.proto"],
        check=False, capture_output=True, text=True, timeout=PATIENCE, cwd=protos, env={"PATH": "/nowhere"},
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert files_in(protos / "stubs") == WRITTEN
