"""The run folder, the record of truth of a run.

Lines and files are appended while the run continues, at a cost that does not grow with the number of tasks. Before
each checkpoint everything is flushed to the disk. Only rank zero writes.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from lit_viz.engine.snapshots import PerturbedImage, PerturbedImageRecord, Result, Snapshot
from lit_viz.errors import LitVizError, first_line, printable
from lit_viz.images.reading import decode, encode_png
from lit_viz.runs import (
    CONFIG,
    EVIDENCE,
    FORMAT,
    MARK,
    METRICS,
    QUEUE,
    RECORDED,
    RESULTS,
    check_entries,
    check_usable,
    creation_errors,
    entries_to_delete,
    is_empty,
    is_run,
)
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.layout import FRAMES, TASK_FOLDERS, iteration_of, kept, kept_files, row_position
from lit_viz.runs.manifest import (
    MANIFEST,
    Manifest,
    Signature,
    TaskContents,
    append,
    digest,
    is_derived,
    is_evidence,
    run_files,
    signature,
)
from lit_viz.runs.records import read_record
from lit_viz.runs.results import Outcome, Storage
from lit_viz.types import Curve, Picture, Record, Task, index_of, key_of
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import (
    append_bytes,
    complete_lines,
    delete_entry,
    json_line,
    open_regular,
    plain,
    read_regular,
    read_regular_text,
    sha256,
    sync_filesystem,
    translate_write_errors,
    write_bytes,
    write_text,
)
from lit_viz.utils.formatting import command_line
from lit_viz.utils.yaml_files import read_yaml

_MOST_DIGITS = 19  # of an iteration
_MOST_CHARACTERS = 100_000  # of a line of metrics.csv
#: Exceptions of Pillow and NumPy for damaged files.
_IMAGE_ERRORS = (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)
_ARRAY_ERRORS = (OSError, ValueError, TypeError, EOFError)
_TOP5 = "top5"  # text in the PNG files of logged images
_HEADER_LINE = "task,iteration,metric,value\n"  # of metrics.csv


class Provenance(TypedDict, total=False):
    """What ``config.yaml`` records of the run, as far as it is read."""

    format: int
    module: str
    presentation: str
    weights_sha256: str | None
    probe_logits: Sequence[float | None] | None
    scores: str
    sha256: Mapping[str, str | None]


class _Top5(TypedDict):
    """Most probable classes of a logged image."""

    top5: Sequence[tuple[str, float | None]]


class FolderStorage(Storage):
    """A run folder, from :meth:`create` or :meth:`open`. Incomplete lines of a killed run are ignored.

    Attributes:
        path: the folder.
        in_progress: contents of the tasks that are not finished, by index; of a resumed run as
            :meth:`continue_tasks` sets them.
    """

    is_slow: ClassVar[bool] = True
    path: Path

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.in_progress: dict[int, TaskContents] = {}
        self._rows: list[str] = []  # lines of metrics.csv, until the next flush
        self._finished: list[Mapping[str, Any]] = []  # lines of the manifest, until the next flush
        self._curves: dict[str, Mapping[str, Curve]] = {}  # by metric, since outcomes were made

    @classmethod
    def open(cls, path: str | Path) -> FolderStorage:
        """Open an existing run.

        Raises:
            LitVizError: ``path`` is not a run, has another format, or its configuration or queue was changed.
        """
        if not is_run(path):
            raise LitVizError(f"{path} is not a lit_viz run: give the folder that a run was written to")
        folder = cls(path)
        check_entries(folder.path)
        folder._check_format()
        folder._check_digests()
        return folder

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False, extra_files: Sequence[str] = ()) -> FolderStorage:
        """Create a run folder and its parents.

        Args:
            path: a missing or empty folder, or with ``overwrite`` a run, whose files remain until :meth:`clear`.
            overwrite: whether an existing run may be replaced. Folders with other files are never deleted.
            extra_files: patterns of the files of methods and loggers.

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

    # -- reading

    @property
    def config(self) -> dict[str, Any]:
        """Content of ``config.yaml``: the resolved options and :attr:`recorded`; read at each access.

        Raises:
            LitVizError: the file is no YAML, or has no options in it.
        """
        path = self.path / CONFIG
        config = read_yaml(path)
        for section in ("network", "module", "tasks", "run"):
            if not isinstance(config.get(section) or {}, dict):
                raise LitVizError(f"{path} is damaged ({section} must be a mapping): restore it")
        return config

    @property
    def recorded(self) -> dict[str, Any]:
        """Provenance of the run: method, versions, network.

        Raises:
            LitVizError: a value has another type.
        """
        recorded: dict[str, Any] = self.config.get(RECORDED) or {}
        read = recorded
        if isinstance(recorded, Mapping):
            read = {name: recorded[name] for name in Provenance.__annotations__ if name in recorded}
        wrong = wrong_value(read, Provenance)
        if wrong is not None:
            raise LitVizError(f"{self.path / CONFIG} is damaged ({RECORDED}: {wrong}): restore it")
        written = recorded.get("format", FORMAT)
        if written != FORMAT:
            raise LitVizError(f"{self.path} has format {written}, and this version reads {FORMAT}: use another version")
        return recorded

    def queue(self) -> list[Task]:
        """Return the tasks of the run; none if it was killed before they were written.

        Raises:
            LitVizError: a line is no task.
        """
        path, tasks = self.path / QUEUE, []
        for index, line in enumerate(complete_lines(path)):
            values = _parse_object(line)
            wrong = wrong_value(values, Task)
            if values is None or wrong is not None:
                raise _damaged_queue(path, f"line {index + 1}: {wrong}")
            try:
                task = Task(**values)
            except TypeError as error:  # an unknown key
                raise _damaged_queue(path, first_line(error)) from error
            if task.index != index:
                raise _damaged_queue(path, "lines are missing")
            tasks.append(task)
        return tasks

    def records(self) -> list[Record]:
        """Return the records of finished tasks, in task order.

        Raises:
            LitVizError: a line is no record, or of an unknown task, or a recorded file is outside the folder.
        """
        path = self.path / RESULTS
        total = self._task_count()
        by_index: dict[int, Record] = {}
        for number, line in enumerate(complete_lines(path), start=1):
            try:
                record = read_record(_parse_object(line))
                if total and not 0 <= record.index < total:
                    raise LitVizError(f"there is no task {record.index}")
            except LitVizError as error:
                remedy = f"{command_line('resume', self.path)} computes its task again"
                raise LitVizError(f"{path} is damaged (line {number}: {error}): {remedy}") from error
            _check_inside(record.file, record.array)
            by_index[record.index] = record
        return [by_index[index] for index in sorted(by_index)]

    def outcomes(self) -> list[Outcome]:
        self._curves.clear()
        return super().outcomes()

    def image(self, record: Record) -> Tensor | None:
        return _read_image(self.path / record.file) if record.file else None

    def array(self, record: Record) -> Tensor | None:
        return _read_array(self.path / record.array) if record.array else None

    def terms(self, record: Record) -> Tensor | None:
        path = self.path / _terms_file(record.key)
        return _read_array(path) if path.exists() else None

    def source(self, key: str) -> Tensor | None:
        path = self._source(key)
        exact = path.with_suffix(".npy")  # of an image off the 8-bit lattice
        if exact.exists():
            return _read_array(exact)
        return _read_image(path) if path.exists() else None

    def pictures(self, record: Record) -> tuple[Picture | None, Picture | None]:
        image = self.path / record.file if record.file else None
        path = self._source(record.key)
        if path.exists() and not path.with_suffix(".npy").exists():
            return path, image
        return self.source(record.key), image

    def _source(self, key: str) -> Path:
        return self.path / "sources" / f"{key}.png"

    def frames(self, key: str) -> list[tuple[int, Path]]:
        """Return the logged images of a task (``task.key``) as (iteration, PNG file), in order."""
        frames = []
        for file in (self._frames / key).glob("iter_*.png"):
            iteration = iteration_of(file)
            if iteration >= 0:
                frames.append((iteration, file))
        return sorted(frames)

    def curve(self, key: str, metric: str) -> Curve:
        if metric not in self._curves:  # one at a time: all metrics of thousands of tasks take gigabytes
            self._curves[metric] = self.curves(metric)
        return self._curves[metric].get(key, ())

    def curve_names(self, key: str) -> list[str]:
        return sorted(self.metrics([key])[key])

    def metric_names(self) -> list[str]:
        """Return the names of all logged metrics, sorted."""
        return sorted(set(map(itemgetter(2), self._metric_rows())))

    def curves(self, metric: str) -> dict[str, list[tuple[int, float]]]:
        """Return a metric of all tasks: by ``task.key``, (iteration, value) in order of iteration."""
        by_task: dict[str, dict[int, float]] = {}
        for key, iteration, name, value in self._metric_rows():
            if name == metric:
                by_task.setdefault(key, {})[int(iteration)] = float(value)
        return {key: sorted(by_task[key].items()) for key in sorted(by_task, key=index_of)}

    def metrics(self, keys: Collection[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """Return all metrics of some tasks: by ``task.key`` and name, (iteration, value) in order of iteration."""
        values: dict[str, dict[str, dict[int, float]]] = {key: {} for key in keys}
        for key, iteration, name, value in self._metric_rows():
            if key in values:
                values[key].setdefault(name, {})[int(iteration)] = float(value)
        metrics: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for key, curves in values.items():
            metrics[key] = {name: sorted(curve.items()) for name, curve in curves.items()}
        return metrics

    def _metric_rows(self) -> Iterator[list[str]]:
        for line in self._metric_lines():
            (row,) = csv.reader([line]) if len(line) < _MOST_CHARACTERS else [[]]
            if not (len(row) == 4 and _is_iteration(row[1]) and _is_number(row[3])):
                remedy = f"{command_line('resume', self.path)} computes its task again"
                raise LitVizError(f"{self.path / METRICS} is damaged (row {printable(line[:60])!r}): {remedy}")
            yield row

    def _metric_lines(self) -> Iterator[str]:
        """Yield the lines of ``metrics.csv`` without the header."""
        self.flush()
        for line in complete_lines(self.path / METRICS):
            if line != _HEADER_LINE:
                yield line

    def snapshots(self) -> Iterator[tuple[str, int, dict[str, float]]]:
        """Yield ``task.key``, iteration and metrics of each snapshot, in the order in which they were logged."""
        for (key, iteration), rows in groupby(self._metric_rows(), key=itemgetter(0, 1)):
            yield key, int(iteration), {name: float(value) for _, _, name, value in rows}

    def images_at(self, key: str, iteration: int) -> dict[str, Path]:
        """Return the logged images of a task at an iteration as files: ``image``, and further ones by name."""
        folders = {"image": self._frames / key}
        for path in self._frames.glob(f"{key}.*"):
            folders[path.name[len(key) + 1 :]] = path
        files: dict[str, Path] = {}
        for name, folder in folders.items():
            file = folder / f"iter_{iteration:06d}.png"
            if file.exists():
                files[name] = file
        return files

    @property
    def _frames(self) -> Path:
        return self.path / FRAMES

    def perturbed_images(self, key: str) -> list[PerturbedImage]:
        """Return the photographs of a universal perturbation (``task.key``) as files; none for other tasks."""
        images = []
        path = self.path / "photographs" / f"{key}.jsonl"
        for number, line in enumerate(complete_lines(path), start=1):
            values = _parse_object(line) or {}
            wrong = wrong_value(values, PerturbedImageRecord)
            if wrong is not None:
                raise LitVizError(f"{path} is damaged (line {number}: {wrong})")
            record = PerturbedImageRecord.from_dict(values)
            _check_inside(record.file, record.original)
            images.append(PerturbedImage(record, self._file(record.file), self._file(record.original)))
        return images

    def _file(self, name: str | None) -> Path | None:
        return None if name is None else self.path / name

    def evidence(self) -> Evidence:
        """Return the content of ``evidence.json``; without parts if it is missing.

        Raises:
            LitVizError: a part has another type.
        """
        path = self.path / EVIDENCE
        if not path.exists():
            return Evidence()
        parts = _parse_object(read_regular_text(path))
        wrong = wrong_value(parts, Evidence)
        if parts is None or wrong is not None:
            raise LitVizError(f"{path} is damaged ({wrong}): delete it, and lit-viz check computes it again")
        return Evidence.from_dict(parts)

    # -- writing

    def write_config(self, options: str, recorded: Mapping[str, Any] | None = None) -> None:
        """Write ``config.yaml``, marked as the configuration of a lit_viz run by its first line.

        Args:
            options: resolved options as YAML.
            recorded: provenance of the run. The format, and the checksums of options and queue, are added.
        """
        queue = self.path / QUEUE
        text = MARK + options
        digests = {"options": digest(text), "queue": sha256(queue) if queue.exists() else None}
        provenance = {RECORDED: plain(dict(recorded or {}, format=FORMAT, sha256=digests))}
        write_text(self.path / CONFIG, text + yaml.safe_dump(provenance, sort_keys=False, allow_unicode=True))
        if queue.exists():
            append(self.path / MANIFEST, [{"files": self._signatures(CONFIG, QUEUE), "tasks": self._task_count()}])

    def seal(self) -> None:
        """Append the line of a complete run to the manifest, with the files as they are on the disk.

        Call it only when the contents of all tasks are verified or newly written.
        """
        names = [path.relative_to(self.path).as_posix() for path in run_files(self.path)]
        line = {"files": self._signatures(*names), "tasks": self._task_count(), "complete": True}
        append(self.path / MANIFEST, [line])

    def discard(self, names: Iterable[str]) -> None:
        """Delete those of some files that are drawn or computed from the others, so that they are made again."""
        with translate_write_errors(self.path):
            for name in names:
                if is_derived(name) or is_evidence(name):
                    (self.path / name).unlink(missing_ok=True)

    def manifest(self) -> Manifest:
        """Return the manifest as it is on the disk."""
        return Manifest(self.path / MANIFEST)

    def _signatures(self, *names: str) -> dict[str, Signature]:
        return {name: signature(read_regular(self.path / name)) for name in names}

    def _task_count(self) -> int:
        return sum(1 for _ in complete_lines(self.path / QUEUE))

    def _check_format(self) -> None:
        found = self.recorded.get("format")
        if found != FORMAT:
            raise LitVizError(
                f"{self.path} must have the format {FORMAT} of run folders, got {found}: use the release of lit_viz "
                f"that its {CONFIG} records"
            )

    def _check_digests(self) -> None:
        """Compare configuration and queue with their recorded digests."""
        digests = self.recorded.get("sha256") or {}
        options = digest(read_regular_text(self.path / CONFIG).rpartition(f"\n{RECORDED}:\n")[0] + "\n")
        if digests.get("options", options) != options:
            raise LitVizError(
                f"{self.path / CONFIG} was changed after the start of the run: restore it, or start another run with "
                f"config={self.path / CONFIG}"
            )
        manifest = self.manifest()
        if CONFIG in manifest.files and self._signatures(CONFIG)[CONFIG] != manifest.files[CONFIG]:
            raise LitVizError(f"{self.path / CONFIG} was changed after the start of the run: restore it")
        queue = self.path / QUEUE
        expected = digests.get("queue")
        if expected is not None and not (queue.exists() and self._signatures(QUEUE)[QUEUE]["sha256"] == expected):
            raise _damaged_queue(queue, "wrong checksum")

    def write_start(self, options: str, recorded: Mapping[str, Any], tasks: Sequence[Task]) -> None:
        """Write configuration and queue of a new run; arguments of :meth:`write_config`."""
        self.write_config(options, recorded)  # first, because it makes the folder a run
        self.write_queue(tasks)
        self.write_config(options, recorded)  # with the checksum of the queue

    def write_queue(self, tasks: Sequence[Task]) -> None:
        """Write the tasks; a resume reads them even if the photographs' folder has changed."""
        write_text(self.path / QUEUE, "".join(map(json_line, map(asdict, tasks))))

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Write the frames of a snapshot, and buffer its metrics until :meth:`flush`."""
        key, iteration = snapshot.task.key, snapshot.iteration
        if snapshot.image is not None:
            texts: dict[str, str] = {}
            if snapshot.top5:
                texts[_TOP5] = json.dumps([(name, round(probability, 4)) for name, probability in snapshot.top5])
            self._write_png(f"frames/{key}/iter_{iteration:06d}.png", snapshot.image, texts)
        for name, image in snapshot.extra_images.items():
            self._write_png(f"frames/{key}.{name}/iter_{iteration:06d}.png", image)
        contents = self._contents_of(key)
        for name, value in snapshot.metrics.items():
            line = _csv_line((key, str(iteration), name, f"{float(value):.9g}"))
            self._rows.append(line)
            contents.add_row(line)

    def add_result(self, result: Result) -> Record:
        """Write image and array of a finished task, then its record; return the record."""
        key, file, array = result.task.key, None, None
        if result.source is not None:
            self._write_source(key, result.source)
        if result.image is not None:
            file = self._write_png(f"images/{key}.png", result.image)
        if result.array is not None:
            array = self._write_array(f"arrays/{key}.npy", result.array)
        if result.terms is not None:
            self._write_array(_terms_file(key), result.terms)
        if result.perturbed_images:
            self._write_perturbed_images(key, result.perturbed_images)
        record = result.record.amend(file=file, array=array)
        line = json_line(record.to_dict())
        append_bytes(self.path / RESULTS, line.encode(), sync=False)
        contents = self._contents_of(key)
        contents.record = digest(line)
        self._finished.append({"task": result.task.index, **contents.to_dict()})
        del self.in_progress[result.task.index]
        return record

    def flush(self) -> None:
        """Append the buffered metrics to ``metrics.csv``, and then the finished tasks to the manifest; after an error
        they remain buffered."""
        if self._rows:
            path = self.path / METRICS
            lines = self._rows
            if not path.exists() or path.stat().st_size == 0:
                lines = [_HEADER_LINE, *lines]
            append_bytes(path, "".join(lines).encode(), sync=False)
            self._rows.clear()
        append(self.path / MANIFEST, self._finished, sync=False)
        self._finished.clear()

    def settle(self) -> None:
        """Flush metrics and file system, so that a checkpoint may refer to everything written so far."""
        self._check_exists()
        self.flush()
        sync_filesystem(self.path)

    def finish(self) -> None:
        """Flush, and sort ``results.jsonl`` by task, keeping the last record of each."""
        self.flush()
        if (self.path / RESULTS).exists():
            self._write_records(self._record_lines())

    def amend(self, records: Iterable[Record]) -> None:
        """Replace the records of finished tasks by these, in the manifest first: each digest in it is valid until the
        run is complete."""
        stored = self._record_lines()
        amended = []
        for record in records:
            line = json_line(record.to_dict())
            if stored.get(record.index, line) != line:
                stored[record.index] = line
                amended.append({"task": record.index, "record": digest(line)})
        append(self.path / MANIFEST, amended)
        self._write_records(stored)

    def merge_evidence(self, evidence: Evidence) -> None:
        """Replace these parts of ``evidence.json``; the other parts remain."""
        merged = self.evidence().to_dict()
        merged |= evidence.to_dict()
        write_text(self.path / EVIDENCE, json.dumps(plain(merged), indent=2) + "\n")

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

    def measure(self, done: Collection[int], iterations: Mapping[int, int]) -> dict[int, TaskContents]:
        """Return the contents of tasks on the disk, without what :meth:`trim` would delete.

        Args:
            done, iterations: see :meth:`trim`.
        """
        measured: dict[int, TaskContents] = {}
        for index in (*done, *iterations):
            measured[index] = TaskContents()
        is_kept = kept(done, iterations)
        for line in self._metric_lines():
            key, iteration = row_position(line)
            if is_kept(key, iteration):
                measured[index_of(key)].add_row(line)
        for index, name, path in kept_files(self.path, done, iterations):
            measured[index].add_file(name, read_regular(path))
        for index, line in self._record_lines().items():
            if index in done:
                measured[index].record = digest(line)
        return measured

    def continue_tasks(self, finished: Mapping[int, TaskContents], in_progress: Mapping[int, TaskContents]) -> None:
        """Continue a run from the verified contents of its tasks; finished ones that the manifest lacks are added."""
        manifest = self.manifest()
        lines: list[Mapping[str, Any]] = []
        if manifest.exists:
            manifest.repair()
        else:
            lines.append({"files": self._signatures(CONFIG, QUEUE), "tasks": self._task_count()})
        for index, contents in finished.items():
            if index not in manifest.tasks:
                lines.append({"task": index, **contents.to_dict()})
        append(self.path / MANIFEST, lines)
        self.in_progress = dict(in_progress)

    def trim(self, done: Collection[int], iterations: Mapping[int, int]) -> None:
        """Delete what is not part of a checkpoint, because it will be computed again.

        Args:
            done: indices of the tasks that are finished in the checkpoint; all of their files remain.
            iterations: by task index, the iteration of the tasks in progress; earlier rows and frames remain.
        """
        self._rows.clear()
        self._finished.clear()
        self.in_progress.clear()
        is_kept = kept(done, iterations)
        with translate_write_errors(self.path):
            if (self.path / METRICS).exists():
                lines = [line for line in self._metric_lines() if is_kept(*row_position(line))]
                write_text(self.path / METRICS, "".join([_HEADER_LINE, *lines]))
            if (self.path / RESULTS).exists():
                self._write_records({i: line for i, line in self._record_lines().items() if i in done})
            for name in TASK_FOLDERS:
                if name != FRAMES:
                    self._trim_folder(self.path / name, done)
            for folder in list(self._frames.glob("*")):
                if folder.is_dir():
                    _trim_frames(folder, is_kept)

    def _trim_folder(self, folder: Path, done: Collection[int]) -> None:
        """Delete the files of unfinished tasks."""
        for path in list(folder.glob("*")):
            index = index_of(path.name)
            if index >= 0 and index not in done:
                delete_entry(path)

    def _check_exists(self) -> None:
        if not is_run(self.path):
            raise LitVizError(f"the run folder {self.path} was deleted or moved during the run")

    def _record_lines(self) -> dict[int, str]:
        """Return the lines of ``results.jsonl`` as they are, by task index; of several, the last one."""
        lines = {}
        for line in complete_lines(self.path / RESULTS):
            values = _parse_object(line)
            if values is not None and isinstance(values.get("index"), int):
                lines[values["index"]] = line
        return lines

    def _write_records(self, lines: Mapping[int, str]) -> None:
        write_text(self.path / RESULTS, "".join([lines[index] for index in sorted(lines)]))

    def _write_source(self, key: str, image: Tensor) -> None:
        """Write a photograph ``(C, H, W)`` in [0, 1] as the network saw it, and off the 8-bit lattice also as an
        array."""
        levels = image.detach().cpu().double() * 255
        if bool((levels - levels.round()).abs().max() > 1e-4):
            self._write_array(f"sources/{key}.npy", image)
        self._write_png(f"sources/{key}.png", image)

    def _write_perturbed_images(self, key: str, images: Sequence[PerturbedImage]) -> None:
        lines = []
        for image in images:
            name = f"photographs/{key}/{key_of(image.record.index, image.record.name)}"
            file = original = None
            if isinstance(image.image, Tensor) and isinstance(image.source, Tensor):
                file = self._write_png(f"{name}.png", image.image)
                original = self._write_png(f"{name}.original.png", image.source)
            lines.append(json_line(image.record.amend(file=file, original=original).to_dict()))
        self._write(f"photographs/{key}.jsonl", "".join(lines).encode())

    def _write_png(self, relative: str, image: Tensor, text: Mapping[str, str] | None = None) -> str:
        return self._write(relative, encode_png(image, text))

    def _write_array(self, relative: str, array: Tensor) -> str:
        content = io.BytesIO()  # NumPy raises no error if it writes a file on a full disk
        np.save(content, array.detach().cpu().float().numpy(), allow_pickle=False)
        return self._write(relative, content.getvalue())

    def _write(self, relative: str, content: bytes) -> str:
        """Write a file of a task, which begins with the task's key in one of the folders."""
        self._check_exists()
        write_bytes(self.path / relative, content, sync=False)
        self._contents_of(relative.split("/")[1]).add_file(relative, content)
        return relative

    def _contents_of(self, key: str) -> TaskContents:
        """Return the contents of a task in progress, by the start of the names of its files."""
        return self.in_progress.setdefault(index_of(key), TaskContents())


def check_new(path: Path, overwrite: bool = False, extra_files: Sequence[str] = ()) -> None:
    """Check that a run can be created in a folder; arguments and errors of :meth:`FolderStorage.create`."""
    check_usable(path)
    if not is_run(path):
        return
    if overwrite:
        entries_to_delete(path, extra_files)  # raises if there are others
        return
    raise LitVizError(
        f"{path} already holds a run: give resume to continue it, overwrite to replace it, or choose another folder"
    )


def top5_of(frame: Path) -> tuple[tuple[str, float], ...]:
    """Return the most probable classes of a logged image as (name, probability), which its file contains; may be
    empty."""
    with open_regular(frame) as content:
        try:
            with Image.open(content) as file:
                text = getattr(file, "text", {}).get(_TOP5)
        except _IMAGE_ERRORS as error:
            raise LitVizError(f"{frame} is no image ({first_line(error)})") from error
    values = {"top5": [] if text is None else _parse(text)}
    wrong = wrong_value(values, _Top5)
    if wrong is not None:
        raise LitVizError(f"{frame} is damaged ({wrong})")
    return tuple((name, math.nan if probability is None else probability) for name, probability in values["top5"])


def _terms_file(key: str) -> str:
    return f"arrays/{key}.terms.npy"


def _read_image(path: Path) -> Tensor:
    try:
        return decode(read_regular(path))
    except _IMAGE_ERRORS as error:
        raise LitVizError(f"{path} is no image ({first_line(error)})") from error


def _read_array(path: Path) -> Tensor:
    with open_regular(path) as file:
        try:
            return torch.from_numpy(np.load(file, allow_pickle=False))
        except _ARRAY_ERRORS as error:
            raise LitVizError(f"{path} is no array ({first_line(error)})") from error


def _damaged_queue(path: Path, reason: str) -> LitVizError:
    return LitVizError(
        f"{path} is damaged ({reason}), so the tasks of the run are unknown: start it again with overwrite=True, or in "
        "another folder"
    )


def _check_inside(*names: Any) -> None:
    """Check that recorded paths do not leave the run folder."""
    for name in names:
        if name is not None and (not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts):
            raise LitVizError(f"a recorded file must be in the run folder, got {name!r}")


def _parse_object(text: str) -> dict[str, Any] | None:
    """Return a JSON object; None if the text is anything else."""
    value = _parse(text)
    return value if isinstance(value, dict) else None


def _parse(text: str) -> Any:
    """Return a JSON value, with None in place of NaN and infinity; None if the text is none."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _is_iteration(text: str) -> bool:
    return text.isdecimal() and len(text) < _MOST_DIGITS


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _csv_line(row: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()


def _trim_frames(folder: Path, is_kept: Callable[[str, int], bool]) -> None:
    """Delete the frames of a task that are not kept, and the folder if it is then empty."""
    for file in list(folder.glob("*")):
        iteration = iteration_of(file)
        if iteration >= 0 and not is_kept(folder.name, iteration):
            delete_entry(file)
    with suppress(OSError):  # not empty
        folder.rmdir()
