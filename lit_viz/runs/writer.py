"""The run folder: the record of truth of a run.

It is appended to while the run goes on, one whole line or one whole file at a time, and costs the same at the last task
as at the first. Before every checkpoint it is settled: on the disk even after a power failure. Only rank 0 writes it.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.runs.lock import LOCK, is_empty, made_folder
from lit_viz.runs.reader import METRICS_HEADER, RunReader
from lit_viz.runs.rewind import rewind
from lit_viz.types import PerturbedImage, Record, Result, Snapshot, Task, key_of
from lit_viz.utils.files import (
    append_bytes,
    json_line,
    plain,
    remove_temporary_files,
    sync_filesystem,
    translate_write_errors,
    write_bytes,
    write_text,
)

# The first line of every config.yaml written here. Other tools write a config.yaml beside checkpoints/ and metrics.csv
# too (LightningCLI does): --overwrite deletes only what carries this line.
_MARK = "# lit_viz run\n"

# What a run folder consists of; --overwrite deletes nothing else.
_LAYOUT = (
    "queue.jsonl",
    "metrics.csv",
    "results.jsonl",
    "sources",
    "images",
    "arrays",
    "frames",
    "photographs",
    "figure.*",
    "evolution.*",
    "evidence.*",
    "explained.*",
    "report.html",
    "masks",
    "localization.*",
    "checkpoints",
    "wandb",
    "config.yaml",  # last: while it is there the rest is known to be a run
)


class RunFolder(RunReader):
    """A run's folder; make one by :meth:`create` or :meth:`open`.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._rows: list[str] = []

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False) -> RunFolder:
        """Make a new, empty run folder (and those above it).

        Args:
            path: a folder that is missing or empty, or with ``overwrite`` a run, whose files stay until :meth:`clear`.
            overwrite: whether a run that is already there may be replaced. Folders that are no run, and runs in which
                somebody has put files of their own, are never deleted.

        Raises:
            LitVizError: the folder exists and is not empty, or can't be made.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise LitVizError(f"{path} is a file: give a folder for the run by --out")
        with translate_write_errors(path):
            taken = path.is_dir() and not is_empty(path)
        if taken and not overwrite:
            raise LitVizError(_refusal(path))
        if taken:
            _in_order(path)
        made_folder(path)
        return cls(path)

    def clear(self) -> None:
        """Delete the run that is there, if there is one.

        Raises:
            LitVizError: somebody has put files of their own into it, or it can't be deleted.
        """
        if is_empty(self.path):
            return
        with translate_write_errors(self.path):
            for entry in _in_order(self.path):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()

    # -- writing

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``; a comment line that marks the folder as a run is put before ``text``."""
        write_text(self.path / "config.yaml", text if text.startswith(_MARK) else _MARK + text)

    def write_queue(self, tasks: Sequence[Task]) -> None:
        """Write the tasks, so that a resume has the same ones, whatever became of the folder they were found in."""
        write_text(self.path / "queue.jsonl", "".join(json_line(asdict(task)) for task in tasks))

    def discard(self) -> None:
        """Take back configuration and queue of a run of which nothing came."""
        for name in ("queue.jsonl", "config.yaml"):
            with suppress(OSError):
                (self.path / name).unlink(missing_ok=True)

    def write_source(self, task: Task, image: Tensor) -> str:
        """Write the photograph as the network saw it, ``(C, H, W)`` in [0, 1]; return the file's relative path.

        Beside the PNG, an array that was handed over off the 8-bit lattice is kept as it is.
        """
        levels = image.detach().cpu().double() * 255
        if bool((levels - levels.round()).abs().max() > 1e-4):
            self._write_array(f"sources/{task.key}.npy", image)
        return self._write_png(f"sources/{task.key}.png", image)

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Write the frame at once, and buffer the scalars until :meth:`flush`."""
        task, iteration = snapshot.task, snapshot.iteration
        if snapshot.image is not None:
            self._write_png(f"frames/{task.key}/iter_{iteration:06d}.png", snapshot.image)
        for name, picture in snapshot.extra_images.items():
            self._write_png(f"frames/{task.key}.{name}/iter_{iteration:06d}.png", picture)
        line = io.StringIO()
        rows = csv.writer(line, lineterminator="\n")
        rows.writerows((task.key, iteration, name, f"{float(v):.9g}") for name, v in snapshot.metrics.items())
        self._rows.append(line.getvalue())

    def add_result(self, result: Result) -> Record:
        """Write image, array and then the record of a finished task, to be settled; return the record."""
        task = result.task
        file = array = None
        if result.source is not None:
            self.write_source(task, result.source)
        if result.image is not None:
            file = self._write_png(f"images/{task.key}.png", result.image)
        if result.array is not None:
            array = self._write_array(f"arrays/{task.key}.npy", result.array)
        if result.perturbed_images:
            self._write_bearers(task.key, result.perturbed_images)
        record = result.record.amend(file=file, array=array)
        append_bytes(self.path / "results.jsonl", json_line(record.to_dict()).encode(), sync=False)
        return record

    def flush(self) -> None:
        """Append the buffered scalars to ``metrics.csv``; on an error they stay buffered."""
        if not self._rows:
            return
        path = self.path / "metrics.csv"
        text = "".join(self._rows)
        begun = path.exists() and path.stat().st_size > 0
        append_bytes(path, (text if begun else METRICS_HEADER + text).encode(), sync=False)
        self._rows.clear()

    def settle(self) -> None:
        """Flush, and return when all that was written so far is on the disk: a checkpoint may now call it done."""
        self.flush()
        sync_filesystem(self.path)

    def finish(self) -> None:
        """Flush, and put ``results.jsonl`` in task order, one record a task (the last one written holds)."""
        self.flush()
        if (self.path / "results.jsonl").exists():
            self.amend(())

    def amend(self, records: Iterable[Record]) -> None:
        """Replace the records of these finished tasks."""
        amended = {record.index: record for record in records}
        records = [amended.get(record.index, record) for record in self.records()]
        write_text(self.path / "results.jsonl", "".join(json_line(record.to_dict()) for record in records))

    def merge_evidence(self, evidence: Mapping[str, Any]) -> None:
        """Put these parts into ``evidence.json``, in the place of what it held of them; its other parts stay."""
        write_text(self.path / "evidence.json", json.dumps(plain({**self.evidence(), **evidence}), indent=2) + "\n")

    def trim(self, done: Collection[int], iterations: Mapping[int, int]) -> None:
        """Go back to a checkpoint (see :func:`~lit_viz.runs.rewind.rewind`)."""
        self._rows.clear()
        with translate_write_errors(self.path):
            rewind(self.path, done, iterations)

    def _scalars(self) -> Iterator[list[str]]:
        self.flush()
        return super()._scalars()

    def _write_bearers(self, key: str, perturbed_images: Sequence[PerturbedImage]) -> None:
        records = []
        for perturbed_image in perturbed_images:
            name = f"photographs/{key}/{key_of(perturbed_image.record.index, perturbed_image.record.name)}"
            file = original = None
            if isinstance(perturbed_image.image, Tensor) and isinstance(perturbed_image.source, Tensor):
                file = self._write_png(f"{name}.png", perturbed_image.image)
                original = self._write_png(f"{name}.original.png", perturbed_image.source)
            records.append(perturbed_image.record.amend(file=file, original=original))
        lines = "".join(json_line(record.to_dict()) for record in records)
        write_text(self.path / "photographs" / f"{key}.jsonl", lines)

    def _write_png(self, relative: str, image: Tensor) -> str:
        write_bytes(self.path / relative, encode_png(image), sync=False)
        return relative

    def _write_array(self, relative: str, array: Tensor) -> str:
        content = io.BytesIO()  # in a file, NumPy doesn't say that the disk is full
        np.save(content, array.detach().cpu().float().numpy(), allow_pickle=False)
        write_bytes(self.path / relative, content.getvalue(), sync=False)
        return relative


# -- an existing folder


def _refusal(path: Path) -> str:
    if RunFolder.is_run(path):
        return f"{path} already holds a run: --resume continues it, --overwrite replaces it, or choose another --out"
    return f"{path} is not empty and not a run, so neither --overwrite nor --resume touches it: choose another --out"


def _in_order(path: Path) -> list[Path]:
    """Return what a run's folder holds, in the order in which it is deleted; leftovers of a kill are gone already."""
    config = path / "config.yaml"
    if not config.is_file() or not config.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
        raise LitVizError(f"{path} is not a lit_viz run, so --overwrite doesn't delete it: choose another --out")
    remove_temporary_files(path)
    order = {entry: _place(entry.name) for entry in path.iterdir() if entry.name != LOCK}
    foreign = sorted(entry.name for entry, place in order.items() if place is None)
    if foreign:
        names = ", ".join(foreign[:3])
        raise LitVizError(f"{path} also holds {names}, which is not of the run: move it away before --overwrite")
    return sorted(order, key=lambda e: order[e] or 0)


def _place(name: str) -> int | None:
    return next((i for i, pattern in enumerate(_LAYOUT) if fnmatch(name, pattern)), None)
