"""Loading of connectors from entry points, modules and files."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import connectrio.host.loading
from connectrio import ConnectorRegistry, Registry
from connectrio.connector.choice import ConnectorChoice
from connectrio.connector.failures import LoadFailure
from connectrio.host.loading import ModuleLoadError, load_entry_points, load_modules, report_choice
from service.harness import connector

CONNECTOR = """
from connectrio import ConnectorRegistry
from service.harness import connector
ConnectorRegistry.register(connector(task_type_name={name!r}))
"""
# with a class of its own module
OWN = """
from connectrio import ConnectorRegistry
from service.harness import connector
tiny = connector(task_type_name={name!r}, __module__=__name__)
ConnectorRegistry.register(tiny)
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
        "    kind: ClassVar[str] = 'job'\n" + CONNECTOR.format(name="annotated"),
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


def test_a_part_of_flytekit_that_is_not_there(monkeypatch):
    """Not for want of the extra."""
    write("broken.py", "raise ModuleNotFoundError('no', name='flytekit.nope')")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert "pip install" not in load_error("broken")


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
    assert error == (f"cannot load connectors from '{module}': NameError: name 'Vendor' is not defined ({path}:3)")


def picture(module):
    with pytest.raises(ModuleLoadError) as caught:
        load_modules(Registry(), [module])
    return caught.value.picture.splitlines()


@pytest.mark.parametrize("module", ["broken", "broken.py"])
def test_the_picture_of_a_module_that_fails(module):
    """The line of source, and the traceback without frames of the import system and of the host."""
    path = write("broken.py", BROKEN).resolve()
    without_marks = [line for line in picture(module) if line.strip(" ~^")]  # they differ from Python to Python
    assert without_marks == [
        "   3 |     return Vendor()",
        "Traceback (most recent call last):",
        f'  File "{path}", line 10, in <module>',
        "    connect()",
        f'  File "{path}", line 7, in connect',
        '    return json.loads("{") if broken == "inside" else client()',
        f'  File "{path}", line 3, in client',
        "    return Vendor()",
        "NameError: name 'Vendor' is not defined",
    ]


def test_a_traceback_of_one_line_is_left_out():
    write("broken.py", "import no_such_module")
    assert picture("broken.py") == ["   1 | import no_such_module"]


def test_the_causes_of_an_error_are_shown():
    write("broken.py", "try:\n    None.x\nexcept AttributeError as error:\n    raise ValueError('no') from error")
    shown = picture("broken.py")
    assert shown[0] == "   4 |     raise ValueError('no') from error"
    assert "AttributeError: 'NoneType' object has no attribute 'x'" in shown
    assert shown[-1] == "ValueError: no"


def test_secrets_in_a_line_of_source_are_masked():
    write("broken.py", "connect(password='hunter2')")
    assert picture("broken.py") == ["   1 | connect(password='***')"]


MISSPELT = """
from connectrio import AsyncConnector, ConnectorRegistry, ResourceMeta

class Misspelt(AsyncConnector[ResourceMeta]):
    task_type_name = "misspelt"

    def create(self, task_tempalte, **kwargs): ...
    def get(self, resource_meta): ...
    def delete(self, resource_meta): ...

ConnectorRegistry.register(Misspelt())
"""


def test_a_connector_that_is_refused_is_shown_with_its_line(install):
    path = write("misspelt.py", MISSPELT).resolve()
    problem = (
        f"ValueError: Misspelt ({path}:4) cannot be registered: its create ({path}:7) has the parameter"
        " 'task_tempalte', which the host does not know: rename it to 'task_template'"
    )
    assert load_error("misspelt.py") == f"cannot load connectors from 'misspelt.py': {problem} ({path}:11)"
    install({"bad": "plugin_misspelt", "good": "plugin_good"})
    path = write("site/plugin_misspelt.py", MISSPELT).resolve()
    write("site/plugin_good.py")
    registry = Registry()
    with capture_logs():
        load_entry_points(registry)
    assert names(registry) == ["plugin_good"]
    assert f"its create ({path}:7) has the parameter 'task_tempalte'" in registry.failures[0].error


