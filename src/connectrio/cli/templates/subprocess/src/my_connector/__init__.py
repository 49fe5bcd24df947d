"""Runs a program for each Flyte task of type `my_task`.

Each job has a directory. Its process, and all processes that this one starts, hold the lock of the file `log` there,
for as long as any of them lives. So every host of the machine, also one that starts later, can tell which jobs run.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from anyio import to_thread
from connectrio import (
    AsyncConnector,
    ConnectorRegistry,
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    LogLine,
    PermanentFailure,
    Phase,
    Resource,
    ResourceMeta,
    TaskTemplate,
    UnknownJobError,
    current_call,
)

# replace it by your program: it runs in the directory of the job, and its outputs are what it writes to outputs.json
PROGRAM = (
    "sh",
    "-ec",
    """for step in $(seq "$1"); do echo "step $step"; sleep 0.1; done; echo "{\\"steps\\": $1}" >outputs.json""",
    "steps",
)
# leads the process group of the job, and ends at once: the job belongs to no host
START = """exec </dev/null; echo $$ >group; { "$@"; echo $? >exit; } &"""
# seconds from SIGTERM to SIGKILL
PATIENCE = 5.0


@dataclass
class Job(ResourceMeta):
    """What finds a job again: the name of its directory. Flyte writes it to its log."""

    id: str


class MyConnector(AsyncConnector[Job]):
    """Runs a program.

    :param program: what is run, before the arguments that come from the task
    """

    name = "My Connector"
    task_type_name = "my_task"
    create_is_idempotent = True  # the key is the name of the directory

    def __init__(self, program: tuple[str, ...] = PROGRAM) -> None:
        super().__init__()
        self._program = program
        default = Path(tempfile.gettempdir(), "my_connector")
        self._home = Path(os.environ.get("MY_CONNECTOR_HOME", default))

    def create(self, task_template: TaskTemplate, output_prefix: str, inputs: dict[str, Any], **kwargs: Any) -> Job:
        """Start the process, once for each key."""
        steps = inputs.get("steps")
        if not isinstance(steps, int):
            raise PermanentFailure("the task needs the input 'steps', an integer")
        job = Job(current_call().key or str(uuid4()))
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=self._home))
        with (new / "log").open("wb") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            try:
                directory = new.rename(self._home / job.id)
            except OSError:  # it is there already
                shutil.rmtree(new)
                return job
            command = ["sh", "-c", START, "sh", *self._program, str(steps)]
            subprocess.run(command, cwd=directory, stdout=log, stderr=log, start_new_session=True, check=True)
        return job

    def get(self, resource_meta: Job, **kwargs: Any) -> Resource:
        """Report the state of the process."""
        directory = self._directory(resource_meta)
        runs = _runs(directory)  # before the exit code is read, which comes before the end
        exit_code = _text(directory / "exit")
        if exit_code == "0":
            return Resource(Phase.SUCCEEDED, outputs=json.loads(_text(directory / "outputs.json") or "{}"))
        if exit_code:
            return Resource(Phase.FAILED, f"the program ended with exit code {exit_code}")
        if (directory / "cancelled").exists():
            return Resource(Phase.ABORTED, "cancelled")
        if runs:
            return Resource(Phase.RUNNING)
        return Resource(Phase.RETRYABLE_FAILED, "the process was killed, or its machine was restarted")

    def delete(self, resource_meta: Job, **kwargs: Any) -> None:
        """End the process and all that it has started, by force if they do not end in time."""
        directory = self._directory(resource_meta)
        for signum in (signal.SIGTERM, signal.SIGKILL):
            end = time.monotonic() + PATIENCE
            if _runs(directory):
                (directory / "cancelled").touch()
                with suppress(ProcessLookupError):  # it has just ended
                    os.killpg(int(_text(directory / "group")), signum)
            while _runs(directory) and time.monotonic() < end:
                time.sleep(0.02)

    async def get_logs(
        self, resource_meta: Job, token: str = "", lines: int = 0, **kwargs: Any
    ) -> AsyncIterator[GetTaskLogsResponse]:
        """Yield what the process has written, from the byte that `token` names."""
        found, following = await to_thread.run_sync(self._read_log, resource_meta, int(token or 0), lines or 1000)
        yield GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token=following))
        yield GetTaskLogsResponse(body=GetTaskLogsResponseBody(lines=[LogLine(message=line) for line in found]))

    def _read_log(self, job: Job, start: int, limit: int) -> tuple[list[str], str]:
        directory = self._directory(job)
        runs = _runs(directory)
        with (directory / "log").open("rb") as log:
            log.seek(start)
            found = [line.decode(errors="replace").rstrip("\n") for line in islice(log, limit)]
            is_whole = not runs and len(found) < limit
            return found, "" if is_whole else str(log.tell())

    def _directory(self, job: Job) -> Path:
        directory = self._home / job.id
        if not re.fullmatch(r"[\w-]+", job.id) or not (directory / "log").exists():
            raise UnknownJobError(f"this machine has no job {job.id!r}")
        return directory


def _runs(directory: Path) -> bool:
    with (directory / "log").open("rb") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _text(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


ConnectorRegistry.register(MyConnector())
