"""Commands, and hosts for them to talk to."""

from __future__ import annotations

import logging
import os
import socket

import pytest
import structlog

from cli.harness import PATIENCE, Commands, hosting
from cli.toy import Mute, Toy
from connectrio.connector.failures import LoadFailure
from connectrio.connector.registry import Registry


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch, tmp_path):
    """No variable of the environment and no file of the working directory has a say."""
    for name in os.environ:
        if name.startswith("CONNECTRIO_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    """Runs commands in this process."""
    return Commands(capsys)


@pytest.fixture(scope="module")
def _quiet():
    """A host in this process does not write its log between what commands print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def toy():
    """The connector that `host` hosts."""
    return Toy()


@pytest.fixture(scope="module")
def host(toy, _quiet):
    """The addresses of a host of `toy`, of a connector without logs, and of one that could not be loaded."""
    registry = Registry()
    for connector in (toy, Mute()):
        registry.register(connector)
    registry.failures.append(LoadFailure("entry point broken (broken:main)", "ImportErrör", "no module named 'x'"))
    with hosting(registry) as addresses:
        yield addresses


@pytest.fixture
def ask(capsys, host):
    """Runs commands against `host`."""
    return Commands(capsys, "--target", host.target, "--timeout", str(PATIENCE))


@pytest.fixture
def free_target():
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused, and nobody else gets it
        yield f"127.0.0.1:{bound.getsockname()[1]}"