def test_a_connector_without_delete_is_shown_with_the_line_that_makes_it():
    path = write("misspelt.py", MISSPELT.replace("def delete", "def on_delete")).resolve()
    error = load_error("misspelt.py")
    assert "TypeError: Can't instantiate abstract class Misspelt " in error
    assert re.search(r"\bdelete\b", error)
    assert error.endswith(f"({path}:11)")


@pytest.mark.parametrize("module", ["no_such_module", "no_such_file.py"])
def test_a_module_that_is_not_there_has_no_picture(module):
    assert picture(module) == []


@pytest.mark.parametrize(
    ("source", "line", "mark"),
    [
        ("x = 1\ndef (", "   2 | def (", "     |     ^"),
        ("x = 1\nif x:\n\tx = = 2", "   3 |  x = = 2", "     |      ^"),
        ("x = 1\nf'{x' + 'y'", "   2 | f'{x' + 'y'", None),
    ],
)
def test_a_syntax_error_shows_its_line_and_place(source, line, mark):
    path = write("broken.py", source).resolve()
    number = int(line.split()[0])
    assert load_error("broken.py").endswith(f"({path}:{number})")
    shown = picture("broken.py")
    assert shown[0] == line
    assert len(shown) == 2
    if mark is not None:  # from version to version, Python marks more or less of an f-string
        assert shown[1] == mark


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("exec('x = = 2')", "   1 | exec('x = = 2')"),
        (
            "raise SyntaxError('no', (__file__, None, None, None))",
            "   1 | raise SyntaxError('no', (__file__, None, None, None))",
        ),
    ],
)
def test_a_syntax_error_elsewhere_marks_nothing_in_the_module(source, line):
    """Code that the module runs is wrong, or the error names no line."""
    path = write("broken.py", source).resolve()
    assert load_error("broken.py").endswith(f"({path}:1)")
    shown = picture("broken.py")
    assert shown[0] == line
    assert not any(each.startswith("     | ") for each in shown)


def test_a_syntax_error_in_a_part_of_a_package():
    path = write("package/__init__.py", "from package import two").resolve()
    part = write("package/two.py", "x = 1\ndef (").resolve()
    error = load_error("package")
    assert error.startswith("cannot load connectors from 'package': SyntaxError: ")
    assert error.endswith(f"({part}:2)")
    shown = picture("package")
    assert shown[0] == "   2 | def ("
    assert f'  File "{path}", line 1, in <module>' in shown
    assert not [each for each in shown if "importlib" in each or "connectrio" in each]


@pytest.mark.parametrize("module", ["package.broken", "package/broken.py"])
def test_where_a_module_fails_in_a_library(module):
    """The line of the module, not the library's."""
    write("package/__init__.py", "")
    path = write("package/broken.py", BROKEN.replace('"here"', '"inside"')).resolve()
    assert load_error(module).endswith(f"({path}:7)")


def test_where_a_package_around_a_module_fails():
    path = write("package/__init__.py", "\nraise ValueError('no license')").resolve()
    write("package/one.py")
    assert load_error("package.one").endswith(f": ValueError: no license ({path}:2)")


IDLE = (
    "it registers no connector, and defines none; name a module that calls ConnectorRegistry.register when it is"
    " imported"
)


@pytest.mark.parametrize("module", ["idle", "idle.py"])
def test_a_module_that_registers_nothing(module):
    write("idle.py", "import connectrio, json\nfrom connectrio import AsyncConnector, ConnectorRegistry\n")
    assert load_error(module) == f"cannot load connectors from '{module}': {IDLE}"


@pytest.mark.parametrize("source", ["import connectrio", "import flyte", "from connectrio import AsyncConnector"])
def test_a_module_that_only_uses_a_framework_gathers_no_connectors(source):
    """Not even if some come with that framework."""
    write("idle.py", source)
    registry = Registry()
    for package in ("connectrio", "flyte"):
        registry.register(connector(task_type_name=package, __module__=f"{package}.connectors.other"))
    with pytest.raises(ModuleLoadError, match="it registers no connector"):
        load_modules(registry, ["idle"])


def test_a_package_whose_modules_register_connectors_themselves():
    write("parcel/__init__.py", "")
    write("parcel/one.py")
    assert load_error("parcel").endswith(f"{IDLE}, perhaps one of this package: parcel.one")


