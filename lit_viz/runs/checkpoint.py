"""The checkpoint of a run folder, compared with the files and segments in the folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import metadata
from typing import Any

from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.engine.module import check_run_state
from lit_viz.errors import LitVizError
from lit_viz.runs.folder import FolderStorage, file_mismatch
from lit_viz.runs.layout import LAST_CHECKPOINT, STORE
from lit_viz.runs.seal import is_derived
from lit_viz.runs.segments import Contents
from lit_viz.types import Task
from lit_viz.utils.files import FORMAT


def new_trainer_state() -> dict[str, Any]:
    """Return the part of a checkpoint that Lightning requires."""
    version = metadata.version("pytorch-lightning")
    return {"state_dict": {}, "optimizer_states": [], "lr_schedulers": [], "pytorch-lightning_version": version}


def write_checkpoint(folder: FolderStorage) -> None:
    """Write the checkpoint of a run without tasks in progress, with the state of a new Trainer."""
    run = {"format": FORMAT, "slots": [], "finished": {}}
    AtomicCheckpointIO().save_checkpoint(
        new_trainer_state() | {"lit_viz": run} | folder.commit(), folder.path / LAST_CHECKPOINT
    )


class LastCheckpoint:
    """The last checkpoint of a run folder: the segments that belong to it, and the tasks in progress.

    Segments that it does not name are later, and computed again. A complete run has all segments, also without a
    checkpoint.

    Args:
        folder: run folder.
        checkpoint: content of another checkpoint of the run. Default: that of ``checkpoints/last.ckpt``.

    Raises:
        LitVizError: the checkpoint is damaged, or has another format.
    """

    def __init__(self, folder: FolderStorage, checkpoint: dict[str, Any] | None = None) -> None:
        self._folder, self._path = folder, folder.path / LAST_CHECKPOINT
        self.seal = folder.seal_on_disk()
        self._checkpoint = checkpoint if checkpoint is not None else self._read()
        self._state = check_run_state(self._checkpoint.get("lit_viz"))
        stated = self._checkpoint.get(STORE)
        self._stated: dict[str, Any] = stated if isinstance(stated, dict) else {}
        self._finished = folder.load(None if self.seal.is_complete else self._stated.get("segments", ())).finished
        slots = {slot["task"] for slot in self._state["slots"]}
        in_progress = self._stated.get("in_progress", {})
        self._in_progress = {index: Contents(**in_progress.get(index, {})) for index in slots}

    def _read(self) -> dict[str, Any]:
        """Return the content of the file; of a complete run without a readable one, no tasks in progress."""
        if self._path.exists():
            try:
                return AtomicCheckpointIO().load_checkpoint(self._path)
            except LitVizError:
                if not self.seal.is_complete:
                    raise
        return {"lit_viz": {"format": FORMAT, "finished": {}, "slots": []}}

    @cached_property
    def changed_files(self) -> list[str]:
        """Files of a complete run, except those of its tasks, that are not as written; none of other runs."""
        return [found.name for found in self.seal.mismatches(self._folder.path)] if self.seal.is_complete else []

    @cached_property
    def incomplete(self) -> set[int]:
        """Tasks that are not as the checkpoint states."""
        incomplete = set(self._state["finished"]).difference(self._finished)
        incomplete |= {index for index, _ in self._folder.mismatches(reads_tars=self.seal.is_complete)}
        for index, contents in self._in_progress.items():
            for name, signature in contents.files.items():
                if file_mismatch(self._folder.path, name, signature) is not None:
                    incomplete.add(index)
        return incomplete

    def is_finished(self, tasks: Sequence[Task]) -> bool:
        """Return whether every task is finished and complete."""
        return len(self._finished) == len(tasks) and not self.incomplete

    def is_untouched(self, tasks: Sequence[Task]) -> bool:
        """Return whether the run is finished, and all files are as written that can't be made from the others."""
        return self.seal.is_complete and self.is_finished(tasks) and all(map(is_derived, self.changed_files))

    def restore(self) -> None:
        """Continue from the checkpoint, without the tasks that are incomplete; they are computed again."""
        kept = {index: contents for index, contents in self._in_progress.items() if index not in self.incomplete}
        if len(kept) < len(self._in_progress):
            self._state["slots"] = [slot for slot in self._state["slots"] if slot["task"] in kept]
            AtomicCheckpointIO().save_checkpoint(new_trainer_state() | self._checkpoint, self._path)
        self._folder.restore(kept, self._stated.get("snapshots", 0), self.incomplete)
