"""The drill of a rolling update as Kubernetes does it, under a load of creates, polls and deletes.

The new pod is probed until it is ready, and clients learn of it late. The old one is told to end, and clients learn of
that late, too; it is killed when its grace period is over. All hosts share a job store in PostgreSQL. The other system
is a file: it tells how often each job was created.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drills.cluster.deployment import Deployment
from drills.cluster.load import Load, calling
from drills.cluster.pod import Pod
from drills.cluster.rows import Row
from drills.cluster.ways import WAYS, MissingToolError
from e2e.programs import hold_port
from service.job_store.servers import postgres_server, why_not

# connections to PostgreSQL: each process of each host may have five
DATABASE_CONNECTIONS = 400


@dataclass(frozen=True)
class Report:
    """The result of a row.

    :ivar replaced: pods that were deleted
    :ivar calls: that clients have made
    :ivar failed: those that failed, by method and code
    :ivar errors: one text for each of these
    :ivar jobs: that were created
    :ivar duplicates: jobs that were created more than once
    :ivar slowest_seconds: of the longest call
    :ivar killed: pods that were killed
    :ivar exit_codes: of the others, with how many had each
    :ivar drained_seconds: the longest time from SIGTERM to the end of a host
    """

    name: str
    row: Row
    replaced: int
    calls: int
    failed: dict[str, int]
    errors: dict[str, str]
    jobs: int
    duplicates: int
    slowest_seconds: float
    killed: int
    exit_codes: dict[str, int]
    drained_seconds: float
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether calls failed in a row that loses some, and only there."""
        if self.row.loses:
            return bool(self.failed)
        return not (self.failed or self.duplicates or self.killed) and set(self.exit_codes) == {"0"}


def drill(name: str, row: Row, *, backend: str = "uvloop", rate: float = 100.0) -> Report:
    """Try a row.

    :param name: of the row, for the report
    :param backend: of the hosts
    :param rate: calls a second
    :raises MissingToolError: a program is not installed
    """
    if why_not():
        raise MissingToolError(why_not())
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rolling-")))
        database = stack.enter_context(postgres_server(connections=DATABASE_CONNECTIONS))
        port = stack.enter_context(hold_port()).getsockname()[1]
        journal = folder / "journal"
        env = {"CLUSTER_JOURNAL": str(journal), "CLUSTER_SLOW": str(row.slow), "CONNECTRIO_JOB_STORE": database.url}
        settings = {"processes": row.processes, "drain_delay": row.drain_delay, "grace": row.grace}
        start = partial(Pod, backend=backend, port=port, folder=folder, settings=settings, env=env, sidecar=row.sidecar)
        deployment = Deployment(row, start, stack)
        way = stack.enter_context(WAYS[row.behind](folder, deployment.endpoints.addresses))
        deployment.endpoints.way = way
        with calling(row.client, way.target, rate, folder) as caller:
            time.sleep(row.around)
            getattr(deployment, row.does)(row.replacements)
            deployment.settle()
            time.sleep(row.around)
            load = caller.end()
        return _report(name, row, load, deployment.ended, _created(journal), time.monotonic() - began)


def _created(journal: Path) -> Counter[str]:
    """Return how often each job was created, by key."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return Counter(line["key"] for line in lines if line["what"] == "create")


def _report(name: str, row: Row, load: Load, pods: list[Pod], created: Counter[str], seconds: float) -> Report:
    return Report(
        name,
        row,
        len(pods),
        load.calls,
        load.failed,
        load.errors,
        len(created),
        sum(count > 1 for count in created.values()),
        round(load.slowest, 2),
        sum(pod.killed for pod in pods),
        dict(Counter(str(pod.exit_code) for pod in pods if not pod.killed)),
        round(max(pod.drained for pod in pods), 1),
        round(seconds, 1),
    )
