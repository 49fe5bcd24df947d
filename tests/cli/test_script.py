"""How a process of ours ends, and that a command which is called as a function ends no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.programs import MARK, PATIENCE, UNSHARE, children_of, why_no_namespace

# a connector whose `create` leaves a thread behind that never ends
CONNECTOR = """
import threading
from dataclasses import dataclass

from connectrio import AsyncConnector, ConnectorRegistry, ResourceMeta

@dataclass
class Job(ResourceMeta):
    pass

class Stuck(AsyncConnector[Job]):
    name = "Stuck"
    task_type_name = "stuck"
    metadata_type = Job

    def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        threading.Thread(target=threading.Event().wait).start()
        raise ValueError("the vendor said no")

    def get(self, resource_meta, **kwargs):
        raise AssertionError

    def delete(self, resource_meta, **kwargs):
        raise AssertionError

ConnectorRegistry.register(Stuck())
"""


def ran(program: str, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(command, check=False, cwd=cwd, stdin=subprocess.DEVNULL, text=True, **options)


# a script whose command is `run`
SCRIPT = """
import atexit, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from connectrio.cli import script

atexit.register(print, "at exit", flush=True)

def start(target, name="AnyIO worker thread"):
    threading.Thread(target=target, name=name).start()

def stuck():
    threading.Event().wait()

def interrupt_at_the_end():
    while signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        time.sleep(0.01)
    signal.raise_signal(signal.SIGINT)

def run():
    {run}

script.run_script(run)
"""
PATIENT = "script._LOOKS_AT_WORKERS = script._LOOKS_AT_OTHERS = 10 ** 6"
IMPATIENT = "script._LOOKS_AT_OTHERS = 5"


@pytest.mark.parametrize(
    ("run", "code"),
    [
        ("start(stuck); return 7", 7),
        ("start(stuck); raise SystemExit(7)", 7),
        ("start(stuck); raise SystemExit('no code')", 1),
        ("start(stuck); raise ValueError", 1),
        (f"{IMPATIENT}; start(stuck, 'a connector of its own'); return 7", 7),
        ("start(stuck); start(interrupt_at_the_end); return 7", 7),
        ("import structlog; start(stuck); sys.stdout.close(); return 7", 7),
    ],
)
def test_a_script_ends_without_a_thread_that_is_stuck(tmp_path: Path, run: str, code: int):
    ended = ran(SCRIPT.format(run=run), tmp_path)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert "threads still run; the process ends without them" in ended.stderr


def test_a_script_ends_without_a_thread_that_began_at_the_end(tmp_path: Path):
    """Python 3.12 does not wait for such a thread either."""
    run = "start(lambda: (time.sleep(0.1), start(stuck))); return 7"
    assert ran(SCRIPT.format(run=run), tmp_path).returncode == 7


@pytest.mark.parametrize(
    "run",
    [
        "return 7",
        f"{PATIENT}; start(lambda: time.sleep(0.3)); return 7",
        f"{PATIENT}; start(lambda: time.sleep(0.3), 'uploads'); return 7",
        f"{PATIENT}; global pool; pool = ThreadPoolExecutor(); pool.submit(print).result(); return 7",
        f"{PATIENT}; threading.Thread(target=stuck, daemon=True).start(); return 7",
    ],
)
def test_a_script_ends_as_python_does_where_its_threads_end(tmp_path: Path, run: str):
    """So what is to happen at exit does happen."""
    ended = ran(SCRIPT.format(run=run), tmp_path)
    assert (ended.returncode, ended.stdout.lstrip(), ended.stderr) == (7, "at exit\n", "")


def test_sigterm_ends_process_1_before_the_command_has_a_handler(tmp_path: Path):
    """A container that is told to end while it starts: the kernel drops the signal if there is no handler."""
    lacks = why_no_namespace()
    if lacks:
        pytest.skip(lacks)
    run = "print('importing', flush=True); time.sleep(3600)"
    command = [*UNSHARE, sys.executable, "-c", SCRIPT.format(run=run)]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **MARK}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "importing\n"
        (inside,) = children_of(process.pid)
        os.kill(inside, signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


def test_a_script_that_cannot_write_ends_as_well(tmp_path: Path):
    (tmp_path / "stuck.py").write_text(CONNECTOR)
    program = """
import sys
from connectrio.cli import connectrio_script, script

script._LOOKS_AT_OTHERS = 5
sys.argv = ["connectrio", "run", "stuck", "--modules", "stuck.py"]
connectrio_script()
"""
    with Path("/dev/full").open("w") as full:
        assert ran(program, tmp_path, stdout=full, stderr=full).returncode == 1


# a program with signal handlers and a garbage collector of its own, that calls a command
PROGRAM = """
import gc, os, signal

from connectrio.cli import main

def handle(*_): pass

gc.disable()
frozen = gc.get_freeze_count()
for signum in signal.SIGINT, signal.SIGTERM:
    signal.signal(signum, handle)
try:
    main({arguments})
except SystemExit as end:
    print("the program goes on after", end.code, flush=True)
handlers_are_ours = signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is handle
collector_is_ours = not gc.isenabled() and gc.get_freeze_count() == frozen
os._exit(7 if handlers_are_ours and collector_is_ours else 1)
"""
BACKENDS = ("asyncio", "uvloop", "trio")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_command_that_is_called_ends_no_process(backend: str, tmp_path: Path):
    """Although a connector has left a thread behind."""
    (tmp_path / "stuck.py").write_text(CONNECTOR)
    ended = ran(PROGRAM.format(arguments=["run", "stuck", "--modules", "stuck.py", "--backend", backend]), tmp_path)
    assert (ended.returncode, ended.stdout) == (7, "the program goes on after 1\n"), ended.stderr
    assert "the vendor said no" in ended.stderr


@pytest.mark.parametrize("options", [*(["--backend", backend] for backend in BACKENDS), ["--processes", "2"]])
def test_a_host_that_is_called_returns(options: list[str], tmp_path: Path):
    flags = "--host 127.0.0.1 --port 0 --prometheus-port 0 --no-entry-points --timeout 0.1"
    ended = ran(PROGRAM.format(arguments=["serve", *flags.split(), *options]), tmp_path)
    assert ended.returncode == 7, ended.stderr
    assert ended.stdout.endswith("the program goes on after 0\n")
