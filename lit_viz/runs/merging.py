"""Run folders of shards as one run folder: the files and segments of finished tasks are linked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Set
from contextlib import suppress
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any

from lit_viz.errors import LitVizError
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import LOCK, QUEUE, SEGMENTS
from lit_viz.runs.seal import Seal
from lit_viz.runs.segments import TaskSegments, of_run
from lit_viz.runs.stored import QueuePart, StoredTasks, queue_digest
from lit_viz.runs.verification import write_checkpoint
from lit_viz.utils.files import delete_entry, json_line, translate_write_errors, write_lines


def new_folder(out: Path) -> Path:
    """Return the folder in which a merged run is written before it gets its name."""
    return out.with_name(f".{out.name}.merge")


def intact_tasks(shard: FolderStorage) -> set[int]:
    """Return the finished tasks of a shard that are as they were written, by index."""
    return set(shard.segments.lines) - {index for index, _ in shard.mismatches()}


def merge_tasks(shards: Mapping[FolderStorage, Set[int]], out: Path, options: str, recorded: Mapping[str, Any]) -> None:
    """Write a run folder with the tasks of shards, as that of a run which has finished them.

    Args:
        shards: indices of the :func:`intact_tasks` of different shards of one queue.
        out: a missing or empty folder, of which :func:`new_folder` is locked.
        options: configuration as YAML.
        recorded: provenance.

    Raises:
        LitVizError: the queue is not that of the shards, or the disk is full.
    """
    # In a folder beside it first: a killed process leaves no incomplete run.
    folder = type(next(iter(shards)))(new_folder(out))
    with translate_write_errors(out):
        for entry in folder.path.iterdir():  # of a merge that was killed
            if entry.name != LOCK:
                delete_entry(entry)
        folder.write_config(options, recorded)
        _write_queue(shards, folder.path / QUEUE)
        for shard, indices in shards.items():
            linked = {f"{SEGMENTS}/{name}" for name in shard.segments.counts}
            for values in shard.segments.all():
                if values["index"] in indices:
                    linked.update(values["files"])
            for name in linked:
                link(shard.path / name, folder.path / name)
            _select(shard, indices, folder)
        folder.load()
        Seal.write(folder.path, complete=False)
        write_checkpoint(folder)
        with suppress(FileNotFoundError):
            out.rmdir()
        folder.path.rename(out)


def _select(shard: FolderStorage, indices: Set[int], merged: FolderStorage) -> None:
    """Replace linked segments by ones without the lines of other tasks, which are damaged.

    The digest of the merged run is in all lines: that of a shard differs if its arguments were written otherwise.
    """
    given, run = shard.digest, merged.digest
    segments = TaskSegments(merged.path, given, shard.segments.counts)

    def change(index: int, line: str) -> str | None:
        if index not in indices:
            return None
        return line if given == run else of_run(line, run)

    replaced = segments.lines.keys() - (indices if given == run else ())
    segments.rewrite(change, replaced, damaged=True)


def _write_queue(shards: Mapping[FolderStorage, Set[int]], path: Path) -> None:
    """Write the queue, with a first line about the whole queue if tasks are missing."""
    first = next(iter(shards))
    part = first.part
    assert part is not None
    lines = []
    for shard, indices in shards.items():
        lines.append([item for item in shard.queue().lines.items() if item[0] in indices])
    write_lines(path, map(itemgetter(1), merge(*lines)))
    count = sum(map(len, shards.values()))
    if count < part.total:
        tasks = path.read_text(encoding="utf-8")
        line = QueuePart(tasks=count, total=part.total, sha256=part.sha256)
        write_lines(path, [json_line(line.to_dict()), tasks])
    elif queue_digest(StoredTasks(path)) != part.sha256:
        raise LitVizError(f"the tasks of {first.path} and the other shards are not those of one queue")


def link(source: Path, target: Path) -> None:
    """Make a hard link to a file, or copy it where that is not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
