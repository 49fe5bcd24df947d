"""Which of the packages inside rpc/ may know of which, and that its files do not import each other in circles."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from test_layers import PACKAGE, imports, modules

FORBIDDEN = {
    "_http2": {"_grpc", "_server", "_client", "grpclib"},
    "_grpc": {"_server", "_client"},
    "_server": {"_client"},
    "_client": {"_server"},
}


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)


def known_to(file: Path) -> Iterator[str]:
    """The modules, of ours and of others, that a file imports, now or later or for types alone."""
    ours = {module_name(each) for each in modules("rpc")}
    for name in imports(file):
        yield next((module for module in (name, name.rpartition(".")[0]) if module in ours), name)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_the_inner_packages_know_only_of_those_below_them(package: str):
    for file in modules(f"rpc/{package}"):
        known = {name.removeprefix("connectrio.rpc.").split(".")[0] for name in known_to(file)}
        assert known & FORBIDDEN[package] == set(), file


@pytest.mark.parametrize("package", ["_http2", "_grpc", "_server"])
def test_no_files_import_each_other_in_a_circle(package: str):
    graph = {module_name(file): set(known_to(file)) for file in modules(f"rpc/{package}") if file.stem != "__init__"}
    assert list(TopologicalSorter(graph).static_order())
