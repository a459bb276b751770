"""Comparison of a run folder with its seal, its segments and its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib import metadata
from typing import Any

from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.engine.module import check_run_state, damaged_state
from lit_viz.engine.sources import check_sources
from lit_viz.errors import LitVizError
from lit_viz.runs.folder import FolderStorage, file_mismatch
from lit_viz.runs.layout import CONFIG, LAST_CHECKPOINT, MANIFEST, SEGMENTS, STORE
from lit_viz.runs.seal import NOT_OF_THE_RUN, Mismatch, Seal, is_derived
from lit_viz.runs.segments import Contents, is_contents, segment_files
from lit_viz.types import Task
from lit_viz.utils.files import FORMAT, lines_with_offsets
from lit_viz.utils.formatting import command_line, pluralize


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

    Segments that it does not name are later, and computed again. A complete run has those of its seal, also without a
    checkpoint.

    Args:
        folder: run folder.
        checkpoint: content of another checkpoint of the run. Default: that of ``checkpoints/last.ckpt``.

    Raises:
        LitVizError: the checkpoint is damaged, or has another format.
    """

    def __init__(self, folder: FolderStorage, checkpoint: dict[str, Any] | None = None) -> None:
        self._folder, self._path = folder, folder.path / LAST_CHECKPOINT
        self.seal = Seal.read(folder.path)
        self._checkpoint = checkpoint if checkpoint is not None else self._read()
        self._state = check_run_state(self._checkpoint.get("lit_viz"))
        self._stated = _checked_store(self._checkpoint.get(STORE, {}))
        expected = self.seal.segments if self.seal.is_complete else self._stated.get("segments", {})
        self._segments = folder.load(expected)
        in_progress = self._stated.get("in_progress", {})
        self._in_progress: dict[int, Contents] = {}
        for slot in self._state["slots"]:
            contents = in_progress.get(slot["task"], vars(Contents()))
            self._in_progress[slot["task"]] = Contents(contents["files"], contents["rows"])

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
        return [found.name for found in self.seal.mismatches(self._folder.path)]

    @cached_property
    def mismatches(self) -> dict[int, Mismatch]:
        """A file that is not as written of each task that has one, finished or in progress, by index."""
        found = dict(self._folder.mismatches())
        for index, contents in self._in_progress.items():
            for name, signature in contents.files.items():
                mismatch = file_mismatch(self._folder.path, name, signature)
                if mismatch is not None:
                    found[index] = mismatch
        return found

    def check_sources(self, tasks: Iterable[Task]) -> None:
        """Check that no photograph was replaced before its task has read it; errors of
        :func:`~lit_viz.engine.sources.check_sources`."""
        finished = self._segments.lines.keys() - self.mismatches.keys()
        check_sources(tasks, finished, self._state.get("inputs", {}))

    @cached_property
    def loss(self) -> str | None:
        """How many tasks are computed again because their files are not as written, and the first of these files;
        None if none is."""
        count = len(self._folder.queue()) if self.seal.is_complete else sum(self._stated.get("segments", {}).values())
        count = max(count - len(self._segments.lines), 0) + len(self.mismatches)
        if not count:
            return None
        first, *others = dict.fromkeys([*self._folder.damaged_segments(), *self.mismatches.values()])
        more = f" (and {len(others)} more)" if others else ""
        return _computed_again(count, f"{first.name} {first.reason}{more}")

    @cached_property
    def later(self) -> str | None:
        """How many tasks are computed again because they finished after the checkpoint; None if none is."""
        count = 0
        for path in segment_files(self._folder.path):
            if path.name not in self._segments.counts:
                count += sum(1 for _ in lines_with_offsets(path))
        if not count:
            return None
        reason = f"{self._path.name} is missing"
        if self._path.exists():
            reason = "no checkpoint has it" if count == 1 else "no checkpoint has them"
        return _computed_again(count, reason)

    def is_finished(self, tasks: Sequence[Task]) -> bool:
        """Return whether every task is finished and complete."""
        return len(self._segments.lines) == len(tasks) and not self.mismatches

    def is_untouched(self, tasks: Sequence[Task]) -> bool:
        """Return whether the run is finished, and all files are as written that can't be made from the others."""
        return self.seal.is_complete and self.is_finished(tasks) and all(map(is_derived, self.changed_files))

    def restore(self) -> None:
        """Continue from the checkpoint, without the tasks whose files are not as written."""
        kept = {index: contents for index, contents in self._in_progress.items() if index not in self.mismatches}
        is_lost = self.seal.is_complete and "segments" not in self._stated  # the checkpoint of a complete run
        is_damaged = self.loss is not None or len(kept) < len(self._in_progress)
        self._folder.restore(kept, self._stated.get("snapshots", 0), self.mismatches)
        if is_lost or is_damaged:
            self._state["slots"] = [slot for slot in self._state["slots"] if slot["task"] in kept]
            content = new_trainer_state() | self._checkpoint | self._folder.commit()
            AtomicCheckpointIO().save_checkpoint(content, self._path)
        Seal.write(self._folder.path, complete=False)


