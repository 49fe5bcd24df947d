"""The client in Go that calls as Flyte's executor does: `poller/main.go` says how. `Poller` runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drills.hosting import HERE, PATIENCE
from e2e.programs import Program

SOURCE = HERE / "poller"


class NoPollerError(Exception):
    """The poller cannot be built here; the message says which tool or module is missing."""


@dataclass(frozen=True)
class Counts:
    """The calls of one kind. Times are in seconds since the poller began.

    :ivar failed: by the name of the status code, as Go spells it
    :ivar errors: the first error of each code
    :ivar first_failure: when it was noticed; None if no call has failed
    :ivar last_failure: the same for the last
    :ivar slowest: the longest call
    """

    calls: int = 0
    ok: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    first_failure: float | None = None
    last_failure: float | None = None
    slowest: float = 0.0

    @property
    def failures(self) -> int:
        """The number of calls that have failed."""
        return self.calls - self.ok


@dataclass(frozen=True)
class Result:
    """What a poller has seen.

    :ivar polls: over the connection that it keeps, as the executor's
    :ivar deletes: of the jobs that were created
    :ivar fresh: polls over connections of their own
    :ivar created: the jobs that were created, beside those that are polled
    :ivar duplicates: creates that were answered with another job than the same create before
    :ivar jobs_lost: the jobs that the executor would have given up: more than five of their polls have failed
    :ivar worst_job: the most failed polls of one job
    """

    seconds: float
    polls: Counts
    creates: Counts
    deletes: Counts
    fresh: Counts
    created: int
    duplicates: int
    jobs: int
    jobs_lost: int
    worst_job: int


def build_poller(directory: Path) -> Path:
    """Build the poller in `directory`, and return its path. Go caches what it has compiled.

    :raises NoPollerError: Go is not installed or too old, or its modules cannot be had
    :raises subprocess.CalledProcessError: it does not compile
    """
    go = shutil.which("go", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/go/bin"]))
    if go is None:
        raise NoPollerError("the tool go is not installed, which builds the poller")
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    got = subprocess.run(
        [go, "mod", "download"], cwd=SOURCE, env=environment, check=False, capture_output=True, text=True
    )
    if got.returncode:
        raise NoPollerError(f"go cannot get the modules of the poller: {got.stderr.strip()}")
    built = directory / "poller"
    subprocess.run([go, "build", "-buildvcs=false", "-o", built, "."], cwd=SOURCE, env=environment, check=True)
    return built


class Poller(Program):
    """A poller that runs. A context manager that ends it.

    :param program: built with `build_poller`
    :param target: a gRPC target, or some addresses
    :param flags: of the program, as `polls=50` for `-polls=50`
    """

    def __init__(self, program: Path, target: str | Sequence[str], **flags: Any) -> None:
        where = target if isinstance(target, str) else ",".join(target)
        given = {name.replace("_", "-"): str(value).lower() if isinstance(value, bool) else value
                 for name, value in flags.items()}  # fmt: skip
        super().__init__([program, f"-target={where}", *(f"-{name}={value}" for name, value in given.items())])

    def begun(self) -> None:
        """Wait until it polls: every job that it polls has been answered for."""
        self.wait_for("begun", patience=PATIENCE)

    def result(self) -> Result:
        """Wait for its end, and return what it has seen. It ends when `seconds` are over, or at SIGTERM."""
        told = dict(self.wait_for("result", patience=PATIENCE))
        del told["event"]
        kinds = {name: Counts(**told.pop(name)) for name in ("polls", "creates", "deletes", "fresh")}
        return Result(**told, **kinds)
