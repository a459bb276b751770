"""Docstrings of public methods; those of functions and classes are checked by ruff."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import lit_viz

_METHODS = (property, classmethod, staticmethod)


def test_public_methods_have_a_docstring_or_inherit_one() -> None:
    missing = []
    for found in pkgutil.walk_packages(lit_viz.__path__, "lit_viz."):
        if found.name == "lit_viz.__main__":
            continue
        try:
            module = importlib.import_module(found.name)
        except ModuleNotFoundError:  # of an optional dependency
            continue
        for owner in vars(module).values():
            if not inspect.isclass(owner) or owner.__module__ != found.name or owner.__name__.startswith("_"):
                continue
            for name, member in vars(owner).items():
                is_method = isinstance(member, _METHODS) or (inspect.isfunction(member) and member.__name__ == name)
                if is_method and not name.startswith("_") and not inspect.getdoc(getattr(owner, name)):
                    missing.append(f"{found.name}.{owner.__name__}.{name}")
    assert not missing
