"""Writing of run folders during a run.

Files are written as they come. What belongs to the run is decided by :meth:`FolderWriter.commit`: the files are flushed
to the disk, and then a segment with the tasks that have finished appears by a rename. Only rank zero writes.
"""

from __future__ import annotations

import hashlib
import io
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from lit_viz.engine.shards import Shard
from lit_viz.engine.snapshots import PerturbedImage, Result, Snapshot
from lit_viz.errors import LitVizError
from lit_viz.images.formats import FileFormat, format_of_map
from lit_viz.images.rasters import mask_of
from lit_viz.images.reading import encode_png
from lit_viz.runs import layout
from lit_viz.runs.access import is_run
from lit_viz.runs.reader import TOP5
from lit_viz.runs.results import Storage
from lit_viz.runs.seal import Seal
from lit_viz.runs.segments import MOST_TASKS, Contents, TaskSegments, segment_files, task_line
from lit_viz.runs.stored import QueuePart, queue_part
from lit_viz.types import Record, Task, index_of, key_of
from lit_viz.utils.files import (
    FORMAT,
    json_line,
    plain,
    sync_filesystem,
    write_bytes,
    write_lines,
    write_text,
)


class FolderWriter(Storage):
    """The writing half of the storage in a run folder.

    Args:
        path: the folder.
    """

    path: Path

    #: What is written for the tasks that are not finished, by index.
    in_progress: dict[int, Contents]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.in_progress = {}
        self._pending: dict[int, str] = {}  # lines of finished tasks by index, until the next commit
        self._snapshots = 0  # with metrics, in the run so far
        self._segments: TaskSegments | None = None
        self._counts: dict[str, int] = {}  # of tasks by segment, which the next checkpoint names
        self._lock = RLock()  # of the segments: loggers read them in a thread of their own

    @property
    @abstractmethod
    def digest(self) -> str:
        """What identifies the run in the lines of its tasks."""

    @property
    def segments(self) -> TaskSegments:
        """The finished tasks; read at the first access after a change."""
        with self._lock:
            return self.load() if self._segments is None else self._segments

    def load(self, expected: Mapping[str, int] | None = None) -> TaskSegments:
        """Read the finished tasks again; see :class:`~lit_viz.runs.segments.TaskSegments`."""
        with self._lock:
            self._segments = TaskSegments(self.path, self.digest, expected)
            self._counts = dict(self._segments.counts)
            return self._segments

    # -- start and continuation

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
        lines = (json_line(task.to_dict()) for task in tasks)
        if shard is None:
            write_lines(path, lines)
            return
        sha256 = hashlib.sha256()
        for line in lines:
            sha256.update(line.encode())
        own = [tasks[index] for index in shard.indices(len(tasks))]
        part = QueuePart(shard=str(shard), tasks=len(own), total=len(tasks), sha256=sha256.hexdigest())
        write_lines(path, [json_line(part.to_dict()), *(json_line(task.to_dict()) for task in own)])

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


def npy_of(array: Tensor) -> bytes:
    """Return the ``.npy`` file of an array."""
    values = array.numpy()
    return _npy_header(values.dtype, values.shape) + values.tobytes()


@lru_cache
def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the start of an ``.npy`` file; it takes NumPy as long as a small map."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue()
