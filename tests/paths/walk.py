"""A user's path: steps in one directory, with the programs of fresh virtual environments."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from docs.blocks import Block, parts
from docs.outputs import plain
from docs.trial import PORTS, Ports, Running, Trial, kill_group, needed_tools

# seconds; only ends a step that would never end
PATIENCE = 300

LOOPBACK = "--host 127.0.0.1 --port 0 --prometheus-port 0 --log-format console"


class StepError(Exception):
    """A step has failed; the text has what it wrote."""


class Walk:
    """One path.

    :ivar directory: where its steps begin
    :ivar programs: of the environment that was made last

    :param dist: has the built wheel
    """

    def __init__(self, directory: Path, dist: Path) -> None:
        self.directory = directory
        self.programs = Path()
        self._dist = dist
        self._environments = 0

    def install(self, *requirements: str) -> None:
        """Make a fresh environment, install this in it, and use its programs in the steps that follow."""
        self._environments += 1
        environment = self.directory / f"venv-{self._environments}"
        with self._step(f"install {' '.join(map(str, requirements))}"):
            self._call(["uv", "venv", "--quiet", "--python", sys.executable, str(environment)], self.directory)
            self.programs = environment / "bin"
            python = str(self.programs / "python")
            self._call(["uv", "pip", "install", "--quiet", "--python", python, *requirements], self.directory)
            is_wheels = "import connectrio; assert 'site-packages' in connectrio.__file__, connectrio.__file__"
            self._call([python, "-c", is_wheels], self.directory)

    def run(self, command: str, *shows: str, within: str = ".", code: int = 0) -> str:
        """Run a line of bash, and return what it wrote.

        :param shows: what it must write
        :param code: how it must end
        :raises StepError: it does not
        """
        with self._step(command):
            written = self._call(["bash", "-c", command], self.directory / within, code)
            for each in shows:
                if each not in written:
                    raise StepError(f"{command}: {each!r} is not in what it wrote:\n{written}")
        return written

    @contextmanager
    def running(self, command: str, shows: str, within: str = ".") -> Iterator[Callable[[str], re.Match[str]]]:
        """Run a program in this block, and then stop it with SIGTERM, which it must end well.

        Yield a function that waits until what it has written holds a pattern, and returns the match.

        :param shows: the pattern to wait for at first
        """
        ports = Ports(list(map(int, PORTS)))  # those of documents stay
        program = Running(command, self.directory / within, self._environment())

        def wait(wanted: str) -> re.Match[str]:
            if not program.has_shown(re.compile(f".*?{wanted}", re.DOTALL), ports):
                raise StepError(f"{command}: {wanted!r} is not in what it wrote:\n{program.written}")
            found = re.search(wanted, plain(program.written), re.DOTALL)
            assert found is not None
            return found

        try:
            with self._step(f"{command} &"):
                wait(shows)
            yield wait
            code = program.stop()
            if code != 0:
                raise StepError(f"{command}: SIGTERM ended it with {code}:\n{program.written}")
        finally:
            program.kill()

    def read(self, page: Path, *examples: Path) -> None:
        """Do all that a page shows: see `docs.trial`."""
        found = list(parts(page))
        lacking = [each for each in found if isinstance(each, Block) and needed_tools([each])]
        for block in lacking:
            print(f"          left out, because this machine lacks its program: {block.place}")
        found = [each for each in found if each not in lacking]
        with self._step(f"all that {page.name} shows"), Trial.of(self._below(page.stem), self.programs) as trial:
            for example in examples:
                trial.put(example)
            for part, following in zip(found, [*found[1:], None], strict=True):
                trial.take(part, following if isinstance(following, Block) else None)
            trial.stop("", page.name)

    def _below(self, name: str) -> Path:
        directory = self.directory / name
        directory.mkdir()
        return directory

    def _call(self, command: list[str], directory: Path, code: int = 0) -> str:
        process = subprocess.Popen(
            command, cwd=directory, env=self._environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            written, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as late:
            raise StepError(f"{' '.join(command)}: it does not end") from late
        finally:
            kill_group(process)
            process.stdout.close()
        if process.returncode != code:
            raise StepError(f"{' '.join(command)}: it ended with {process.returncode}:\n{written}")
        return written

    def _environment(self) -> dict[str, str]:
        """The user's: nothing of this source tree, and connectrio comes from the built wheel."""
        hidden = ("CONNECTRIO_", "PYTEST_", "PYTHON", "UV_PROJECT", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        return kept | {
            "PATH": f"{self.programs}:{os.environ['PATH']}" if self._environments else os.environ["PATH"],
            "UV_FIND_LINKS": str(self._dist),
            "UV_PYTHON": sys.executable,
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        print(f"  {time.monotonic() - began:6.1f} s  {what}", flush=True)
