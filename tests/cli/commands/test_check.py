"""`connectrio check`: nothing is found in good connectors, and in each bad one what is wrong with it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from cli.bad_connectors import BREAKS, Blocking, Clock, Complete, Good, Hiding
from cli.harness import Process
from connectrio import Phase
from connectrio.conformance import RULES, _methods, check_connector
from connectrio.idl.flyteidl2.connector import CreateTaskRequest
from connectrio.idl.flyteidl2.core import Connection, TaskTemplate

ROOT = Path(__file__).parents[3]
REQUEST = CreateTaskRequest(template=TaskTemplate(type="sample"), connection=Connection(secrets={"token": "s3cret"}))

MODULE = (
    "from cli.bad_connectors import {0}\nfrom connectrio import ConnectorRegistry\nConnectorRegistry.register({0}())\n"
)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The clock that says which steps block: on that of a busy machine any step might."""
    clock, find = Clock(), _methods._line

    def look(frame):
        line = find(frame)
        clock.seen.set()
        return line

    class Blocked(_methods.Blocked):
        def __enter__(self):
            clock.watched = True
            return super().__enter__()

        def __exit__(self, *exc_info):
            super().__exit__(*exc_info)
            clock.watched = False

    monkeypatch.setattr(_methods, "time", clock)
    monkeypatch.setattr(_methods, "_line", look)
    monkeypatch.setattr(_methods, "Blocked", Blocked)
    return clock


@pytest.mark.parametrize("connector", BREAKS, ids=lambda found: found.__name__)
async def test_findings(connector, clock):
    made = connector(clock) if connector is Blocking else connector()
    report = await check_connector(made, REQUEST, seconds=0.3 if connector.__name__ == "Endless" else 30)
    assert {(finding.rule, finding.where) for finding in report.findings} == BREAKS[connector], report.findings
    assert all(finding.what and finding.advice for finding in report.findings)
    assert {*report.kept, *report.untried} == RULES.keys() - {rule for rule, _ in BREAKS[connector]}


def test_each_rule_is_broken_by_somebody():
    assert {rule for breaks in BREAKS.values() for rule, _ in breaks} == RULES.keys()


async def test_a_good_connector_keeps_to_all_and_nothing_is_left():
    good = Complete()
    report = await check_connector(good, REQUEST)
    assert (report.kept, report.untried) == ([*RULES], {})
    assert len(good.jobs) > 7
    assert Phase.RUNNING not in good.jobs.values()


async def test_the_line_that_blocks_is_named(clock):
    report = await check_connector(Blocking(clock), REQUEST)
    [finding] = report.findings
    assert "bad_connectors.py:" in finding.what


async def test_what_cannot_be_tried_is_said():
    report = await check_connector(Good(), CreateTaskRequest(template=TaskTemplate(type="sample")))
    assert report.untried == {
        "secrets": "the sample task has none: give some with --secret",
        "idempotence": "the class does not say create_is_idempotent",
        "get-many": "there is no get_many",
    }


async def test_the_line_that_hides_an_error_is_named():
    report = await check_connector(Hiding(), REQUEST)
    code = inspect.getsource(Hiding.get).splitlines()
    offset = next(number for number, line in enumerate(code) if "from None" in line)
    line = Hiding.get.__code__.co_firstlineno + offset
    [finding] = report.findings
    assert finding.what.endswith(f"/bad_connectors.py:{line}")


def test_the_table_in_the_documents_has_all_rules_in_their_order():
    text = (ROOT / "docs" / "reference" / "check.md").read_text()
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", text, re.MULTILINE)
    assert [rule for row in rows for rule in re.findall(r"`([a-z-]+)`", row)] == [*RULES]


@pytest.fixture
def module(tmp_path):
    """Writes a module that registers one connector."""

    def write(name):
        path = tmp_path / f"{tmp_path.name}_{name.lower()}.py"  # of a name that no other test has loaded
        path.write_text(MODULE.format(name))
        return str(path)

    return write


def test_the_command_says_what_to_do(run, module):
    outcome = run("check", module("DeletesOnce"))
    assert outcome.code == 1
    assert "delete: DeletesOnce.delete" in outcome.out
    assert f"to do: {RULES['delete']}" in outcome.out
    assert "Good: 2 findings, " in outcome.out


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_command_as_json(run, module, backend, monkeypatch):
    monkeypatch.setenv("TOKEN", "s3cret")
    outcome = run("check", module("Complete"), "--json", "--backend", backend, "--secret", "token=TOKEN")
    assert outcome.code == 0, outcome
    assert outcome.document == {"connector": "Good", "findings": [], "kept": [*RULES], "untried": {}}


def test_wrong_usage(run, module, tmp_path):
    assert run("check", str(tmp_path / "nothing.py")).code == 1
    outcome = run("check", module("Nameless"), "--task-type", "nope")
    assert outcome.code == 2
    assert "choose one with --task-type: sample" in outcome.err
    assert run("check", module("Trusting"), "--seconds", "0").code == 2


SDK = """
import asyncio
import time
from dataclasses import dataclass
from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
from flyteidl2.core.execution_pb2 import TaskExecution

@dataclass
class Meta(ResourceMeta):
    job: str

class Sdk(AsyncConnector):
    name = "Sdk"
    task_type_name = "sdk_of_check"
    metadata_type = Meta
    sessions = {}
    jobs = 0

    async def create(self, task_template, output_prefix, inputs=None, **kwargs):
        session = self.sessions.setdefault("vendor", asyncio.Lock())
        async with session:
            time.sleep(0.1)  # calls that wait could go to further loops
            await asyncio.sleep(0.01)
            self.jobs += 1
            return Meta(job=str(self.jobs))

    async def get(self, resource_meta, **kwargs):
        return Resource(phase=TaskExecution.SUCCEEDED)

    async def delete(self, resource_meta, **kwargs):
        raise RuntimeError("gone")

ConnectorRegistry.register(Sdk())
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_connector_for_flyte_sdk(tmp_path, backend):
    (tmp_path / "sdk.py").write_text(SDK)
    with Process("check", "sdk.py", "--json", "--backend", backend, cwd=tmp_path) as command:
        outcome = command.wait()
    assert outcome.code == 1, outcome
    assert {(finding["rule"], finding["where"]) for finding in outcome.document["findings"]} == {
        ("delete", "Sdk.delete")
    }
    assert outcome.document["untried"].keys() == {
        "logs", "metrics", "late-logs", "idempotence", "get-many", "secrets", "cancellation", "blocking",
    }  # fmt: skip


def test_the_duckdb_connector_keeps_to_all_rules(tmp_path):
    arguments = ["--sql", "select $n * 2 as twice", "--input", "n=21", "--output", "result", "--json"]
    environment = {"CONNECTRIO_DUCKDB_HOME": str(tmp_path / "jobs")}
    with Process("check", "connectrio.connectors.duckdb", *arguments, cwd=tmp_path, environment=environment) as command:
        outcome = command.wait()
    assert outcome.code == 0, outcome
    assert outcome.document["untried"].keys() == {"secrets", "idempotence", "get-many"}


@pytest.mark.parametrize(("options", "is_told"), [([], False), (["--log-level", "info"], True)])
def test_the_log_of_a_check(tmp_path, options, is_told):
    (tmp_path / "sdk.py").write_text(SDK)
    with Process("check", "sdk.py", *options, cwd=tmp_path) as command:
        outcome = command.wait()
    assert outcome.code == 1, outcome
    assert ("call finished" in outcome.err) is is_told
