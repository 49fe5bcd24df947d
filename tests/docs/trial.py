"""Trying a page as its reader would: files are written, sessions and scripts run, in one directory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from docs.blocks import ROOT, Block, Command, Stop, commands
from docs.outputs import difference, pattern, plain
from rpc.kit.serving import held_port

# seconds; only ends a test that fails
PATIENCE = 60.0

PORTS = ("8000", "8080", "9090", "50051")
EXAMPLES = ROOT / "tests" / "examples"
PROGRAMS = Path(sys.executable).parent
# programs that a machine may lack
TOOLS = {"curl", "grpcurl", "kubectl", "openssl", "promtool", "psql", "uv"}
# what these do is not tried, because they fetch packages; test_commands.py checks what they name
_FETCHES = re.compile(r"(?:pip|uv pip|python -m pip) install |uv (?:add|sync)\b|uvx? ?tool install ")
_ASSIGNMENTS = r"(?:\w+=(?:\"[^\"]*\"|'[^']*'|\S)*\s+)*"
# what a session keeps from one command to the next: its variables and its directory
_KEEPING = 'trap \'code=$?; env -0 > "$KEPT/env"; pwd > "$KEPT/cwd"; exit $code\' EXIT\n'


def squeezed(text: str) -> str:
    """A text without its white space."""
    return "".join(text.split())


class Running:
    """A program of a session that keeps running. All that it writes is read at once."""

    def __init__(self, command: str, directory: Path, env: dict[str, str]) -> None:
        self.command = command
        # bash is replaced by the program, which so gets the signal
        line = re.sub(rf"^({_ASSIGNMENTS})", r"\1exec ", command)
        self._process = subprocess.Popen(
            ["bash", "-c", line], cwd=directory, env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.written = ""
        self._more = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            with self._more:
                self.written += line
                self._more.notify_all()
        with self._more:
            self._has_ended = True
            self._more.notify_all()

    def has_shown(self, wanted: re.Pattern[str], ports: Ports) -> bool:
        """Wait until its output begins so, and return whether it does."""

        def begins_so() -> bool:
            return wanted.match(plain(ports.back(self.written))) is not None

        with self._more:
            self._more.wait_for(lambda: self._has_ended or begins_so(), PATIENCE)
            return begins_so()

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and all that it started."""
        kill_group(self._process)
        self._reader.join(PATIENCE)
        self._process.stdout.close()


