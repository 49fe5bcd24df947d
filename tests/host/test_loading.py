"""Loading of connectors from entry points, modules and files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import connectrio.host.loading
from connectrio import ConnectorRegistry, Registry
from connectrio.connector.failures import LoadFailure
from connectrio.host.loading import ModuleLoadError, load_entry_points, load_modules

CONNECTOR = """
from connectrio import ConnectorRegistry
from service.harness import connector
ConnectorRegistry.register(connector(task_type_name={name!r}))
"""


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch, tmp_path):
    """Remove the modules that a test imports, and give it its own working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (Path(getattr(sys.modules[name], "__file__", None) or "/")).is_relative_to(tmp_path):
            del sys.modules[name]


def write(name, source=None):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CONNECTOR.format(name=path.stem) if source is None else source)
    return path


def names(registry):
    return [found.connector.task_type_name for found in registry.registered()]


# modules


def test_modules_in_the_working_directory():
    write("one.py")
    write("package/__init__.py", "")
    write("package/two.py")
    registry = Registry()
    load_modules(registry, ["one", "package.two"])
    assert names(registry) == ["one", "two"]
    assert [found.source for found in registry.registered()] == ["module one", "module package.two"]


def test_the_working_directory_comes_last():
    """A file there must not replace an installed package."""
    load_modules(Registry(), [])
    load_modules(Registry(), [])
    assert sys.path[-1] == str(Path.cwd())
    assert sys.path.count(str(Path.cwd())) == 1


def test_files():
    registry = Registry()
    path = write("elsewhere/three.py")
    load_modules(registry, [str(path)])
    assert names(registry) == ["three"]
    assert registry.registered()[0].source == f"module {path}"
    assert sys.modules["three"].__file__ == str(path.resolve())


def test_a_file_is_loaded_once():
    registry = Registry()
    path = write("elsewhere/three.py")
    load_modules(registry, [str(path), str(path.resolve())])
    assert names(registry) == ["three"]


def test_dataclasses_with_postponed_annotations_in_a_file():
    """Dataclasses look up their module while it is loading."""
    path = write(
        "annotated.py",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from connectrio import ResourceMeta\n"
        "@dataclass\n"
        "class Job(ResourceMeta):\n"
        "    id: str\n"
        "    kind: ClassVar[str] = 'job'\n",
    )
    load_modules(Registry(), [str(path)])
    job = sys.modules["annotated"].Job("7")
    assert type(job).decode(job.encode()) == job


def load_error(module):
    registry = Registry()
    before = ConnectorRegistry.default
    with pytest.raises(ModuleLoadError) as raised:
        load_modules(registry, [module])
    assert ConnectorRegistry.default is before
    return str(raised.value)


def test_a_module_that_is_not_there():
    assert load_error("no_such.module") == (
        "cannot load connectors from 'no_such.module': ModuleNotFoundError: No module named 'no_such'"
    )


def test_a_file_that_is_not_there():
    assert load_error("no/such.py") == (
        "cannot load connectors from 'no/such.py': FileNotFoundError: there is no file no/such.py"
    )


