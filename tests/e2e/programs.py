"""Programs under test: start, wait for and stop them. None outlives its test."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2e.client import Client

HERE = Path(__file__).parent
# makes a program process 1
UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
CONNECTORS = HERE / "connectors"
TESTS = HERE.parent

# seconds; only ends a test that fails
PATIENCE = 30.0

# seconds; for what lasts until a test ends it
HOUR = 3600.0

# only a test ends a call, and a slow machine does not look like a connector that blocks
UNHURRIED = {
    "create_limit": HOUR, "get_limit": HOUR, "delete_limit": HOUR, "metrics_limit": HOUR, "watchdog": HOUR
}  # fmt: skip

# worker threads of the shared hosts: few, so that a test can keep all of them busy
WORKERS = 3

# in the environment of every process that is started here, and of their children
MARK = {"STARTED_BY_TESTS": str(os.getpid())}

# while a server starts, gRPC would wait longer before each attempt
IMPATIENT = {"grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 100}


def eventually(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until the condition holds.

    :raises TimeoutError: it does not come about
    """
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it did not come about")
        time.sleep(0.02)


class Program:
    """A process whose lines on standard output are JSON objects with an `event`, as far as tests wait for them.

    :param descriptors: those that the process inherits
    :ivar pid: of the process
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path = HERE,
        env: dict[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self._changed = threading.Condition()
        self._events: list[dict[str, Any]] = []
        self._output: list[str] = []
        self._errors: list[str] = []
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **MARK, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=descriptors,
        )
        self.pid = self._process.pid
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        for pipe in (self._process.stdout, self._process.stderr):
            pipe.close()
        if error is not None:
            error.add_note(f"{' '.join(map(str, self._process.args))} wrote:\n{self.output}\n{self.errors}")

    def _read_output(self) -> None:
        for line in self._process.stdout:
            with self._changed:
                self._output.append(line)
                if line.startswith("{"):
                    self._events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._output.append("")
            self._changed.notify_all()

    def _read_errors(self) -> None:
        for line in self._process.stderr:
            with self._changed:
                self._errors.append(line)
                self._changed.notify_all()

    @property
    def output(self) -> str:
        """The standard output so far."""
        return "".join(self._output)

    @property
    def errors(self) -> str:
        """The standard error so far."""
        return "".join(self._errors)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its log so far, which are JSON objects."""
        return [json.loads(line) for line in list(self._errors) if line.startswith("{")]

    def events(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the events so far with that name and these fields."""
        wanted = {"event": event, **fields}.items()
        return [found for found in list(self._events) if wanted <= found.items()]

    def wait_for(self, event: str, count: int = 1, *, patience: float = PATIENCE, **fields: Any) -> dict[str, Any]:
        """Wait for event number `count` with that name and these fields, and return it."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.events(event, **fields)) >= count, patience):
                raise TimeoutError(f"{len(self.events(event, **fields))} of {count} events {event} {fields}")
            return self.events(event, **fields)[count - 1]

    def wait_for_output(self, pattern: re.Pattern[str], *, patience: float = PATIENCE) -> re.Match[str]:
        """Wait until the standard output matches. Return the match."""
        with self._changed:
            if not self._changed.wait_for(lambda: pattern.search(self.output), patience):
                raise TimeoutError(f"nothing like {pattern.pattern!r} in the output")
        found = pattern.search(self.output)
        assert found is not None
        return found

    def wait_for_log(self, event: str, *, patience: float = PATIENCE) -> dict[str, Any]:
        """Wait for a line of the log with this event. Return the first."""
        with self._changed:
            if not self._changed.wait_for(lambda: f'"{event}"' in self.errors, patience):
                raise TimeoutError(f"nothing about {event!r} in the log")
        return next(line for line in self.log if line["event"] == event)

    def send(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(signum)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait until it has ended. Return its exit code; negative for a signal that killed it."""
        code = self._process.wait(patience)
        for reader in self._readers:
            reader.join(patience)
        return code

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None


class Reachable(Program):
    """A program that serves.

    :ivar target: where its gRPC server is
    :ivar url: where its exporter is
    """

    target: str
    url: str

    def client(self, **options: Any) -> Client:
        """Return a connected client."""
        client = Client(self.target, **options)
        client.connecting().result(PATIENCE)
        return client

    def ready(self, patience: float = PATIENCE) -> Self:
        """Wait until it serves. Return this object."""
        with Client(self.target, **IMPATIENT) as client:
            connected = client.connecting()
            eventually(lambda: connected.done() or not self.is_running, patience)
        if not self.is_running:
            raise ChildProcessError(f"it ended with exit code {self.wait()}")
        return self


class HostProgram(Reachable):
    """One of our hosts, serving the probes unless `settings` say otherwise.

    :param wrapper: a command that the host's own is an argument of
    :param python: of the environment that it runs in
    """

    def __init__(
        self,
        backend: str,
        *,
        python: str | Path = sys.executable,
        env: dict[str, str] | None = None,
        cwd: Path = HERE,
        wrapper: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        settings = {
            "host": "127.0.0.1",
            "port": 0,
            "prometheus_port": 0,
            "entry_points": False,
            "modules": [str(CONNECTORS / "probes.py")],
            **UNHURRIED,
            **settings,
        }
        super().__init__([*wrapper, python, HERE / "host_main.py", backend, json.dumps(settings)], cwd=cwd, env=env)

    def ready(self, patience: float = PATIENCE) -> Self:
        """Wait until it serves. Return this object."""
        self.wait_for("serving", patience=patience)
        return self

    def open_gate(self) -> None:
        """Open the probes' gate, even if the host answers no more calls."""
        self.send(signal.SIGUSR1)

    @property
    def target(self) -> str:  # type: ignore[override]  # known once it serves
        """The address of its gRPC server."""
        return str(self.wait_for("serving")["target"])

    @property
    def url(self) -> str:  # type: ignore[override]  # as above
        """The URL of its exporter."""
        return str(self.wait_for("serving")["url"])


class CommandProgram(Reachable):
    """A host whose command needs the numbers of the ports.

    :param command: makes the command of the two ports, gRPC's and the exporter's
    """

    def __init__(self, command: Callable[[str, str], Sequence[str | Path]], **options: Any) -> None:
        self._held = [hold_port(), hold_port()]
        port, exporter_port = (held.getsockname()[1] for held in self._held)
        self.target, self.url = f"127.0.0.1:{port}", f"http://127.0.0.1:{exporter_port}"
        super().__init__(command(str(port), str(exporter_port)), **options)

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        for held in self._held:
            held.close()


def hold_port() -> socket.socket:
    """Return a socket on a free port of 127.0.0.1 that does not listen.

    While it is open, nobody who asks for any free port gets this one, and a program that is told to may bind it. Hosts
    take seconds to start; a port that is only known to have been free may be another test's by then.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as gRPC's C core binds
    held.bind(("127.0.0.1", 0))
    return held


class HeldPorts:
    """Sockets that listen on free ports of 127.0.0.1 and outlive the programs that use them, as systemd's do.

    :ivar wrapper: a command that gives them to the program which is its argument
    :ivar descriptors: for `Program`
    """

    def __init__(self, count: int = 1) -> None:
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        self.descriptors = [each.fileno() for each in self.sockets]
        # some shells know redirections of one digit only
        copies = " ".join(f"{3 + number}<&{each}" for number, each in enumerate(self.descriptors))
        start = f'LISTEN_PID=$$ LISTEN_FDS={count} exec "$@" {copies}'
        self.wrapper = ["bash", "-c", start, "bash"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.sockets:
            each.close()

    @property
    def ports(self) -> list[int]:
        """The ports of the sockets."""
        return [each.getsockname()[1] for each in self.sockets]


def children_of(pid: int) -> list[int]:
    """Return the child processes of `pid` that run or are zombies."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            # "pid (name) state parent …", and a name may have any characters
            before, _, after = status.read_text().rpartition(")")
            if int(after.split()[1]) == pid:
                found.append(int(before.split()[0]))
    return found


def left_over() -> list[int]:
    """Return the processes that have the mark."""
    ((name, value),) = MARK.items()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{name}={value}".encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found


def why_no_namespace() -> str | None:
    """Return the reason why `UNSHARE` cannot make a program process 1 here."""
    if shutil.which("unshare") is None:
        return "there is no unshare on the PATH, which would make the host process 1"
    tried = subprocess.run([*UNSHARE, "true"], check=False, capture_output=True, text=True)
    return f"no process namespace may be made here: {tried.stderr.strip()}" if tried.returncode else None
