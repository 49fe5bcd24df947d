"""A connector with its imports changed does what it does when it is hosted with flyte-sdk's."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from connectrio import ConnectorRegistry, Registry
from connectrio.connector.base import AsyncConnector
from connectrio.flyte import HostedConnector
from connectrio.idl.flyteidl2.core import Container, KeyValuePair, RuntimeMetadata, TaskMetadata, TaskTemplate
from connectrio.testing import Task, hosting
from flyte_sdk.porting.imports import imported, port, tables

BATCH = Path(__file__).with_name("batch.py")
NEEDED, OPTIONAL = tables()
TEMPLATE = TaskTemplate(
    container=Container(image="an/image", env=[KeyValuePair(key="K", value="v")]),
    config={"c": "d"},
    metadata=TaskMetadata(runtime=RuntimeMetadata(version="2.12.1")),
)


@pytest.mark.parametrize(("module", "name"), {**NEEDED, **OPTIONAL})
def test_both_names_of_each_row_exist(module, name):
    assert hasattr(import_module(module), name)
    assert hasattr(import_module({**NEEDED, **OPTIONAL}[module, name]), name)


@pytest.fixture(params=["as little as needed", "as much as can be"])
def ported(request, tmp_path, monkeypatch):
    """The connector with its imports changed."""
    source, target = tmp_path / "batch", tmp_path / "ported_batch"
    source.mkdir()
    (source / "connector.py").write_text(BATCH.read_text())
    port(source, target, NEEDED if request.param == "as little as needed" else {**NEEDED, **OPTIONAL})
    assert imported(target) == set()
    spec = spec_from_file_location("ported_batch_connector", target / "connector.py")
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    registry = Registry()
    monkeypatch.setattr(ConnectorRegistry, "default", registry)
    spec.loader.exec_module(module)
    connector = registry.get_connector("batch")
    assert isinstance(connector, AsyncConnector)
    return connector


@pytest.fixture
def hosted():
    """The connector as it is."""
    spec = spec_from_file_location("batch_for_flyte_sdk", BATCH)
    source = module_from_spec(spec)
    sys.modules[spec.name] = source
    try:
        spec.loader.exec_module(source)
        yield HostedConnector.of(source.BatchConnector())
    finally:
        del sys.modules[spec.name]
        source.ConnectorRegistry._REGISTRY.clear()
        source.ConnectorRegistry._METADATA.clear()


async def whole_life(connector, monkeypatch):
    """Return all that a client sees of a job."""
    monkeypatch.setenv("A_TOKEN", "xyzzy")
    task = Task(
        inputs={"n": 7, "text": "x"}, outputs={"n": int}, custom={"queue": "q", "deep": {"list": [1, None]}},
        template=TEMPLATE, secrets={"api_token": "A_TOKEN"}, output_prefix="s3://prefix", execution="nightly",
        attempt=2,
    )  # fmt: skip
    async with hosting(connector) as host:
        job = await host.create(task)
        states = [await job.get() for _ in range(3)]
        lines = [(line.timestamp.seconds, line.message, line.originator) for line in (await job.log_page()).lines]
        seen = (
            json.loads(job.meta),
            states,
            lines,
            (await job.log_page()).token,
            await job.logs(),
            await job.metrics(),
        )
        await job.delete()
    return seen


async def test_it_does_the_same(ported, hosted, monkeypatch):
    here, there = await whole_life(ported, monkeypatch), await whole_life(hosted, monkeypatch)
    assert here == there
    meta, states, lines, token, logs, metrics = here
    assert meta["seen"] == {
        "custom": {"queue": "q", "deep": {"list": [1.0, None]}}, "field": "q", "statement": "", "image": "an/image",
        "env": {"K": "v"}, "config": {"c": "d"}, "inputs": {"n": 7, "text": "x"}, "declared": {"n": 1, "text": 3},
        "has_outputs": True, "runtime": "2.12.1", "attempt": 2, "labels": {}, "token": "xyzzy",
    }  # fmt: skip
    assert [state.phase.name for state in states] == ["INITIALIZING", "RUNNING", "SUCCEEDED"]
    assert sorted(states[2].outputs) == ["directory", "file", "n", "table"]
    assert (lines, token, logs) == ([(7, "first", 1)], "1", ["first", "second"])
    assert metrics == {"cpu": {"cpu": [1.0, 2.0]}}
