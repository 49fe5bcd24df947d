"""Hosts as separate processes, on each kind of event loop, and clients for them."""

from __future__ import annotations

import signal
from contextlib import ExitStack, contextmanager

import pytest

from e2e.client import Client
from e2e.programs import WORKERS, HostProgram
from e2e.reference import ReferenceProgram, find_reference

BACKENDS = ["asyncio", "uvloop", "trio"]
REFERENCE = "flyte-sdk"


@pytest.fixture(params=BACKENDS, scope="session")
def backend(request):
    """What the host runs on."""
    return request.param


@pytest.fixture(scope="session")
def running(pytestconfig, tmp_path_factory):
    """The hosts that tests share, each started when it is first asked for, by backend; "flyte-sdk" is the reference."""
    started = {}
    with ExitStack() as stack:

        def get(name):
            if name not in started:
                host = (
                    ReferenceProgram(find_reference(pytestconfig))
                    if name == REFERENCE
                    else our_host(name, tmp_path_factory)
                )
                started[name] = stack.enter_context(host).ready()
            return started[name]

        yield get


@contextmanager
def our_host(backend, tmp_path_factory):
    """A host that must be able to end in good order after everything that was done to it."""
    temporary = tmp_path_factory.mktemp(f"tmp-of-{backend}")
    with HostProgram(backend, worker=WORKERS, env={"TMPDIR": str(temporary)}) as program:
        yield program
        assert program.is_running
        program.send(signal.SIGTERM)
        assert program.wait() == 0
        assert list(temporary.iterdir()) == []
        strays = [line for line in program.errors.splitlines() if not line.startswith("{")]
        assert not strays, "a host writes log lines to standard error, and nothing else"


@pytest.fixture(scope="session")
def host(running, backend):
    """A host with the probes, which all tests of a backend share, and which none of them may break."""
    return running(backend)


@pytest.fixture
def client(host):
    """A client of `host`, with a connection of its own."""
    with Client(host.target) as client:
        yield client


@pytest.fixture(scope="session")
def reference(running):
    """flyte-sdk's host with the same probes."""
    return running(REFERENCE)


@pytest.fixture
def reference_client(reference):
    """A client of `reference`."""
    with Client(reference.target) as client:
        yield client


@pytest.fixture(scope="session", params=[*BACKENDS, REFERENCE])
def either_host(request, running):
    """Each of our hosts, and flyte-sdk's."""
    return running(request.param)


@pytest.fixture
def either_client(either_host):
    """A client of `either_host`."""
    with Client(either_host.target) as client:
        yield client


@pytest.fixture(scope="session")
def start_host(backend):
    """Starts hosts of a test's own; a context manager, so that they end with the test."""
    return lambda **settings: HostProgram(backend, **settings)
