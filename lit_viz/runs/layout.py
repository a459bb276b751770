"""The files and rows of a task in a run folder, and which of them belong to a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from lit_viz.types import index_of

#: Folders of files whose names begin with the key of their task.
TASK_FOLDERS = ("sources", "images", "arrays", "photographs", "frames")
FRAMES = "frames"


def iteration_of(frame: Path) -> int:
    """Return the iteration at the end of a frame's file name, as in ``iter_000050.png``; -1 for other names."""
    number = frame.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1


def row_position(line: str) -> tuple[str, int]:
    """Return ``task.key`` and iteration of a line of ``metrics.csv``; an iteration that is no number is -1."""
    key, _, rest = line.partition(",")
    iteration = rest.partition(",")[0]
    return key, int(iteration) if iteration.isdecimal() else -1


def kept(done: Collection[int], iterations: Mapping[int, int]) -> Callable[[str, int], bool]:
    """Return a function of key and iteration: whether a task's row or frame belongs to a checkpoint.

    Args:
        done: indices of the tasks that are finished in the checkpoint.
        iterations: by task index, the iteration of the tasks in progress; earlier rows and frames belong to it.
    """
    finished = frozenset(done)

    def is_kept(key: str, iteration: int) -> bool:
        index = index_of(key)
        return index in finished or 0 <= iteration < iterations.get(index, 0)

    return is_kept


def kept_files(root: Path, done: Collection[int], iterations: Mapping[int, int]) -> Iterator[tuple[int, str, Path]]:
    """Yield task index, name and path of the files of tasks in a run folder that belong to a checkpoint (:func:`kept`).

    Of tasks in progress, these are frames.
    """
    is_kept = kept(done, iterations)
    for folder in TASK_FOLDERS:
        for path in (root / folder).rglob("*"):
            if not path.is_file():
                continue
            name = os.fsencode(path.relative_to(root).as_posix()).decode(errors="replace")
            key = name.split("/")[1]
            index, iteration = index_of(key), iteration_of(path)
            if folder == FRAMES:
                is_of_checkpoint = iteration >= 0 and is_kept(key, iteration)
            else:
                is_of_checkpoint = index in done
            if is_of_checkpoint:
                yield index, name, path
