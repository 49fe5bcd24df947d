"""Which state counts as bound to one event loop."""

from __future__ import annotations

import asyncio
import collections
import functools
import sys
import threading
import tracemalloc
import weakref
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from types import ModuleType, SimpleNamespace

import grpc.aio
import pytest
from anyio import to_thread
from async_lru import alru_cache

from connectrio.flyte import _loop_state
from connectrio.flyte._loop_state import loop_bound_state, root_package


@alru_cache
async def cached():
    return None


class Session:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None

    def request(self):
        return None


class Noted:
    def __init__(self, loop):
        self._loop = loop


class Slotted:
    __slots__ = ("_client", "empty")

    def __init__(self, client):
        self._client = client


class Method:
    cached = cached


class Lazy(ModuleType):
    """Runs code when an attribute is read."""

    def __getattr__(self, name):
        raise AssertionError(name)


class Hostile:
    """Runs code whenever it can."""

    def __getattribute__(self, name):
        raise AssertionError(name)

    @property
    def __class__(self):
        raise AssertionError

    @property
    def session(self):
        raise AssertionError

    def __eq__(self, other):
        raise AssertionError

    def __hash__(self):
        raise AssertionError

    def __bool__(self):
        raise AssertionError


class HostileDict(dict):
    def __iter__(self):
        raise AssertionError

    def values(self):
        raise AssertionError


@asynccontextmanager
async def a_function():
    yield


@functools.lru_cache
def client_of(account):
    return Session()


client_of("an account")


def closing_over(value):
    def function():
        return value

    return function


def with_default(value):
    def function(session=value):
        return session

    return function


def attributed(value):
    def function():
        return None

    function.session = value
    return function


def hostile_dict(value):
    return HostileDict(a=value)


def hostile(value):
    found = Hostile()
    object.__setattr__(found, "kept", value)
    return found


class Harmless:
    pass


KEPT = Session()
WAYS = {
    "list": lambda value: [1, value],
    "tuple": lambda value: (value,),
    "set": lambda value: {value},
    "dict": lambda value: {"a": value},
    "key": lambda value: {value: 1},
    "deep": lambda value: {"a": [({"b": [value]},)]},
    "OrderedDict": lambda value: collections.OrderedDict(a=value),
    "defaultdict": lambda value: collections.defaultdict(dict, a=value),
    "deque": lambda value: collections.deque([value]),
    "ChainMap": lambda value: collections.ChainMap({"a": value}),
    "instance": lambda value: SimpleNamespace(inner=SimpleNamespace(session=value)),
    "slots": Slotted,
    "closure": closing_over,
    "default": with_default,
    "function's attribute": attributed,
    "lru_cache": lambda value: functools.lru_cache(closing_over(value)),
    "wraps": lambda value: functools.wraps(closing_over(value))(lambda: None),
    "partial": lambda value: functools.partial(print, value),
    "property": lambda value: property(closing_over(value)),
    "weak dict": lambda value: weakref.WeakValueDictionary(a=value),
    "weak keys": lambda value: weakref.WeakKeyDictionary({value: 1}),
    "weak set": lambda value: weakref.WeakSet([value]),
    "weak reference": weakref.ref,
    "context variable": lambda value: ContextVar("variable", default=value),
    "dict subclass": hostile_dict,
    "hostile": hostile,
}


@pytest.fixture
def package(monkeypatch):
    """Return a package with a module, whose attributes a test sets."""
    root, module = ModuleType("tiny"), ModuleType("tiny.module")
    monkeypatch.setitem(sys.modules, "tiny", root)
    monkeypatch.setitem(sys.modules, "tiny.module", module)
    return module


def _shared_lists():
    items = [object() for _ in range(2_000)]
    return [list(items) for _ in range(500)]


@pytest.mark.parametrize(
    "make", [lambda: [0] * 2_000_000, _shared_lists], ids=["one large list", "many lists of the same"]
)
def test_a_search_takes_little_memory(package, monkeypatch, make):
    """What a package holds may be larger than the memory that is left."""
    monkeypatch.setattr(_loop_state, "_MOST_OBJECTS", 10_000)
    package.thing = make()
    tracemalloc.start()
    try:
        assert loop_bound_state("tiny", []) == "tiny (too many objects to be searched)"
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


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
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_found(package, value):
    package.thing = value
    assert loop_bound_state("tiny", []) == "tiny.module.thing"
    assert loop_bound_state("another", []) is None
    assert loop_bound_state("another", [SimpleNamespace(thing=value)]) == "SimpleNamespace.thing"


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_keep_a_session(package, way):
    package.thing = WAYS[way](KEPT)
    assert loop_bound_state("tiny", []) == "tiny.module.thing (Session)"
    package.thing = WAYS[way](Harmless())
    assert loop_bound_state("tiny", []) is None


def test_what_a_cache_has_kept(package):
    package.client_of = client_of
    assert loop_bound_state("tiny", []) == "tiny.module.client_of (Session)"


def test_a_method_of_a_session(package):
    package.request = KEPT.request
    assert loop_bound_state("tiny", []) == "tiny.module.request (Session)"


