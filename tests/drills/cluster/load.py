"""The clients that call while pods come and go, and what came of their calls."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from drills.cluster.ways import MissingToolError
from drills.hosting import HERE, PATIENCE, environment
from drills.polling import NoPollerError, Poller, build_poller
from e2e.programs import Program

TASK_TYPE = "journaled"
# of the Go client's calls. A create is sent twice, as by an executor that has lost the answer, and the job is deleted
_CREATES, _FRESH = 0.08, 0.05
_POLLS = 1 - 3 * _CREATES - _FRESH


@dataclass(frozen=True)
class Load:
    """The calls that were made.

    :ivar failed: those that failed, by method and code
    :ivar errors: one text for each of these
    :ivar slowest: seconds of the longest call
    """

    calls: int
    failed: dict[str, int]
    errors: dict[str, str]
    slowest: float


class Caller(Protocol):
    """A client that calls."""

    def end(self) -> Load:
        """Let it finish its calls, and return what came of all."""


class PythonCaller:
    """`drills.submitter`."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def end(self) -> Load:
        """Let it finish its calls, and return what came of all."""
        self._program.send(signal.SIGTERM)
        told = self._program.wait_for("result", patience=PATIENCE)
        return Load(told["calls"], told["failed"], told["errors"], told["slowest"])


class GoCaller:
    """The poller."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller

    def end(self) -> Load:
        """Let it finish its calls, and return what came of all."""
        self._poller.send(signal.SIGTERM)
        result = self._poller.result()
        kinds = {
            "CreateTask": result.creates,
            "GetTask": result.polls,
            "DeleteTask": result.deletes,
            "GetTask, own connection": result.fresh,
        }
        failed, errors = {}, {}
        for method, counts in kinds.items():
            for (code, number), text in zip(counts.failed.items(), counts.errors, strict=True):
                failed[f"{method} {code}"], errors[f"{method} {code}"] = number, text[:300]
        every = kinds.values()
        return Load(sum(each.calls for each in every), failed, errors, max(each.slowest for each in every))


@contextmanager
def calling(client: str, target: str, rate: float, folder: Path) -> Iterator[Caller]:
    """Run a client that makes about so many calls a second.

    :param client: "go", "grpcio" or "channel"
    :raises MissingToolError: there is no Go, or it lacks a module
    """
    if client != "go":
        command = [sys.executable, "-m", "drills.submitter", client, target, str(rate)]
        with Program(command, cwd=HERE, env=environment()) as program:
            program.wait_for("begun", patience=PATIENCE)
            yield PythonCaller(program)
        return
    if "://" not in target:
        target = f"dns:///{target}"
    try:
        program_file = build_poller(folder)
    except NoPollerError as error:
        raise MissingToolError(str(error)) from error
    flags: dict[str, Any] = {"task_type": TASK_TYPE, "creates": rate * _CREATES, "fresh": rate * _FRESH}
    with Poller(program_file, target, polls=rate * _POLLS, repeats=True, deletes=True, **flags) as poller:
        poller.begun()
        yield GoCaller(poller)
