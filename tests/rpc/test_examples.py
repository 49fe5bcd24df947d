"""The gRPC examples as their reader runs them: stubs that `connectrio rpc gen` makes, programs and tests."""

from __future__ import annotations

import difflib
import importlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectrio.rpc import Server
from connectrio.rpc.testing import memory_channel
from rpc.kit.serving import eventually, held_port

TESTS = Path(__file__).parents[1]
EXAMPLES = TESTS / "examples"
TUTORIAL = TESTS.parent / "docs" / "tutorials" / "first-grpc-service.md"
# seconds; only ends a test that fails
PATIENCE = 120
KINDS = ["", "_asyncio"]


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Callable[[str], Path]:
    """A function that returns a copy of an example, with its stubs."""
    directory = tmp_path_factory.mktemp("examples")

    def make(name: str) -> Path:
        copy = directory / name
        if not copy.exists():
            shutil.copytree(EXAMPLES / name, copy, ignore=shutil.ignore_patterns("__pycache__"))
            command = [sys.executable, "-m", "connectrio", "rpc", "gen", f"{name}.proto"]
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE, cwd=copy)
        return copy

    return make


@pytest.fixture
def module(made, monkeypatch) -> Callable[[str], object]:
    """A function that imports an example's tests. Both examples have modules of the same names."""

    def load(name: str) -> object:
        monkeypatch.syspath_prepend(made(name))
        for loaded in [each for each in sys.modules if each.split(".")[0] in ("service", "stubs")]:
            monkeypatch.delitem(sys.modules, loaded)
        return importlib.import_module(f"test_{name}")

    return load


@pytest.mark.parametrize(("name", "count"), [("greeter", 3), ("chat", 1)])
async def test_their_own_tests_pass_on_every_backend(module, name, count):
    tests = vars(module(name))
    found = [each for each in tests if each.startswith("test_")]
    assert len(found) == count
    servicer, stub = tests[name.capitalize()], tests[f"{name.capitalize()}Stub"]
    for each in found:
        async with memory_channel(Server([servicer()])) as channel:
            await tests[each](stub(channel))


async def test_who_leaves_the_room_without_a_word_is_forgotten(module):
    tests = vars(module("chat"))
    room = tests["Chat"]()

    async def silence():
        await tests["anyio"].sleep_forever()
        yield

    async with memory_channel(Server([room])) as channel:
        with tests["anyio"].CancelScope() as scope:
            async for _ in tests["ChatStub"](channel).join(silence()):
                assert len(room._members) == 1
                scope.cancel()
        await eventually(lambda: not room._members)


@pytest.mark.parametrize("name", ["greeter", "chat"])
def test_pytest_runs_their_tests(made, name):
    ran = run(made(name), "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", f"test_{name}.py")
    assert ran.returncode == 0, ran.stdout


# programs


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE, cwd=directory)


@contextmanager
def program(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs meanwhile."""
    command = [sys.executable, "-W", "error", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=directory, **pipes) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def served(source: Path, directory: Path, server: str) -> Iterator[subprocess.Popen[str]]:
    """An example's server on a free port, in a copy whose programs have that port; it ends as on Ctrl-C."""
    shutil.copytree(source, directory, dirs_exist_ok=True)
    with held_port() as port:
        for path in directory.glob("*.py"):
            path.write_text(path.read_text().replace("50051", str(port)))
        with program(directory, server) as running:
            assert running.stdout.readline() == f"serving on 127.0.0.1:{port}\n"
            yield running
            running.send_signal(signal.SIGINT)
            assert running.stdout.read().endswith("stopped\n")
            assert running.wait(PATIENCE) == 0


@pytest.mark.parametrize("server", KINDS)
@pytest.mark.parametrize("client", KINDS)
def test_the_greeter_greets(made, tmp_path, server, client):
    with served(made("greeter"), tmp_path, f"server{server}.py"):
        ran = run(tmp_path, "-W", "error", f"client{client}.py")
        assert ran.stderr == ""
        assert ran.stdout == "Hello, Ada!\nINVALID_ARGUMENT: the name is empty: say whom to greet\n"


@pytest.mark.parametrize("server", KINDS)
def test_the_greeter_counts_down(made, tmp_path, server):
    with served(made("greeter"), tmp_path, f"server{server}.py") as running:
        ran = run(tmp_path, "-W", "error", "countdown.py")
        assert ran.stderr == ""
        late = "DEADLINE_EXCEEDED: the server took more than half a second"
        assert ran.stdout.splitlines() == ["3...", "2...", "1...", "Hello, Ada!", late, "3...", "that is enough"]
        # also after the deadline and the cancellation
        assert [running.stdout.readline() for _ in range(3)] == ["count_down has ended\n"] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_two_members_talk(made, tmp_path, kind):
    client = f"client{kind}.py"
    with (
        served(made("chat"), tmp_path, f"server{kind}.py"),
        program(tmp_path, client, "Ada") as ada,
        program(tmp_path, client, "Bob") as bob,
    ):
        welcomes = {each.stdout.readline() for each in (ada, bob)}
        assert welcomes == {"room: 1 in the room\n", "room: 2 in the room\n"}
        ada.stdin.write("Hello, Bob!\n")
        ada.stdin.flush()
        assert bob.stdout.readline() == "Ada: Hello, Bob!\n"
        for each in (ada, bob):
            each.stdin.close()
            assert each.stdout.read() == ""
            assert each.wait(PATIENCE) == 0


def test_the_tutorial_shows_the_files_of_the_greeter():
    shown = dict(re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```', TUTORIAL.read_text(), re.DOTALL | re.MULTILINE))
    assert shown.keys() == {path.name for path in EXAMPLES.glob("greeter/*.*")} - {"client_asyncio.py"}
    for name, text in shown.items():
        assert text == (EXAMPLES / "greeter" / name).read_text(), name


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*/*_asyncio.py")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_what_differs_on_asyncio(path):
    """Four lines of a server, two of a client, as the tutorial says."""
    on_trio = path.with_name(path.name.replace("_asyncio", "")).read_text().splitlines()
    differing = [
        line for line in difflib.ndiff(on_trio, path.read_text().splitlines()) if line.startswith(("- ", "+ "))
    ]
    assert all(re.search("trio|nursery", line) for line in differing if line.startswith("- "))
    count = 4 if path.name.startswith("server") else 2
    assert sorted(line[0] for line in differing) == ["+"] * count + ["-"] * count
