"""The run folder, the record of truth of a run."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache, partial
from itertools import chain
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, TypedDict

import yaml

from lit_viz.engine.shards import Shard
from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.engine.sources import with_source_digests
from lit_viz.errors import LitVizError
from lit_viz.runs import layout
from lit_viz.runs.access import (
    check_entries,
    check_is_run,
    check_new,
    creation_errors,
    entries_to_delete,
    is_empty,
    is_run,
)
from lit_viz.runs.evidence import E, Evidence
from lit_viz.runs.results import HEADER, Outcome, csv_lines
from lit_viz.runs.seal import NOT_OF_THE_RUN, Mismatch, Seal, is_derived, is_evidence, signatures
from lit_viz.runs.segments import (
    CHANGED,
    MISSING,
    MOST_TASKS,
    Contents,
    Signature,
    TaskSegments,
    record_text,
    record_values,
    segment_files,
    task_line,
    with_record,
)
from lit_viz.runs.stored import (
    QueuePart,
    StoredRecords,
    StoredTasks,
    check_inside,
    queue_digest,
    run_digest,
    stored_tasks,
)
from lit_viz.runs.task_files import FolderOutcome, frames_of, write_frames, write_result
from lit_viz.types import Record, Task, index_of, key_of
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import (
    FORMAT,
    check_format,
    delete_entry,
    file_version,
    json_line,
    parse_object,
    plain,
    read_regular_text,
    sha256,
    sync_filesystem,
    translate_write_errors,
    write_bytes,
    write_lines,
    write_text,
)
from lit_viz.utils.yaml_files import read_yaml

_OPEN_CONFIGS = 4  # that are kept in memory


class MergedShard(TypedDict):
    """What is recorded of a shard that was merged."""

    folder: str
    device: str | None


class Provenance(TypedDict, total=False):
    """What ``config.yaml`` records of the run, as far as it is read."""

    format: int
    module: str
    presentation: str
    weights_sha256: str | None
    probe_logits: Sequence[float | None] | None
    scores: str
    shards: Sequence[MergedShard]


@lru_cache(_OPEN_CONFIGS)
def _stored_config(path: Path, version: object) -> dict[str, Any]:
    """Return the content of ``config.yaml``, which is read once for each version of the file."""
    config = read_yaml(path)
    groups = {section: config.get(section) for section in ("network", "module", "tasks", "run")}
    if isinstance(groups["run"], dict):
        groups["trainer"] = groups["run"].get("trainer")
    for name, group in groups.items():
        if not isinstance(group or {}, dict):
            raise LitVizError(f"{path} is damaged ({name} must be a mapping): restore it")
    return config


class FolderStorage:
    """A run folder, from :meth:`create` or :meth:`open`.

    Files are written as they come. What belongs to the run is decided by :meth:`commit`: the files are flushed to the
    disk, and then a segment with the tasks that have finished appears by a rename. Only rank zero writes.

    Attributes:
        in_progress: what is written for the tasks that are not finished, by index.
    """

    is_slow: ClassVar[bool] = True
    keeps_snapshots: ClassVar[bool] = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.in_progress: dict[int, Contents] = defaultdict(Contents)
        self._pending: dict[int, str] = {}  # lines of finished tasks by index, until the next commit
        self._snapshots = 0  # with metrics, in the run so far
        self._segments: TaskSegments | None = None
        self._counts: dict[str, int] = {}  # of tasks by segment, which the next checkpoint names
        self._lock = RLock()  # of the segments: loggers read them in a thread of their own

    @classmethod
    def open(cls, path: str | Path) -> FolderStorage:
        """Open an existing run.

        Raises:
            LitVizError: ``path`` is not a run, has another format, or its configuration or queue was changed.
        """
        check_is_run(path)
        folder = cls(path)
        check_entries(folder.path)
        check_format(str(folder.path), folder.recorded.get("format"))
        listed = Seal.read(folder.path).files
        for name in (layout.CONFIG, layout.QUEUE):
            if name in listed and signatures(folder.path, [name])[name] != listed[name]:
                raise LitVizError(
                    f"{folder.path / name} was changed after the start of the run: restore it, or start another run"
                )
        return folder

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False, extra_files: Sequence[str] = ()) -> FolderStorage:
        """Create a run folder and its parents. The files of a run that is replaced remain until :meth:`clear`.

        Args:
            path, overwrite, extra_files: see :func:`~lit_viz.runs.access.check_new`.

        Raises:
            LitVizError: the path is a file, or the folder is not empty or cannot be created.
        """
        path = Path(path)
        check_new(path, overwrite, extra_files)
        with creation_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def clear(self, extra_files: Sequence[str] = ()) -> None:
        """Delete the files of an existing run."""
        with translate_write_errors(self.path):
            if is_empty(self.path):
                return
            for entry in entries_to_delete(self.path, extra_files):
                delete_entry(entry)

    # -- the run

    @property
    def config(self) -> dict[str, Any]:
        """Content of ``config.yaml``: the resolved options and :attr:`recorded`."""
        path = self.path / layout.CONFIG
        return dict(_stored_config(path, file_version(path)))

    @property
    def recorded(self) -> dict[str, Any]:
        """Provenance of the run: method, versions, network."""
        recorded: dict[str, Any] = self.config.get(layout.RECORDED) or {}
        read = recorded
        if isinstance(recorded, Mapping):
            read = {name: recorded[name] for name in Provenance.__annotations__ if name in recorded}
        wrong = wrong_value(read, Provenance)
        if wrong is not None:
            raise LitVizError(f"{self.path / layout.CONFIG} is damaged ({layout.RECORDED}: {wrong}): restore it")
        return recorded

    @cached_property
    def digest(self) -> str:
        """What identifies the run in the lines of its tasks: queue, network, module, tasks and precision."""
        queue, part = self.path / layout.QUEUE, self.part
        whole = part.sha256 if part is not None else sha256(queue) if queue.exists() else ""
        return run_digest(self.config, self.recorded.get("weights_sha256"), whole)

    def queue(self) -> StoredTasks:
        """Return the tasks of the run; none if it was killed before they were written."""
        path = self.path / layout.QUEUE
        return stored_tasks(path, file_version(path))

    @property
    def part(self) -> QueuePart | None:
        """What the queue of a shard, or of a merge of some shards, is a part of; None of a whole run."""
        return self.queue().part

    @property
    def shard(self) -> str | None:
        """The shard of a run, ``0/3``; None of a whole or merged run."""
        return None if self.part is None else self.part.shard

    def task(self, index: int) -> Task:
        """Return the task of an index."""
        return self.queue().of_index(index)

    def records(self) -> StoredRecords:
        """Return the records of finished tasks, in task order; read again if another process has replaced a segment."""
        if self._segments is not None and not self._segments.lines.are_current():
            self.load()
        return StoredRecords(self.path, self.segments, self.queue())

    def not_done(self) -> Iterator[Record]:
        """Yield the records of tasks that are skipped or failed."""
        records = self.records()
        for index, status in self.segments.statuses():
            if status != "done":
                yield records.of_index(index)

    def evidence(self, kind: type[E]) -> E:
        """Return the content of ``evidence.json``, of the class of the method; without parts if it is missing."""
        path = self.path / layout.EVIDENCE
        if not path.exists():
            return kind()
        parts = parse_object(read_regular_text(path))
        wrong = wrong_value(parts, kind)
        if parts is None or wrong is not None:
            raise LitVizError(f"{path} is damaged ({wrong}): delete it, and lit-viz check computes it again")
        return kind.from_dict(parts)

    def write_start(
        self, options: str, recorded: Mapping[str, Any], tasks: Sequence[Task], shard: Shard | None = None
    ) -> None:
        """Write configuration and queue of a new run, and its seal.

        Args:
            options: resolved options as YAML.
            recorded: provenance of the run; the format is added.
            tasks: the whole queue.
            shard: part of the queue that is computed in the folder. Default: all.
        """
        self.write_config(options, recorded)  # first, because it makes the folder a run
        self.write_queue(tasks, shard)
        Seal.write(self.path, complete=False)

    def write_config(self, options: str, recorded: Mapping[str, Any] | None = None) -> None:
        """Write ``config.yaml``, marked as the configuration of a lit_viz run by its first line."""
        provenance = {layout.RECORDED: plain(dict(recorded or {}, format=FORMAT))}
        text = yaml.safe_dump(provenance, sort_keys=False, allow_unicode=True)
        write_text(self.path / layout.CONFIG, f"{layout.MARK}{options}{text}")

    def write_queue(self, tasks: Sequence[Task], shard: Shard | None = None) -> None:
        """Write the tasks; a resume reads them even if the photographs' folder has changed."""
        path = self.path / layout.QUEUE
        own = tasks if shard is None else [tasks[index] for index in shard.indices(len(tasks))]
        lines: Iterator[str] = (json_line(task.to_dict()) for task in with_source_digests(own))
        if shard is not None:
            part = QueuePart(shard=str(shard), tasks=len(own), total=len(tasks), sha256=queue_digest(tasks))
            lines = chain([json_line(part.to_dict())], lines)
        write_lines(path, lines)

    # -- finished tasks

    @property
    def segments(self) -> TaskSegments:
        """The finished tasks; read at the first access after a change."""
        with self._lock:
            return self.load() if self._segments is None else self._segments

    def load(self, expected: Mapping[str, int | None] | None = None) -> TaskSegments:
        """Read the finished tasks again; see :class:`~lit_viz.runs.segments.TaskSegments`."""
        with self._lock:
            self._segments = TaskSegments(self.path, self.digest, expected)
            self._counts = dict(self._segments.counts)
            return self._segments

    def contents(self, index: int) -> Contents:
        """Return files and rows of a task."""
        in_progress = self.in_progress.get(index)
        if in_progress is not None:
            return in_progress
        pending = self._pending.get(index)
        if pending is not None:
            values = parse_object(pending) or {}
        elif index in self.segments.lines:
            values = self.segments.values(index)
        else:
            return Contents()
        return Contents(values["files"], values["rows"])

    def metrics(self) -> Iterator[tuple[str, list[Any]]]:
        """Yield key and rows of metrics of each task, finished ones first."""
        for values in self.segments.all():
            yield key_of(values["index"], values["record"]["name"]), values["rows"]
        for index in sorted({*self._pending, *self.in_progress}):
            yield self.task(index).key, self.contents(index).rows

    def mismatches(self) -> Iterator[tuple[int, Mismatch]]:
        """Yield the files of finished tasks that are not as written, with the index of the task."""
        tars: dict[str, Mismatch | None] = {}  # each is of many tasks, and read once
        for values in self.segments.all():
            for name, signature in values["files"].items():
                found = tars[name] if name in tars else file_mismatch(self.path, name, signature)
                if name.startswith(f"{layout.TARS}/"):
                    tars[name] = found
                if found is not None:
                    yield int(values["index"]), found

    def damaged_segments(self) -> list[Mismatch]:
        """Return the segments that are not as written; those of a complete run are compared with its seal too."""
        damaged = {f"{layout.SEGMENTS}/{name}": reason for name, reason in self.segments.damaged.items()}
        for mismatch in Seal.read(self.path).mismatches(self.path, layout.SEGMENTS):
            damaged.setdefault(mismatch.name, mismatch.reason)
        return [Mismatch(name, reason) for name, reason in damaged.items()]

    def foreign_files(self) -> list[Mismatch]:
        """Return the files in the folders of tasks that are of no task."""
        count, tars = 0, set()
        for values in self.segments.all():
            for name in values["files"]:
                if name.startswith(f"{layout.TARS}/"):
                    tars.add(name)
                else:
                    count += 1
        foreign = [name for name in tar_files(self.path) if name not in tars]
        # Of many tasks, the names are only compared if a name is missing or of no task.
        if count != sum(1 for _ in task_files(self.path)):
            listed = {name for values in self.segments.all() for name in values["files"]}
            foreign += [name for _, name in task_files(self.path) if name not in listed]
        return [Mismatch(name, NOT_OF_THE_RUN) for name in foreign]

    def restore(self, in_progress: Mapping[int, Contents], snapshots: int, damaged: Collection[int]) -> None:
        """Continue the run from the loaded segments.

        Args:
            in_progress: contents of the tasks that continue; all other files of unfinished tasks are deleted.
            snapshots: number of the snapshots with metrics.
            damaged: finished tasks that are computed again.
        """
        segments = self.segments
        with translate_write_errors(self.path):
            for path in (self.path / layout.SEGMENTS).glob("[!.]*.jsonl"):
                if path.name not in segments.counts:
                    path.unlink()
            if damaged or segments.damaged:
                segments.rewrite(lambda index, line: None if index in damaged else line, damaged, damaged=True)
                segments = self.load()
            for foreign in self.foreign_files():
                if foreign.name.startswith(f"{layout.TARS}/"):
                    (self.path / foreign.name).unlink()
            for index, name in list(task_files(self.path)):
                continues = index in in_progress and name in in_progress[index].files
                if index not in segments.lines and not continues:
                    (self.path / name).unlink()
                    with suppress(OSError):  # its folder has other files
                        (self.path / name).parent.rmdir()
        self._pending.clear()
        self.in_progress, self._snapshots = defaultdict(Contents, in_progress), snapshots

    def amend(self, records: Iterable[Record]) -> None:
        """Replace the records of finished tasks by these. A sealed run is not complete until it is sealed again."""
        amended: dict[int, Record] = {}
        for record in records:
            if record.to_dict() != record_values(self.segments.lines[record.index]):
                amended[record.index] = record
        if not amended:
            return

        def change(index: int, line: str) -> str:
            return with_record(line, amended[index]) if index in amended else line

        self.segments.rewrite(change, amended, before=partial(Seal.withdraw, self.path))
        self._segments = None

    def merge_evidence(self, evidence: Evidence) -> None:
        """Replace these parts of ``evidence.json``; the other parts remain."""
        merged = self.evidence(type(evidence)).amend(**evidence.to_dict())
        write_text(self.path / layout.EVIDENCE, json.dumps(plain(merged.to_dict()), indent=2) + "\n")

    def seal(self) -> None:
        """Write ``results.jsonl`` and ``metrics.csv``, and state that the run is complete, with the files as they are
        on the disk.

        Call it only when the contents of all tasks are verified or newly written.
        """
        write_exports([self], self.path)
        Seal.write(self.path, complete=True)

    def discard(self, names: Iterable[str]) -> None:
        """Delete those of some files that are drawn or computed from the others, so that they are made again."""
        with translate_write_errors(self.path):
            for name in names:
                if is_derived(name) or is_evidence(name):
                    (self.path / name).unlink(missing_ok=True)

    def save(self, path: str | Path) -> FolderStorage:
        """Copy the run to a new run folder; return it."""
        copy = FolderStorage.create(path)
        with translate_write_errors(copy.path):
            shutil.copytree(self.path, copy.path, dirs_exist_ok=True)
        return copy

    # -- snapshots and results

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Write the frames of a snapshot; its metrics are written with the finished task."""
        write_frames(snapshot, self._write)
        if snapshot.metrics:
            self.in_progress[snapshot.task.index].add_row(self._snapshots, snapshot.iteration, snapshot.metrics)
            self._snapshots += 1

    def add_result(self, result: Result) -> Record:
        """Write image and array of a finished task; return its record, which the next :meth:`commit` writes."""
        record = write_result(result, self._write)
        contents = self.in_progress[record.index]
        text = json_line(record.to_dict())[:-1]
        self._pending[record.index] = task_line(record, self.digest, text, contents.text())
        del self.in_progress[record.index]
        if len(self._pending) >= MOST_TASKS:
            self.commit()
        return record

    def commit(self) -> dict[str, Any]:
        """Write the tasks that have finished as one segment.

        Returns:
            What a checkpoint states of the store: the segments, and the contents of the tasks in progress.
        """
        self._check_exists()
        sync_filesystem(self.path)
        if self._pending:
            name = f"{self._next_segment()}.jsonl"
            with self._lock:
                write_lines(self.path / layout.SEGMENTS / name, self._pending.values())
                self._counts[name] = len(self._pending)
                self._segments = self._segments and self._segments.extended(name)
                self._pending.clear()  # last: loggers read the tasks in another thread
        in_progress = {index: vars(contents) for index, contents in self.in_progress.items()}
        store = {"segments": dict(self._counts), "in_progress": in_progress, "snapshots": self._snapshots}
        return {layout.STORE: store}

    def _next_segment(self) -> str:
        """Return the name of the next segment, which no shard of the run repeats."""
        start = "" if self.shard is None else self.shard.replace("/", "of") + "-"
        numbers = [int(path.stem.rpartition("-")[2]) for path in segment_files(self.path)]
        return f"{start}{max(numbers, default=-1) + 1:06d}"

    def _write(self, name: str, content: bytes) -> None:
        """Write a file of a task: its name starts with the task's key in one of the folders."""
        self._check_exists()
        write_bytes(self.path / name, content, sync=False)
        self.in_progress[index_of(name.split("/")[1])].add_file(name, content)

    def _check_exists(self) -> None:
        if not is_run(self.path):
            raise LitVizError(f"the run folder {self.path} was deleted or moved during the run")

    # -- outcomes

    def outcomes(self) -> Sequence[Outcome]:
        """Return the outcomes of all finished tasks."""
        return [self.outcome(record) for record in self.records()]

    def sample(self) -> Sequence[Outcome]:
        """Return the outcomes that figure, report and evidence are of: of many tasks, only some."""
        return self.outcomes()

    def outcome(self, record: Record) -> Outcome:
        """Return the outcome of a record."""
        return FolderOutcome(record, self.path, partial(self.contents, record.index))

    def frames(self, key: str) -> Mapping[str, Sequence[tuple[int, Path]]]:
        """Return the logged images of a task, also of one in progress; see
        :func:`~lit_viz.runs.task_files.frames_of`."""
        return frames_of(self.path, key, self.contents(index_of(key)))


