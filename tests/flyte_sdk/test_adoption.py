"""Connectors that are registered with flyte-sdk are hosted by registries of connectrio."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from flyte.connectors import ConnectorRegistry as FlyteRegistry
from structlog.testing import capture_logs

import connectrio.host.loading
from connectrio import Registry
from connectrio.connector.choice import ConnectorChoice
from connectrio.flyte import HostedConnector
from connectrio.host.loading import (
    ModuleLoadError,
    host_registered,
    load_entry_points,
    load_modules,
    report_choice,
)
from flyte_sdk.harness import connector
from service.harness import connector as native_connector

HOSTED = """
from flyte.connectors import ConnectorRegistry
from flyte_sdk.harness import connector
ConnectorRegistry.register(connector(task_type_name={name!r}, name={name!r}))
"""
NATIVE = """
from connectrio import ConnectorRegistry
from service.harness import connector
ConnectorRegistry.register(connector(task_type_name={name!r}, name={name!r}))
"""


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch, tmp_path):
    """Remove what a test registers and imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(FlyteRegistry, "_REGISTRY", {})
    monkeypatch.setattr(FlyteRegistry, "_METADATA", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make modules with entry points, and hide the installed ones."""
    found = connectrio.host.loading.entry_points
    ours = {}
    monkeypatch.setattr(
        connectrio.host.loading,
        "entry_points",
        lambda **selection: [each for each in found(**selection) if each.name in ours],
    )

    def install(**sources):
        ours.update(sources)
        metadata = tmp_path / "tiny-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        lines = [f"{name} = {name}_module" for name in sources]
        (metadata / "entry_points.txt").write_text("\n".join(["[flyte.connectors]", *lines]))
        for name, source in sources.items():
            write(f"{name}_module", source.format(name=name), tmp_path)

    return install


def write(name, source, directory):
    (directory / f"{name}.py").write_text(source)


def served(registry):
    return {each.connector.task_type_name: each.source for each in registry.registered()}


def test_modules(tmp_path):
    write("one", HOSTED.format(name="one"), tmp_path)
    write("two", NATIVE.format(name="two"), tmp_path)
    registry = Registry()
    load_modules(registry, ["one", "two", str(tmp_path / "one.py")])
    assert served(registry) == {"one": "module one", "two": "module two"}
    assert isinstance(registry.get_connector("one"), HostedConnector)
    assert [entry.name for entry in registry.describe()] == ["one", "two"]


def test_entry_points(install):
    install(a=HOSTED, b=NATIVE, c="raise ImportError('no client library')", d=HOSTED.replace("{name!r}", "'a'"))
    registry = Registry()
    with capture_logs() as logs:
        load_entry_points(registry)
        load_entry_points(registry)
        report_choice(registry)
    assert served(registry) == {"a": "entry point a (a_module)", "b": "entry point b (b_module)"}
    broken, clash = registry.failures
    assert (broken.kind, broken.error) == ("ImportError", "ImportError: no client library")
    assert (clash.source, clash.kind) == ("entry point d (d_module)", "Clash")
    assert {line["log_level"] for line in logs} == {"warning"}
    registry.choice = ConnectorChoice(["d_module"])
    assert served(registry) == {"a": "entry point d (d_module)", "b": "entry point b (b_module)"}


KINDS = pytest.mark.parametrize(
    ("first", "second"),
    [(HOSTED, NATIVE), (NATIVE, HOSTED), (HOSTED, HOSTED)],
    ids=["native", "hosted", "both hosted"],
)


@KINDS
@pytest.mark.parametrize("prefer", [None, "tiny"])
def test_a_module_and_an_entry_point(install, tmp_path, first, second, prefer):
    install(same=first)
    write("another", second.format(name="same"), tmp_path)
    registry = Registry()
    registry.choice = ConnectorChoice([prefer] if prefer else [])
    load_modules(registry, ["another"])
    load_entry_points(registry)
    expected = "module another" if prefer is None else "entry point same (same_module)"
    assert served(registry) == {"same": expected}
    assert registry.failures == []


@KINDS
def test_modules_that_clash(tmp_path, first, second):
    write("one", first.format(name="same"), tmp_path)
    write("another", second.format(name="same"), tmp_path)
    with pytest.raises(ModuleLoadError, match=r"^2 connectors serve the task type same in version 0: \(1\) module one"):
        load_modules(Registry(), ["one", "another"])


def test_what_a_module_registers_twice_with_flyte_sdk(tmp_path):
    write("twice", HOSTED.format(name="same") * 2, tmp_path)
    with pytest.raises(ModuleLoadError, match="ValueError: Duplicate connector for task type: same and version: 0"):
        load_modules(Registry(), ["twice"])


def test_one_that_overrides_another(tmp_path):
    write("one", HOSTED.format(name="same"), tmp_path)
    write("two", HOSTED.format(name="same").replace("))", "), override=True)"), tmp_path)
    registry = Registry()
    load_modules(registry, ["one", "two"])
    assert served(registry) == {"same": "module two"}


def test_what_a_program_has_registered_itself():
    native = native_connector(task_type_name="taken", __module__="natives")
    FlyteRegistry.register(connector(task_type_name="mine"))
    FlyteRegistry.register(connector(task_type_name="taken"))
    registry = Registry()
    registry.register(native)
    with capture_logs() as logs:
        host_registered(registry)
        host_registered(registry)
    assert served(registry) == {"taken": "module natives", "mine": "module flyte_sdk.harness"}
    assert registry.get_connector("taken") is native
    assert [failure.source for failure in registry.failures] == ["the ConnectorRegistry of flyte-sdk or flytekit"]
    assert {line["log_level"] for line in logs} == {"warning"}


def test_a_registry_of_its_own_has_what_its_modules_register(tmp_path):
    FlyteRegistry.register(connector(task_type_name="elsewhere"))
    write("one", HOSTED.format(name="one"), tmp_path)
    registry = Registry()
    load_modules(registry, ["one"])
    assert served(registry) == {"one": "module one"}


def test_classes_have_the_names_of_what_they_host():
    hosted = HostedConnector.of(connector(task_type_version=3))
    assert type(hosted).__qualname__ == "Tiny"
    assert (hosted.name, hosted.task_type_name, hosted.task_type_version) == ("Tiny Connector", "tiny", 3)


def test_flyte_sdk_is_imported_only_where_a_connector_needs_it(tmp_path):
    """Loading native connectors does not import it; nor does importing the package that hosts others."""
    write("two", NATIVE.format(name="two"), tmp_path)
    program = (
        "import json, sys; from connectrio.host.loading import *;"
        "from connectrio import Registry; import connectrio.flyte;"
        "registry = Registry(); load_modules(registry, ['two']); host_registered(registry);"
        "from connectrio.host.host import Host; Host()._load();"
        "print(json.dumps([name for name in sys.modules if name.split('.')[0] in ('flyte', 'flyteidl2', 'grpc')]))"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    env = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    ran = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    assert json.loads(ran.stdout) == []
