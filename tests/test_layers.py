"""Which part of the package may know of which, and how little `import connectrio` loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import connectrio
from syntax import parsed

PACKAGE = Path(connectrio.__file__).parent
API = {"connector", "idl", "literals", "logs"}

# each part of the package, and the parts that it may import, now or later in a function
MAY_IMPORT: dict[str, set[str]] = {
    "_version": set(),
    "diagnostics": set(),
    "codegen": set(),
    "idl": set(),
    "logs": {"diagnostics"},
    "telemetry": {"diagnostics", "logs", "masking"},
    "masking": {"diagnostics", "idl"},
    "terminal": {"diagnostics"},
    "rpc": {"_version", "diagnostics", "idl"},
    "literals": {"idl"},
    "connector": {"diagnostics", "idl", "logs"},
    "connectors": API,
    "failures": {"connector"},
    "flyte": API | {"diagnostics", "rpc", "telemetry"},
    "flytekit": API | {"diagnostics", "flyte", "rpc"},
    "service": API | {"diagnostics", "masking", "rpc", "telemetry"},
    "tracing": {"_version", "diagnostics", "logs", "rpc", "service"},
    "client": {"idl", "literals", "masking", "rpc"},
    "host": {
        "_version", "connector", "diagnostics", "flyte", "flytekit", "logs", "masking", "rpc", "service", "telemetry",
        "terminal", "tracing",
    },
    "processes": {"_version", "diagnostics", "host", "connector", "logs", "rpc", "telemetry"},
    "conformance": API | {"client", "diagnostics", "host", "masking", "service", "testing"},
    "testing": API | {"client", "host", "rpc", "service"},
    "cli": {
        "_version", "client", "codegen", "conformance", "connector", "connectors", "host", "idl", "literals", "logs",
        "masking", "processes", "rpc", "telemetry", "terminal", "testing",
    },
    "__main__": {"cli"},
    "__init__": {"_version", "connector", "host", "idl"},
}  # fmt: skip

# the same for the parts of rpc/
RPC_MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {
        "_client", "_http2", "_server", "call", "codec", "health", "interceptors", "options", "reflection",
        "service_config", "sockets", "tls",
    },
    "_betterproto": set(),
    "backoff": set(),
    "exceptions": set(),
    "garbage": set(),
    "left_open": set(),
    "service_config": {"options"},
    "options": set(),
    "peer": set(),
    "sockets": set(),
    "_codec": set(),
    "codec": {"_codec"},
    "_http2": {"options", "sockets"},
    "status": {"_grpc", "_http2"},
    "_grpc": {"_http2"},
    "call": {"_grpc"},
    "interceptors": {"call", "exceptions", "left_open"},
    "_tls_stream": {"sockets"},
    "_certificates": set(),
    "tls": {"_certificates", "_tls_stream", "peer"},
    "_server": {
        "_betterproto", "_grpc", "_http2", "call", "codec", "exceptions", "garbage", "interceptors",
        "left_open", "options", "peer", "sockets", "status", "tls",
    },
    "_client": {
        "_betterproto", "_grpc", "_http2", "backoff", "call", "codec", "interceptors", "options",
        "peer", "status", "tls",
    },
    "health": {"_http2", "call"},
    "reflection": {"_codec", "_server", "codec"},
    "testing": {"_client", "_server", "options"},
}  # fmt: skip

# what could be published alone needs nothing else
RPC_REQUIRES = {"anyio", "betterproto2", "grpclib", "h2", "hpack", "hyperframe", "multidict"}


def modules(part: str) -> list[Path]:
    """The modules of a part. `cli/templates` has none: these files are written elsewhere, and imported there."""
    folder = PACKAGE / part
    found = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    return [file for file in found if "templates" not in file.parts]


def imports(file: Path) -> Iterator[str]:
    """The full names that a module imports, wherever in it."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_the_table_has_all_parts():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - MAY_IMPORT.keys() == set(), "say in MAY_IMPORT where it belongs"


def test_the_table_has_no_circles():
    assert list(TopologicalSorter(MAY_IMPORT).static_order())


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_knows_only_of_those_below_it(part: str):
    for file in filter(Path.exists, modules(part)):
        known = {name.split(".")[1] for name in imports(file) if name.startswith("connectrio.")}
        assert known - {part} - MAY_IMPORT[part] == set(), file


def rooms_of_rpc() -> set[str]:
    return {
        path.stem for path in (PACKAGE / "rpc").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }


def test_the_table_of_rpc_has_all_its_parts_and_no_circles():
    assert rooms_of_rpc() == RPC_MAY_IMPORT.keys()
    assert list(TopologicalSorter(RPC_MAY_IMPORT).static_order())


@pytest.mark.parametrize("room", RPC_MAY_IMPORT)
def test_a_part_of_rpc_knows_only_of_those_below_it(room: str):
    for file in modules(f"rpc/{room}"):
        known = {name.split(".")[2] for name in imports(file) if name.startswith("connectrio.rpc.")}
        assert (known & rooms_of_rpc()) - {room} - RPC_MAY_IMPORT[room] == set(), file


def test_http2_knows_nothing_of_grpc():
    for file in modules("rpc/_http2"):
        assert not [name for name in imports(file) if name.split(".")[0] == "grpclib"], file


def test_nobody_else_reaches_into_rpc():
    for file in PACKAGE.rglob("*.py"):
        if PACKAGE / "rpc" not in file.parents:
            assert not [name for name in imports(file) if name.startswith("connectrio.rpc._")], file


