"""Tasks and records of a run folder, read from their files when they are accessed: their memory does not hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lit_viz.engine.shards import Shard
from lit_viz.errors import LitVizError
from lit_viz.runs.layout import SEGMENTS
from lit_viz.runs.records import read_record
from lit_viz.runs.segments import INDEX_LIMIT, IndexedLines, TaskSegments, digest, record_values
from lit_viz.types import JsonObject, Record, Task
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import json_line, lines_with_offsets, parse_object
from lit_viz.utils.formatting import command_line
from lit_viz.utils.sequences import LazySequence

_OPEN_QUEUES = 4  # that are kept in memory, 16 bytes a task


class QueuePart(JsonObject):
    """First line of ``queue.jsonl`` of a run with a part of a queue.

    Attributes:
        shard: the shard, ``0/3``; None of a merge of shards that lacks tasks.
        tasks: number of tasks in the file.
        total: number of tasks in the whole queue.
        sha256: digest of the whole queue; see :func:`~lit_viz.runs.stored.queue_digest`.
    """

    shard: str | None = None
    tasks: int
    total: int
    sha256: str

    @property
    def name(self) -> str:
        """``shard 0/3``, or the number of tasks."""
        return f"{self.tasks} of {self.total} tasks" if self.shard is None else f"shard {self.shard}"


class StoredTasks(LazySequence[Task]):
    """The tasks of a run folder, in the order of the queue; all lines are checked once.

    Args:
        path: ``queue.jsonl``.

    Attributes:
        part: the first line of a queue that is a part of another; None of a whole queue.
        lines: the lines about tasks.
        indices: index of each task.

    Raises:
        LitVizError: a line is no task, or lines are missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.part: QueuePart | None = None
        self.lines = IndexedLines([path], self._entries())
        self.indices = self._expected_indices(len(self.lines))
        if not np.array_equal(self.lines.indices, np.fromiter(self.indices, np.int64)):
            raise _damaged_queue(path, "lines are missing")

    def _entries(self) -> Iterator[tuple[int, int, int, int]]:
        for number, (offset, line) in enumerate(lines_with_offsets(self._path), start=1):
            values = parse_object(line) or {}
            is_part = number == 1 and "total" in values
            wrong = wrong_value(values, QueuePart if is_part else Task)
            if wrong is None and not is_part and not 0 <= values["index"] < INDEX_LIMIT:
                wrong = f"there is no task {values['index']}"
            if wrong is not None:
                raise _damaged_queue(self._path, f"line {number}: {wrong}")
            if is_part:
                self.part = QueuePart.from_dict(values)
            else:
                yield values["index"], 0, offset, 0

    def _expected_indices(self, count: int) -> Collection[int]:
        """Return the indices that the tasks must have."""
        if self.part is None:
            return range(count)
        if self.part.shard is not None:
            return Shard.parse(self.part.shard).indices(self.part.total)
        return dict.fromkeys(self.lines.indices.tolist()) if count == self.part.tasks else ()

    def __len__(self) -> int:
        return len(self.lines)

    def make(self, position: int) -> Task:
        return _task(self.lines.at(position))

    def __iter__(self) -> Iterator[Task]:
        return map(_task, self.lines.lines())

    def of_index(self, index: int) -> Task:
        """Return the task with an index."""
        return _task(self.lines[index])


def _task(line: str) -> Task:
    return Task(**(parse_object(line) or {}))


@lru_cache(_OPEN_QUEUES)
def stored_tasks(path: Path, version: object) -> StoredTasks:
    """Return the tasks of a queue, which is read once for each version of the file; errors of :class:`StoredTasks`."""
    return StoredTasks(path)


def _damaged_queue(path: Path, reason: str) -> LitVizError:
    return LitVizError(
        f"{path} is damaged ({reason}), so the tasks of the run are unknown: start it again with overwrite=True, or in "
        "another folder"
    )


class StoredRecords(LazySequence[Record]):
    """The records of finished tasks of a run folder, in task order.

    Args:
        root: run folder.
        segments: the finished tasks.
        tasks: the queue; any task is known if it is empty.

    Raises:
        LitVizError: a segment is damaged, or a task is unknown.
    """

    def __init__(self, root: Path, segments: TaskSegments, tasks: StoredTasks) -> None:
        self._root, self._segments = root, segments
        for name, reason in segments.damaged.items():
            remedy = f"{command_line('resume', root)} computes its tasks again"
            raise LitVizError(f"{root / SEGMENTS / name} {reason}: {remedy}")
        for index in segments.lines if len(tasks) else ():
            if index not in tasks.indices:
                raise self._damaged(f"there is no task {index}")

    def __len__(self) -> int:
        return len(self._segments.lines)

    def make(self, position: int) -> Record:
        return self.of_index(int(self._segments.lines.indices[position]))

    def __iter__(self) -> Iterator[Record]:
        for index, line in self._segments.lines.items():
            yield self._read(index, line)

    def of_index(self, index: int) -> Record:
        """Return the record of a task."""
        return self._read(index, self._segments.lines[index])

    def values(self) -> Iterator[dict[str, Any]]:
        """Yield the values of each record, which are not checked: in a fifth of the time of the records."""
        return map(record_values, self._segments.lines.lines())

    def _read(self, index: int, line: str) -> Record:
        try:
            record = read_record(record_values(line))
            check_inside(record.file, record.array)
            if record.index != index:
                raise LitVizError(f"its record is of task {record.index}")
        except LitVizError as error:
            raise self._damaged(f"task {index}: {error}") from error
        return record

    def _damaged(self, reason: str) -> LitVizError:
        return LitVizError(f"{self._root / SEGMENTS} is damaged ({reason}): start another run")


def check_inside(*names: str | None) -> None:
    """Check that recorded paths do not leave the run folder."""
    for name in names:
        if name is not None and (Path(name).is_absolute() or ".." in Path(name).parts):
            raise LitVizError(f"a recorded file must be in the run folder, got {name!r}")


#: Arguments of the module that a resume may change; those of the run may change except for the precision.
CHANGEABLE = ("slots", "compile", "devices_mode")


def run_digest(config: Mapping[str, Any], weights: str | None, queue: str) -> str:
    """Return the digest of a run, given ``config.yaml`` and the SHA-256 of the weights and of the whole queue."""
    module = dict(config.get("module") or {})
    arguments = dict(module.get("init_args") or {})
    for name in CHANGEABLE:
        arguments.pop(name, None)
    module["init_args"] = arguments
    trainer = (config.get("run") or {}).get("trainer") or {}
    values = {
        "network": config.get("network"),
        "weights": weights,
        "module": module,
        "tasks": config.get("tasks"),
        "precision": trainer.get("precision"),
        "queue": queue,
    }
    return digest(json_line(values))


def queue_digest(tasks: Iterable[Task]) -> str:
    """Return the SHA-256 of ``queue.jsonl`` with a whole queue, without the digests of the photographs: a shard reads
    its own ones only."""
    sha256 = hashlib.sha256()
    for task in tasks:
        sha256.update(json_line(task.amend(source_digest=None).to_dict()).encode())
    return sha256.hexdigest()
