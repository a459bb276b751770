"""The place of a run: which folders may become one, and the lock of its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock, Timeout

from lit_viz.errors import LitVizError
from lit_viz.runs import layout
from lit_viz.utils.files import check_regular, remove_temporary_files

#: Pattern of temporary files.
_PART = ".*.[0-9]*.part*"
#: Patterns of the files that every method may write; ``overwrite`` deletes these and those of methods and loggers.
_FILES = (
    layout.QUEUE, layout.METRICS, layout.RESULTS, layout.MANIFEST, layout.REPORT, layout.SEGMENTS, layout.TARS,
    *layout.TASK_FOLDERS, "figure.*", "figure_*", "evolution.*",
    "evidence.*", "checkpoints", _PART,
)  # fmt: skip


@contextmanager
def run_lock(path: str | Path) -> Iterator[None]:
    """Lock a run folder while the block is executed, without links to other places or files of a killed process.

    A missing folder is created, and removed with its parents if it is empty afterwards. A folder that cannot be written
    is not locked.

    Args:
        path: run folder.

    Raises:
        LitVizError: another process has locked the folder, it is neither empty nor a run, it contains links to other
            places, or it cannot be created.
    """
    path = Path(path)
    with creation_errors(path):
        is_writable = not path.exists() or os.access(path, os.W_OK)
    check_usable(path)
    if not is_writable:
        yield
        return
    with folder_lock(path):
        yield


@contextmanager
def folder_lock(path: Path, run: Path | None = None) -> Iterator[None]:
    """Lock a folder of this package that can be written; see :func:`run_lock`.

    Args:
        path: the folder.
        run: the run folder that it becomes, for the error. Default: ``path``.
    """
    with creation_errors(path):
        created = [parent for parent in path.parents if not parent.exists()]
        path.mkdir(parents=True, exist_ok=True)
    check_entries(path)
    lock = FileLock(path / layout.LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LitVizError(
            f"{run or path} is in use, another process is writing this run: wait until it ends, or choose another "
            "folder"
        ) from error
    try:
        remove_temporary_files(path)
        yield
    finally:
        (path / layout.LOCK).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            for folder in (path, *created):
                folder.rmdir()


def check_entries(path: Path) -> None:
    """Reject links out of a run folder, so that nothing outside is written, deleted or embedded, and files whose
    content may be endless.
    """
    root = path.resolve()
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(folder, name)
            if entry.is_symlink() and not _is_inside(entry, root):
                raise LitVizError(f"a run folder must contain no links to other places, got {entry}: remove the link")
        for name in files:
            check_regular(Path(folder, name))
        if Path(folder) == path and "wandb" in folders:  # W&B has links to its logs; lit_viz opens one file there
            folders.remove("wandb")


def _is_inside(entry: Path, root: Path) -> bool:
    """Return whether a link leads to a place in a folder; a loop does not."""
    try:
        target = entry.resolve()
    except (OSError, RuntimeError):  # the latter for loops, before Python 3.13
        return False
    return target.is_relative_to(root) and not target.is_symlink()  # a link that is left is a loop


def is_run(path: str | Path) -> bool:
    """Return whether a path is a folder with a ``config.yaml``."""
    try:
        return (Path(path) / layout.CONFIG).is_file()
    except OSError:  # the name is too long, or the parent is not readable
        return False


def check_is_run(path: str | Path) -> None:
    """Check that a path is the folder of a run."""
    if not is_run(path):
        raise LitVizError(f"{path} is not a lit_viz run: give the folder that a run was written to")


def is_empty(path: Path) -> bool:
    """Return whether a path is a folder without files, except the lock and temporary files of a killed process."""
    return path.is_dir() and all(entry.name == layout.LOCK or fnmatch(entry.name, _PART) for entry in path.iterdir())


def check_usable(path: Path) -> None:
    """Check that a path is missing, an empty folder or a run."""
    with creation_errors(path):
        is_usable = not path.exists() or is_empty(path) or is_run(path)
        is_file = path.is_file()
    if is_file:
        raise LitVizError(f"{path} is a file: give a folder for the run by out=")
    if not is_usable:
        raise LitVizError(
            f"{path} is not empty and not a run, so neither overwrite=True nor resume=True touches it: choose another "
            "folder"
        )


def check_new(path: Path, overwrite: bool = False, extra_files: Sequence[str] = ()) -> None:
    """Check that a run can be created in a folder.

    With ``overwrite``, an existing run may be replaced, unless the folder has files that are neither of the run nor
    match ``extra_files``, the patterns of methods and loggers.
    """
    check_usable(path)
    if not is_run(path):
        return
    if not overwrite:
        raise LitVizError(
            f"{path} already holds a run: give resume to continue it, overwrite to replace it, or choose another folder"
        )
    entries_to_delete(path, extra_files)  # raises if there are others


def entries_to_delete(path: Path, extra_files: Sequence[str]) -> list[Path]:
    """Return the entries of a run folder in the order of their deletion, ``config.yaml`` last.

    Args:
        path: run folder.
        extra_files: patterns of the files of methods and loggers.

    Raises:
        LitVizError: the folder is no run of lit_viz, or contains other files.
    """
    config = path / layout.CONFIG
    if not config.is_file() or not config.read_text(encoding="utf-8", errors="replace").startswith(layout.MARK):
        raise LitVizError(f"{path} is not a lit_viz run, so overwrite=True doesn't delete it: choose another folder")
    entries = sorted(entry for entry in path.iterdir() if entry.name not in (layout.LOCK, layout.CONFIG))
    patterns = (*_FILES, *extra_files)
    foreign = [entry.name for entry in entries if not any(fnmatch(entry.name, pattern) for pattern in patterns)]
    if foreign:
        names = ", ".join(foreign[:3])
        raise LitVizError(f"{path} also holds {names}, which is not of the run: move it away before overwrite=True")
    return [*entries, config]


@contextmanager
def creation_errors(path: Path) -> Iterator[None]:
    """Convert errors of the system to a LitVizError about a run folder that can't be created."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", error)
        raise LitVizError(f"the run folder {path} can't be made ({reason}): choose another folder") from error
