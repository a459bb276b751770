"""Run folders of shards as one run folder: the files of tasks are linked, their lines are copied unchanged."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError
from lit_viz.runs import layout
from lit_viz.runs.checkpoint import write_checkpoint
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.lines import IndexedLines, record_lines
from lit_viz.runs.manifest import Signature, digest, rewrite, start_line
from lit_viz.runs.metrics import HEADER, row_position
from lit_viz.runs.progress import SavedProgress
from lit_viz.runs.stored import QueuePart, check_inside
from lit_viz.runs.tar_store import TarStorage
from lit_viz.runs.tars import tar_name
from lit_viz.runs.trimming import KeptTasks
from lit_viz.types import index_of
from lit_viz.utils.files import json_line, parse_object, translate_write_errors, write_lines

#: A line with the index of its task.
_Line = tuple[int, str]


@dataclass(frozen=True)
class FinishedTasks:
    """The tasks of a shard that are as its manifest states.

    Attributes:
        folder: run folder of the shard.
        indices: their indices.
    """

    folder: FolderStorage
    indices: frozenset[int]

    @classmethod
    def of(cls, folder: FolderStorage) -> FinishedTasks:
        """Compare the tasks of a shard with its manifest."""
        if isinstance(folder, TarStorage):
            tars = folder.confirmed_tars()
            return FinishedTars(folder, frozenset(folder.tasks_in(tars)), tars)
        manifest = folder.manifest()
        finished: set[int] = set()
        for index, contents in folder.measure(KeptTasks(dict.fromkeys(manifest.tasks))).items():
            if not manifest.task_mismatches(index, contents):
                finished.add(index)
        return cls(folder, frozenset(finished))

    def lines(self, lines: IndexedLines) -> Iterator[_Line]:
        """Yield the lines about these tasks, in task order."""
        return (item for item in lines.items() if item[0] in self.indices)

    def records(self) -> Iterator[_Line]:
        """Yield the records of these tasks, in task order."""
        return self.lines(record_lines(self.folder.path / layout.RESULTS))

    def link(self, out: Path, tars: int) -> int:
        """Link the files of these tasks into a run folder, or copy them where links are not possible.

        Args:
            out: run folder.
            tars: number of its tars so far; returned with those that are added.
        """
        for _, line in self.lines(self.folder.manifest().tasks):
            for name in _values(line)["files"]:
                check_inside(name)
                link(self.folder.path / name, out / name)
        return tars

    def listed(self) -> Iterator[dict[str, Any]]:
        """Yield lines of the manifest about files of several tasks."""
        yield from ()

    def rows(self) -> Iterator[str]:
        """Yield the rows of ``metrics.csv`` about these tasks."""
        for line in self.folder.metrics.lines():
            if index_of(row_position(line)[0]) in self.indices:
                yield line


@dataclass(frozen=True)
class FinishedTars(FinishedTasks):
    """The tasks of a shard in tars, which have other numbers in the merged run.

    Attributes:
        tars: signatures of the tars, by their names in the shard.
        names: names of the tars there, by their names in the shard.
    """

    tars: Mapping[str, Signature]
    names: dict[str, str] = field(default_factory=dict)

    def link(self, out: Path, tars: int) -> int:
        for name in self.tars:
            self.names[name] = tar_name(tars + len(self.names))
            link(self.folder.path / name, out / self.names[name])
        return tars + len(self.names)

    def records(self) -> Iterator[_Line]:
        """Yield the records with the new names of the tars."""
        for index, line in super().records():
            values = _values(line)
            for field_name in ("file", "array"):
                tar, _, member = (values.get(field_name) or "").rpartition("/")
                if tar:
                    values[field_name] = f"{self.names[tar]}/{member}"
            yield index, json_line(values)

    def listed(self) -> Iterator[dict[str, Any]]:
        for name, signature in self.tars.items():
            yield {"files": {self.names[name]: signature}}


def merge_tasks(shards: Sequence[FinishedTasks], out: Path, options: str, recorded: Mapping[str, Any]) -> FolderStorage:
    """Write a run folder with the tasks of shards, as that of a run which has finished them.

    Args:
        shards: tasks of different shards of one queue.
        out: a missing or empty folder.
        options: configuration as YAML.
        recorded: provenance.

    Raises:
        LitVizError: the queue is not that of the shards, or the disk is full.
    """
    # In a folder beside it first: a killed process leaves no incomplete run.
    kind = type(shards[0].folder)
    folder = kind(out.with_name(f".{out.name}.merge"))
    with translate_write_errors(out):
        if folder.path.exists():
            shutil.rmtree(folder.path)
        folder.path.mkdir(parents=True)
        folder.write_config(options, recorded)
        _write_queue(shards, folder.path / layout.QUEUE)
        tars = 0
        for shard in shards:
            tars = shard.link(folder.path, tars)
        write_lines(folder.path / layout.METRICS, chain([HEADER], *(shard.rows() for shard in shards)))
        records = [shard.records() for shard in shards]
        write_lines(folder.path / layout.RESULTS, map(itemgetter(1), merge(*records)))
        rewrite(folder.path / layout.MANIFEST, _manifest_lines(shards, folder.path))
        write_checkpoint(kind(folder.path))
        folder.write_progress(_progress(folder))
        with suppress(FileNotFoundError):
            out.rmdir()
        folder.path.rename(out)
    return kind(out)


def _write_queue(shards: Sequence[FinishedTasks], path: Path) -> None:
    """Write the queue, with a first line about the whole queue if tasks are missing."""
    part = shards[0].folder.part
    assert part is not None
    write_lines(path, map(itemgetter(1), merge(*(shard.lines(shard.folder.queue().lines) for shard in shards))))
    count = sum(len(shard.indices) for shard in shards)
    if count < part.total:
        tasks = path.read_text(encoding="utf-8")
        first = QueuePart(tasks=count, total=part.total, sha256=part.sha256)
        write_lines(path, [json_line(first.to_dict()), tasks])
    elif hashlib.sha256(path.read_bytes()).hexdigest() != part.sha256:
        raise LitVizError(f"the tasks of {shards[0].folder.path} and the other shards are not those of one queue")


def link(source: Path, target: Path) -> None:
    """Make a hard link to a file, or copy it where that is not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _manifest_lines(shards: Sequence[FinishedTasks], out: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of the manifest: of the start, and of each task with the digest of its present record."""
    yield start_line(out)
    for shard in shards:
        yield from shard.listed()
    records = record_lines(out / layout.RESULTS)
    for index, line in merge(*(shard.lines(shard.folder.manifest().tasks) for shard in shards)):
        yield _values(line) | {"record": digest(records[index])}


def _progress(folder: FolderStorage) -> SavedProgress:
    """Return the progress of a run with finished tasks only."""
    counts = Counter(record.status for record in folder.records())
    done, skipped, failed = (counts[status] for status in ("done", "skipped", "failed"))
    return SavedProgress(tasks=counts.total(), done=done, skipped=skipped, failed=failed, time=time.time())


def _values(line: str) -> dict[str, Any]:
    values = parse_object(line)
    assert values is not None
    return values
