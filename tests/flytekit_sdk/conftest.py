"""The environment with flytekit, and hosts in it: flytekit's own, and ours."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from e2e.programs import CommandProgram, HostProgram
from flytekit_sdk.client import Client
from flytekit_sdk.environment import find_flytekit

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
def reference(flytekit_python):
    """A client of flytekit's own host, with all plugins and the mirror."""
    with (
        ReferenceProgram(flytekit_python, "mirror") as program,
        Client(program.ready(PATIENCE).target, unanswered=2.0) as client,
    ):
        yield client


@pytest.fixture(scope="session", params=["asyncio", "trio"])
def ours(request, flytekit_python):
    """A client of our host, with the same; it must end in good order."""
    with HostProgram(
        request.param, python=flytekit_python, cwd=CONNECTORS, env=ENV, entry_points=True, modules=["mirror"]
    ) as program:
        with Client(program.ready(PATIENCE).target) as client:
            yield client
        program.send(signal.SIGTERM)
        assert program.wait() == 0