def test_no_files_import_each_other_in_a_circle():
    """Not even for their types."""
    files = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file for file in PACKAGE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): file for name, file in files.items()}
    graph = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports(file)} & modules.keys()
        for module, file in modules.items()
    }
    assert list(TopologicalSorter({module: known - {module} for module, known in graph.items()}).static_order())


def test_the_grpc_layer_needs_nothing_else():
    for file in modules("rpc"):
        names = {name.split(".")[0] for name in imports(file)} - sys.stdlib_module_names - {"connectrio"}
        assert names - RPC_REQUIRES == set(), file
        messages = {name for name in imports(file) if name.startswith("connectrio.idl.")}
        assert all(name.startswith("connectrio.idl.grpc.") for name in messages), file


def test_one_part_alone_knows_of_opentelemetry():
    for file in PACKAGE.rglob("*.py"):
        if PACKAGE / "tracing" not in file.parents:
            assert not [name for name in imports(file) if name.split(".")[0] == "opentelemetry"], file


def loaded_by(program: str) -> set[str]:
    """The modules that a new interpreter has loaded after `program`."""
    program += "\nimport sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    return set(ran.stdout.split())


def test_the_grpc_layer_loads_nothing_of_flyte():
    """As if it were published alone: without what `connectrio/__init__.py` loads for authors of connectors."""
    loaded = loaded_by(
        "import sys, types\n"
        "parent = sys.modules['connectrio'] = types.ModuleType('connectrio')\n"
        f"parent.__path__ = [{str(PACKAGE)!r}]\n"
        "from connectrio.rpc import *\n"
        "import connectrio.rpc.health, connectrio.rpc.reflection, connectrio.rpc.testing"
    )
    ours = {name.split(".")[1] for name in loaded if name.startswith("connectrio.")}
    assert ours == {"rpc", "idl", "_version", "diagnostics"}
    assert not [name for name in loaded if "flyte" in name]


def test_what_becomes_a_supervisor_does_not_load_it():
    """It would do so twice: it is replaced by a process that imports what a supervisor needs."""
    loaded = loaded_by("import connectrio.processes.launch")
    assert not loaded & {"connectrio.processes.supervisor", "connectrio.host.exporter"}


def test_importing_the_grpc_layer_leaves_betterproto2_as_it_is():
    """Only the first Channel and the first Server replace functions of it."""
    loaded_by(
        "from betterproto2.grpclib import ServiceBase, ServiceStub\n"
        "before = dict(vars(ServiceStub)), dict(vars(ServiceBase))\n"
        "from connectrio.rpc import *\n"
        "assert (dict(vars(ServiceStub)), dict(vars(ServiceBase))) == before\n"
        "Channel('localhost:1')\n"
        "assert vars(ServiceStub) != before[0] and vars(ServiceBase) == before[1]\n"
        "Server([])\n"
        "assert vars(ServiceBase) != before[1]"
    )


def test_what_import_connectrio_loads():
    """Next to nothing: each name is imported when it is asked for."""
    loaded = loaded_by("import connectrio")
    assert {name for name in loaded if name.startswith("connectrio.")} == {"connectrio._version"}


def test_what_authors_of_connectors_load():
    """What they write against, and nothing that serves, prints, measures or encrypts."""
    loaded = loaded_by(
        "import connectrio\n"
        "for name in set(connectrio.__all__) - {'ConnectorService', 'HostSettings'}: getattr(connectrio, name)"
    )
    ours = {name.split(".")[1] for name in loaded if name.startswith("connectrio.")}
    assert ours <= {"_version", "connector", "diagnostics", "idl", "logs"}
    heavy = {"cyclopts", "duckdb", "flyte", "h11", "prometheus_client", "trio", "uvloop"}
    assert heavy & loaded == set()


# needed by commands that print, by clients, by other event loops, and never by calls
NOT_BY_HOSTS = {
    "connectrio.client", "connectrio.conformance", "connectrio.flyte", "connectrio.processes",
    "connectrio.rpc._client.channel",
    "connectrio.testing", "connectrio.tracing", "dateutil", "duckdb", "flyte", "grpclib.client", "opentelemetry",
    "pygments", "rich",
    # its command line was plain
    "cyclopts",
    # it shares no job store
    "connectrio.service.job_store.store", "psycopg", "sqlite3",
    # the exporter loads it when the host serves
    "h11",
    # the exporter loads them when somebody opens the status page
    "jinja2", "starlette",
}  # fmt: skip
EVENT_LOOPS = {"asyncio": {"trio", "uvloop"}, "uvloop": {"trio"}, "trio": {"uvloop"}}


@pytest.mark.parametrize("backend", EVENT_LOOPS)
def test_what_a_host_loads(backend: str):
    """What is loaded costs time until the host serves, and memory for as long as it does."""
    arguments = f"--host 127.0.0.1 --port 0 --prometheus_port 0 --no-entry-points --timeout 0.01 --backend {backend}"
    loaded = loaded_by(
        "from connectrio.cli import main\n"
        f"try: main(['serve', *'{arguments}'.split()])\n"
        "except SystemExit as end: assert end.code == 0"
    )
    assert "connectrio.service.async_connector" in loaded
    assert (NOT_BY_HOSTS | EVENT_LOOPS[backend]) & loaded == set()
