"""Shards of a run: every n-th task of its queue, which a process computes without the others."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from lit_viz.errors import LitVizError, require

#: Text in place of a shard, which is then that of the process in an array of SLURM or under torchrun.
AUTO = "auto"


@dataclass(frozen=True)
class Shard:
    """Part ``index``, from 0, of ``count`` parts of a queue: its tasks ``index``, ``index + count`` and so on.

    Tasks keep the index and the seed that they have in the whole queue, and with them their draws and their files.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def folder_name(self) -> str:
        """Name of the run folder of the shard in that of the run."""
        return f"shard-{self.index}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard of a text such as ``0/3``, or that of this process for ``auto``.

        Raises:
            LitVizError: the text is no shard, or the process is not one of several.
        """
        if text == AUTO:
            return _shard_of_process()
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        shard = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if shard.index >= shard.count:
            raise LitVizError(f"shard must be i/n with i from 0 to n - 1, such as 0/3, or {AUTO}, got {text!r}")
        return shard

    def indices(self, total: int) -> range:
        """Return the indices of the tasks of the shard in a queue of ``total`` tasks."""
        return range(self.index, total, self.count)


def _shard_of_process() -> Shard:
    """Return the shard of a task of an array of SLURM, or of a process of torchrun; of both, one per process of each
    task."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "RANK", "WORLD_SIZE")
    known = names[0] in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    require(known, f"shard {AUTO} requires an array of SLURM or torchrun", "a single process", hint="give i/n")
    task, tasks, rank, ranks = 0, 1, 0, 1
    if names[0] in os.environ:
        first, step = _number("SLURM_ARRAY_TASK_MIN", 0), _number("SLURM_ARRAY_TASK_STEP", 1)
        tasks = _number(names[1], 1)
        task, rest = divmod(_number(names[0], 0) - first, step)
        if rest or task >= tasks:
            raise LitVizError(f"shard {AUTO} requires an array such as 0-7, got one with gaps: give i/n")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        rank, ranks = _number(names[2], 0), _number(names[3], 1)
    return Shard(task * ranks + rank, tasks * ranks)


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)
