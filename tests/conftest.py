"""Every async test runs on every backend."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import pytest
import structlog
from hypothesis import HealthCheck, settings

from connectrio import logs

pytest_plugins = ["time_limit"]

# a busy machine is no failure
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# what judges a change has the same examples each time; who develops looks for new ones
settings.register_profile("repeatable", settings.get_profile("unhurried"), derandomize=True)
settings.load_profile("repeatable" if os.environ.get("CI") else "unhurried")


def loop_of_eager_tasks() -> asyncio.AbstractEventLoop:
    """An event loop whose tasks begin at once, as a program may choose from Python 3.12 on."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


BACKENDS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]
if sys.version_info >= (3, 12):
    BACKENDS.append(pytest.param(("asyncio", {"loop_factory": loop_of_eager_tasks}), id="eager"))
# .ci/run leaves out some of them on some Pythons
if chosen := os.environ.get("TEST_BACKENDS", "").split():
    BACKENDS = [each for each in BACKENDS if each.id in chosen]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request):
    return request.param


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left():
    """No test leaves a process behind, and so no port either. Here, so that it is asked when all fixtures are done."""
    yield
    programs = sys.modules.get("e2e.programs")
    if programs is not None:
        programs.eventually(lambda: programs.left_over() == [])


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """A test that sets up logging, as a host's process does, sets it up for itself alone."""
    yield
    structlog.reset_defaults()
    logs._host_log = None
    rpc = logging.getLogger("connectrio.rpc")
    rpc.handlers, rpc.propagate, rpc.disabled = [], True, False
    rpc.setLevel(logging.NOTSET)
