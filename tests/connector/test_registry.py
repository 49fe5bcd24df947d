"""Which connector serves which task type."""

from __future__ import annotations

import pytest

from connectrio import ConnectorRegistry, Registry
from connectrio.connector.choice import ConnectorChoice, SourceKind
from connectrio.connector.failures import LoadFailure
from connectrio.connector.registry import ConnectorNotFoundError
from connectrio.idl.flyteidl2.connector import Connector, TaskCategory
from service.harness import Base, connector


def test_a_connector_is_found_by_task_type_and_version():
    registry = Registry()
    zero, two = connector(), connector(task_type_version=2)
    registry.register(zero)
    registry.register(two)
    assert registry.get_connector("tiny") is zero
    assert registry.get_connector("tiny", 0) is zero
    assert registry.get_connector("tiny", 2) is two


@pytest.mark.parametrize(("name", "version"), [("tiny", 1), ("TINY", 0), ("", 0)])
def test_a_connector_that_is_not_there(name, version):
    registry = Registry()
    registry.register(connector())
    with pytest.raises(ConnectorNotFoundError) as raised:
        registry.get_connector(name, version)
    assert str(raised.value) == f"Cannot find connector for task type: {name} and version: {version}"
    assert isinstance(raised.value, LookupError)


def test_a_duplicate_is_refused():
    registry = Registry()
    with registry.loading("entry point tiny"):
        registry.register(connector())
    with pytest.raises(ValueError, match=r"^Duplicate connector for task type: tiny and version: 0 ") as raised:
        registry.register(connector())
    assert "already registered by entry point tiny" in str(raised.value)
    assert "pass override=True to replace it" in str(raised.value)


def test_a_duplicate_may_override():
    registry = Registry()
    first, second = connector(), connector(name="Another")
    registry.register(first)
    registry.register(second, override=True)
    assert registry.get_connector("tiny") is second
    assert [found.connector for found in registry.registered()] == [second]
    assert [entry.name for entry in registry.describe()] == ["Another"]


def test_what_comes_from_another_source_is_kept():
    """Which one is served can be decided later."""
    registry = Registry()
    first, second = connector(), connector(name="Another")
    for source, each in (("a", first), ("b", second)):
        with registry.loading(source, module=source):
            registry.register(each)
    assert registry.get_connector("tiny") is first
    assert [claim.connector for claim in registry.rivals("tiny")] == [first, second]
    registry.choice = ConnectorChoice(["b"])
    assert registry.get_connector("tiny") is second
    assert [claim.connector for claim in registry.rivals("tiny")] == [second]
    registry.choice = ConnectorChoice([], ["a", "b"])
    assert registry.registered() == registry.rivals("tiny") == []
    assert [claim.connector for claim in registry.claims()] == [first, second]
    registry.choice = ConnectorChoice()
    assert registry.get_connector("tiny") is first


@pytest.mark.parametrize("turn", [1, -1])
def test_what_is_named_comes_before_what_is_installed_or_included(turn):
    registry = Registry()
    found = {origin: connector() for origin in list(SourceKind)[::turn]}
    for origin, each in found.items():
        with registry.loading(origin.name, origin):
            registry.register(each, override=origin is SourceKind.INCLUDED)
        best = max(claim.origin for claim in registry.claims())
        assert registry.get_connector("tiny") is found[best]


def test_a_program_comes_before_what_is_installed():
    registry = Registry()
    with registry.loading("entry point tiny", SourceKind.INSTALLED):
        registry.register(connector())
    mine = connector()
    registry.register(mine)
    assert registry.get_connector("tiny") is mine
    with pytest.raises(ValueError, match=f"already registered by module {type(mine).__module__}"):
        registry.register(connector())


def test_a_source_forgets_what_it_has_overridden():
    registry = Registry()
    for _ in range(3):
        registry.register(connector(), override=True)
    assert len(registry.claims()) == 1
    assert registry.registrations == 3


@pytest.mark.parametrize("thing", [Base, None, object(), "tiny"])
def test_only_instances_of_connectors_are_registered(thing):
    with pytest.raises(TypeError, match=r"^register\(\) takes an instance of an AsyncConnector subclass, got "):
        Registry().register(thing)


class Ordinary(Base):
    """A class of this module."""


def test_all_failures_are_those_of_loading_and_the_outages():
    registry = Registry()
    failure, outage = (
        LoadFailure("entry point x", "ImportError", "no"),
        LoadFailure("module y", "lifespan failed", "no"),
    )
    registry.failures.append(failure)
    registry.outages["tiny", 0] = outage
    assert registry.all_failures() == [failure, outage]


def test_the_description_has_an_entry_for_each_name():
    registry = Registry()
    registry.register(connector(task_type_name="a"))
    registry.register(connector(name="Other", task_type_name="b"))
    registry.register(connector(task_type_name="a", task_type_version=1))
    registry.register(connector(task_type_name="c"))
    tiny = Connector(
        name="Tiny Connector",
        supported_task_categories=[
            TaskCategory(name="a"),
            TaskCategory(name="a", version=1),
            TaskCategory(name="c"),
        ],
    )
    other = Connector(name="Other", supported_task_categories=[TaskCategory(name="b")])
    assert registry.describe() == [tiny, other]
    assert registry.describe_one("Other") == other


def test_a_name_that_is_not_there():
    with pytest.raises(ConnectorNotFoundError, match=r"^Cannot find connector for name: nope\.$"):
        Registry().describe_one("nope")


# where connectors come from


def test_the_source_of_a_connector():
    registry = Registry()
    with registry.loading("entry point a"):
        registry.register(connector(task_type_name="a"))
        with registry.loading("module b"):
            registry.register(connector(task_type_name="b"))
        registry.register(connector(task_type_name="c"))
    registry.register(Ordinary())
    assert [found.source for found in registry.registered()] == [
        "entry point a",
        "module b",
        "entry point a",
        f"module {Ordinary.__module__}",
    ]


def test_modules_register_with_the_registry_that_loads_them():
    outer, inner = Registry(), Registry()
    before = ConnectorRegistry.default
    with outer.loading("a"):
        ConnectorRegistry.register(connector(task_type_name="a"))
        with inner.loading("b"):
            ConnectorRegistry.register(connector(task_type_name="b"))
            assert isinstance(ConnectorRegistry.get_connector("b"), Base)
        ConnectorRegistry.register(connector(task_type_name="c"), override=True)
    assert ConnectorRegistry.default is before
    assert [found.connector.task_type_name for found in outer.registered()] == ["a", "c"]
    assert [found.connector.task_type_name for found in inner.registered()] == ["b"]


def test_a_module_that_fails_leaves_things_in_order():
    registry = Registry()
    before = ConnectorRegistry.default
    with pytest.raises(RuntimeError), registry.loading("a"):
        raise RuntimeError
    assert ConnectorRegistry.default is before
    registry.register(Ordinary())
    assert registry.registered()[0].source == f"module {Ordinary.__module__}"