def write_exports(folders: Sequence[FolderStorage], root: Path) -> None:
    """Write ``results.jsonl`` and ``metrics.csv`` with the finished tasks of run folders, one folder after another."""
    write_lines(root / layout.RESULTS, _result_lines(folders))
    write_lines(root / layout.METRICS, _metric_lines(folders))


def _result_lines(folders: Sequence[FolderStorage]) -> Iterator[str]:
    for folder in folders:
        for line in folder.segments.lines.lines():
            yield f"{record_text(line)}\n"


def _metric_lines(folders: Sequence[FolderStorage]) -> Iterator[str]:
    """Yield the header and the lines of ``metrics.csv``; none without rows."""
    header = HEADER
    for folder in folders:
        if not folder.keeps_snapshots:
            continue
        for line in filter(None, csv_lines(folder.metrics())):
            yield header + line
            header = ""


def task_files(root: Path) -> Iterator[tuple[int, str]]:
    """Yield the files in the folders of tasks, with the index at the start of the name; others are of no task."""
    for folder in layout.TASK_FOLDERS:
        for path in (root / folder).rglob("*"):
            name = path.relative_to(root)
            index = index_of(name.parts[1])
            if index >= 0 and path.is_file():
                yield index, name.as_posix()


def tar_files(root: Path) -> list[str]:
    """Return the tars of a run folder."""
    return sorted(path.relative_to(root).as_posix() for path in (root / layout.TARS).glob("[!.]*"))


def file_mismatch(root: Path, name: str, signature: Signature) -> Mismatch | None:
    """Return what is wrong with a file; None if it is as written."""
    check_inside(name)
    if not (root / name).exists():
        return Mismatch(name, MISSING)
    return None if signatures(root, [name])[name] == signature else Mismatch(name, CHANGED)
