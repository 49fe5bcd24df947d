"""Which state counts as bound to one event loop."""

from __future__ import annotations

import asyncio
import collections
import sys
from contextlib import asynccontextmanager
from types import ModuleType, SimpleNamespace

import pytest
from async_lru import alru_cache

from connectrio.flyte.affinity import loop_bound_state, root_package


@alru_cache
async def cached():
    return None


class Session:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None


class Noted:
    def __init__(self, loop):
        self._loop = loop


class Method:
    cached = cached


class Lazy(ModuleType):
    """Runs code when an attribute is read."""

    def __getattr__(self, name):
        raise AssertionError(name)


class LazyObject:
    def __getattr__(self, name):
        raise AssertionError(name)


@asynccontextmanager
async def a_function():
    yield


@pytest.fixture
def package(monkeypatch):
    """Return a package with a module, whose attributes a test sets."""
    root, module = ModuleType("tiny"), ModuleType("tiny.module")
    monkeypatch.setitem(sys.modules, "tiny", root)
    monkeypatch.setitem(sys.modules, "tiny.module", module)
    return module


@pytest.mark.parametrize(
    "value",
    [
        asyncio.Lock(),
        asyncio.Event(),
        asyncio.Condition(),
        asyncio.BoundedSemaphore(3),
        asyncio.PriorityQueue(),
        cached,
        Session(),
        [1, Session()],
        (Session(),),
        {"a": asyncio.Lock()},
        {asyncio.Lock()},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_found(package, value):
    package.thing = value
    assert loop_bound_state("tiny", []) == "tiny.module.thing"
    assert loop_bound_state("another", []) is None
    assert loop_bound_state("another", [SimpleNamespace(thing=value)]) == "SimpleNamespace.thing"


async def test_what_has_noted_its_loop(package, anyio_backend_name):
    loop = asyncio.new_event_loop()
    package.thing = Noted(loop)
    assert loop_bound_state("tiny", []) == "tiny.module.thing"
    loop.close()
    package.thing = Noted(None)
    assert loop_bound_state("tiny", []) is None


def test_methods_of_classes(package):
    package.Method = type("Method", (), {"__module__": "tiny.module", "cached": cached})
    assert loop_bound_state("tiny", []) == "tiny.module.Method.cached"
    package.Method = Method
    assert loop_bound_state("tiny", []) is None, "it is of another module"


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "text",
        Session,
        asyncio.Lock,
        asyncio,
        a_function,
        Lazy("lazy"),
        LazyObject(),
        [[Session()]],
        collections.OrderedDict(a=Session()),
        SimpleNamespace(loop=None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not(package, value):
    package.thing = value
    assert loop_bound_state("tiny", [value]) is None


def test_root_packages(monkeypatch):
    namespace, regular = ModuleType("spread"), ModuleType("spread.one")
    namespace.__file__, regular.__file__ = None, "/spread/one/__init__.py"
    monkeypatch.setitem(sys.modules, "spread", namespace)
    monkeypatch.setitem(sys.modules, "spread.one", regular)
    assert root_package("spread.one.deep.module") == "spread.one"
    assert root_package("spread.two") == "spread.two"
    assert root_package("asyncio.locks") == "asyncio"
    assert root_package("alone") == "alone"
