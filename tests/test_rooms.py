"""Imports run one way: a room knows those below it, and none above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_viz"

#: From the lowest to the highest; rooms of one floor may know each other.
FLOORS = (
    ("errors", "files", "launched", "telling", "randomness", "allocator", "threads", "transfers"),
    ("classifiers",),
    ("images",),
    ("objectives",),
    ("optim",),
    ("attributions", "attacks"),
    ("engine",),
    ("figures", "evidence", "callbacks", "outcomes"),
    ("methods",),
    ("commands",),
)
#: What a task is, everybody may know: it is plain data.
OF_EVERYBODY = "lit_viz.engine.tasks"


def floor(module: str) -> int:
    """Return the floor of a module; what is in no room stands above all."""
    room = module.split(".")[1] if "." in module else ""
    return next((n for n, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def imports(file: Path) -> Iterator[str]:
    """Yield the modules of lit_viz that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names = [f"lit_viz.{name}" for name in names] if node.module == "lit_viz" else [node.module or ""]
        yield from (name for name in names if name.startswith("lit_viz"))


@pytest.mark.parametrize("room", [room for rooms in FLOORS for room in rooms])
def test_no_room_knows_one_above_it(room: str) -> None:
    own = floor(f"lit_viz.{room}")
    files = [*(PACKAGE / room).rglob("*.py"), *PACKAGE.glob(f"{room}.py")]
    assert files
    for file in files:
        above = [name for name in imports(file) if floor(name) > own and name != OF_EVERYBODY]
        assert not above, f"{file.relative_to(PACKAGE)} imports {above}"


def test_a_task_is_plain_data() -> None:
    assert not list(imports(PACKAGE / "engine" / "tasks.py"))
    assert not list(imports(PACKAGE / "engine" / "__init__.py"))
