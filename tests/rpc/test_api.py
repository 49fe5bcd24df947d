"""What `connectrio.rpc` exports is documented: in the code, and on the page of its API."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from connectrio import rpc

PACKAGE = Path(rpc.__file__).parent
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "api" / "rpc.md").read_text()

OURS = [name for name in rpc.__all__ if not rpc._HOMES[name].startswith("grpclib.")]
# not the aliases of types, which have their texts below them
DOCUMENTED = [name for name in OURS if inspect.isclass(getattr(rpc, name)) or inspect.isfunction(getattr(rpc, name))]


def test_the_page_has_every_name():
    named = set(re.findall(r"^::: connectrio\.rpc\.(\w+)$", PAGE, re.MULTILINE))
    named |= {
        name for members in re.findall(r"^ +members: \[(.*)\]$", PAGE, re.MULTILINE) for name in members.split(", ")
    }
    assert set(OURS) <= named, "those that are missing"
    assert [name for name in rpc.__all__ if name not in OURS and f"`{name}" not in PAGE] == []


@pytest.mark.parametrize("name", DOCUMENTED)
def test_each_public_part_of_it_has_a_docstring(name: str):
    exported = getattr(rpc, name)
    assert exported.__doc__
    for member, value in vars(exported).items():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if not member.startswith("_") and inspect.isfunction(function):
            assert inspect.getdoc(function), member


def test_nothing_of_flyte_is_in_its_texts():
    """It can be published alone."""
    for path in PACKAGE.rglob("*.py"):
        assert not re.search("flyte", path.read_text(), re.IGNORECASE), path