def test_a_file_whose_name_is_taken():
    path = write("elsewhere/json.py")
    assert load_error(str(path)) == (
        f"cannot load connectors from '{path}': ImportError: a module named 'json' is loaded already, from"
        f" {sys.modules['json'].__file__}; rename one of them"
    )


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def (", "SyntaxError: "),
        ("raise RuntimeError('no license')", "RuntimeError: no license"),
        ("import sys; sys.exit('no license')", "SystemExit: no license"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
@pytest.mark.parametrize("module", ["broken", "broken.py"])
def test_a_module_that_fails(source, error, module):
    write("broken.py", source)
    assert load_error(module).startswith(f"cannot load connectors from '{module}': {error}")
    assert "broken" not in sys.modules


BROKEN = """
def client():
    return Vendor()

def connect():
    import json
    return json.loads("{") if broken == "inside" else client()

broken = "here"
connect()
"""


@pytest.mark.parametrize("module", ["broken", "broken.py"])
def test_where_a_module_fails(module):
    path = write("broken.py", BROKEN).resolve()
    error = load_error(module)
    assert error == (
        f"cannot load connectors from '{module}': NameError: name 'Vendor' is not defined ({path}, line 3)"
    )


@pytest.mark.parametrize("module", ["broken", "broken.py"])
def test_the_traceback_of_a_module_that_fails_is_its_own(module):
    """Frames of the import system and of the host are folded."""
    path = write("broken.py", BROKEN).resolve()
    with pytest.raises(ModuleLoadError) as caught:
        load_modules(Registry(), [module])
    first, folded, *rest = caught.value.traceback.splitlines()
    assert first == "Traceback (most recent call last):"
    assert folded.startswith("  [… ")
    assert folded.endswith((" frames of connectrio and importlib …]", " frames of connectrio, importlib …]"))
    assert rest[0] == f'  File "{path}", line 10, in <module>'
    assert not [line for line in rest if "importlib" in line or "connectrio" in line]
    assert rest[-1] == "NameError: name 'Vendor' is not defined"


@pytest.mark.parametrize("module", ["no_such_module", "no_such_file.py"])
def test_a_module_that_is_not_there_has_no_traceback(module):
    with pytest.raises(ModuleLoadError) as caught:
        load_modules(Registry(), [module])
    assert caught.value.traceback == ""


def test_a_syntax_error_of_a_module_shows_its_line():
    path = write("broken.py", "x = 1\ndef (").resolve()
    with pytest.raises(ModuleLoadError) as caught:
        load_modules(Registry(), ["broken.py"])
    assert f'  File "{path}", line 2\n    def (\n' in caught.value.traceback


@pytest.mark.parametrize("module", ["package.broken", "package/broken.py"])
def test_where_a_module_fails_in_a_library(module):
    """The line of the module, not the library's."""
    write("package/__init__.py", "")
    path = write("package/broken.py", BROKEN.replace('"here"', '"inside"')).resolve()
    assert load_error(module).endswith(f"({path}, line 7)")


def test_where_a_package_around_a_module_fails():
    path = write("package/__init__.py", "\nraise ValueError('no license')").resolve()
    write("package/one.py")
    assert load_error("package.one").endswith(f": ValueError: no license ({path}, line 2)")


@pytest.mark.parametrize("module", ["idle", "idle.py"])
def test_a_module_that_registers_nothing(module):
    write("idle.py", "")
    with capture_logs() as logs:
        load_modules(Registry(), [module, module])
    [line] = logs
    assert (line["log_level"], line["module"]) == ("warning", module)
    assert line["event"] == "a module registered no connector; call ConnectorRegistry.register in it"


def test_modules_that_are_loaded_already_register_nothing_new():
    write("one.py")
    with capture_logs() as logs:
        load_modules(Registry(), ["one", "one.py"])
    assert logs == []


def test_an_interrupt_is_not_a_failure_of_the_module():
    write("interrupted.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_modules(Registry(), ["interrupted"])


def test_what_two_modules_both_serve():
    write("first.py", CONNECTOR.format(name="same"))
    write("second.py", CONNECTOR.format(name="same"))
    with pytest.raises(
        ModuleLoadError, match=r"^cannot load connectors from 'second': ValueError: Duplicate "
    ) as raised:
        load_modules(Registry(), ["first", "second"])
    assert "already registered by module first" in str(raised.value)


# entry points


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Make a distribution with these entry points, and hide the installed ones."""
    found = connectrio.host.loading.entry_points

    def only_ours(**selection):
        return [each for each in found(**selection) if each.dist.name == "x"]

    monkeypatch.setattr(connectrio.host.loading, "entry_points", only_ours)

    def make(entry_points):
        metadata = tmp_path / "site" / "x-1.0.dist-info"
        write(metadata / "METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        write(metadata / "entry_points.txt", "\n".join(["[flyte.connectors]", *lines, "[other]", "z = no_such"]))
        monkeypatch.syspath_prepend(tmp_path / "site")

    return make


def test_entry_points_are_loaded_by_name(install):
    install({"b": "plugin_b", "a": "plugin_a:ignored"})
    write("site/plugin_a.py", CONNECTOR.format(name="a") + "ignored = None\n")
    write("site/plugin_b.py")
    registry = Registry()
    load_entry_points(registry)
    assert names(registry) == ["a", "plugin_b"]
    assert [found.source for found in registry.registered()] == [
        "entry point a (plugin_a:ignored)",
        "entry point b (plugin_b)",
    ]
    assert registry.failures == []


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise RuntimeError('no license')", "RuntimeError: no license"),
        ("raise SystemExit('no license')", "SystemExit: no license"),
        ("def (", "SyntaxError: invalid syntax (plugin_bad.py, line 1)"),
        ("import asyncio; raise asyncio.CancelledError('why')", "CancelledError: why"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        (
            "",
            (
                "ModuleLoadError: it registered no connector with connectrio.ConnectorRegistry, nor with flyte-sdk's;"
                " call ConnectorRegistry.register in it"
            ),
        ),
    ],
)
def test_an_entry_point_that_fails_does_not_keep_others_from_loading(install, source, error):
    install({"bad": "plugin_bad", "good": "plugin_good"})
    bad = write("site/plugin_bad.py", source)
    write("site/plugin_good.py")
    registry = Registry()
    with capture_logs() as logs:
        load_entry_points(registry)
    assert names(registry) == ["plugin_good"]
    assert registry.failures == [LoadFailure("entry point bad (plugin_bad)", error.partition(":")[0], error)]
    (line,) = logs
    assert (line["log_level"], line["event"]) == ("warning", "an entry point failed to load")
    assert line["source"] == "entry point bad (plugin_bad)"
    assert line["error"] == error
    assert line["exception"].startswith("Traceback ")
    assert line.get("where") == (f"{bad.resolve()}, line 1" if source else None)


def test_the_credentials_in_a_failure_are_masked(install):
    install({"bad": "plugin_bad"})
    write("site/plugin_bad.py", "raise ConnectionError('postgresql://me:s3cr3t@db/jobs: refused, token=t0k3n')")
    registry = Registry()
    with capture_logs() as logs:
        load_entry_points(registry)
    (failure,) = registry.failures
    assert failure.error == "ConnectionError: postgresql://***@db/jobs: refused, token=***"
    assert not {secret for secret in ("s3cr3t", "t0k3n") if secret in str(logs)}


def test_the_credentials_in_the_error_of_a_module_are_masked():
    write("leaking.py", "raise ConnectionError('password=s3cr3t refused')")
    assert ": ConnectionError: password=*** refused" in load_error("leaking.py")


def test_a_failure_is_recorded_once(install):
    install({"bad": "no_such_module"})
    registry = Registry()
    with capture_logs():
        load_entry_points(registry)
        load_entry_points(registry)
    assert len(registry.failures) == 1


def test_entry_points_that_are_loaded_already_register_nothing_new(install):
    install({"once": "plugin_once", "again": "plugin_once"})
    write("site/plugin_once.py")
    registry = Registry()
    load_entry_points(registry)
    load_entry_points(registry)
    assert names(registry) == ["plugin_once"]
    assert registry.failures == []


def test_an_entry_point_that_replaces_a_connector(install):
    install({"first": "plugin_first", "second": "plugin_second"})
    source = CONNECTOR.format(name="same")
    write("site/plugin_first.py", source)
    write("site/plugin_second.py", source.replace("'same')", "'same'), override=True"))
    registry = Registry()
    load_entry_points(registry)
    assert [found.source for found in registry.registered()] == ["entry point second (plugin_second)"]
    assert registry.failures == []


def test_an_interrupt_is_not_a_failure_of_an_entry_point(install):
    install({"interrupted": "plugin_interrupted"})
    write("site/plugin_interrupted.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_entry_points(Registry())


HOSTILE = """
class HostileError(Exception):
    def __str__(self):
        raise SystemExit(9)
raise HostileError
"""


def test_a_module_whose_error_cannot_be_described():
    write("hostile.py", HOSTILE)
    with pytest.raises(ModuleLoadError) as caught:
        load_modules(Registry(), ["hostile.py"])
    assert "HostileError: (SystemExit in the error's own text) (" in str(caught.value)
