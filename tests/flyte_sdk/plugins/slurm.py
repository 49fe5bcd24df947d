"""A login node of a Slurm cluster: OpenSSH's server, and Slurm's commands, which run jobs as processes at once."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from e2e.programs import eventually, hold_port

COMMANDS = {
    "sbatch": """
        until mkdir "$state/lock" 2>/dev/null; do sleep 0.01; done
        id=$(($(cat "$state/last") + 1))
        echo "$id" >"$state/last"
        rmdir "$state/lock"
        option() { sed -n "s/^#SBATCH --$1=//p" "$2" | tail -n 1; }
        setsid run-job "$id" "$2" "$(option output "$2")" "$(option error "$2")" </dev/null >/dev/null 2>&1 &
        until [ -e "$state/$id.pid" ]; do sleep 0.01; done
        echo "$id"
    """,
    "run-job": """
        echo $$ >"$state/$1.new" && mv "$state/$1.new" "$state/$1.pid"
        if "$2" >"$3" 2>"$4"; then ended="COMPLETED|0:0"; else ended="FAILED|$?:0"; fi
        echo "$ended" >"$state/$1.new" && mv "$state/$1.new" "$state/$1.ended"
    """,
    "squeue": """
        [ -e "$state/$3.pid" ] || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
        [ -e "$state/$3.ended" ] || echo "$3|RUNNING|None"
    """,
    "sacct": """
        [ ! -e "$state/$5.ended" ] || echo "$5|$(cat "$state/$5.ended")|None"
    """,
    "scancel": """
        [ -e "$state/$1.ended" ] && exit 0
        kill -KILL -- "-$(cat "$state/$1.pid")"
        echo "CANCELLED by 0|0:9" >"$state/$1.ended"
    """,
}

CONFIGURATION = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
MaxSessions 100
Subsystem sftp internal-sftp
SetEnv PATH={folder}/bin:/usr/bin:/bin
"""


class Cluster:
    """A login node, whose jobs run while `serving`.

    :ivar secrets: what a task that connects to it needs
    """

    def __init__(self, folder: Path) -> None:
        self._sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if self._sshd is None or shutil.which("ssh-keygen") is None:
            pytest.skip("sshd and ssh-keygen are not there: apt-get install openssh-server")
        self._folder = folder
        self._state = folder / "state"
        self._state.mkdir()
        (self._state / "last").write_text("1000\n")
        self._make_commands()
        for name in ("key", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        self._held = hold_port()
        self._port = self._held.getsockname()[1]
        self.secrets = {
            "ssh_private_key": (folder / "key").read_text(),
            "known_hosts_data": f"[127.0.0.1]:{self._port} {(folder / 'host_key.pub').read_text()}",
        }

    def _make_commands(self) -> None:
        directory = self._folder / "bin"
        directory.mkdir()
        for name, text in COMMANDS.items():
            command = directory / name
            command.write_text(f"#!/bin/sh\nstate={self._state}\n{text}")
            command.chmod(0o755)

    @property
    def jobs(self) -> set[str]:
        """The ids of all jobs that were ever submitted."""
        return {each.stem for each in self._state.glob("*.pid")}

    def has_ended(self, job: str) -> bool:
        """Return whether a job has ended."""
        return (self._state / f"{job}.ended").exists()

    def custom(self, script: str, **fields: Any) -> dict[str, Any]:
        """Return what a task of type `slurm_script` is configured with."""
        connection = {"host": "127.0.0.1", "port": self._port, "username": getpass.getuser()}
        working_dir = str(self._folder / "jobs")
        return {"connection": connection, "working_dir": working_dir, "script": f"#!/bin/sh\n{script}\n", **fields}

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Accept connections during the block; all jobs end with it."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it separates privileges
        configuration = self._folder / "sshd_config"
        configuration.write_text(CONFIGURATION.format(port=self._port, folder=self._folder))
        with subprocess.Popen([self._sshd, "-D", "-e", "-f", configuration], stderr=subprocess.PIPE) as sshd:
            try:
                eventually(lambda: self._accepts() or sshd.poll() is not None)
                assert sshd.poll() is None, sshd.stderr.read().decode()
                yield
            finally:
                sshd.terminate()
                self._held.close()
                for job in self.jobs:
                    if not self.has_ended(job):
                        with suppress(ProcessLookupError):
                            os.killpg(int((self._state / f"{job}.pid").read_text()), signal.SIGKILL)

    def _accepts(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0
