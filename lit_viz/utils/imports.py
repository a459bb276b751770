"""Imports by path, from the current folder, where the user's own parts are, and never from run folders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError, first_line

_RUN_FOLDERS: set[Path] = set()


def import_by_path(path: str) -> Any:
    """Return the object of a dotted path ``package.module.name``."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def exclude_from_imports(folder: str | Path) -> None:
    """Never import from a run folder, which may have been received from others."""
    run = Path(folder).resolve()
    _RUN_FOLDERS.add(run)
    sys.path[:] = [entry for entry in sys.path if not Path(entry).resolve().is_relative_to(run)]


def _is_run(folder: Path) -> bool:
    """Return whether a folder is a run folder, possibly a damaged one."""
    return (folder / "queue.jsonl").exists() and (folder / "config.yaml").exists()


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Add the current folder to Python's path in the body, for the user's own networks and parts, unless it is in a run
    folder, which may have been received from others."""
    folder = Path.cwd()
    folders = [folder, *folder.parents]
    if not _RUN_FOLDERS.isdisjoint(folders) or any(map(_is_run, folders)):
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def required(versions: str, owner: str = "lit_viz", extra: str = "") -> Iterator[None]:
    """Name the tested versions of packages if an import from them fails in the body.

    Args:
        versions: packages with their tested versions, such as ``shtab 1.7 to 1.13``.
        owner: what requires them.
        extra: the extra of lit_viz that installs them.

    Raises:
        LitVizError: a package is missing, or its version lacks what is imported.
    """
    try:
        yield
    except ImportError as error:
        command = f": pip install 'lit-viz[{extra}]'" if extra else ""
        raise LitVizError(f"{owner} requires {versions} ({first_line(error)}){command}") from error
