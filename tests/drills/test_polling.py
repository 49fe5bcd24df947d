"""The poller counts what it should."""

from __future__ import annotations

import pytest

from drills.hosting import DrillHost
from drills.polling import Poller

# a new job at each call, whatever the host remembers: each connector is another one's
NEW_JOBS = """
import itertools
from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta
from dataclasses import dataclass

@dataclass
class Job(ResourceMeta):
    number: int

class Counting(AsyncConnector[Job]):
    name, task_type_name, metadata_type, numbers = "Counting", "counting", Job, itertools.count(1)

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Job(next(self.numbers))

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=Phase.RUNNING)

    async def delete(self, resource_meta, **kwargs):
        return None

ConnectorRegistry.register(Counting())
"""


def test_calls_of_all_kinds_are_counted(poller):
    with DrillHost("uvloop") as host:
        target = host.ready().target
        with Poller(
            poller, f"dns:///{target}", polls=20, creates=10, deletes=True, fresh=10, seconds=1, jobs=3
        ) as client:
            result = client.result()
    assert result.polls.calls >= 20
    assert result.fresh.calls >= 10
    assert result.created == result.creates.calls == result.deletes.calls >= 10
    kinds = (result.polls, result.creates, result.deletes, result.fresh)
    assert [counts.failures for counts in kinds] == [0, 0, 0, 0]
    assert (result.jobs, result.jobs_lost, result.duplicates) == (3, 0, 0)


def test_failures_are_counted_by_code_and_by_job(poller):
    with DrillHost("uvloop") as host, Poller(poller, [host.ready().target], polls=50, jobs=2, seconds=3) as client:
        client.begun()
        host.kill()
        polls = client.result().polls
        worst = client.result().worst_job
    assert set(polls.failed) == {"Unavailable"}
    assert polls.first_failure < polls.last_failure
    assert len(polls.errors) == 1
    assert worst >= polls.failures / 2
    assert client.result().jobs_lost == 2


@pytest.mark.parametrize(("remembers", "duplicates"), [(True, False), (False, True)])
def test_a_second_job_for_one_create_is_a_duplicate(poller, tmp_path, remembers: bool, duplicates: bool):
    module = tmp_path / "counting.py"
    module.write_text(NEW_JOBS)
    settings = {} if remembers else {"create_memory": 0}
    flags = {"task_type": "counting", "creates": 20, "repeats": True, "jobs": 1, "seconds": 1}
    with (
        DrillHost("uvloop", modules=module, **settings) as host,
        Poller(poller, [host.ready().target], **flags) as client,
    ):
        result = client.result()
    assert result.creates.failures == 0
    assert (result.duplicates > 0) is duplicates
