"""The files, rows and records of tasks in a run folder that belong to a checkpoint, and the removal of later ones."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from lit_viz.runs.layout import FRAMES, METRICS, RESULTS, TASK_FOLDERS, iteration_of
from lit_viz.runs.lines import record_lines
from lit_viz.runs.manifest import TaskContents, digest
from lit_viz.runs.metrics import HEADER, MetricsFile, row_position
from lit_viz.types import index_of
from lit_viz.utils.files import read_regular, translate_write_errors, write_lines


@dataclass(frozen=True)
class KeptTasks:
    """The tasks that are kept of a run.

    Attributes:
        finished: indices of finished tasks. All of their files, rows and records are kept.
        iterations: iteration of each task in progress, by index. Earlier rows and frames are kept.
    """

    finished: Collection[int]
    iterations: Mapping[int, int] = field(default_factory=dict)

    def keeps(self, key: str, iteration: int) -> bool:
        """Return whether a row or frame of a task belongs to the run so far."""
        index = index_of(key)
        return index in self.finished or 0 <= iteration < self.iterations.get(index, 0)


def measure(root: Path, kept: KeptTasks) -> dict[int, TaskContents]:
    """Return the contents of the tasks of a run folder, by index, without what :func:`trim` would delete."""
    measured = {index: TaskContents() for index in (*kept.finished, *kept.iterations)}
    for line in MetricsFile(root).lines():
        key, iteration = row_position(line)
        if kept.keeps(key, iteration):
            measured[index_of(key)].add_row(line)
    for path, key, is_kept in _task_files(root, kept):
        if is_kept:
            name = os.fsencode(path.relative_to(root).as_posix()).decode(errors="replace")
            measured[index_of(key)].add_file(name, read_regular(path))
    for index, line in record_lines(root / RESULTS).items():
        if index in kept.finished:
            measured[index].record = digest(line)
    return measured


def trim(root: Path, kept: KeptTasks) -> None:
    """Delete what is later in a run folder, because it will be computed again. Files of no task remain."""
    with translate_write_errors(root):
        if (root / METRICS).exists():
            rows = (line for line in MetricsFile(root).lines() if kept.keeps(*row_position(line)))
            write_lines(root / METRICS, chain([HEADER], rows))
        if (root / RESULTS).exists():
            records = record_lines(root / RESULTS).items()
            write_lines(root / RESULTS, (line for index, line in records if index in kept.finished))
        for path, _, is_kept in list(_task_files(root, kept)):
            if not is_kept:
                path.unlink()
        for name in TASK_FOLDERS:
            _remove_empty_folders(root / name)


def _task_files(root: Path, kept: KeptTasks) -> Iterator[tuple[Path, str, bool]]:
    """Yield the files of tasks with the start of their name, the task's key, and whether they are kept."""
    for folder in TASK_FOLDERS:
        for path in (root / folder).rglob("*"):
            key = path.relative_to(root).parts[1]
            if index_of(key) < 0 or not path.is_file():
                continue
            if folder != FRAMES:
                yield path, key, index_of(key) in kept.finished
            elif iteration_of(path) >= 0:
                yield path, key, kept.keeps(key, iteration_of(path))


def _remove_empty_folders(root: Path) -> None:
    for folder in list(root.glob("*")):
        with suppress(OSError):  # not empty, or a file
            folder.rmdir()
