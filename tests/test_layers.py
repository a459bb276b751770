"""Imports run in one direction: a module imports from its own folder and from lower layers, never from higher ones."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lit_viz
from tests.support.sources import import_nodes, parsed

PACKAGE = Path(lit_viz.__file__).parent

#: Folders and top-level modules of the package, from the lowest layer to the highest.
LAYERS = (
    ("errors", "_version"),
    ("types",),
    ("utils",),
    ("rng",),
    ("zoo",),
    ("networks",),
    ("images", "objectives"),
    ("outputs",),
    ("optim",),
    ("attacks", "attributions"),
    ("engine",),
    ("runs",),
    ("methods",),
    ("localization",),
    ("evidence",),
    ("figures",),
    ("presentations",),
    ("report", "loggers"),
    ("callbacks",),
    ("launch",),
    ("functional",),
    ("api",),
    ("units",),
    ("commands",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
#: Modules at the top level of the package, ``__init__`` and ``__main__`` included.
MOST_TOP_LEVEL_MODULES = 9

FILES = sorted(PACKAGE.rglob("*.py"))


def unit(file: Path) -> str:
    """Return the folder of a file, or its name at the top level."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def layer(name: str) -> int:
    """Return the index of the layer that contains a folder or top-level module."""
    return next(index for index, names in enumerate(LAYERS) if name in names)


def imports(file: Path) -> Iterator[str]:
    """Yield the folder or top-level module of each import of lit_viz in a file, those under TYPE_CHECKING included."""
    for node in import_nodes(file):
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            names = [f"lit_viz.{name}" for name in names] if node.module == "lit_viz" else [node.module or ""]
        for name in names:
            parts = name.split(".")
            if parts[0] == "lit_viz":
                known = len(parts) > 1 and any(parts[1] in layer_names for layer_names in LAYERS)
                yield parts[1] if known else "__init__"


def test_a_module_imports_from_lower_layers_only() -> None:
    assert FILES
    higher: list[str] = []
    for file in FILES:
        own = unit(file)
        for name in imports(file):
            if name != own and layer(name) >= layer(own):
                higher.append(f"{file.relative_to(PACKAGE)} imports from {name}")
    assert not higher


MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES
}
PACKAGES = {name for name, file in MODULES.items() if file.name == "__init__.py"}


@cache
def imported_names(module: str) -> tuple[tuple[str, str], ...]:
    """Return the imports of a module as (module, name), those in functions and under TYPE_CHECKING included."""
    nodes = import_nodes(MODULES[module])
    names = [(alias.name, "") for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [
        (node.module or "", alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    return (*names, *froms)


def defining_module(module: str, name: str) -> str | None:
    """Return the module of the package that an import reads; a package's re-exports are followed to their module."""
    if f"{module}.{name}" in MODULES:
        return f"{module}.{name}"
    if module in PACKAGES:
        exports = [(source, export) for source, export in imported_names(module) if export == name]
        return defining_module(*exports[0]) if exports else None
    return module if module in MODULES else None


def test_no_modules_import_each_other() -> None:
    graph = {
        module: {source for pair in imported_names(module) if (source := defining_module(*pair))} - {module}
        for module in MODULES.keys() - PACKAGES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_contributing_lists_the_layers() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## Layout")[2].partition("```\n")[2].partition("```")[0]
    listed = [tuple(line.partition("  ")[0].split(" · ")) for line in table.splitlines()]
    private = {"_version", "__init__", "__main__"}
    layers = [tuple(name for name in names if name not in private) for names in reversed(LAYERS)]
    assert [sorted(names) for names in listed] == [sorted(names) for names in layers if names]


def test_no_two_classes_have_the_same_name() -> None:
    defined: list[str] = []
    for file in FILES:
        defined += [node.name.lstrip("_") for node in parsed(file).body if isinstance(node, ast.ClassDef)]
    assert [name for name, count in Counter(defined).items() if count > 1] == []


def test_the_top_level_has_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_TOP_LEVEL_MODULES


def test_contributing_names_files_that_exist() -> None:
    root = Path(__file__).parents[1]
    names = set(re.findall(r"[\w/]+/\w+\.py\b", (root / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    folders = (root, PACKAGE.parent, PACKAGE)
    missing = [name for name in names if not any((folder / name).is_file() for folder in folders)]
    assert names
    assert not missing


#: Commands of other programs, as messages state them.
OTHER_COMMANDS = ("tensorboard --logdir", "wandb login --relogin")


def test_no_file_below_launch_spells_an_option() -> None:
    options: list[str] = []
    for file in FILES:
        if layer(unit(file)) >= layer("launch"):
            continue
        text = file.read_text(encoding="utf-8")
        for command in OTHER_COMMANDS:
            text = text.replace(command, "")
        for line in text.splitlines():
            if re.search(r"(?<![\w-])--[a-z]", line):
                options.append(f"{file.relative_to(PACKAGE)}: {line.strip()}")
    assert not options, "name the argument: the command line adds the dashes"


TESTS = Path(__file__).parent


def test_tests_import_no_other_tests() -> None:
    """What several tests need is a fixture, or part of ``tests/support``."""
    others = []
    for file in TESTS.rglob("*.py"):
        own = ".".join(file.relative_to(TESTS.parent).with_suffix("").parts)
        for name in re.findall(r"^\s*(?:from|import) (tests[\w.]*)", file.read_text(encoding="utf-8"), re.MULTILINE):
            if name != own and not name.startswith(("tests.support", "tests.plugins.")):
                others.append(f"{own} imports {name}")
    assert not others
