"""Changes the imports of connectors for flyte-sdk by the tables of docs/how-to/porting.md, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "porting.md"
_ROW = re.compile(r"\| `([\w.]+)` \| (`.*`) \| `([\w.]+)` \|")

Table = dict[tuple[str, str], str]


def tables() -> tuple[Table, Table]:
    """Return what has to change, and what may: (module, name) → module."""
    needed, optional = PAGE.read_text().split("These imports stay as they are:")
    return dict(_rows(needed)), dict(_rows(optional))


def _rows(text: str) -> Iterator[tuple[tuple[str, str], str]]:
    for module, names, ours in _ROW.findall(text):
        for name in re.findall(r"`(\w+)`", names):
            yield (module, name), ours


class _Changed(ast.NodeTransformer):
    def __init__(self, table: Table, package: str, moved: str) -> None:
        self._table, self._package, self._moved = table, package, moved

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.ImportFrom]:
        module = node.module or ""
        if module.startswith(self._package):
            module = self._moved + module.removeprefix(self._package)
        homes = [(self._table.get((module, alias.name), module), alias) for alias in node.names]
        return [ast.ImportFrom(module=home, names=[alias], level=node.level) for home, alias in homes]


def port(source: Path, target: Path, table: Table) -> None:
    """Write the modules of a plugin's connector to `target`, with their imports changed.

    Those that define tasks, and so run where flyte-sdk does, stay behind; so does `__init__`, which imports them.

    :param source: the plugin's package
    :param target: the directory of the package that it becomes
    """
    target.mkdir()
    (target / "__init__.py").touch()
    for path in source.glob("*.py"):
        if path.stem not in ("__init__", "task", "dataframe"):
            tree = _Changed(table, f"flyteplugins.{source.name}", target.name).visit(ast.parse(path.read_text()))
            (target / path.name).write_text(ast.unparse(ast.fix_missing_locations(tree)) + "\n")


def imported(directory: Path) -> set[str]:
    """Return the modules of flyte-sdk that the modules of a package import."""
    found = set()
    for path in directory.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "flyte":
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found
