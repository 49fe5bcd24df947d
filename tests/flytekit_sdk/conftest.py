"""The environment with flytekit, and hosts in it: flytekit's own, and ours."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from e2e.programs import CommandProgram, HostProgram
from flytekit_sdk.client import Client
from flytekit_sdk.environment import find_flytekit
from flytekit_sdk.vendors import Vendors

CONNECTORS = Path(__file__).parent / "connectors"

# seconds; flytekit takes long to import on a busy machine
PATIENCE = 120.0

ENV = {"MIRROR_KEY": "s3cret", "_FSEC_MIRROR_KEY": "s3cret", "FLYTE_SECRETS_ENV_PREFIX": "_FSEC_", "NO_COLOR": "1"}


class ReferenceProgram(CommandProgram):
    """`pyflyte serve connector`."""

    def __init__(self, python: Path, *modules: str, env: dict[str, str] | None = None) -> None:
        super().__init__(
            lambda port, exporter_port: [
                python.with_name("pyflyte"), "serve", "connector", "--port", port, "--prometheus_port", exporter_port,
                *(part for module in modules for part in ("--modules", module)),
            ],
            cwd=CONNECTORS,
            env={**ENV, **(env or {})},
        )  # fmt: skip


@pytest.fixture(scope="session")
def flytekit_python(pytestconfig):
    """The Python of an environment with flytekit and its plugins."""
    return find_flytekit(pytestconfig)


@pytest.fixture(scope="session")
def vendors(tmp_path_factory):
    """What the plugins call."""
    with Vendors(tmp_path_factory.mktemp("vendors")).serving(os.environ["PATH"]) as found:
        yield found


@pytest.fixture(scope="session")
def reference_program(flytekit_python, vendors):
    """flytekit's own host, with all plugins and the mirror. It may not serve yet: ours starts at the same time."""
    with ReferenceProgram(flytekit_python, "mirror", env=vendors.env) as program:
        yield program


@pytest.fixture(scope="session")
def reference(reference_program):
    """A client of flytekit's own host."""
    with Client(reference_program.ready(PATIENCE).target, unanswered=2.0) as client:
        yield client


@pytest.fixture(scope="session")
def broken_plugin(tmp_path_factory):
    """A directory with a plugin of flytekit that cannot be imported."""
    directory = tmp_path_factory.mktemp("broken")
    package = directory / "broken-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[flytekit.plugins]\nbroken = no_such_module\n")
    return directory


@pytest.fixture(scope="session", params=["asyncio", "trio"])
def ours(request, flytekit_python, vendors, broken_plugin, reference_program):
    """A client of our host, with the same and a plugin that is broken; it must end in good order."""
    settings = {"entry_points": True, "modules": ["mirror"]}
    env = {**ENV, **vendors.env, "PYTHONPATH": str(broken_plugin)}
    with HostProgram(request.param, python=flytekit_python, cwd=CONNECTORS, env=env, **settings) as program:
        with Client(program.ready(PATIENCE).target) as client:
            client.program = program
            yield client
        program.send(signal.SIGTERM)
        assert program.wait() == 0