def kill_group(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait(PATIENCE)


class Ports:
    """Free ports in place of those that documents name."""

    def __init__(self, free: list[int]) -> None:
        self._free = dict(zip(PORTS, map(str, free), strict=True))
        self._named = {free: named for named, free in self._free.items()}

    def free(self, text: str) -> str:
        """Return a text of a document with the free ports."""
        return re.sub(rf"\b(?:{'|'.join(self._free)})\b", lambda port: self._free[port[0]], text)

    def back(self, text: str) -> str:
        """Return an output with the ports that documents name, without a target that is then the default."""
        text = text.replace(f" --target 127.0.0.1:{self._free['8000']}", "")
        return re.sub(rf"\b(?:{'|'.join(self._named)})\b", lambda port: self._named[port[0]], text)


class Trial:
    """A page that is tried.

    :ivar typed: the Python files that it has shown, to be checked as its reader's own
    """

    def __init__(self, directory: Path, kept: Path, ports: Ports, programs: Path) -> None:
        self.directory = directory
        self.typed: dict[str, str] = {}
        self._kept = kept
        self._ports = ports
        self._running: list[Running] = []
        self._titled = ""
        (kept / "cwd").write_text(str(directory))
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("CONNECTRIO", "PYTEST"))}
        ours |= {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CONNECTRIO_HOST": "127.0.0.1",
            "CONNECTRIO_PORT": ports.free("8000"),
            "CONNECTRIO_PROMETHEUS_PORT": ports.free("9090"),
            "CONNECTRIO_TARGET": ports.free("127.0.0.1:8000"),
            "CONNECTRIO_URL": ports.free("http://127.0.0.1:9090"),
            "CONNECTRIO_LOG_FORMAT": "console",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "KEPT": str(kept),
        }
        ours.pop("FORCE_COLOR", None)
        (kept / "env").write_text("".join(f"{name}={value}\0" for name, value in ours.items()))

    @classmethod
    @contextmanager
    def of(cls, directory: Path, programs: Path = PROGRAMS) -> Iterator[Self]:
        """Try a page in this directory. What it leaves running is stopped.

        :param programs: where those of the page's reader are
        """
        with ExitStack() as held:
            ports = Ports([held.enter_context(held_port()) for _ in PORTS])
            (directory / "work").mkdir()
            (directory / "kept").mkdir()
            trial = cls(directory / "work", directory / "kept", ports, programs)
            try:
                yield trial
            finally:
                for each in trial._running:
                    each.kill()

    def put(self, path: Path) -> None:
        """Put an example that the page links to into the directory."""
        (self.directory / path.name).write_text(self._ports.free(path.read_text()))

    def take(self, part: Block | Stop, following: Block | None) -> None:
        """Do what a reader does with a part of the page.

        :param following: the block that follows at once
        """
        if isinstance(part, Stop):
            self.stop(part.command, part.place)
        elif part.title:
            self._write(part)
        elif "not run" in part.marks:
            assert part.marks["not run"], f"{part.place}: say why it is not run"
        elif part.language == "python":
            self._run_script(part, following)
        elif part.language == "console":
            self._run_session(part)

    def _write(self, block: Block) -> None:
        file = self.directory / block.title
        assert file.resolve().is_relative_to(self.directory.resolve()), f"{block.place}: outside of the directory"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._ports.free(block.text))
        self._titled += squeezed(block.text)
        if block.language == "python":
            self.typed[block.title] = block.place

    def _run_script(self, block: Block, following: Block | None) -> None:
        excerpt = squeezed(block.text)
        if excerpt in self._titled or any(excerpt in squeezed(each.read_text()) for each in EXAMPLES.rglob("*.py")):
            return
        script = self._kept / "script.py"
        script.write_text(self._ports.free(block.text))
        code, written = self._run(f'PYTHONPATH=. python "{script}"', block.place)
        assert code == 0, f"{block.place}: it ended with {code}, and is no excerpt of an example\nit wrote:\n{written}"
        if following is not None and following.language == "text":
            problem = difference(following.text.splitlines(), written)
            assert problem is None, f"{following.place}: {problem}"

    def _run_session(self, block: Block) -> None:
        session = commands(block)
        for command in session:
            if command is session[-1] and "keeps running" in block.marks:
                self._start(command)
                return
            if _FETCHES.match(command.text):
                continue
            code, written = self._run(command.text, command.place)
            expected = int(block.marks.get("exits", 0)) if command is session[-1] else 0
            hint = "" if code == 0 else f" (if that is right, write <!-- exits: {code} --> before the block)"
            assert code == expected, f"{command.place}: it ended with {code}{hint}\nit wrote:\n{written}"
            problem = difference(command.shown, written) if command.shown else None
            assert problem is None, f"{command.place}: {problem}"

    def _run(self, command: str, at: str) -> tuple[int, str]:
        """Run a command, and return its exit code and what it wrote."""
        process = subprocess.Popen(
            ["bash", "-c", _KEEPING + self._ports.free(command)], cwd=self._cwd(), env=self._env(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            written, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as late:
            so_far = (late.output or b"").decode() if isinstance(late.output, bytes) else late.output
            raise AssertionError(f"{at}: it does not end\nit wrote:\n{so_far}") from late
        finally:
            kill_group(process)
            process.stdout.close()
        return process.returncode, self._ports.back(plain(written))

    def _start(self, command: Command) -> None:
        running = Running(self._ports.free(command.text), self._cwd(), self._env())
        self._running.append(running)
        # where none is shown, any line: a program that has written nothing may not have begun
        wanted = pattern(command.shown) if command.shown else re.compile(".*\n")
        has_shown = running.has_shown(wanted, self._ports)
        assert has_shown, f"{command.place}: {difference(command.shown, self._ports.back(running.written))}"

    def _env(self) -> dict[str, str]:
        pairs = (self._kept / "env").read_text().split("\0")
        return {name: value for name, _, value in (pair.partition("=") for pair in pairs if pair)}

    def _cwd(self) -> Path:
        return Path((self._kept / "cwd").read_text().rstrip("\n"))

    def stop(self, command: str, at: str) -> None:
        """Stop the programs whose commands begin so; all for "".

        SIGTERM ends a Python program that does not handle it, and is no fault of a short example.
        """
        stopped = [each for each in self._running if each.command.startswith(self._ports.free(command))]
        assert stopped or not command, f"{at}: no program is running whose command begins so"
        for each in stopped:
            self._running.remove(each)
            code = each.stop()
            allowed = (0, -signal.SIGTERM) if each.command.startswith("python ") else (0,)
            assert code in allowed, f"{at}: {each.command} ended with {code}\nit wrote:\n{each.written}"


def needed_tools(parts: list[Block | Stop]) -> set[str]:
    """Return the programs that a page's sessions need and this machine lacks."""
    tried = (part for part in parts if isinstance(part, Block) and part.language == "console")
    words = {
        word
        for block in tried
        if "not run" not in block.marks
        for command in commands(block)
        for word in re.findall(rf"(?:^|[|;&] *)(?:{_ASSIGNMENTS})([\w./-]+)", command.text)
    }
    return {word for word in words & TOOLS if shutil.which(word) is None}


def skip_without(tools: set[str]) -> None:
    """Skip a test whose page needs tools that the machine lacks."""
    if tools:
        pytest.skip(f"this machine lacks {', '.join(sorted(tools))}")
