"""Flyte's plugin for Slurm, unmodified, on a host that has just started; flyte-sdk's own host beside ours.

It keeps an SSH connection and a lock for each account in a dict, which it fills in the first call.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from flyteidl2.core.execution_pb2 import TaskExecution

from e2e.client import Client
from e2e.programs import HostProgram, eventually
from e2e.reference import ReferenceProgram
from flyte_sdk.plugins.slurm import Cluster
from flyte_sdk.plugins.test_plugins import Task, template

# seconds; the plugins take many to import, where all cores are busy
PATIENCE = 120.0
# that many calls are under way at once
AT_ONCE = 8

SCRIPTS = {
    "written": 'printf "$FLYTE_OUTPUT_RESULT" >"$FLYTE_OUTPUT_RESULT"',
    "fails": "echo out of luck >&2; exit 3",
    "not written": "exit 0",
    "deleted": "exec sleep 1000",
}
JOBS = ["written"] * 30 + ["fails"] * 8 + ["not written"] * 6 + ["deleted"] * 6
ENDS = {
    "written": TaskExecution.SUCCEEDED,
    "fails": TaskExecution.FAILED,
    "not written": TaskExecution.FAILED,
    "deleted": TaskExecution.ABORTED,
}


@pytest.fixture(scope="module")
def cluster(plugins_python, tmp_path_factory):
    """A login node."""
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    with made.serving():
        yield made


@pytest.fixture(params=["asyncio", "uvloop", "trio", "flyte-sdk"])
def fresh(request, plugins_python, cluster, tmp_path):
    """A host that has answered no call yet: the cluster, a task, and a folder for outputs."""
    modules = ["flyteplugins.slurm"]
    if request.param == "flyte-sdk":
        host = ReferenceProgram(plugins_python, modules=modules, cwd=tmp_path)
    else:
        host = HostProgram(request.param, python=plugins_python, modules=modules)
    with host:
        host.ready(PATIENCE)
        with Client(host.target) as client:
            task = Task(client, "slurm_script", **cluster.secrets)
            yield SimpleNamespace(cluster=cluster, task=task, folder=tmp_path)
        host.send(signal.SIGTERM)
        host.wait()


def at_once(function, arguments):
    """Return the results of a function for all arguments, some at once."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(function, arguments))


def create(fresh, kind, number):
    """Start a job with an output. Return its resource meta."""
    prefix = fresh.folder / f"{number}"
    prefix.mkdir()
    made = template("slurm_script", fresh.cluster.custom(SCRIPTS[kind], outputs={"result": "file"}))
    return fresh.task.start("create", str(prefix).encode(), template=made).result().resource_meta


def test_creates_that_come_at_once_and_their_first_polls(fresh):
    before = fresh.cluster.jobs
    first = at_once(lambda number: create(fresh, "written", f"first-{number}"), range(AT_ONCE))
    assert {json.loads(meta)["job_id"] for meta in first} == fresh.cluster.jobs - before
    assert len(fresh.cluster.jobs - before) == AT_ONCE
    polled = at_once(fresh.task.get, first)
    assert {resource.phase for resource in polled} <= {TaskExecution.RUNNING, TaskExecution.SUCCEEDED}


@pytest.mark.parametrize("fresh", ["uvloop"], indirect=True)
def test_fifty_jobs_with_outputs_and_failures(fresh):
    before = fresh.cluster.jobs
    metas = at_once(lambda job: create(fresh, job[1], job[0]), enumerate(JOBS))
    assert len(fresh.cluster.jobs - before) == len(JOBS)
    at_once(fresh.task.delete, [meta for meta, kind in zip(metas, JOBS, strict=True) if kind == "deleted"])
    ends = at_once(lambda meta: end_of(fresh, meta), metas)
    assert Counter(zip(JOBS, (end.phase for end in ends), strict=True)) == {
        (kind, phase): JOBS.count(kind) for kind, phase in ENDS.items()
    }
    for number, (kind, end) in enumerate(zip(JOBS, ends, strict=True)):
        if kind == "written":
            (output,) = end.outputs.literals
            assert output.value.scalar.blob.uri == f"{fresh.folder}/{number}/result"
            written = (fresh.folder / f"{number}" / "result").read_text()
            assert written == json.loads(metas[number])["declared_outputs"]["result"]["written_to"]
        elif kind == "fails":
            assert "exit code 3:0" in end.message
            assert "out of luck" in end.message
        elif kind == "not written":
            assert "did not write every declared output" in end.message


def end_of(fresh, meta):
    """Return the state of a job when it has ended."""
    eventually(lambda: fresh.cluster.has_ended(json.loads(meta)["job_id"]))
    # it is RUNNING until its output has been moved
    while (state := fresh.task.get(meta)).phase == TaskExecution.RUNNING:
        time.sleep(0.2)
    return state
