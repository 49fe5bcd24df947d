"""How a process of ours ends, and that a command which is called as a function ends no process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STUCK = """
import threading

def start_a_thread(is_stuck):
    go_on = threading.Event()
    threading.Thread(target=go_on.wait, name="stuck").start()
    if not is_stuck:
        threading.Timer(0.1, go_on.set).start()
"""

# a connector whose `create` never returns
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
        print("it has begun", flush=True)
        threading.Event().wait()

    def get(self, resource_meta, **kwargs):
        raise AssertionError

    def delete(self, resource_meta, **kwargs):
        raise AssertionError

ConnectorRegistry.register(Stuck())
"""


def ran(program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=False, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_a_script_ends_without_a_thread_that_is_stuck(tmp_path: Path):
    end = "from connectrio.cli.script import script\nscript(lambda: print('done') or start_a_thread(True) or 7)"
    ended = ran(STUCK + end, tmp_path)
    assert (ended.returncode, ended.stdout) == (7, "done\n")
    assert "worker threads still run" in ended.stderr
    assert "stuck" in ended.stderr


def test_a_script_waits_for_threads_that_end_by_themselves(tmp_path: Path):
    """So what is to happen at exit does happen."""
    begin = "import atexit\natexit.register(print, 'at exit')\n"
    end = "from connectrio.cli.script import script\nscript(lambda: start_a_thread(False) or 7)"
    ended = ran(begin + STUCK + end, tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "at exit\n", "")


@pytest.mark.parametrize("backend", ["asyncio", "uvloop"])
def test_a_command_that_is_called_ends_no_process(backend: str, tmp_path: Path):
    """Although a thread of a connector is stuck. On trio, threads never hold up a process."""
    (tmp_path / "stuck.py").write_text(CONNECTOR)
    program = f"""
import os

from connectrio.cli import main

try:
    main(["run", "stuck", "--modules", "stuck.py", "--timeout", "0.5", "--backend", "{backend}"])
except SystemExit as end:
    print("the program goes on after", end.code, flush=True)
os._exit(7)
"""
    ended = ran(program, tmp_path)
    assert (ended.returncode, ended.stdout) == (7, "it has begun\nthe program goes on after 1\n"), ended.stderr
    assert "DEADLINE_EXCEEDED" in ended.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_a_host_that_is_called_returns(processes: int, tmp_path: Path):
    program = f"""
from connectrio.cli import main

flags = "--host 127.0.0.1 --port 0 --prometheus-port 0 --no-entry-points --timeout 0.1 --processes {processes}"
try:
    main(["serve", *flags.split()])
except SystemExit as end:
    print("the program goes on after", end.code)
"""
    ended = ran(program, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("the program goes on after 0\n")
