"""Tests that hang fail alone, with all stacks, and a worker that dies ends the run."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from time_limit import AGAIN, TIME_LIMIT, begin_again

TESTS = Path(__file__).parent
BACKENDS = ("asyncio", "uvloop", "trio")

HANGING = """
import signal
import threading
from contextlib import suppress

import anyio
import pytest
import time_limit
from hypothesis import given
from hypothesis.strategies import integers

time_limit.AGAIN = 0.5

pytestmark = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})],
    ids=["asyncio", "uvloop", "trio"],
)

def time_is_over():
    # the limit of what runs now, as if it had passed
    signal.setitimer(signal.ITIMER_REAL, 0.01, time_limit.AGAIN)

async def test_waits():
    time_is_over()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever, name="sleeper")

async def test_catches_everything():
    time_is_over()
    for _ in range(2):
        with suppress(BaseException):
            await anyio.sleep_forever()
    await anyio.sleep_forever()

async def test_spins():
    time_is_over()
    while True:
        pass

async def test_is_well():
    await anyio.sleep(0)

@pytest.fixture
async def event():
    yield anyio.Event()

async def test_spins_with_a_fixture(event):
    time_is_over()
    while True:
        pass

@given(integers())
async def test_waits_for_hypothesis(number):
    time_is_over()
    await anyio.sleep_forever()

@pytest.fixture
async def resource():
    yield
    time_is_over()
    await anyio.sleep_forever()

async def test_with_a_fixture_that_hangs(resource):
    pass

def test_waits_for_a_thread(anyio_backend):
    time_is_over()
    threading.Event().wait()

def test_is_well_too(anyio_backend):
    pass
"""

DYING = """
import os

import pytest

{at_import}

@pytest.mark.parametrize("number", range(100))
def test_any(number):
    if number == 30:
        os._exit(7)
"""


def pytest_on(path: Path, program: str, *options: str) -> tuple[int, str]:
    """Run a test module of its own; the exit code and what was printed."""
    (path / "test_program.py").write_text(program)
    (path / "pytest.ini").write_text(f"[pytest]\nanyio_mode = auto\npythonpath = {TESTS}\n")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "time_limit", "-p", "no:cacheprovider", *options]
    ran = subprocess.run(command, check=False, cwd=path, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


OUTCOMES = {
    "test_waits": {"FAILED"},
    "test_catches_everything": {"FAILED"},
    "test_spins": {"FAILED"},
    "test_spins_with_a_fixture": {"FAILED"},
    "test_waits_for_hypothesis": {"FAILED"},
    "test_is_well": {"PASSED"},
    "test_with_a_fixture_that_hangs": {"PASSED", "ERROR"},
    "test_waits_for_a_thread": {"FAILED"},
    "test_is_well_too": {"PASSED"},
}


def test_a_test_that_hangs_fails_alone_with_all_stacks(tmp_path: Path):
    code, output = pytest_on(tmp_path, HANGING)
    assert code == 1
    outcomes = defaultdict(set)
    for outcome, test in re.findall(r"^(PASSED|FAILED|ERROR) test_program\.py::(\S+)", output, re.MULTILINE):
        outcomes[test].add(outcome)
    for each in BACKENDS:
        outcomes[f"test_spins_with_a_fixture[{each}]"].discard("ERROR")  # asyncio's fixtures are then torn down in vain
    assert outcomes == {f"{test}[{each}]": how for test, how in OUTCOMES.items() for each in BACKENDS}
    assert "task sleeper:\n" in output
    assert "in test_waits: " in output
    assert "thread MainThread:\n" in output


@pytest.mark.parametrize("scheduler", ["worksteal", "loadscope"])
def test_a_worker_that_dies_ends_the_run(tmp_path: Path, scheduler: str):
    code, output = pytest_on(tmp_path, DYING.format(at_import=""), "--numprocesses", "2", "--dist", scheduler)
    assert code == 1
    assert "crashed while running 'test_program.py::test_any[30]'" in output


def test_a_worker_that_dies_while_it_collects_tests_fails_the_run(tmp_path: Path):
    dies = "if 'PYTEST_XDIST_WORKER' in os.environ: os._exit(7)"
    options = ("--numprocesses", "2", "--dist", "worksteal", "--max-worker-restart", "0")
    code, _ = pytest_on(tmp_path, DYING.format(at_import=dies), *options)
    assert code != 0


def test_a_test_may_be_given_its_time_again():
    signal.setitimer(signal.ITIMER_REAL, 30, AGAIN)  # as if most of it had passed
    begin_again()
    left, again = signal.getitimer(signal.ITIMER_REAL)
    assert 30 < left <= TIME_LIMIT
    assert again == AGAIN
