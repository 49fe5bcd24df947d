"""The process that runs one task's SQL, as the host sees it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import IO, cast

import msgspec

from connectrio.connectors.duckdb import _program
from connectrio.connectors.duckdb._program import Request
from connectrio.connectors.duckdb._store import Column, JobState, Usage

__all__ = ["Report", "Session"]

# seconds for a process to end that has closed its output
END_SECONDS = 5.0

# bytes; a result of a hundred thousand columns has less
MAX_REPORT_SIZE = 16 * 2**20

# -P -S: neither the program's directory nor what packages run at each start of Python; the host's sys.path is passed
_COMMAND = (sys.executable, "-P", "-S", str(Path(_program.__file__)))
_VARIABLES = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")


class Report(msgspec.Struct):
    """What the process has done: `_program.Report`, or made up if the process ended without one.

    :ivar state: RUNNING, or the final state of the job
    :ivar usage: the resources used by the statements that have completed; None before the first has
    """

    state: JobState = JobState.RUNNING
    progress: float | None = None
    usage: Usage | None = None
    message: str = ""
    bug: str | None = None
    rows: int | None = None
    columns: list[Column] | None = None
    written: bool = False


class Session:
    """One run of the program. `run` is for one thread; `kill` may be called from any.

    :ivar size: the bytes of the request, which are kept until the process has them, or `kill`
    :ivar report: the last report
    """

    def __init__(self, request: Request) -> None:
        self._request = pickle.dumps(request)
        self.size = len(self._request)
        self.report = Report()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._starting = Lock()

    def run(self) -> Report:
        """Run the program until it ends. Return the last report, whose state is final.

        :raises OSError: the process cannot be started
        """
        with self._starting:
            if self._killed:
                return Report(JobState.ABORTED)
            process = self._process = _start()
        try:
            self._follow(process)
            if not self.report.state.final:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(END_SECONDS)
                self.report.state = JobState.RETRYABLE_FAILED
                self.report.message = _how_it_ended(process.returncode)
            return self.report
        finally:
            process.kill()
            process.communicate()

    @property
    def pid(self) -> int | None:
        """The process; None if none was started."""
        return None if self._process is None else self._process.pid

    @property
    def signal(self) -> str:
        """The signal that has ended the process; "" if none has, as far as is known."""
        process = self._process
        if process is None:
            return ""
        if process.returncode is not None and process.returncode < 0:
            return _name_of(-process.returncode)
        return signal.SIGKILL.name if self._killed and process.returncode is None else ""

    def kill(self) -> None:
        """End the process at once, or keep `run` from starting it. Do nothing if it has ended.

        DuckDB's files survive that: what a transaction has not committed is gone when the file is opened again.
        """
        with self._starting:
            self._killed = True
            self._request = b""
            if self._process is not None:
                self._process.kill()

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Send the request and read reports until the last one, or until the process closes its output."""
        requests, reports = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        with suppress(BrokenPipeError):  # it has ended
            requests.write(self._request)
            requests.flush()  # not closed: that would end the process
        self._request = b""
        for line in iter(partial(reports.readline, MAX_REPORT_SIZE), b""):
            with suppress(msgspec.DecodeError):  # half a line of a process that was killed
                self.report = msgspec.json.decode(line, type=Report)
            if self.report.state.final:
                return


def _start() -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return subprocess.Popen(  # noqa: S603 - nothing of it is from a request
        _COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # a Ctrl-C for the host is none for it
    )


def _how_it_ended(code: int | None) -> str:
    if code is None:
        how = "closed its output and did not end"
    elif code >= 0:
        how = f"ended with exit code {code}"
    else:
        how = f"was killed by {_name_of(-code)}"
    advice = ": perhaps the machine was short of memory" if code == -signal.SIGKILL else ""
    return f"the process that ran the query {how}{advice}; the query can be tried again"


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
