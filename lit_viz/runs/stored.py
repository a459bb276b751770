"""Tasks and records of a run folder, read from their files when they are accessed: their memory does not hold them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lit_viz.engine.shards import Shard
from lit_viz.errors import LitVizError
from lit_viz.runs.lines import IndexedLines, index_in
from lit_viz.runs.records import read_record
from lit_viz.types import JsonObject, Record, Task
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import lines_with_offsets, parse_object
from lit_viz.utils.formatting import command_line
from lit_viz.utils.sequences import LazySequence

T = TypeVar("T")
_OPEN_QUEUES = 4  # that are kept in memory, 16 bytes a task


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class QueuePart(JsonObject):
    """First line of ``queue.jsonl`` of a run with a part of a queue.

    Attributes:
        shard: the shard, ``0/3``; None of a merge of shards that lacks tasks.
        tasks: number of tasks in the file.
        total: number of tasks in the whole queue.
        sha256: SHA-256 of ``queue.jsonl`` with the whole queue.
    """

    shard: str | None = None
    tasks: int
    total: int
    sha256: str

    @property
    def name(self) -> str:
        """``shard 0/3``, or the number of tasks."""
        return f"{self.tasks} of {self.total} tasks" if self.shard is None else f"shard {self.shard}"


class _StoredLines(LazySequence[T]):
    """Objects of the lines of a file about tasks, in task order.

    Attributes:
        lines: the lines.
    """

    lines: IndexedLines

    @abstractmethod
    def _object(self, line: str) -> T:
        """Return the object of a line."""

    def __len__(self) -> int:
        return len(self.lines)

    def make(self, position: int) -> T:
        return self._object(self.lines.at(position))

    def __iter__(self) -> Iterator[T]:
        return map(self._object, self.lines.lines())


class StoredTasks(_StoredLines[Task]):
    """The tasks of a run folder, in the order of the queue; all lines are checked once.

    Args:
        path: ``queue.jsonl``.

    Attributes:
        part: the first line of a queue that is a part of another; None of a whole queue.
        indices: index of each task.

    Raises:
        LitVizError: a line is no task, or lines are missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.part = queue_part(path)
        self.lines = IndexedLines(path, self._entries())
        self.indices = self._expected_indices(len(self.lines))
        if not np.array_equal(self.lines.indices, np.fromiter(self.indices, np.int64)):
            raise _damaged_queue(path, "lines are missing")

    def _entries(self) -> Iterator[tuple[int, int]]:
        for number, (offset, line) in enumerate(lines_with_offsets(self._path), start=1):
            if number == 1 and self.part is not None:
                continue
            values = parse_object(line) or {}
            index, wrong = index_in(values), wrong_value(values, Task)
            if index is None or wrong is not None:
                reason = wrong or f"there is no task {values['index']}"
                raise _damaged_queue(self._path, f"line {number}: {reason}")
            yield index, offset

    def _expected_indices(self, count: int) -> Collection[int]:
        """Return the indices that the tasks must have."""
        if self.part is None:
            return range(count)
        if self.part.shard is not None:
            return Shard.parse(self.part.shard).indices(self.part.total)
        return dict.fromkeys(self.lines.indices.tolist()) if count == self.part.tasks else ()

    def of_index(self, index: int) -> Task:
        """Return the task with an index."""
        return self._object(self.lines[index])

    def _object(self, line: str) -> Task:
        return Task(**(parse_object(line) or {}))


@lru_cache(_OPEN_QUEUES)
def stored_tasks(path: Path, version: object) -> StoredTasks:
    """Return the tasks of a queue, which is read once for each version of the file; errors of :class:`StoredTasks`."""
    return StoredTasks(path)


def queue_part(path: Path) -> QueuePart | None:
    """Return the first line of a queue that is a part of another; None of a whole queue.

    Raises:
        LitVizError: the line is damaged.
    """
    for _, line in lines_with_offsets(path):
        values = parse_object(line) or {}
        if "total" not in values:
            return None
        if (wrong := wrong_value(values, QueuePart)) is not None:
            raise _damaged_queue(path, f"line 1: {wrong}")
        return QueuePart.from_dict(values)
    return None


def _damaged_queue(path: Path, reason: str) -> LitVizError:
    return LitVizError(
        f"{path} is damaged ({reason}), so the tasks of the run are unknown: start it again with overwrite=True, or in "
        "another folder"
    )


class StoredRecords(_StoredLines[Record]):
    """The records of finished tasks of a run folder, in task order.

    Args:
        path: ``results.jsonl``.
        tasks: the queue; any task is known if it is empty.

    Raises:
        LitVizError: a line is no record, or of an unknown task, or a recorded file is outside the folder.
    """

    def __init__(self, path: Path, tasks: StoredTasks) -> None:
        self._path, self._tasks = path, tasks
        self.lines = IndexedLines(path, self._entries())

    def _entries(self) -> Iterator[tuple[int, int]]:
        for number, (offset, line) in enumerate(lines_with_offsets(self._path), start=1):
            values = parse_object(line) or {}
            index = index_in(values)
            if index is None:
                self._object(line, f"line {number}")
                raise self._damaged(f"line {number}: there is no task {values['index']}")
            if len(self._tasks) and index not in self._tasks.indices:
                raise self._damaged(f"line {number}: there is no task {index}")
            yield index, offset

    def values(self) -> Iterator[dict[str, Any]]:
        """Yield the values of each line, which are not checked: in a fifth of the time of the records."""
        for line in self.lines.lines():
            yield parse_object(line) or {}

    def not_done(self) -> Iterator[Record]:
        """Yield the records of :func:`records_not_done`; only these are checked."""
        for line in self.lines.lines():
            if (parse_object(line) or {}).get("status") != "done":
                yield self._object(line)

    def _object(self, line: str, place: str = "") -> Record:
        values = parse_object(line)
        try:
            record = read_record(values)
            check_inside(record.file, record.array)
        except LitVizError as error:
            if not place:
                place = f"task {(values or {}).get('index')}"
            raise self._damaged(f"{place}: {error}") from error
        return record

    def _damaged(self, reason: str) -> LitVizError:
        remedy = f"{command_line('resume', self._path.parent)} computes its task again"
        return LitVizError(f"{self._path} is damaged ({reason}): {remedy}")


def records_not_done(records: Sequence[Record]) -> Iterator[Record]:
    """Yield the records of tasks that have another status than ``done``."""
    if isinstance(records, StoredRecords):
        yield from records.not_done()
        return
    for record in records:
        if record.status != "done":
            yield record


def check_inside(*names: str | None) -> None:
    """Check that recorded paths do not leave the run folder."""
    for name in names:
        if name is not None and (Path(name).is_absolute() or ".." in Path(name).parts):
            raise LitVizError(f"a recorded file must be in the run folder, got {name!r}")
