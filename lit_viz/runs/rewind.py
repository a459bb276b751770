"""Going back to a checkpoint: what a run wrote after it is computed again, and must not be there twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from lit_viz.runs.reader import METRICS_HEADER, index_of, iteration_of, parsed_record
from lit_viz.utils.files import truncate_after, list_files, list_folders, remove_temporary_files


def rewind(path: Path, done: Collection[int], iterations: Mapping[int, int]) -> None:
    """Go back to a checkpoint: drop what was written after it, which is computed again.

    Args:
        path: the folder.
        done: indices of the tasks that the checkpoint calls finished (or failed): everything of them is kept.
        iterations: for each task in progress, by index, the iteration it goes on with: earlier rows and frames are
            kept. Of all other tasks nothing is kept. Lines that a kill left broken are dropped.
    """
    done = frozenset(done)

    def keeps(index: int, iteration: int) -> bool:
        return index in done or iteration < iterations.get(index, 0)

    for folder in (path, path / "checkpoints"):
        remove_temporary_files(folder)
    # Lines are in the order of time: all that the checkpoint has are before all that it has not.
    truncate_after(path / "metrics.csv", lambda line: _keeps_row(line, keeps))
    truncate_after(path / "results.jsonl", lambda line: _keeps_record(line, done))
    for file in (file for name in ("sources", "images", "arrays") for file in list_files(path / name)):
        if _is_of_another(file.name, done):
            file.unlink()
    for table in list_files(path / "photographs"):
        if _is_of_another(table.name, done):
            shutil.rmtree(table.with_suffix(""), ignore_errors=True)
            table.unlink()
    for folder in list_folders(path / "frames"):
        if _is_of_another(folder.name, done):
            for file in list_files(folder):
                if not keeps(index_of(folder.name), iteration_of(file)):
                    file.unlink()
            if not any(folder.iterdir()):
                folder.rmdir()


def _keeps_row(line: str, keeps: Callable[[int, int], bool]) -> bool:
    if line == METRICS_HEADER:
        return True
    key, _, rest = line.partition(",")
    iteration = rest.partition(",")[0]
    return rest.count(",") >= 2 and iteration.isdecimal() and keeps(index_of(key), int(iteration))


def _keeps_record(line: str, done: Collection[int]) -> bool:
    record = parsed_record(line)
    return record is not None and record.index in done


def _is_of_another(name: str, done: Collection[int]) -> bool:
    """Return whether a file or folder is called by a task that is none of these."""
    return (index := index_of(name)) >= 0 and index not in done
