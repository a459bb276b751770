"""The run folder, the record of truth of a run.

Lines and files are appended while the run continues, at a cost that does not grow with the number of tasks. Before
each checkpoint everything is flushed to the disk. Only rank zero writes.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor

from lit_viz.errors import LitVizError, first_line
from lit_viz.images.reading import encode_png
from lit_viz.runs import layout
from lit_viz.runs.layout import (
    CONFIG,
    EVIDENCE,
    MARK,
    METRICS,
    METRICS_HEADER,
    QUEUE,
    RECORDED,
    RESULTS,
    index_of,
    iteration_of,
)
from lit_viz.types import PerturbedImage, PerturbedImageRecord, Record, Result, Snapshot, Task, key_of
from lit_viz.utils.files import (
    append_bytes,
    complete_lines,
    json_line,
    list_files,
    list_folders,
    plain,
    read_yaml,
    remove_temporary_files,
    sync_filesystem,
    translate_write_errors,
    truncate_after,
    write_bytes,
    write_text,
)


class RunFolder:
    """A run folder, from :meth:`create` or :meth:`open`. Incomplete lines of a killed run are ignored.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: list[str] = []  # of metrics.csv, until the next flush

    @staticmethod
    def is_run(path: str | Path) -> bool:
        """Return whether a path is a folder with a ``config.yaml``."""
        return layout.is_run(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run.

        Raises:
            LitVizError: ``path`` is not a run.
        """
        if not cls.is_run(path):
            try:
                (Path(path) / CONFIG).stat()
                reason = "its config.yaml is not a file"
            except (FileNotFoundError, NotADirectoryError):
                reason = "it has no config.yaml" if Path(path).is_dir() else "there is no such folder"
            except OSError as error:  # such as a name that is too long
                reason = str(error.strerror)
            raise LitVizError(f"{path} is not a lit_viz run ({reason}): give the folder that a run was written to")
        return cls(path)

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False, method_files: Sequence[str] = ()) -> RunFolder:
        """Create a run folder and its parents.

        Args:
            path: a missing or empty folder, or with ``overwrite`` a run, whose files remain until :meth:`clear`.
            overwrite: whether an existing run may be replaced. Folders with other files are never deleted.
            method_files: patterns of the files that only some methods write.

        Raises:
            LitVizError: the folder is not empty, or cannot be created.
        """
        path = Path(path)
        layout.check_new(path, overwrite=overwrite, method_files=method_files)
        layout.create_folder(path)
        return cls(path)

    def clear(self, method_files: Sequence[str] = ()) -> None:
        """Delete the files of an existing run.

        Raises:
            LitVizError: the folder contains other files, or cannot be deleted.
        """
        if layout.is_empty(self.path):
            return
        with translate_write_errors(self.path):
            for entry in layout.entries_to_delete(self.path, method_files):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()

    def discard(self) -> None:
        """Delete configuration and queue of a run that has failed before its first step."""
        for name in (QUEUE, CONFIG):
            with suppress(OSError):
                (self.path / name).unlink(missing_ok=True)

    # -- reading

    @property
    def config(self) -> dict[str, Any]:
        """Content of ``config.yaml``: the resolved options and :attr:`recorded`; read at each access.

        Raises:
            LitVizError: the file is no YAML.
        """
        return read_yaml(self.path / CONFIG)

    @property
    def recorded(self) -> dict[str, Any]:
        """What the run recorded of itself: method, versions, network."""
        return self.config.get(RECORDED) or {}

    def queue(self) -> list[Task]:
        """Return the tasks of the run; none if it was killed before they were written.

        Raises:
            LitVizError: a line is no task.
        """
        try:
            tasks = [Task(**json.loads(line)) for line in complete_lines(self.path / QUEUE)]
            if [task.index for task in tasks] != list(range(len(tasks))):
                raise ValueError("lines are missing")
            return tasks
        except (ValueError, TypeError) as error:
            raise LitVizError(
                f"{self.path / QUEUE} is damaged ({first_line(error)}), so it isn't known what the run was to "
                "make: start it again with --overwrite, or in another folder"
            ) from error

    def records(self) -> list[Record]:
        """Return the records of finished tasks, in task order."""
        by_index: dict[int, Record] = {}
        for line in complete_lines(self.path / RESULTS):
            if (record := _parse_record(line)) is not None:
                by_index[record.index] = record
        return [by_index[index] for index in sorted(by_index)]

    def frames(self, key: str) -> list[tuple[int, Path]]:
        """Return the logged images of a task (``task.key``) as (iteration, PNG file), in order."""
        return sorted((iteration_of(file), file) for file in (self.path / "frames" / key).glob("iter_*.png"))

    def metric_names(self) -> list[str]:
        """Return the names of all logged metrics, sorted."""
        return sorted({name for _, _, name, _ in self._metric_rows()})

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
        return {key: {name: sorted(curve.items()) for name, curve in curves.items()} for key, curves in values.items()}

    def _metric_rows(self) -> Iterator[list[str]]:
        self.flush()
        rows = csv.reader(complete_lines(self.path / METRICS))
        yield from (row for row in rows if len(row) == 4 and row[1].isdecimal())

    def perturbed_images(self, key: str) -> list[PerturbedImage]:
        """Return the photographs of a universal perturbation (``task.key``) as files; none for other tasks."""
        lines = map(_parse_object, complete_lines(self.path / "photographs" / f"{key}.jsonl"))
        images = []
        for record in (PerturbedImageRecord.from_dict(line) for line in lines if _is_record(line)):
            file, original = (None if name is None else self.path / name for name in (record.file, record.original))
            images.append(PerturbedImage(record, file, original))
        return images

    def evidence(self) -> dict[str, Any]:
        """Return the content of ``evidence.json``; empty if it is missing."""
        path = self.path / EVIDENCE
        return (_parse_object(path.read_text(encoding="utf-8")) if path.exists() else None) or {}

    # -- writing

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``, marked as the configuration of a lit_viz run by its first line."""
        write_text(self.path / CONFIG, text if text.startswith(MARK) else MARK + text)

    def write_queue(self, tasks: Sequence[Task]) -> None:
        """Write the tasks; a resume reads them even if the photographs' folder has changed."""
        write_text(self.path / QUEUE, "".join(json_line(asdict(task)) for task in tasks))

    def write_source(self, task: Task, image: Tensor) -> str:
        """Write a photograph ``(C, H, W)`` in [0, 1] as the network saw it; return its relative path.

        An image that is not on the 8-bit lattice is also written as an array.
        """
        levels = image.detach().cpu().double() * 255
        if bool((levels - levels.round()).abs().max() > 1e-4):
            self._write_array(f"sources/{task.key}.npy", image)
        return self._write_png(f"sources/{task.key}.png", image)

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Write the frames of a snapshot, and buffer its metrics until :meth:`flush`."""
        key, iteration = snapshot.task.key, snapshot.iteration
        if snapshot.image is not None:
            self._write_png(f"frames/{key}/iter_{iteration:06d}.png", snapshot.image)
        for name, image in snapshot.extra_images.items():
            self._write_png(f"frames/{key}.{name}/iter_{iteration:06d}.png", image)
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerows((key, iteration, name, f"{float(value):.9g}") for name, value in snapshot.metrics.items())
        self._rows.append(text.getvalue())

    def add_result(self, result: Result) -> Record:
        """Write image and array of a finished task, then its record; return the record."""
        key, file, array = result.task.key, None, None
        if result.source is not None:
            self.write_source(result.task, result.source)
        if result.image is not None:
            file = self._write_png(f"images/{key}.png", result.image)
        if result.array is not None:
            array = self._write_array(f"arrays/{key}.npy", result.array)
        if result.perturbed_images:
            self._write_perturbed_images(key, result.perturbed_images)
        record = result.record.amend(file=file, array=array)
        append_bytes(self.path / RESULTS, json_line(record.to_dict()).encode(), sync=False)
        return record

    def flush(self) -> None:
        """Append the buffered metrics to ``metrics.csv``; after an error they remain buffered."""
        if not self._rows:
            return
        path, text = self.path / METRICS, "".join(self._rows)
        has_header = path.exists() and path.stat().st_size > 0
        append_bytes(path, (text if has_header else METRICS_HEADER + text).encode(), sync=False)
        self._rows.clear()

    def settle(self) -> None:
        """Flush metrics and file system, so that a checkpoint may refer to everything written so far."""
        self.flush()
        sync_filesystem(self.path)

    def finish(self) -> None:
        """Flush, and sort ``results.jsonl`` by task, keeping the last record of each."""
        self.flush()
        if (self.path / RESULTS).exists():
            self.amend(())

    def amend(self, records: Iterable[Record]) -> None:
        """Replace the records of finished tasks by these."""
        amended = {record.index: record for record in records}
        lines = (json_line(amended.get(record.index, record).to_dict()) for record in self.records())
        write_text(self.path / RESULTS, "".join(lines))

    def merge_evidence(self, evidence: Mapping[str, Any]) -> None:
        """Replace these parts of ``evidence.json``; the other parts remain."""
        write_text(self.path / EVIDENCE, json.dumps(plain({**self.evidence(), **evidence}), indent=2) + "\n")

    def trim(self, done: Collection[int], iterations: Mapping[int, int]) -> None:
        """Delete what was written after a checkpoint, because it will be computed again.

        Args:
            done: indices of the tasks that are finished in the checkpoint; all of their files remain.
            iterations: by task index, the iteration of the tasks in progress; earlier rows and frames remain.
        """
        self._rows.clear()
        done = frozenset(done)

        def is_kept(index: int, iteration: int) -> bool:
            return index in done or iteration < iterations.get(index, 0)

        with translate_write_errors(self.path):
            for folder in (self.path, self.path / "checkpoints"):
                remove_temporary_files(folder)
            # Lines are in order of time, so that those of the checkpoint come first.
            truncate_after(self.path / METRICS, lambda line: _is_kept_row(line, is_kept))
            truncate_after(
                self.path / RESULTS, lambda line: (record := _parse_record(line)) is not None and record.index in done
            )
            for file in (file for name in ("sources", "images", "arrays") for file in list_files(self.path / name)):
                if _is_unfinished(file.name, done):
                    file.unlink()
            for table in list_files(self.path / "photographs"):
                if _is_unfinished(table.name, done):
                    shutil.rmtree(table.with_suffix(""), ignore_errors=True)
                    table.unlink()
            for folder in list_folders(self.path / "frames"):
                if _is_unfinished(folder.name, done):
                    _delete_frames(folder, is_kept)

    def _write_perturbed_images(self, key: str, images: Sequence[PerturbedImage]) -> None:
        lines = []
        for image in images:
            name = f"photographs/{key}/{key_of(image.record.index, image.record.name)}"
            file = original = None
            if isinstance(image.image, Tensor) and isinstance(image.source, Tensor):
                file = self._write_png(f"{name}.png", image.image)
                original = self._write_png(f"{name}.original.png", image.source)
            lines.append(json_line(image.record.amend(file=file, original=original).to_dict()))
        write_text(self.path / "photographs" / f"{key}.jsonl", "".join(lines))

    def _write_png(self, relative: str, image: Tensor) -> str:
        write_bytes(self.path / relative, encode_png(image), sync=False)
        return relative

    def _write_array(self, relative: str, array: Tensor) -> str:
        content = io.BytesIO()  # NumPy raises no error if it writes a file on a full disk
        np.save(content, array.detach().cpu().float().numpy(), allow_pickle=False)
        write_bytes(self.path / relative, content.getvalue(), sync=False)
        return relative


def _parse_record(line: str) -> Record | None:
    """Return the record of a line of ``results.jsonl``; None if the line is damaged."""
    values = _parse_object(line)
    return Record.read(values) if _is_record(values) else None


def _is_record(values: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    return values is not None and isinstance(values.get("index"), int) and "name" in values


def _parse_object(text: str) -> dict[str, Any] | None:
    """Return a JSON object; None if the text is anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_kept_row(line: str, is_kept: Callable[[int, int], bool]) -> bool:
    if line == METRICS_HEADER:
        return True
    key, _, rest = line.partition(",")
    iteration = rest.partition(",")[0]
    return rest.count(",") >= 2 and iteration.isdecimal() and is_kept(index_of(key), int(iteration))


def _is_unfinished(name: str, done: Collection[int]) -> bool:
    """Return whether a file or folder belongs to a task that is not done."""
    return (index := index_of(name)) >= 0 and index not in done


def _delete_frames(folder: Path, is_kept: Callable[[int, int], bool]) -> None:
    for file in list_files(folder):
        if not is_kept(index_of(folder.name), iteration_of(file)):
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
