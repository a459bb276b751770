"""Reading of run folders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from lit_viz.runs.manifest import Manifest, signatures
from lit_viz.runs.metrics import MetricsFile
from lit_viz.runs.results import Storage
from lit_viz.runs.stored import QueuePart, StoredRecords, StoredTasks, check_inside, queue_part, stored_tasks
from lit_viz.types import Curve, Picture, Record
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import (
    check_format,
    complete_lines,
    file_version,
    open_regular,
    parse_json,
    parse_object,
    read_regular,
    read_regular_text,
)
from lit_viz.utils.yaml_files import read_yaml

#: Name of a text in the PNG files of logged images.
TOP5 = "top5"
#: Exceptions of NumPy for damaged files.
_ARRAY_ERRORS = (OSError, ValueError, TypeError, EOFError)


class Provenance(TypedDict, total=False):
    """What ``config.yaml`` records of the run, as far as it is read."""

    format: int
    module: str
    presentation: str
    weights_sha256: str | None
    probe_logits: Sequence[float | None] | None
    scores: str


class _Top5(TypedDict):
    """Most probable classes of a logged image."""

    top5: Sequence[tuple[str, float | None]]


class FolderReader(Storage):
    """The reading half of the storage in a run folder. Incomplete lines of a killed run are ignored.

    Args:
        path: the folder.

    Attributes:
        metrics: the rows of ``metrics.csv``.
    """

    path: Path

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics = MetricsFile(self.path)
        self._curves: dict[str, Mapping[str, Curve]] = {}  # by metric

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
        """Check the format, and compare configuration and queue with the manifest.

        Raises:
            LitVizError: the run has another format, or its configuration or queue was changed.
        """
        check_format(str(self.path), self.recorded.get("format"))
        listed = self.manifest().files
        for name in (layout.CONFIG, layout.QUEUE):
            if name in listed and signatures(self.path, [name])[name] != listed[name]:
                raise LitVizError(
                    f"{self.path / name} was changed after the start of the run: restore it, or start another run"
                )

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
        return StoredRecords(self.path / layout.RESULTS, self.queue())

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

    def manifest(self) -> Manifest:
        """Return the manifest as it is on the disk."""
        return Manifest(self.path / layout.MANIFEST)

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
        path = self._source(record.key)
        exact = path.with_suffix(".npy")  # of an image off the 8-bit lattice
        if exact.exists():
            return _read_array(exact)
        return _read_image(path) if path.exists() else None

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
        for file in (self.path / layout.FRAMES / key).glob("iter_*.png"):
            iteration = layout.iteration_of(file)
            if iteration >= 0:
                frames.append((iteration, file))
        return sorted(frames)

    def images_at(self, key: str, iteration: int) -> dict[str, Path]:
        """Return the logged images at an iteration as files: ``image``, and others by name."""
        frames = self.path / layout.FRAMES
        folders = {"image": frames / key}
        for path in frames.glob(f"{key}.*"):
            folders[path.name[len(key) + 1 :]] = path
        files: dict[str, Path] = {}
        for name, folder in folders.items():
            file = folder / layout.frame_name(iteration)
            if file.exists():
                files[name] = file
        return files

    def curve(self, key: str, metric: str) -> Curve:
        if metric not in self._curves:  # one at a time: all metrics of thousands of tasks take gigabytes
            self._curves[metric] = self.metrics.curves(metric)
        return self._curves[metric].get(key, ())

    def curve_names(self, key: str) -> list[str]:
        return sorted(self.metrics.of_tasks([key])[key])

    def perturbed_images(self, key: str) -> list[PerturbedImage]:
        """Return the photographs of a universal perturbation as files; none for other tasks."""
        images = []
        path = self.path / "photographs" / f"{key}.jsonl"
        for number, line in enumerate(complete_lines(path), start=1):
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