FORGOTTEN = """
{imported}

class Forgotten({base}):
    name = "Forgotten"
"""


@pytest.mark.parametrize(
    ("imported", "base", "advice"),
    [
        ("from connectrio import AsyncConnector", "AsyncConnector", ", with: from connectrio import ConnectorRegistry"),
        ("from connectrio import AsyncConnector, ConnectorRegistry", "AsyncConnector", ""),
        ("from flyte import connectors", "connectors.AsyncConnector", ", with: from flyte.connectors import"),
    ],
)
def test_a_module_that_forgets_to_register_its_connector(imported, base, advice):
    path = write("forgotten.py", FORGOTTEN.format(imported=imported, base=base)).resolve()
    error = load_error("forgotten.py")
    assert error.startswith(
        "cannot load connectors from 'forgotten.py': it registers no connector. Its class Forgotten"
        f" ({path}:4) is not registered: add ConnectorRegistry.register(Forgotten()) below it{advice}"
    )
    assert error.endswith("; and write its create, delete, get.")


@pytest.mark.parametrize(
    ("missing", "extra"),
    [("flyte.connectors", "flyte"), ("flyteidl2.core", "flyte"), ("flytekit", "flytekit"), ("flyteidl", "flytekit")],
)
def test_a_package_that_an_extra_brings(monkeypatch, install, missing, extra):
    source = f"raise ModuleNotFoundError('No module named {missing}', name={missing!r})"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write("lacking.py", source)
    advice = f"; install it: pip install 'connectrio[{extra}]'"
    assert f"ModuleNotFoundError: No module named {missing}{advice} (" in load_error("lacking.py")
    install({"lacking": "plugin_lacking"})
    write("site/plugin_lacking.py", source)
    registry = Registry()
    with capture_logs():
        load_entry_points(registry)
    assert registry.failures[0].error.endswith(advice)


def test_a_module_that_an_installed_package_does_not_have():
    write("lacking.py", "import flyte.no_such_module")
    assert "pip install" not in load_error("lacking.py")


@pytest.mark.parametrize("source", ["import deep.one", "from deep import one", "from deep.one import tiny"])
def test_a_module_that_gathers_connectors_of_others(source):
    """They may have been loaded before it."""
    write("deep/__init__.py", "")
    write("deep/one.py", OWN.format(name="one"))
    write("gathers.py", source)
    registry = Registry()
    load_modules(registry, ["deep.one", "gathers"])
    assert names(registry) == ["one"]


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
    write("first.py", OWN.format(name="same"))
    write("second.py", OWN.format(name="same"))
    with pytest.raises(ModuleLoadError) as raised:
        load_modules(Registry(), ["first", "second"])
    assert str(raised.value) == (
        "2 connectors serve the task type same in version 0: (1) module first, class first.Tiny; (2) module"
        " second, class second.Tiny. Choose one with the setting prefer (same=SOURCE), or leave the others out"
        " with exclude; SOURCE is the name of a package, module or class in this list"
    )


def test_a_module_registers_two_connectors_for_one_task_type():
    path = write("twice.py", CONNECTOR.format(name="same") * 2)
    error = load_error("twice.py")
    assert error.startswith(
        "cannot load connectors from 'twice.py': ValueError: Duplicate connector for task type: same"
    )
    assert error.endswith(f"({path.resolve()}:8)")


# entry points


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Make a distribution with these entry points, and hide the installed ones."""
    found = connectrio.host.loading.entry_points

    def only_ours(**selection):
        return [each for each in found(**selection) if each.dist.name == "x"]

    monkeypatch.setattr(connectrio.host.loading, "entry_points", only_ours)

    def make(entry_points, group="flyte.connectors"):
        metadata = tmp_path / "site" / "x-1.0.dist-info"
        write(metadata / "METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        write(metadata / "entry_points.txt", "\n".join([f"[{group}]", *lines, "[other]", "z = no_such"]))
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
            f"ModuleLoadError: {IDLE}",
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
    assert line.get("where") == (f"{bad.resolve()}:1" if source else None)


FLYTEKIT = """
from importlib.metadata import entry_points
for plugin in entry_points(group="flytekit.plugins"):
    plugin.load()
