"""Lines of connectors' code, of modules that are not as usual."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from connectrio.service.places import code_of, failed_in, home_of


class Failing(ModuleType):
    """A module, as lazy ones are, that fails when it is looked at."""

    def __getattribute__(self, name):
        raise SystemExit("no")


@pytest.mark.parametrize("file", [7, None, b"/a.py", "fails"])
def test_a_module_whose_file_is_odd(monkeypatch, file):
    name = f"odd_{file!r}"
    module = ModuleType(name) if file != "fails" else Failing(name)
    if file != "fails":
        module.__file__ = file
    monkeypatch.setitem(sys.modules, name, module)
    connector = type("Odd", (), {"__module__": name})()
    assert (code_of(connector), home_of(connector)) == ("", "")
    assert failed_in(ValueError("no"), connector) == ""


def test_an_attribute_that_fails_when_it_is_looked_at():
    class Attribute:
        def __getattr__(self, name):
            raise SystemExit("no")

    class Connector:
        attribute = Attribute()

        def method(self): ...

    assert code_of(Connector()) == f"{__file__}:{Connector.method.__code__.co_firstlineno}"
