"""The stores of the results of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.tar_store import TarStorage

#: Where the results of tasks are: in files, or in tars of a thousand tasks each.
Store = Literal["files", "tar"]


def storage_class(store: str | None) -> type[FolderStorage]:
    """Return the class of the run folders of a :data:`Store`."""
    return TarStorage if store == "tar" else FolderStorage


def open_run(path: str | Path) -> FolderStorage:
    """Open an existing run with its store; errors of :meth:`FolderStorage.open`."""
    folder = FolderStorage.open(path)
    options = folder.config.get("run") or {}
    return storage_class(options.get("store"))(path)
