"""`connectrio dev`: what is saved is served, what is broken is shown, and nothing is left at the end."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from cli.harness import PATIENCE, Process
from connectrio.cli.commands import dev as command
from connectrio.cli.watching import watched
from e2e.client import Client, fetch
from e2e.programs import children_of, eventually

MODULE = """
import json
from dataclasses import dataclass
from pathlib import Path

import anyio

from connectrio import AsyncConnector, ConnectorRegistry, Phase, Resource, ResourceMeta

VERSION = "one"


@dataclass
class Meta(ResourceMeta):
    waits: str = ""


class Versioned(AsyncConnector[Meta]):
    name = "Versioned"
    task_type_name = "versioned"
    metadata_type = Meta

    async def create(self, task_template, output_prefix, inputs=None, task_execution_metadata=None, **kwargs):
        return Meta(inputs["waits"])

    async def get(self, resource_meta, **kwargs):
        if resource_meta.waits:
            Path(resource_meta.waits).with_suffix(".started").touch()
            while not Path(resource_meta.waits).exists():
                await anyio.sleep(0.01)
        return Resource(Phase.RUNNING, message=VERSION)

    async def delete(self, resource_meta, **kwargs):
        pass


ConnectorRegistry.register(Versioned())
"""
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
SERVES = "serving after"
NO_MODULE = "error: no module is named, and ./pyproject.toml has no entry points of flyte.connectors\n"


def save(file: Path, text: str) -> None:
    """Save as editors do that put a new file in the place of the old one."""
    new = file.with_name(f".{file.name}.tmp")
    new.write_text(text)
    new.replace(file)


def version(text: str) -> str:
    return MODULE.replace('"one"', json.dumps(text))


class Dev:
    """`connectrio dev` of a module in `folder`.

    :ivar target: where its gRPC server is
    :ivar url: where its status page is
    """

    def __init__(self, process: Process) -> None:
        self.process = process

    def served(self, times: int = 1) -> None:
        """Wait until the code was served that many times."""
        self.process.line_with(SERVES, times)
        self.target = self.process.line_with("  gRPC  ").split()[1]
        self.url = self.process.line_with("  page  ").split()[1].removesuffix("/status")

    def version(self) -> str:
        """Return the version of the code that serves."""
        with Client(self.target) as client:
            return asked(client)

    def end(self, *, at_once: bool = False) -> None:
        """End it as Ctrl-C does. Nothing is left of it."""
        children = children_of(self.process.pid)
        self.process.signal(signal.SIGINT)
        if at_once:
            self.process.error_with("send the signal again to stop at once")
            self.process.signal(signal.SIGINT)
        outcome = self.process.wait()
        assert outcome.code == (130 if at_once else 0), outcome
        assert "Traceback" not in outcome.err
        eventually(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def asked(client: Client, **fields) -> str:
    return client.call("get", task_type="versioned", meta=b"{}", **fields).resource.message


@contextmanager
def developing(folder: Path, *arguments: str, backend: str = "asyncio"):
    ports = [] if "--port" in arguments else ["--port", "0", "--prometheus-port", "0"]
    with Process("dev", *arguments, *ports, "--no-entry-points", "--backend", backend, cwd=folder) as process:
        yield Dev(process)


@pytest.fixture
def module(tmp_path):
    file = tmp_path / "connector.py"
    file.write_text(MODULE)
    return file


@BACKENDS
def test_what_is_saved_is_served(module, backend):
    """A client that goes on asking over one connection loses no call."""
    with developing(module.parent, "connector.py", backend=backend) as dev:
        dev.served()
        with Client(dev.target) as client:
            assert asked(client) == "one"
            save(module, version("two"))  # of the same size, and perhaps in the same second
            while asked(client) == "one":
                pass
            assert asked(client) == "two"
        dev.served(2)
        assert "connector.py changed" in dev.process.line_with("changed")
        dev.end()


@BACKENDS
def test_a_broken_module_is_shown_until_it_is_mended(module, backend):
    with developing(module.parent, "connector.py", backend=backend) as dev:
        dev.served()
        save(module, "import json\n\ndef broken(:\n")
        error = dev.process.error_with("error: ")
        assert error.endswith(f"SyntaxError: invalid syntax ({module}:3)")
        assert dev.process.error_with("3 | def broken(:")
        dev.process.error_with("calls are answered UNAVAILABLE")
        with Client(dev.target) as client:
            with pytest.raises(grpc.RpcError) as refused:
                asked(client)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert refused.value.details().endswith(f"({module}:3)")
            health = client.health.Check(HealthCheckRequest(), timeout=PATIENCE)
            assert health.status == HealthCheckResponse.NOT_SERVING
        status, text = fetch(f"{dev.url}/readyz")
        assert (status, f"{module}" in text) == (503, False)
        assert "module connector.py cannot be loaded" in text
        assert f"{module}:3" in fetch(f"{dev.url}/status")[1]
        [attention] = [
            each
            for each in json.loads(fetch(f"{dev.url}/api/status")[1])["attention"]
            if each["kind"] == "load failure"
        ]
        assert attention["what_to_do"] == "its task types are answered UNAVAILABLE; mend and save it"

        save(module, version("mended"))
        dev.served(2)
        assert dev.version() == "mended"
        assert fetch(f"{dev.url}/readyz")[0] == 200
        with Client(dev.target) as client:
            assert client.health.Check(HealthCheckRequest(), timeout=PATIENCE).status == HealthCheckResponse.SERVING
        dev.end()


def test_a_module_that_is_broken_from_the_start(module):
    module.write_text("raise RuntimeError('no license')\n")
    with developing(module.parent, "connector.py") as dev:
        assert dev.process.error_with("error: ").endswith(f"RuntimeError: no license ({module}:1)")
        dev.process.error_with("calls are answered UNAVAILABLE")
        save(module, MODULE)
        dev.served()
        assert dev.version() == "one"
        dev.end()


def test_a_module_that_ends_its_process(module):
    """`os._exit` leaves no word. What was served before goes on as a broken module does."""
    with developing(module.parent, "connector.py") as dev:
        dev.served()
        save(module, "import os\nos._exit(3)\n")
        assert "ended with exit code 3 before it served" in dev.process.error_with("error: ")
        dev.process.error_with("calls are answered UNAVAILABLE")
        save(module, version("mended"))
        dev.served(2)
        assert dev.version() == "mended"
        dev.end()


@BACKENDS
def test_a_call_in_flight_finishes_on_the_old_code(module, tmp_path, backend):
    with developing(module.parent, "connector.py", backend=backend) as dev:
        dev.served()
        with Client(dev.target) as client:
            meta = json.dumps({"waits": str(tmp_path / "go")}).encode()
            call = client.start("get", task_type="versioned", meta=meta, deadline=PATIENCE)
            eventually((tmp_path / "go.started").exists, PATIENCE)
            save(module, version("two"))
            dev.served(2)
            assert dev.version() == "two"
            save(module, version("six"))  # while the first one still drains
            dev.served(3)
            assert dev.version() == "six"
            assert not call.done()
            states = [each["state"] for each in json.loads(fetch(f"{dev.url}/readyz")[1])["processes"]]
            assert sorted(states) == ["draining", "serving"]
            (tmp_path / "go").touch()
            assert call.result().resource.message == "one"
        eventually(lambda: len(json.loads(fetch(f"{dev.url}/readyz")[1])["processes"]) == 1, PATIENCE)
        dev.end()


def test_many_saves_at_once(module):
    with developing(module.parent, "connector.py") as dev:
        dev.served()
        for number in range(30):
            save(module, version(f"number {number}") if number % 3 else "def broken(")
        save(module, version("last"))
        eventually(lambda: is_served(dev, "last"), PATIENCE)
        dev.end()


def is_served(dev: Dev, text: str) -> bool:
    try:
        return dev.version() == text
    except grpc.RpcError:  # a version in between was broken
        return False


async def test_a_save_just_when_the_code_serves_is_not_forgotten(tmp_path):
    """Its compiled form may be that of before, and must not be used."""
    file = tmp_path / "connector.py"
    author = command._Author(watched([], [tmp_path]), opens=False)

    class Serves:
        async def replace(self) -> None:
            author._note({file})

        async def describe(self) -> None:
            pass

        addresses = prepare = staticmethod(lambda: None)

    await author._reload(Serves())
    assert author._files == {file}


SLOW = "from pathlib import Path\nimport time\nPath('importing').touch()\ntime.sleep(3600)\n"


def test_a_save_while_the_code_of_before_still_starts(module, tmp_path):
    with developing(module.parent, "connector.py") as dev:
        dev.served()
        save(module, SLOW)
        eventually((tmp_path / "importing").exists, PATIENCE)
        save(module, version("two"))
        dev.served(2)
        assert dev.version() == "two"
        dev.end()


@BACKENDS
def test_ctrl_c_during_a_reload(module, tmp_path, backend):
    with developing(module.parent, "connector.py", backend=backend) as dev:
        dev.served()
        save(module, SLOW)
        eventually((tmp_path / "importing").exists, PATIENCE)
        dev.end()
        port = int(dev.target.rpartition(":")[2])
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


def test_ctrl_c_before_the_first_start(module, tmp_path):
    module.write_text(SLOW)
    with developing(module.parent, "connector.py") as dev:
        eventually((tmp_path / "importing").exists, PATIENCE)
        dev.end(at_once=True)


def test_processes_whose_dev_is_killed_end(module):
    with developing(module.parent, "connector.py") as dev:
        dev.served()
        dev.process.line_with("In production")
        eventually(lambda: len(children_of(dev.process.pid)) == 2, PATIENCE)  # one serves, one waits for the next save
        children = children_of(dev.process.pid)
        dev.process.signal(signal.SIGKILL)
        eventually(lambda: not any(map(is_alive, children)), PATIENCE)
        assert "Traceback" not in dev.process.wait().err


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_is_printed(module):
    with developing(module.parent, "connector.py", "--processes", "2") as dev:
        dev.served()
        dev.process.line_with("In production: connectrio serve --modules connector.py")
        assert dev.process.line_with("modules").split() == ["modules", "connector.py"]
        assert dev.process.line_with("watches").split() == ["watches", f"{module.parent}/*.py"]
        assert dev.process.line_with("Versioned").split(None, 3) == [
            "Versioned", "versioned", "(0)", "module connector.py"
        ]  # fmt: skip
        run = f"  connectrio run versioned --target {dev.target} --input waits=WAITS"
        assert dev.process.line_with("connectrio run") == run
        assert dev.process.line_with("connectrio check") == "  connectrio check connector.py --input waits=WAITS"
        dev.end()


def test_ports_that_are_taken(module):
    with taken_pair() as (grpc_port, http_port):
        arguments = ["connector.py", "--port", str(grpc_port), "--prometheus-port", str(http_port)]
        with developing(module.parent, *arguments) as dev:
            dev.served()
            assert dev.process.error_with(f"port {grpc_port} is taken: gRPC gets port ").endswith(
                dev.target.rpartition(":")[2]
            )
            assert dev.process.error_with(f"port {http_port} is taken: the status page gets port ").endswith(
                dev.url.rpartition(":")[2]
            )
            assert dev.version() == "one"
            dev.end()


@contextmanager
def taken_pair():
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
            each.listen()
        yield one.getsockname()[1], other.getsockname()[1]


def test_a_package_and_further_files(tmp_path):
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    looks = "import anyio\nimport pack\nfor file in Path('pack').glob('new*.py'):\n    pack.NEW = '+'"
    reads = "Path('data/version.txt').read_text() + getattr(pack, 'NEW', '')"
    (package / "connector.py").write_text(MODULE.replace('"one"', reads).replace("import anyio", looks))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "version.txt").write_text("a")
    with developing(tmp_path, "pack.connector", "--watch", "data") as dev:
        dev.served()
        assert dev.version() == "a"
        save(tmp_path / "data" / "version.txt", "b")
        dev.served(2)
        assert dev.version() == "b"
        (package / "new.py").write_text("")
        dev.served(3)
        assert dev.version() == "b+"
        dev.end()


def test_the_modules_of_the_project(module, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[project.entry-points."flyte.connectors"]\nversioned = "connector:register"\n'
    )
    with developing(tmp_path) as dev:
        dev.served()
        assert dev.version() == "one"
        dev.end()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, NO_MODULE),
        ("", NO_MODULE),
        ("[project]\nentry-points = 3", NO_MODULE),
        ("[project.entry-points.'flyte.connectors']", NO_MODULE),
        ("[", "error: pyproject.toml is not TOML: "),
        ("\udc80", "error: pyproject.toml is not TOML: "),
    ],
)
def test_a_project_without_modules(run, tmp_path, text, error):
    if text is not None:
        (tmp_path / "pyproject.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    outcome = run("dev")
    assert outcome.code == 2
    assert outcome.err.startswith(error)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nope.py"], "there is no file nope.py"),
        (["nope"], "there is no module nope"),
        (["json", "--watch", "nope"], "--watch nope: there is no such file or directory"),
        (["json", "--port", "-1"], "port must be between 0 and 65535"),
        (["json", "--unix-socket", "x.sock"], "a Unix socket cannot be shared by several processes"),
    ],
)
def test_what_is_wrong(run, arguments, error):
    outcome = run("dev", *arguments)
    assert outcome.code in (1, 2)
    assert error in outcome.err


def test_without_watchfiles_it_is_one_line(run, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    outcome = run("dev", "json")
    assert (outcome.code, outcome.err) == (
        1, "error: connectrio dev needs watchfiles, which is not installed\nhint: pip install 'connectrio[dev]'\n"
    )  # fmt: skip


def test_the_page_is_opened_once(module, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path / "opened"}\n')
    browser.chmod(0o755)
    environment = {"BROWSER": f"{browser} %s", "PATH": os.environ["PATH"]}
    arguments = ["dev", "connector.py", "--open", "--port", "0", "--prometheus-port", "0", "--no-entry-points"]
    with Process(*arguments, cwd=tmp_path, environment=environment) as process:
        dev = Dev(process)
        dev.served()
        eventually((tmp_path / "opened").exists, PATIENCE)
        save(module, version("two"))
        dev.served(2)
        dev.end()
    assert (tmp_path / "opened").read_text() == f"{dev.url}/status\n"
