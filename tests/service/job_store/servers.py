"""A real PostgreSQL server for tests: start it, kill it, freeze it, start it again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from e2e.programs import MARK, children_of, eventually
from rpc.kit.serving import held_port

PASSWORD = "hunter2/@ %41"  # each of these characters has a meaning in a URL
QUOTED = "hunter2%2F%40%20%2541"


def programs() -> Path | None:
    """Return the folder of PostgreSQL's server, as Debian installs it or on PATH; None if the machine has none."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True), shutil.which("initdb")]
    return next((Path(each).parent for each in found if each), None)


def why_not() -> str:
    """Return why there can be no server; "" if there can."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        return f"psycopg cannot be imported: {error}"
    if programs() is None:
        return "PostgreSQL's server (initdb; Debian: postgresql) is not installed"
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and setpriv is not installed"
    return ""


class PostgresServer:
    """A server with one user, `tester`, and a password.

    :ivar url: of its database, with the password
    :ivar plain_url: the same without it
    :ivar password: of its user
    """

    def __init__(self, folder: Path, port: int, connections: int = 60) -> None:
        self._folder = folder
        self._port = port
        self._connections = connections
        self._data = folder / "data"
        self._process: subprocess.Popen | None = None
        self.password = PASSWORD
        self.plain_url = f"postgresql://tester@127.0.0.1:{port}/postgres"
        self.url = self.plain_url.replace("tester@", f"tester:{QUOTED}@")
        secret = folder / "password"
        secret.write_text(PASSWORD + "\n")
        options = ["--username=tester", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8"]
        if os.getuid() == 0:
            for each in (folder, secret):
                os.chown(each, *self._user())
        self._run("initdb", "-D", str(self._data), *options, "--locale=C").communicate()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        import psycopg

        def answers() -> bool:
            # one that was killed may hold its memory until its last process has ended; then the next one does not start
            if self._process is None or self._process.poll() is not None:
                self._process = self._run(
                    "postgres", "-D", str(self._data), "-p", str(self._port), "-k", str(self._folder), "-F",
                    "-c", "listen_addresses=127.0.0.1", "-c", "log_min_messages=fatal",
                    "-c", f"max_connections={self._connections}", "-c", "shared_buffers=16MB",
                )  # fmt: skip
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.Error:
                return False
            return True

        try:
            eventually(answers)
        except TimeoutError as error:
            error.add_note((self._folder / "errors").read_text())
            raise

    def kill(self) -> None:
        """Kill it with SIGKILL, as a machine that loses its power would."""
        # stopped first, so that it begins no process that would survive it: waiting for a lock of one that was killed,
        # such a process would hold the memory for ever
        os.kill(self._process.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self._process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Let it end at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to it and to the processes that serve its connections."""
        for pid in {self._process.pid, *self._children()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)

    def execute(self, statement: str, *parameters) -> list[tuple]:
        """Return the rows of a statement."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def _children(self) -> list[int]:
        return children_of(self._process.pid)

    def _run(self, program: str, *arguments: str) -> subprocess.Popen:
        command = [str(programs() / program), *arguments]
        if os.getuid() == 0:
            uid, gid = self._user()
            command = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *command]
        with (self._folder / "errors").open("a") as errors:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env={**os.environ, **MARK},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    @staticmethod
    def _user() -> tuple[int, int]:
        """Who it runs as if the tests run as root: it refuses root."""
        for name in ("postgres", "nobody"):
            try:
                found = pwd.getpwnam(name)
            except KeyError:
                continue
            return found.pw_uid, found.pw_gid
        raise AssertionError("there is no user to run PostgreSQL as")


@contextmanager
def postgres_server(*, connections: int = 60):
    """A running server for so many connections, with its data in a temporary folder."""
    # the folder of pytest's temporary files is open to its own user alone
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder, held_port() as port:
        server = PostgresServer(Path(folder), port, connections)
        try:
            server.start()
            yield server
        finally:
            server.stop()
