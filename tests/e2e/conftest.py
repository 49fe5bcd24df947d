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
    """The event loop of the host."""
    return request.param


@pytest.fixture(scope="session")
def running(pytestconfig, tmp_path_factory):
    """The hosts that tests share, by backend, each started at its first use; "flyte-sdk" is the reference."""
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
    """Yield a host that must still shut down without an error after all tests."""
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
    """A host with the probes, shared by all tests of a backend."""
    return running(backend)


@pytest.fixture
def client(host):
    """A client of `host` with its own connection."""
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
    """A function that starts hosts for one test, which end with the test."""
    return lambda **settings: HostProgram(backend, **settings)