def test_what_has_slots_or_base_classes():
    base = type("Base", (), {"session": KEPT})
    assert loop_bound_state("tiny", [type("Own", (base,), {})()]) == "Base.session"
    assert loop_bound_state("tiny", [Slotted(KEPT)]) == "Slotted (Session)"


def test_what_has_noted_its_loop(package):
    loop = asyncio.new_event_loop()
    package.thing = Noted(loop)
    assert loop_bound_state("tiny", []) == "tiny.module.thing (Noted)"
    package.thing = {"vendor": [Noted(loop)]}
    assert loop_bound_state("tiny", [], [loop]) == "tiny.module.thing (Noted)"
    loop.close()
    package.thing = Noted(None)
    assert loop_bound_state("tiny", []) is None


def test_a_loop_that_runs_elsewhere_is_no_obstacle(package):
    """As those that make synchronous functions of asynchronous ones, in a thread of their own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        ready = threading.Event()
        loop.call_soon_threadsafe(ready.set)
        assert ready.wait(30)
        package.thing = Noted(loop)
        home = asyncio.new_event_loop()
        assert loop_bound_state("tiny", [], [home]) is None
        assert loop_bound_state("tiny", [], [loop]) == "tiny.module.thing (Noted)"
        home.close()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def test_clients_that_are_kept(package):
    async def use():
        channel = grpc.aio.insecure_channel("127.0.0.1:1")
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        kept = {"Channel": channel, "UnaryUnaryMultiCallable": channel.unary_unary("/a/b"), "StreamWriter": writer}
        for name, client in kept.items():
            package.thing = {"vendor": client}
            assert loop_bound_state("tiny", [], [asyncio.get_running_loop()]) == f"tiny.module.thing ({name})"
        writer.close()
        server.close()
        await channel.close()

    await to_thread.run_sync(asyncio.run, use())


def test_coroutines_that_have_begun(package):
    async def forever():
        await asyncio.get_running_loop().create_future()

    async def items():
        yield 1

    coroutine, generator = forever(), items()
    with suppress(StopIteration):
        generator.asend(None).send(None)
    package.thing = [coroutine]
    assert loop_bound_state("tiny", []) == "tiny.module.thing (coroutine)"
    package.thing = [generator]
    assert loop_bound_state("tiny", []) == "tiny.module.thing (async_generator)"
    coroutine.close()
    with suppress(StopIteration):
        generator.aclose().send(None)
    package.thing = [coroutine, generator]
    assert loop_bound_state("tiny", []) is None


def test_methods_of_classes(package):
    package.Method = type("Method", (), {"__module__": "tiny.module", "cached": cached})
    assert loop_bound_state("tiny", []) == "tiny.module.Method.cached"
    package.Method = Method
    assert loop_bound_state("tiny", []) is None, "it is of another module"


def test_of_other_packages_only_what_the_home_loop_is_in_counts(package, monkeypatch):
    vendor = ModuleType("vendor")
    monkeypatch.setitem(sys.modules, "vendor", vendor)
    home = asyncio.new_event_loop()
    try:
        vendor.lock, vendor.session = asyncio.Lock(), Session()
        package.vendor = vendor
        assert loop_bound_state("tiny", [], [home]) is None, "perhaps nobody uses them"
        vendor.clients = {"account": Noted(home)}
        assert loop_bound_state("tiny", [], [home]) == "vendor.clients (Noted)"
        assert loop_bound_state("tiny", []) is None
        del package.vendor
        assert loop_bound_state("tiny", [], [home]) is None, "it is not imported"
        package.Client = type("Client", (), {"__module__": "vendor"})
        assert loop_bound_state("tiny", [], [home]) == "vendor.clients (Noted)"
    finally:
        home.close()


def test_what_is_too_large_is_not_trusted(package, monkeypatch):
    package.thing = [[number] for number in range(1000)]
    assert loop_bound_state("tiny", []) is None
    monkeypatch.setattr(_loop_state, "_MOST_OBJECTS", 500)
    assert loop_bound_state("tiny", []) == "tiny (too many objects to be searched)"
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tiny", package)
    monkeypatch.setattr(_loop_state, "_TIME_LIMIT", -1.0)
    assert loop_bound_state("tiny", []) == "tiny (too many objects to be searched)"


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "text",
        Session,
        asyncio.Lock,
        a_function,
        Lazy("lazy"),
        SimpleNamespace(loop=None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not(package, value):
    package.thing = value
    assert loop_bound_state("tiny", [SimpleNamespace(thing=value)]) is None


def test_no_code_of_an_object_runs(package):
    package.thing = [Hostile(), HostileDict(a=1)]
    assert loop_bound_state("tiny", []) is None


def test_modules_that_are_kept(package):
    package.thing = asyncio
    assert loop_bound_state("tiny", []) is None


def test_root_packages(monkeypatch):
    namespace, regular = ModuleType("spread"), ModuleType("spread.one")
    namespace.__file__, regular.__file__ = None, "/spread/one/__init__.py"
    monkeypatch.setitem(sys.modules, "spread", namespace)
    monkeypatch.setitem(sys.modules, "spread.one", regular)
    assert root_package("spread.one.deep.module") == "spread.one"
    assert root_package("spread.two") == "spread.two"
    assert root_package("asyncio.locks") == "asyncio"
    assert root_package("alone") == "alone"
