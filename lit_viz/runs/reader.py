"""Reading of run folders."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_viz.engine.snapshots import PerturbedImage, PerturbedImageRecord
from lit_viz.errors import LitVizError, first_line
from lit_viz.images.formats import FileFormat
from lit_viz.images.reading import IMAGE_ERRORS, decode
from lit_viz.runs import layout
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.identity import run_digest
from lit_viz.runs.metrics import Metrics, curves_of
from lit_viz.runs.results import Storage
from lit_viz.runs.seal import Seal, signatures
from lit_viz.runs.segments import Contents, TaskSegments
from lit_viz.runs.stored import QueuePart, StoredRecords, StoredTasks, check_inside, queue_part, stored_tasks
from lit_viz.types import Curve, Picture, Record, index_of, key_of
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import (
    check_format,
    file_version,
    lines_with_offsets,
    open_regular,
    parse_json,
    parse_object,
    read_regular,
    read_regular_text,
    sha256,
)
from lit_viz.utils.yaml_files import read_yaml

#: Name of a text in the PNG files of logged images.
TOP5 = "top5"
#: Exceptions of NumPy for damaged files.
_ARRAY_ERRORS = (OSError, ValueError, TypeError, EOFError)


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


class _Top5(TypedDict):
    """Most probable classes of a logged image."""

    top5: Sequence[tuple[str, float | None]]


class FolderReader(Storage):
    """The reading half of the storage in a run folder.

    Args:
        path: the folder.

    Attributes:
        metrics: the rows of metrics.
    """

    path: Path
    segments: TaskSegments
    in_progress: dict[int, Contents]
    _pending: dict[int, str]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics = Metrics(self._task_rows)

    # -- the run

    @property
    def config(self) -> dict[str, Any]:
        """Content of ``config.yaml``: the resolved options and :attr:`recorded`; read at each access.

        Raises:
            LitVizError: the file is no YAML, or has no options in it.
        """
        path = self.path / layout.CONFIG
        config = read_yaml(path)
        groups = {section: config.get(section) for section in ("network", "module", "tasks", "run")}
        if isinstance(groups["run"], dict):
            groups["trainer"] = groups["run"].get("trainer")
        for name, group in groups.items():
            if not isinstance(group or {}, dict):
                raise LitVizError(f"{path} is damaged ({name} must be a mapping): restore it")
        return config

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

    # -- a task, by its record or ``task.key``

    def image(self, record: Record) -> Tensor | None:
        if record.file is None:
            return None
        if record.format is None or record.array is not None:
            return _read_image(self.path / record.file)
        return FileFormat.of(record.format).read(self.path / record.file)

    def array(self, record: Record) -> Tensor | None:
        return _read_array(self.path / record.array) if record.array else None

    def terms(self, record: Record) -> Tensor | None:
        path = self.path / layout.terms_name(record.key)
        return _read_array(path) if path.exists() else None

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


def top5_of(frame: Path) -> tuple[tuple[str, float], ...]:
    """Return the most probable classes of a logged image as (name, probability), which its file contains; may be
    empty."""
    with open_regular(frame) as content:
        try:
            with Image.open(content) as file:
                text = getattr(file, "text", {}).get(TOP5)
        except IMAGE_ERRORS as error:
            raise LitVizError(f"{frame} is no image ({first_line(error)})") from error
    values = {"top5": [] if text is None else parse_json(text)}
    wrong = wrong_value(values, _Top5)
    if wrong is not None:
        raise LitVizError(f"{frame} is damaged ({wrong})")
    return tuple((name, math.nan if probability is None else probability) for name, probability in values["top5"])


def exact_image(path: Path) -> Tensor | None:
    """Return the image ``(C, H, W)`` in [0, 1] of a PNG file, or of the array beside it if it is off the 8-bit lattice;
    None without a file."""
    exact = path.with_suffix(".npy")
    if exact.exists():
        return _read_array(exact)
    return _read_image(path) if path.exists() else None


def _read_image(path: Path) -> Tensor:
    try:
        return decode(read_regular(path))
    except IMAGE_ERRORS as error:
        raise LitVizError(f"{path} is no image ({first_line(error)})") from error


def _read_array(path: Path) -> Tensor:
    with open_regular(path) as file:
        return array_of(file, path)


def array_of(file: BinaryIO, path: Path) -> Tensor:
    """Return the array of an ``.npy`` file.

    Args:
        file: the file, open.
        path: its path, for the error.

    Raises:
        LitVizError: it is no array.
    """
    try:
        return torch.from_numpy(np.load(file, allow_pickle=False))
    except _ARRAY_ERRORS as error:
        raise LitVizError(f"{path} is no array ({first_line(error)})") from error
