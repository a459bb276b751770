"""The run folder, the record of truth of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, TypedDict

import torch
import yaml
from torch import Tensor

from lit_viz.engine.shards import Shard
from lit_viz.engine.snapshots import PerturbedImage, PerturbedImageRecord, Result, Snapshot
from lit_viz.engine.sources import with_source_digests
from lit_viz.errors import LitVizError
from lit_viz.images.formats import FileFormat, format_of_map
from lit_viz.images.rasters import mask_of
from lit_viz.images.reading import encode_png
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
from lit_viz.runs.contents import TOP5, exact_image, npy_of, read_array, read_image
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.identity import queue_digest, run_digest
from lit_viz.runs.metrics import HEADER, Metrics, curves_of
from lit_viz.runs.results import Storage
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
)
from lit_viz.runs.stored import QueuePart, StoredRecords, StoredTasks, check_inside, queue_part, stored_tasks
from lit_viz.types import Curve, Picture, Record, Task, index_of, key_of
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import (
    FORMAT,
    check_format,
    delete_entry,
    file_version,
    json_line,
    lines_with_offsets,
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


class FolderStorage(Storage):
    """A run folder, from :meth:`create` or :meth:`open`.

    Files are written as they come. What belongs to the run is decided by :meth:`commit`: the files are flushed to the
    disk, and then a segment with the tasks that have finished appears by a rename. Only rank zero writes.

    Args:
        path: the folder.

    Attributes:
        metrics: the rows of metrics.
        in_progress: what is written for the tasks that are not finished, by index.
    """

    is_slow: ClassVar[bool] = True
    path: Path

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics = Metrics(self._task_rows)
        self.in_progress: dict[int, Contents] = {}
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
        folder.check()
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
        """Delete the files of an existing run.

        Raises:
            LitVizError: the folder contains other files, or cannot be deleted.
        """
        with translate_write_errors(self.path):
            if is_empty(self.path):
                return
            for entry in entries_to_delete(self.path, extra_files):
                delete_entry(entry)

    # -- the run

    @property
    def config(self) -> dict[str, Any]:
        """Content of ``config.yaml``: the resolved options and :attr:`recorded`.

        Raises:
            LitVizError: the file is no YAML, or has no options in it.
        """
        path = self.path / layout.CONFIG
        return dict(_stored_config(path, file_version(path)))

    @property
    def recorded(self) -> dict[str, Any]:
        """Provenance of the run: method, versions, network.

        Raises:
            LitVizError: a value has another type.
        """
        recorded: dict[str, Any] = self.config.get(layout.RECORDED) or {}
        read = recorded
        if isinstance(recorded, Mapping):
            read = {name: recorded[name] for name in Provenance.__annotations__ if name in recorded}
        wrong = wrong_value(read, Provenance)
        if wrong is not None:
            raise LitVizError(f"{self.path / layout.CONFIG} is damaged ({layout.RECORDED}: {wrong}): restore it")
        return recorded

    def check(self) -> None:
        """Check the format, and compare configuration and queue with the seal.

        Raises:
            LitVizError: the run has another format, or its configuration or queue was changed.
        """
        check_format(str(self.path), self.recorded.get("format"))
        listed = self.seal_on_disk().files
        for name in (layout.CONFIG, layout.QUEUE):
            if name in listed and signatures(self.path, [name])[name] != listed[name]:
                raise LitVizError(
                    f"{self.path / name} was changed after the start of the run: restore it, or start another run"
                )

    @cached_property
    def digest(self) -> str:
        """What identifies the run in the lines of its tasks: queue, network, module, tasks and precision."""
        queue, part = self.path / layout.QUEUE, self.part
        whole = part.sha256 if part is not None else sha256(queue) if queue.exists() else ""
        return run_digest(self.config, self.recorded.get("weights_sha256"), whole)

    def queue(self) -> StoredTasks:
        """Return the tasks of the run; none if it was killed before they were written.

        Raises:
            LitVizError: a line is no task.
        """
        path = self.path / layout.QUEUE
        return stored_tasks(path, file_version(path))

    @property
    def part(self) -> QueuePart | None:
        """What the queue of a shard, or of a merge of some shards, is a part of; None of a whole run."""
        return queue_part(self.path / layout.QUEUE)

    @property
    def is_shard(self) -> bool:
        """Whether the run is a shard of another."""
        part = self.part
        return part is not None and part.shard is not None

    def records(self) -> StoredRecords:
        """Return the records of finished tasks, in task order.

        Raises:
            LitVizError: a line is no record, or of an unknown task, or a recorded file is outside the folder.
        """
        return StoredRecords(self.path, self.segments, self.queue())

    def evidence(self) -> Evidence:
        """Return the content of ``evidence.json``; without parts if it is missing.

        Raises:
            LitVizError: a part has another type.
        """
        path = self.path / layout.EVIDENCE
        if not path.exists():
            return Evidence()
        parts = parse_object(read_regular_text(path))
        wrong = wrong_value(parts, Evidence)
        if parts is None or wrong is not None:
            raise LitVizError(f"{path} is damaged ({wrong}): delete it, and lit-viz check computes it again")
        return Evidence.from_dict(parts)

    def seal_on_disk(self) -> Seal:
        """Return the seal as it is on the disk."""
        return Seal.read(self.path)

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

    def _contents(self, key: str) -> Contents:
        """Return files and rows of a task."""
        index = index_of(key)
        in_progress = self.in_progress.get(index)
        if in_progress is not None:
            return in_progress
        pending = self._pending.get(index)
        if pending is not None:
            values = parse_object(pending) or {}
        elif index in self.segments.finished:
            values = self.segments.values(index)
        else:
            return Contents()
        return Contents(values["files"], values["rows"])

    def _task_rows(self, keys: Collection[str] | None) -> Iterator[tuple[str, list[Any]]]:
        """Yield key and rows of each task, finished ones first; see :class:`~lit_viz.runs.metrics.Metrics`."""
        if keys is None:
            for values in self.segments.all():
                yield key_of(values["index"], values["record"]["name"]), values["rows"]
            others = sorted({*self._pending, *self.in_progress})
            keys = [self.queue().of_index(index).key for index in others]
        for key in keys:
            yield key, self._contents(key).rows

    def mismatches(self) -> Iterator[tuple[int, Mismatch]]:
        """Yield the files of finished tasks that are not as written, with the index of the task."""
        tars: dict[str, Mismatch | None] = {}  # each is of many tasks, and read once
        for values in self.segments.all():
            for name, signature in values["files"].items():
                if name in tars:
                    found = tars[name]
                else:
                    found = file_mismatch(self.path, name, signature)
                if name.startswith(f"{layout.TARS}/"):
                    tars[name] = found
                if found is not None:
                    yield int(values["index"]), found

    def damaged_segments(self) -> list[Mismatch]:
        """Return the segments that are not as written; those of a complete run are compared with its seal too."""
        found = [Mismatch(f"{layout.SEGMENTS}/{name}", reason) for name, reason in self.segments.damaged.items()]
        seal = self.seal_on_disk()
        if seal.is_complete:
            names = {mismatch.name for mismatch in found}
            found += [
                mismatch for mismatch in seal.mismatches(self.path, layout.SEGMENTS) if mismatch.name not in names
            ]
        return found

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
                if index not in segments.finished and not continues:
                    self._delete_task_file(name)
        self._pending.clear()
        self.in_progress, self._snapshots = dict(in_progress), snapshots

    def _delete_task_file(self, name: str) -> None:
        """Delete a file of a task, and the folder of its task if it is empty then."""
        path = self.path / name
        path.unlink()
        if path.parent.parent != self.path:
            with suppress(OSError):  # it has other files
                path.parent.rmdir()

    def amend(self, records: Iterable[Record]) -> None:
        """Replace the records of finished tasks by these. A sealed run is not complete until it is sealed again."""
        amended: dict[int, Record] = {}
        for record in records:
            if record.to_dict() != record_values(self.segments.lines[record.index]):
                amended[record.index] = record
        if not amended:
            return

        def change(index: int, line: str) -> str:
            if index not in amended:
                return line
            values = parse_object(line) or {}
            contents = Contents(values["files"], values["rows"]).text()
            record = amended[index]
            return task_line(record, self.digest, json_line(record.to_dict())[:-1], contents)

        self.segments.rewrite(change, amended, before=self._unseal)
        self._segments = None

    def _unseal(self) -> None:
        if self.seal_on_disk().is_complete:
            Seal.write(self.path, complete=False)

    def merge_evidence(self, evidence: Evidence) -> None:
        """Replace these parts of ``evidence.json``; the other parts remain."""
        merged = plain(self.evidence().with_parts(evidence).to_dict())
        write_text(self.path / layout.EVIDENCE, json.dumps(merged, indent=2) + "\n")

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

    @contextmanager
    def files(self) -> Iterator[FolderStorage]:
        """Yield the run folder."""
        yield self

    def save(self, path: str | Path) -> FolderStorage:
        """Copy the run to a new run folder; return it."""
        copy = FolderStorage.create(path)
        with translate_write_errors(copy.path):
            shutil.copytree(self.path, copy.path, dirs_exist_ok=True)
        return copy

    # -- snapshots and results

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Write the frames of a snapshot; its metrics are written with the finished task."""
        key, iteration = snapshot.task.key, snapshot.iteration
        if snapshot.image is not None:
            texts: dict[str, str] = {}
            if snapshot.top5:
                texts[TOP5] = json.dumps([(name, round(probability, 4)) for name, probability in snapshot.top5])
            self._write_png(f"frames/{key}/{layout.frame_name(iteration)}", snapshot.image, texts)
        for name, image in snapshot.extra_images.items():
            self._write_png(f"frames/{key}.{name}/{layout.frame_name(iteration)}", image)
        if snapshot.metrics:
            self._contents_of(key).add_row(self._snapshots, iteration, snapshot.metrics)
            self._snapshots += 1

    def add_result(self, result: Result) -> Record:
        """Write image and array of a finished task; return its record, which the next :meth:`commit` writes."""
        key, file, array = result.task.key, None, None
        if result.source is not None:
            self._write_source(key, result)
        if result.image is not None:
            file = self._write_image(key, result)
        if result.array is not None:
            array = self._write_array(f"arrays/{key}.npy", result.array)
            self._write_geometry(key, result)
        if result.terms is not None:
            self._write_array(layout.terms_name(key), result.terms)
        if result.perturbed_images:
            self._write_perturbed_images(key, result.perturbed_images)
        record = result.record.amend(file=file, array=array)
        contents = self._contents_of(key)
        text = json_line(record.to_dict())[:-1]
        self._pending[record.index] = task_line(record, self.digest, text, contents.text())
        del self.in_progress[result.task.index]
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
                self._segments = None
                self._pending.clear()  # last: loggers read the tasks in another thread
        in_progress = {index: vars(contents) for index, contents in self.in_progress.items()}
        store = {"segments": dict(self._counts), "in_progress": in_progress, "snapshots": self._snapshots}
        return {layout.STORE: store}

    def _next_segment(self) -> str:
        """Return the name of the next segment, which no shard of the run repeats."""
        part = queue_part(self.path / layout.QUEUE)
        start = "" if part is None or part.shard is None else part.shard.replace("/", "of") + "-"
        numbers = [int(path.stem.rpartition("-")[2]) for path in segment_files(self.path)]
        return f"{start}{max(numbers, default=-1) + 1:06d}"

    # -- files of a task

    def _write_source(self, key: str, result: Result) -> None:
        """Write a photograph ``(C, H, W)`` in [0, 1] as the network received it, and off the 8-bit lattice also as an
        array."""
        image, picture = result.source, result.source_picture
        assert image is not None
        assert picture is not None
        levels = image.detach().cpu().double() * 255
        if result.record.format is not None or bool((levels - levels.round()).abs().max() > 1e-4):
            self._write_array(f"sources/{key}.npy", image)
        self._write_png(f"sources/{key}.png", picture)

    def _write_image(self, key: str, result: Result) -> str:
        """Write a final image in its format; if that is no picture of 8 bits, also the drawn bands."""
        image, picture = result.image, result.picture
        assert image is not None
        assert picture is not None
        if result.array is not None or result.record.format is None:
            return self._write_png(f"images/{key}.png", image)
        file_format = FileFormat.of(result.record.format)
        self._write_png(f"images/{key}.drawn.png", picture)
        return self._write(f"images/{key}{file_format.suffix}", file_format.encode(image))

    def _write_geometry(self, key: str, result: Result) -> None:
        """Write the map of a GeoTIFF also as a TIFF with its tags, so that a viewer lays it over the source."""
        source = FileFormat.of(result.record.format)
        if result.array is not None and source.tags:
            values = result.array.float().cpu().clone()
            values[..., mask_of(result.record.no_data, (values.shape[-2], values.shape[-1]))] = torch.nan
            self._write(f"arrays/{key}.tif", format_of_map(source).encode_values(values.numpy()))

    def _write_perturbed_images(self, key: str, images: Sequence[PerturbedImage]) -> None:
        lines = []
        for image in images:
            name = f"photographs/{key}/{key_of(image.record.index, image.record.name)}"
            file = original = None
            if isinstance(image.image, Tensor) and isinstance(image.source, Tensor):
                file = self._write_png(f"{name}.png", image.image)
                original = self._write_png(f"{name}.original.png", image.source)
                if image.source.dtype != torch.uint8:  # off the 8-bit lattice, so that the PNG is rounded
                    self._write_array(f"{name}.original.npy", image.source)
            lines.append(json_line(image.record.amend(file=file, original=original).to_dict()))
        self._write(f"photographs/{key}.jsonl", "".join(lines).encode())

    def _write_png(self, relative: str, image: Tensor, text: Mapping[str, str] | None = None) -> str:
        return self._write(relative, encode_png(image, text))

    def _write_array(self, relative: str, array: Tensor) -> str:
        return self._write(relative, npy_of(array.detach().cpu().float()))

    def _write(self, relative: str, content: bytes) -> str:
        """Write a file of a task: its name starts with the task's key in one of the folders."""
        self._check_exists()
        write_bytes(self.path / relative, content, sync=False)
        self._contents_of(relative.split("/")[1]).add_file(relative, content)
        return relative

    def _contents_of(self, key: str) -> Contents:
        """Return the contents of a task in progress, by the start of the names of its files."""
        return self.in_progress.setdefault(index_of(key), Contents())

    def _check_exists(self) -> None:
        if not is_run(self.path):
            raise LitVizError(f"the run folder {self.path} was deleted or moved during the run")

    # -- a task, by its record or ``task.key``

    def image(self, record: Record) -> Tensor | None:
        if record.file is None:
            return None
        if record.format is None or record.array is not None:
            return read_image(self.path / record.file)
        return FileFormat.of(record.format).read(self.path / record.file)

    def array(self, record: Record) -> Tensor | None:
        return read_array(self.path / record.array) if record.array else None

    def terms(self, record: Record) -> Tensor | None:
        path = self.path / layout.terms_name(record.key)
        return read_array(path) if path.exists() else None

    def source(self, record: Record) -> Tensor | None:
        return exact_image(self._source(record.key))

    def pictures(self, record: Record) -> tuple[Picture | None, Picture | None]:
        """Return photograph and final image, as files where they are exact."""
        image = self.path / record.picture if record.picture else None
        if record.format is not None:
            source = self.source(record)
            return (None if source is None else FileFormat.of(record.format).draw(source)), image
        path = self._source(record.key)
        if path.exists() and not path.with_suffix(".npy").exists():
            return path, image
        return self.source(record), image

    def _source(self, key: str) -> Path:
        return self.path / "sources" / f"{key}.png"

    def frames(self, key: str) -> list[tuple[int, Path]]:
        """Return the logged images as (iteration, PNG file), in order of iteration."""
        frames = []
        for name in self._contents(key).files:
            file = Path(name)
            if file.parent.as_posix() == f"{layout.FRAMES}/{key}":
                frames.append((layout.iteration_of(file), self.path / file))
        return sorted(frames)

    def images_at(self, key: str, iteration: int) -> dict[str, Path]:
        """Return the logged images at an iteration as files: ``image``, and others by name."""
        files: dict[str, Path] = {}
        for name in self._contents(key).files:
            file = Path(name)
            if file.parts[0] == layout.FRAMES and file.name == layout.frame_name(iteration):
                files[file.parent.name[len(key) + 1 :] or "image"] = self.path / file
        return files

    def curve(self, key: str, metric: str) -> Curve:
        return curves_of(self._contents(key).rows).get(metric, ())

    def curve_names(self, key: str) -> list[str]:
        return sorted(curves_of(self._contents(key).rows))

    def perturbed_images(self, key: str) -> list[PerturbedImage]:
        """Return the photographs of a universal perturbation as files; none for other tasks."""
        images = []
        path = self.path / "photographs" / f"{key}.jsonl"
        for number, (_, line) in enumerate(lines_with_offsets(path), start=1):
            values = parse_object(line) or {}
            wrong = wrong_value(values, PerturbedImageRecord)
            if wrong is not None:
                raise LitVizError(f"{path} is damaged (line {number}: {wrong})")
            record = PerturbedImageRecord.from_dict(values)
            check_inside(record.file, record.original)
            images.append(PerturbedImage(record, self._file(record.file), self._file(record.original)))
        return images

    def _file(self, name: str | None) -> Path | None:
        return None if name is None else self.path / name


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
        for line in filter(None, folder.metrics.lines()):
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
