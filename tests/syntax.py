"""Parsing source, whatever else happens meanwhile."""

from __future__ import annotations

import ast
from pathlib import Path

from connectrio.cli.script import without_collections


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a module.

    No garbage collection runs meanwhile. In one, a finalizer may print a traceback, for which Python parses source; and
    Python 3.11 keeps the parser's depth in one place for the whole interpreter, so the outer call would end with
    "SystemError: AST constructor recursion depth mismatch" (python/cpython#106905).
    """
    with without_collections():
        return ast.parse(path.read_text(encoding="utf-8"))
