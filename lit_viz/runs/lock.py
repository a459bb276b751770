"""One process a run folder: two that write one run would mix their results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lit_viz.runs.reader import RunReader
from lit_viz.errors import LitVizError

#: The file that a process holds locked in the run folder it writes; the lock ends with the process, however it ends.
LOCK = ".lock"


@contextmanager
def claimed(path: str | Path) -> Iterator[None]:
    """Have a run folder alone while the block lasts. It is made if it is missing, and removed with those above it
    that were missing, too, if nothing came of it.

    Nothing is claimed where nothing can be written, nor in a folder that is no run, which nobody may write to.

    Args:
        path: of the folder.

    Raises:
        LitVizError: another process has it, or it can't be made.
    """
    path = Path(path)
    with _makeable(path):
        exists = path.exists()
        usable = os.access(path, os.W_OK) and (RunReader.is_run(path) or is_empty(path))
    if exists and not usable:
        yield
        return
    above = [parent for parent in path.parents if not parent.exists()]
    made_folder(path)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LitVizError(
            f"{path} is in use, another process is writing this run: wait until it ends, or choose another --out"
        ) from error
    try:
        yield
    finally:
        (path / LOCK).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            for folder in (path, *above):
                folder.rmdir()


def made_folder(path: Path) -> None:
    """Make a run folder and those above it, where they are missing.

    Raises:
        LitVizError: it can't be made.
    """
    with _makeable(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def _makeable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LitVizError(f"the run folder {path} can't be made ({error.strerror}): give another by --out") from error


def is_empty(path: Path) -> bool:
    """Return whether nothing lies in what is a folder, but for the lock of the process that is about to write there."""
    return path.is_dir() and all(entry.name == LOCK for entry in path.iterdir())
