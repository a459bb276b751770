"""Syntax trees of source files: each is parsed once a process."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def import_nodes(file: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Return the imports of a file, those in functions and under TYPE_CHECKING included."""
    return tuple(node for node in _statements(parsed(file).body) if isinstance(node, (ast.Import, ast.ImportFrom)))


def _statements(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Yield the statements of a body and of those inside of them, without their expressions, which import nothing."""
    for node in body:
        yield node
        for name in ("body", "handlers", "orelse", "finalbody", "cases"):
            yield from _statements(getattr(node, name, ()))
