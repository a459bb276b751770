"""Docstrings of public methods; those of functions and classes are checked by ruff."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import get_origin

import lit_viz
import lit_viz.attacks
import lit_viz.attributions
import lit_viz.images
import lit_viz.objectives
import lit_viz.optim
from lit_viz.errors import LitVizError

_METHODS = (property, classmethod, staticmethod)


def test_public_methods_have_a_docstring_or_inherit_one() -> None:
    missing = []
    for found in pkgutil.walk_packages(lit_viz.__path__, "lit_viz."):
        if found.name == "lit_viz.__main__":
            continue
        try:
            module = importlib.import_module(found.name)
        except (ModuleNotFoundError, LitVizError):  # of an optional dependency
            continue
        for owner in vars(module).values():
            if not inspect.isclass(owner) or owner.__module__ != found.name or owner.__name__.startswith("_"):
                continue
            for name, member in vars(owner).items():
                is_method = isinstance(member, _METHODS) or (inspect.isfunction(member) and member.__name__ == name)
                if is_method and not name.startswith("_") and not inspect.getdoc(getattr(owner, name)):
                    missing.append(f"{found.name}.{owner.__name__}.{name}")
    assert not missing


def test_the_help_of_a_part_shows_a_complete_sentence() -> None:
    modules = (lit_viz.attacks, lit_viz.attributions, lit_viz.images, lit_viz.objectives, lit_viz.optim)
    parts = [getattr(module, name) for module in modules for name in module.__all__]
    classes = [part for part in parts if inspect.isclass(part) and get_origin(part) is None]  # no aliases
    first = {part: part.__doc__.splitlines()[0] for part in classes}
    assert [part for part, line in first.items() if not line.endswith((".", ":"))] == []
