"""A cluster's login node: an SSH server with a small fake of Slurm's commands."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh

# seconds; only ends a test that fails
PATIENCE = 30.0
_REAL = {"cat", "find", "mkdir", "pwd", "stat", "tail"}


class Slurm:
    """Jobs that run until they are finished or cancelled. Their files are below `home`.

    :ivar states: what `squeue` or `sacct` says, by job
    :ivar scripts: what was submitted, by job
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.private_key = key.export_private_key().decode()
        self._authorized = asyncssh.import_authorized_keys(key.export_public_key().decode())
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.states: dict[str, str] = {}
        self.scripts: dict[str, str] = {}
        self.port = 0

    def finish(self, job: str, state: str = "COMPLETED") -> None:
        """Let a job end."""
        self.states[job] = state

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve in a thread, on a free port."""
        started = threading.Event()
        thread = threading.Thread(target=asyncio.run, args=[self._serve(started)])
        thread.start()
        assert started.wait(PATIENCE)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[self._host_key], authorized_client_keys=self._authorized,
            process_factory=self._handle, sftp_factory=True,
        )  # fmt: skip
        self.port = server.get_port()
        started.set()
        async with server:
            await self._stop.wait()

    async def _handle(self, process: asyncssh.SSHServerProcess[str]) -> None:
        out, code = self._run(process.command or "")
        process.stdout.write(out)
        process.exit(code)

    def _run(self, command: str) -> tuple[str, int]:
        words = shlex.split(command)
        if words[0] in _REAL:
            ran = subprocess.run(command, shell=True, cwd=self._home, check=False, capture_output=True, text=True)
            return ran.stdout, ran.returncode
        if words[0] == "sbatch":
            job = str(len(self.scripts) + 1)
            self.scripts[job] = Path(words[-1]).read_text()
            self.states[job] = "RUNNING"
            return f"{job}\n", 0
        if words[0] == "scancel":
            self.states[words[1]] = "CANCELLED"
            return "", 0
        job = words[words.index("-j") + 1]
        is_running = self.states.get(job) == "RUNNING"
        if words[0] == "squeue" and is_running:
            return f"{job}|RUNNING|None\n", 0
        if words[0] == "sacct" and job in self.states and not is_running:
            return f"{job}|{self.states[job]}|0:0|None\n", 0
        return "", 0
