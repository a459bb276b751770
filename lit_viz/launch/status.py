"""``lit-viz status``: how far runs are, and which of them make no progress."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lit_viz.engine.shards import Shard
from lit_viz.errors import ArgumentError, require
from lit_viz.launch.merge import shard_folders
from lit_viz.runs.access import is_run
from lit_viz.runs.folder import FolderStorage, write_exports
from lit_viz.runs.layout import CONFIG, LAST_CHECKPOINT, LOCK, MANIFEST, SEGMENTS
from lit_viz.runs.seal import Seal
from lit_viz.runs.segments import segment_files
from lit_viz.runs.verification import LastCheckpoint, verify_segments


@dataclass(frozen=True)
class RunState:
    """State of a run.

    Attributes:
        folder: its run folder.
        state: ``complete``, ``running``, ``stalled`` without a recent save and a process that writes it, or ``not
            started``.
        tasks: number of tasks.
        done, skipped, failed: number of finished tasks by status.
        rate: tasks per second that the last process has finished; None of a complete run.
        seconds_left: time that the other tasks take at this rate.
        age: seconds since the last save.
    """

    folder: str
    state: str
    tasks: int
    done: int = 0
    skipped: int = 0
    failed: int = 0
    rate: float | None = None
    seconds_left: float | None = None
    age: float | None = None

    @property
    def finished(self) -> int:
        """Number of finished tasks."""
        return self.done + self.skipped + self.failed

    def row(self) -> dict[str, str]:
        """Return the state as a row of a table."""
        return {
            "run": self.folder,
            "state": self.state,
            "tasks": str(self.tasks),
            "done": str(self.done),
            "skipped": str(self.skipped),
            "failed": str(self.failed),
            "tasks/s": "-" if self.rate is None else f"{self.rate:.3g}",
            "left": "-" if self.seconds_left is None else _duration(self.seconds_left),
            "last save": "-" if self.age is None else f"{_duration(self.age)} ago",
        }


def run_states(folders: Sequence[str | Path], stale: float = 300.0, export: str | Path | None = None) -> list[RunState]:
    """Return the state of runs, in their order; of a folder with shards, that of each shard.

    Args:
        folders: run folders, or folders with the shards of a run.
        stale: seconds without a save after which a run that is not complete, and whose folder no process has locked, is
            stalled. A run saves every 30 seconds, or as ``checkpoint_every`` states, and at the end of a step.
        export: folder outside of the runs, to which ``results.jsonl`` and ``metrics.csv`` with the finished tasks are
            written, those of one run after another.

    Raises:
        LitVizError: a folder is no run, a record was changed, ``stale`` is not positive, or ``export`` is in a run.
    """
    require(stale > 0, "stale must be a positive number of seconds", stale)
    if export is not None:
        _check_outside(Path(export))
    states: list[RunState] = []
    runs: list[FolderStorage] = []
    for given in map(Path, folders):
        found = shard_folders([given])
        for path in found:
            run = _verified(path)
            runs.append(run)
            states.append(_state_of(run, stale))
        if not is_run(given):
            states += _not_started(given, found)
    if export is not None:
        write_exports(runs, Path(export))
    return states


def _check_outside(export: Path) -> None:
    """Reject a folder in a run, whose files are those that the run has listed."""
    for folder in (export.resolve(), *export.resolve().parents):
        if is_run(folder):
            problem = f"must be a folder outside of run folders, got {export}: choose another one"
            raise ArgumentError("export", problem, value=str(export))


def total(states: Sequence[RunState]) -> RunState:
    """Return the state of several runs together: the rate of the running ones, and the longest time left."""
    names: Counter[str] = Counter()
    tasks = done = skipped = failed = 0
    rate, left = 0.0, 0.0
    for state in states:
        names[state.state] += 1
        tasks += state.tasks
        done += state.done
        skipped += state.skipped
        failed += state.failed
        if state.state == "running":
            rate += state.rate or 0.0
            left = max(left, state.seconds_left or 0.0)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(names.items()))
    return RunState("all", counts, tasks, done, skipped, failed, rate or None, left or None)


def as_json(states: Sequence[RunState]) -> dict[str, Any]:
    """Return the states of runs and of all together as a JSON object."""
    return {"runs": [asdict(state) for state in states], "total": asdict(total(states))}


def _verified(path: Path) -> FolderStorage:
    """Return a run with its finished tasks, none of which was changed."""
    folder = FolderStorage.open(path)
    LastCheckpoint(folder)  # which loads the segments that it names
    verify_segments(folder)
    folder.load()  # also those that are later
    verify_segments(folder)
    return folder


def _state_of(folder: FolderStorage, stale: float) -> RunState:
    path, tasks = folder.path, len(folder.queue())
    counts = Counter(status for _, status in folder.segments.statuses())
    state = RunState(str(path), "running", tasks, counts["done"], counts["skipped"], counts["failed"])
    saved = (path / CONFIG, path / MANIFEST, path / LAST_CHECKPOINT, *segment_files(path))
    last_save = max(map(_time_of, saved))
    age = max(time.time() - last_save, 0.0)
    if Seal.read(folder.path).is_complete:
        return replace(state, state="complete", age=age)
    rate = None
    if state.finished < tasks:
        rate = _rate(folder, last_save)
    if age > stale and not _is_locked(path):
        return replace(state, state="stalled", rate=rate, age=age)
    if rate is not None:
        state = replace(state, rate=rate, seconds_left=(tasks - state.finished) / rate)
    return replace(state, age=age)


def _is_locked(run: Path) -> bool:
    """Return whether a process writes a run; one of another machine is only seen where the file system has locks."""
    if not (run / LOCK).exists():
        return False
    lock = FileLock(run / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # of another user
        return False
    lock.release()
    return False


def _rate(folder: FolderStorage, last: float) -> float | None:
    """Return the tasks per second of the last process until its last save; None before it has finished one.

    A process writes the manifest when it starts.
    """
    start = _time_of(folder.path / MANIFEST)
    finished = 0
    for name, count in folder.segments.counts.items():
        if _time_of(folder.path / SEGMENTS / name) > start:
            finished += count
    if finished:
        return finished / (last - start)
    return None


def _time_of(file: Path) -> float:
    """Return when a file was written; 0 if it is missing."""
    if file.exists():
        return file.stat().st_mtime
    return 0.0


def _not_started(given: Path, found: Sequence[Path]) -> list[RunState]:
    """Return the states of the shards of a run that have no folder, given a folder with others."""
    states: list[RunState] = []
    part = FolderStorage.open(found[0]).part
    if part is None or part.shard is None:
        return states
    count = Shard.parse(part.shard).count
    for index in range(count):
        shard = Shard(index, count)
        folder, tasks = given / shard.folder_name, len(shard.indices(part.total))
        if tasks and folder not in found:
            states.append(RunState(str(folder), "not started", tasks))
    return states


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
