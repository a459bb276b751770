"""Run folders of shards as one run folder: the files and segments of finished tasks are linked."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError
from lit_viz.runs.checkpoint import write_checkpoint
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import LOCK, QUEUE, SEGMENTS
from lit_viz.runs.seal import Seal
from lit_viz.runs.segments import TaskSegments, of_run
from lit_viz.runs.stored import QueuePart
from lit_viz.utils.files import delete_entry, json_line, translate_write_errors, write_lines


@dataclass(frozen=True)
class FinishedTasks:
    """The tasks of a shard that are as they were written.

    Attributes:
        folder: run folder of the shard.
        indices: their indices.
        damaged: finished tasks that are not.
    """

    folder: FolderStorage
    indices: frozenset[int]
    damaged: frozenset[int]

    @classmethod
    def of(cls, folder: FolderStorage) -> FinishedTasks:
        """Compare the tasks of a shard with its segments."""
        damaged = frozenset(index for index, _ in folder.mismatches())
        return cls(folder, frozenset(folder.segments.finished) - damaged, damaged)


def new_folder(out: Path) -> Path:
    """Return the folder in which a merged run is written before it gets its name."""
    return out.with_name(f".{out.name}.merge")


def merge_tasks(shards: Sequence[FinishedTasks], out: Path, options: str, recorded: Mapping[str, Any]) -> FolderStorage:
    """Write a run folder with the tasks of shards, as that of a run which has finished them.

    Args:
        shards: tasks of different shards of one queue.
        out: a missing or empty folder, of which :func:`new_folder` is locked.
        options: configuration as YAML.
        recorded: provenance.

    Raises:
        LitVizError: the queue is not that of the shards, or the disk is full.
    """
    # In a folder beside it first: a killed process leaves no incomplete run.
    kind = type(shards[0].folder)
    folder = kind(new_folder(out))
    with translate_write_errors(out):
        for entry in folder.path.iterdir():  # of a merge that was killed
            if entry.name != LOCK:
                delete_entry(entry)
        folder.write_config(options, recorded)
        _write_queue(shards, folder.path / QUEUE)
        for shard in shards:
            linked: set[str] = set()
            for values in shard.folder.segments.all():
                if values["index"] in shard.indices:
                    linked.update(values["files"])
            linked.update(f"{SEGMENTS}/{name}" for name in shard.folder.segments.counts)
            for name in linked:
                link(shard.folder.path / name, folder.path / name)
            _select(shard, folder)
        folder.load()
        Seal.write(folder.path, complete=False)
        write_checkpoint(folder)
        with suppress(FileNotFoundError):
            out.rmdir()
        folder.path.rename(out)
    return kind(out)


def _select(shard: FinishedTasks, merged: FolderStorage) -> None:
    """Replace linked segments by ones without the lines of damaged tasks.

    The digest of the merged run is in all lines: that of a shard differs if its arguments were written otherwise.
    """
    given, run = shard.folder.digest, merged.digest
    segments = TaskSegments(merged.path, given, shard.folder.segments.counts)

    def change(index: int, line: str) -> str | None:
        if index not in shard.indices:
            return None
        return line if given == run else of_run(line, run)

    replaced = shard.damaged if given == run else segments.finished
    segments.rewrite(change, replaced, damaged=True)


def _write_queue(shards: Sequence[FinishedTasks], path: Path) -> None:
    """Write the queue, with a first line about the whole queue if tasks are missing."""
    part = shards[0].folder.part
    assert part is not None
    lines = []
    for shard in shards:
        indices = shard.indices
        lines.append([item for item in shard.folder.queue().lines.items() if item[0] in indices])
    write_lines(path, map(itemgetter(1), merge(*lines)))
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
