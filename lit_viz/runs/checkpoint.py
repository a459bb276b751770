"""The checkpoint of a run folder, compared with the files, rows and records in the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import metadata
from typing import Any

from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.engine.module import check_run_state
from lit_viz.engine.slots import Slots
from lit_viz.errors import LitVizError
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import LAST_CHECKPOINT, RESULTS
from lit_viz.runs.lines import record_lines
from lit_viz.runs.manifest import IN_PROGRESS, TaskContents, contents_in_progress, is_derived
from lit_viz.runs.trimming import KeptTasks
from lit_viz.types import Task
from lit_viz.utils.files import FORMAT


def new_trainer_state() -> dict[str, Any]:
    """Return the part of a checkpoint that Lightning requires."""
    version = metadata.version("pytorch-lightning")
    return {"state_dict": {}, "optimizer_states": [], "lr_schedulers": [], "pytorch-lightning_version": version}


def write_checkpoint(folder: FolderStorage) -> None:
    """Write the checkpoint of a complete run: its finished tasks, with the state of a new Trainer."""
    checkpoint = new_trainer_state()
    checkpoint["lit_viz"] = {
        "format": FORMAT,
        "slots": [],
        "finished": {record.index: record.status for record in folder.records()},
    }
    checkpoint |= folder.checkpoint_entries()
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder.path / LAST_CHECKPOINT)


class LastCheckpoint:
    """The last checkpoint of a run folder, compared once with the files, rows and records in the folder.

    Finished tasks are compared with the manifest, and tasks in progress with the checkpoint. A missing checkpoint of a
    complete run is replaced by its records.

    Args:
        folder: run folder.
        checkpoint: content of another checkpoint of the run. Default: that of ``checkpoints/last.ckpt``.

    Raises:
        LitVizError: the checkpoint is damaged, or has another format.
    """

    def __init__(self, folder: FolderStorage, checkpoint: dict[str, Any] | None = None) -> None:
        self._folder, self._path = folder, folder.path / LAST_CHECKPOINT
        self.manifest = folder.manifest()
        self._checkpoint = checkpoint if checkpoint is not None else self._read()
        self._state = check_run_state(self._checkpoint.get("lit_viz"))
        self._finished: dict[int, str] = self._state["finished"]

    def _read(self) -> dict[str, Any]:
        """Return the content of the file; of a complete run without a readable one, its recorded tasks."""
        if self._path.exists():
            try:
                return AtomicCheckpointIO().load_checkpoint(self._path)
            except LitVizError:
                if not self.manifest.is_complete:
                    raise
        finished: dict[int, str] = {}
        entries: dict[str, Any] = {IN_PROGRESS: {}}
        if self.manifest.is_complete:
            finished = dict.fromkeys(record_lines(self._folder.path / RESULTS), "done")
            entries = self._folder.checkpoint_entries()
        return {"lit_viz": {"format": FORMAT, "finished": finished, "slots": []}, **entries}

    @cached_property
    def _iterations(self) -> dict[int, int]:
        """Iteration of each task in progress, by index."""
        return {slot["task"]: Slots.logged_iteration(slot) for slot in self._state["slots"]}

    @cached_property
    def _on_disk(self) -> dict[int, TaskContents]:
        return self._folder.measure(KeptTasks(self._finished, self._iterations))

    @cached_property
    def changed_files(self) -> list[str]:
        """Files of a complete run, except those of its tasks, that are not as written; none of other runs.

        Tars are not read, which takes minutes: only their sizes are compared.
        """
        if not self.manifest.is_complete:
            return []
        mismatches = self.manifest.run_mismatches(self._folder.path, reads_tars=False)
        return [mismatch.name for mismatch in mismatches]

    @cached_property
    def incomplete(self) -> set[int]:
        """Tasks with rows, files or a record that differ from the checkpoint."""
        in_progress = self._checkpoint.get(IN_PROGRESS)
        if not isinstance(in_progress, dict):
            in_progress = {}
        nothing = TaskContents().to_dict()
        incomplete = set()
        for index, contents in self._on_disk.items():
            if index in self._finished:
                is_as_written = not self.manifest.task_mismatches(index, contents)
            else:
                is_as_written = contents.to_dict() == in_progress.get(index, nothing)
            if not is_as_written:
                incomplete.add(index)
        return incomplete

    def is_finished(self, tasks: Sequence[Task]) -> bool:
        """Return whether every task is finished and complete."""
        return len(self._finished) == len(tasks) and not self.incomplete

    def is_untouched(self, tasks: Sequence[Task]) -> bool:
        """Return whether the run is finished, and all files are as written that can't be made from the others."""
        return self.manifest.is_complete and self.is_finished(tasks) and all(map(is_derived, self.changed_files))

    def restore(self) -> None:
        """Remove everything later than the checkpoint from the folder, and the incomplete tasks from both; they are
        computed again."""
        finished: dict[int, TaskContents] = {}
        in_progress: dict[int, TaskContents] = {}
        for index, contents in self._on_disk.items():
            if index in self.incomplete:
                continue
            if index in self._finished:
                finished[index] = contents
            else:
                in_progress[index] = contents
        if self.incomplete:
            self._forget_incomplete(in_progress)
        iterations = {index: self._iterations[index] for index in in_progress}
        self._folder.trim(KeptTasks(finished, iterations), self._checkpoint)
        self._folder.continue_tasks(finished, in_progress)

    def _forget_incomplete(self, in_progress: Mapping[int, TaskContents]) -> None:
        """Write the checkpoint without the tasks that are incomplete."""
        for index in self.incomplete:
            self._finished.pop(index, None)
        self._state["slots"] = [slot for slot in self._state["slots"] if slot["task"] not in self.incomplete]
        self._checkpoint[IN_PROGRESS] = contents_in_progress(in_progress)
        AtomicCheckpointIO().save_checkpoint(new_trainer_state() | self._checkpoint, self._path)