def _checked_store(stated: Any) -> dict[str, Any]:
    """Return what a checkpoint states of the store."""
    if not isinstance(stated, dict):
        raise damaged_state("the store")
    segments, in_progress = stated.get("segments", {}), stated.get("in_progress", {})
    if not isinstance(segments, dict) or not all(isinstance(count, int) for count in segments.values()):
        raise damaged_state("segments")
    if not isinstance(in_progress, dict) or not all(map(is_contents, in_progress.values())):
        raise damaged_state("tasks in progress")
    if not isinstance(stated.get("snapshots", 0), int):
        raise damaged_state("snapshots")
    return stated


def _computed_again(count: int, reason: str) -> str:
    verb = "is" if count == 1 else "are"
    return f"{pluralize(count, 'task')} {verb} computed again: {reason}"


class Unverified(LitVizError):
    """A run folder from which nothing is stated; ``reason`` is the file, and what is wrong with it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}: {remedy}")
        self.reason = reason


def verify(folder: FolderStorage) -> list[str]:
    """Compare all files of a complete run with its seal and its segments.

    Returns:
        Names of the derived files (figure, animation, report, evidence, exports) that are not as written.

    Raises:
        Unverified: the run is not complete, or another file is not as written.
    """
    seal, command = Seal.read(folder.path), command_line("resume", folder.path)
    if seal.is_damaged:
        raise Unverified(f"{folder.path / MANIFEST} is damaged", f"{command} computes what it does not confirm")
    if not seal.is_complete:
        raise Unverified(f"{folder.path} is unfinished", command)
    folder.load()
    found = [*seal.mismatches(folder.path), *folder.damaged_segments()]
    found += [mismatch for _, mismatch in folder.mismatches()]
    found += folder.foreign_files()
    facts = [mismatch for mismatch in dict.fromkeys(found) if not is_derived(mismatch.name)]
    if facts:
        raise Unverified(*_stated(folder, facts))
    return [mismatch.name for mismatch in found]


def verify_segments(folder: FolderStorage) -> None:
    """Check that the loaded segments are as written."""
    damaged = folder.damaged_segments()
    if damaged:
        raise Unverified(*_stated(folder, damaged))


def foreign_files_text(folder: FolderStorage) -> str | None:
    """Return the first file that was added to the folders of tasks, with its remedy; None without any.

    A resume leaves such files as they are, and ``lit-viz check`` refuses the run.
    """
    found = folder.foreign_files()
    return ": ".join(_stated(folder, found)) if found else None


def _stated(folder: FolderStorage, found: Sequence[Mismatch]) -> tuple[str, str]:
    """Return what is wrong with the first of some files, and the remedy."""
    first, *others = found
    more = f" (and {len(others)} more)" if others else ""
    remedy = f"{command_line('resume', folder.path)} computes its tasks again"
    if first.name == CONFIG:
        remedy = "restore it, or start another run"
    elif first.reason == NOT_OF_THE_RUN and not first.name.startswith(f"{SEGMENTS}/"):
        remedy = "move it away"
    return f"{folder.path / first.name} {first.reason}{more}", remedy
