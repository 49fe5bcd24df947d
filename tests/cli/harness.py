"""Commands run in this process, hosts in a thread beside them, and commands as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from connectrio.cli import flyte_connector, main
from connectrio.connector.registry import Registry
from connectrio.host.host import Addresses, Host
from connectrio.host.settings import HostSettings

TOY_MODULE = Path(__file__).with_name("toy.py")
CONNECTRIO = [sys.executable, "-m", "connectrio"]
# seconds; what is waited for is an event, and this only ends a test that fails
PATIENCE = 60
LOOPBACK = ["--host", "127.0.0.1", "--port", "0", "--prometheus-port", "0"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """The JSON that was printed."""
        return json.loads(self.out)


class Commands:
    """Runs commands in this process.

    :param defaults: options that every command of `connectrio` gets, after its own
    """

    def __init__(self, capsys, *defaults: str) -> None:
        self._capsys = capsys
        self._defaults = defaults

    def __call__(self, *arguments: str, script=main) -> Outcome:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            script([*arguments, *self._defaults])
        out, err = self._capsys.readouterr()
        return Outcome(ended.value.code, out, err)

    def flyte_connector(self, *arguments: str) -> Outcome:
        return self(*arguments, script=flyte_connector)


@contextmanager
def hosting(registry: Registry, kind: type[Host] = Host, **settings) -> Iterator[Addresses]:
    """A host of `registry` in a thread of its own.

    :param kind: its class
    """
    serving = threading.Event()
    found: dict[str, object] = {}

    async def serve() -> None:
        given = HostSettings(host="127.0.0.1", port=0, prometheus_port=0, grace=1, **settings)
        host = kind(given, registry=registry)
        async with anyio.create_task_group() as tasks:
            found["addresses"] = await tasks.start(host.serve)
            found["stop"] = stop = anyio.Event()
            found["token"] = anyio.lowlevel.current_token()
            serving.set()
            await stop.wait()
            await host.shutdown(grace=1)

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    try:
        assert serving.wait(PATIENCE)
        yield found["addresses"]
    finally:
        anyio.from_thread.run_sync(found["stop"].set, token=found["token"])
        thread.join(PATIENCE)


class Process:
    """A command as a process of its own."""

    def __init__(self, *arguments: str, cwd: Path, environment: dict[str, str] | None = None) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CONNECTRIO_")}
        self._process = subprocess.Popen(
            [*CONNECTRIO, *arguments],
            cwd=cwd,
            env={**clean, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._out = _Lines(self._process.stdout)
        self._err = _Lines(self._process.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info) -> None:
        self._process.kill()
        self.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def line_with(self, text: str, count: int = 1) -> str:
        """Wait for line number `count` on standard output that holds `text`."""
        return self._out.line_with(text, count)

    def error_with(self, text: str, count: int = 1) -> str:
        """Wait for line number `count` on standard error that holds `text`."""
        return self._err.line_with(text, count)

    def wait(self) -> Outcome:
        """Wait for its end; the outcome has all that was printed."""
        out, err = self._out.all(), self._err.all()
        return Outcome(self._process.wait(PATIENCE), out, err)


class _Lines:
    """The lines of a pipe, read by a thread, so that a process never waits for us."""

    def __init__(self, pipe) -> None:
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(pipe,))
        self._thread.start()

    def _read(self, pipe) -> None:
        with pipe:
            for line in pipe:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def line_with(self, text: str, count: int = 1) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended or self._find(text, count), PATIENCE), self._lines
            found = self._find(text, count)
        assert found, f"the process ended without {text!r}: {self._lines}"
        return found

    def _find(self, text: str, count: int) -> str | None:
        found = [line.rstrip("\n") for line in self._lines if text in line]
        return found[count - 1] if len(found) >= count else None

    def all(self) -> str:
        self._thread.join(PATIENCE)
        return "".join(self._lines)


@contextmanager
def serving_toys(tmp_path: Path, *options: str) -> Iterator[tuple[Process, str]]:
    """`connectrio serve` with the toy connector: the process and its target."""
    arguments = ["serve", *LOOPBACK, "--no-entry-points", "--modules", str(TOY_MODULE), *options]
    with Process(*arguments, cwd=tmp_path) as host:
        if "console" in options:
            yield host, host.line_with("gRPC").split()[1]
        else:
            yield host, json.loads(host.error_with('"serving"'))["grpc"]