"""


def test_a_plugin_of_flytekit_that_fails_does_not_keep_others_from_loading(install):
    """flytekit loads its plugins when it is imported, and fails if one does."""
    install({"good": "plugin_good", "types": "plugin_types", "worst": "plugin_bad"}, group="flytekit.plugins")
    write("site/flytekit.py", FLYTEKIT)
    write("site/plugin_bad.py", "import flytekit, no_such_module")
    write("site/plugin_good.py", "import flytekit\n" + CONNECTOR.format(name="good"))
    write("site/plugin_types.py", "import flytekit")
    registry = Registry()
    with capture_logs() as logs:
        load_entry_points(registry)
    assert names(registry) == ["good"]
    assert [failure.source for failure in registry.failures] == ["entry point worst (plugin_bad)"]
    assert [line["event"] for line in logs] == ["an entry point failed to load"], "a plugin may have no connector"
    assert sys.modules["flytekit"].entry_points is importlib.metadata.entry_points
    assert list(importlib.metadata.entry_points(group="flytekit.plugins"))


def test_a_module_that_imports_flytekit_loads_no_plugins(install):
    """Entry points are loaded by their own setting."""
    install({"bad": "no_such_module"}, group="flytekit.plugins")
    write("site/flytekit.py", FLYTEKIT)
    write("one.py", "import flytekit\n" + CONNECTOR.format(name="one"))
    registry = Registry()
    load_modules(registry, ["one"])
    assert names(registry) == ["one"]


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


# whose task type


def load_all(registry, modules=(), prefer=(), exclude=()):
    """Load as a host does; return the lines of the log."""
    registry.choice = ConnectorChoice(prefer, exclude)
    with capture_logs() as logs:
        load_modules(registry, modules)
        load_entry_points(registry)
        report_choice(registry)
    return logs


def served(registry):
    return {found.connector.task_type_name: found.source for found in registry.registered()}


ONE, TWO = "entry point one (plugin_one)", "entry point two (plugin_two)"


@pytest.fixture
def rivals(install):
    """Two entry points and a module for one task type; the second has another one, too."""
    install({"one": "plugin_one", "two": "plugin_two"})
    write("site/plugin_one.py", OWN.format(name="same"))
    write("site/plugin_two.py", OWN.format(name="same") + OWN.format(name="other"))
    write("named.py", OWN.format(name="same"))


def test_entry_points_that_clash(rivals):
    registry = Registry()
    logs = load_all(registry)
    assert served(registry) == {"same": ONE, "other": TWO}
    (failure,) = registry.failures
    assert failure == LoadFailure(
        TWO,
        "Clash",
        f"2 connectors serve the task type same in version 0: (1) {ONE}, class plugin_one.Tiny, package x; (2) {TWO},"
        " class plugin_two.Tiny, package x. Choose one with the setting prefer (same=SOURCE), or leave the others out"
        " with exclude; SOURCE is the name of a package, module or class in this list. Until then, the first one is"
        " served",
    )
    (line,) = logs
    assert line == {
        "event": "several connectors serve one task type",
        "log_level": "warning",
        "source": TWO,
        "error": failure.error,
    }


@pytest.mark.parametrize(
    ("prefer", "exclude", "expected"),
    [
        (["plugin_two"], [], {"same": TWO, "other": TWO}),
        (["same=plugin_two"], [], {"same": TWO, "other": TWO}),
        (["plugin_two.Tiny", "plugin_one"], [], {"same": TWO, "other": TWO}),
        (["plugin_one", "plugin_two"], [], {"same": ONE, "other": TWO}),
        ([], ["plugin_one"], {"same": TWO, "other": TWO}),
        ([], ["plugin_two"], {"same": ONE}),
        ([], ["same=plugin_two"], {"same": ONE, "other": TWO}),
        ([], ["plugin_two.Tiny"], {"same": ONE}),
        ([], ["X"], {}),
    ],
)
def test_the_user_chooses_between_entry_points(rivals, prefer, exclude, expected):
    registry = Registry()
    load_all(registry, prefer=prefer, exclude=exclude)
    assert served(registry) == expected
    assert registry.failures == []


def test_what_is_excluded_is_not_imported(install):
    install({"one": "plugin_one", "broken": "plugin_broken.connector"})
    write("site/plugin_one.py", OWN.format(name="one"))
    write("site/plugin_broken/__init__.py", "raise RuntimeError('no license')")
    registry = Registry()
    assert load_all(registry, exclude=["plugin_broken"]) == []
    assert registry.failures == []
    assert "plugin_broken" not in sys.modules


def test_a_module_that_is_named_comes_before_entry_points(rivals):
    registry = Registry()
    (line,) = load_all(registry, ["named.py"], exclude=["plugin_two"])
    assert served(registry) == {"same": "module named.py"}
    assert registry.failures == []
    assert line == {
        "event": "several connectors serve one task type, and one is chosen",
        "log_level": "info",
        "task_type": "same",
        "task_type_version": 0,
        "chosen": ["module named.py, class named.Tiny"],
        "others": [f"{ONE}, class plugin_one.Tiny, package x"],
    }


@pytest.mark.parametrize("source", ["x", "plugin_one", "same=plugin_one.Tiny"])
def test_an_entry_point_that_is_preferred_to_a_module(rivals, source):
    registry = Registry()
    load_all(registry, ["named.py"], prefer=[source], exclude=["same=plugin_two"])
    assert served(registry)["same"] == ONE


@pytest.mark.parametrize("source", ["named", "named.py", "elsewhere/named.py"])
def test_a_module_that_is_excluded(rivals, source):
    registry = Registry()
    load_all(registry, ["named.py"], exclude=[source, "plugin_two"])
    assert served(registry) == {"same": ONE}


def test_an_entry_point_that_a_module_has_imported_is_named(rivals):
    """Also by the package around it; nothing is refused because it was imported before."""
    registry = Registry()
    load_all(registry, ["plugin_two"])
    assert served(registry) == {"same": "module plugin_two", "other": "module plugin_two"}
    assert registry.failures == []


def test_a_connector_that_comes_with_connectrio_gives_way(monkeypatch, install):
    pytest.importorskip("duckdb")
    for name in [name for name in sys.modules if name.startswith("connectrio.connectors.duckdb")]:
        monkeypatch.delitem(sys.modules, name)
    install({"a": "connectrio.connectors.duckdb", "z": "plugin_duck"})
    write("site/plugin_duck.py", OWN.format(name="duckdb"))
    registry = Registry()
    load_all(registry)
    assert served(registry) == {"duckdb": "entry point z (plugin_duck)"}
    registry.choice = ConnectorChoice(["connectrio"])
    assert served(registry) == {"duckdb": "entry point a (connectrio.connectors.duckdb)"}


def test_a_connector_of_our_own_without_its_extra_is_no_failure(monkeypatch, install):
    for name in [name for name in sys.modules if name.startswith("connectrio.connectors.duckdb")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    install({"duckdb": "connectrio.connectors.duckdb"})
    registry = Registry()
    [line] = load_all(registry)
    assert line["event"] == "connectrio's own connector is not served: its extra is not installed"
    assert (line["log_level"], registry.failures) == ("debug", [])
    assert line["error"].endswith("""the DuckDB connector needs DuckDB: pip install "connectrio[duckdb]\"""")
    assert registry.absent["duckdb"].error == line["error"]


def test_another_package_that_lacks_a_package_is_a_failure(monkeypatch, install):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    install({"duckdb": "plugin_lacking"})
    write("site/plugin_lacking.py", "import duckdb")
    registry = Registry()
    load_all(registry)
    assert [failure.kind for failure in registry.failures] == ["ModuleNotFoundError"]
    assert registry.absent == {}


def test_a_choice_that_has_no_effect(rivals):
    registry = Registry()
    logs = load_all(registry, prefer=["plugin_tow", "plugin_two"], exclude=["other=plugin_one", "plugin_one"])
    assert [(line["event"], line["setting"], line["value"]) for line in logs] == [
        ("a setting names a source that has no connector", "prefer", "plugin_tow"),
        ("a setting names a source that has no connector", "exclude", "other=plugin_one"),
    ]


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
