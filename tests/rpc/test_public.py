"""What `connectrio.rpc` exports: each name is there, says what it is, and loads nothing of Flyte."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import subprocess
import sys

import pytest

import connectrio.rpc
from type_checks.programs.grpc_by_hand import main


def aliases(module: str) -> dict[str, str]:
    """The texts below the assignments at the top of a module."""
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    return {
        ast.unparse(first.target if isinstance(first, ast.AnnAssign) else first.targets[0]): then.value.value
        for first, then in itertools.pairwise(body)
        if isinstance(first, ast.AnnAssign | ast.Assign)
        if isinstance(then, ast.Expr) and isinstance(then.value, ast.Constant) and isinstance(then.value.value, str)
    }


@pytest.mark.parametrize("name", connectrio.rpc.__all__)
def test_each_name_is_there_and_says_what_it_is(name: str):
    value, home = getattr(connectrio.rpc, name), connectrio.rpc._HOMES[name]
    if home.startswith("grpclib."):
        assert f"`{name}`" in (connectrio.rpc.__doc__ or "")
    elif inspect.isclass(value) or inspect.isfunction(value):
        text = value.__doc__ or ""
        assert len(text.split()) > 3
        assert not text.startswith(f"{name}(")  # as dataclasses have without one
    else:
        assert len(aliases(home)[name].split()) > 3


def test_the_lists_agree():
    assert connectrio.rpc.__all__ == sorted(connectrio.rpc._HOMES, key=lambda name: (not name[0].isupper(), name))
    assert "_HOMES" not in connectrio.rpc.__all__


def test_it_loads_nothing_of_flyte():
    program = (
        "import sys\n"
        "import connectrio.rpc\n"
        "from connectrio.rpc import *\n"
        "import connectrio.rpc.testing\n"
        "print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    loaded = ran.stdout.split()
    rooms = {name.split(".")[1] for name in loaded if name.startswith("connectrio.")}
    assert rooms == {"rpc", "idl", "_version", "diagnostics"}
    assert not [name for name in loaded if "flyte" in name]


async def test_a_service_by_hand_needs_nothing_else():
    assert await main() == ["memory", "A!"]
