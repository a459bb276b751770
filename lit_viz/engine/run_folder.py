"""The run folder: the record of truth of a run.

It is appended to while the run goes on, one whole line or one whole file at a time, and costs the same at the last task
as at the first. Before every checkpoint it is settled: on the disk even after a power failure. Only rank 0 has one.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lit_viz.engine.tasks import Bearer, Observation, Result, Task, key_of
from lit_viz.errors import LitVizError
from lit_viz.files import (
    append_bytes,
    cut_tail,
    files_in,
    folders_in,
    json_line,
    replacing,
    settle,
    whole_lines,
    write_bytes,
    write_text,
)
from lit_viz.images.reading import encode_png

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
_METRICS_HEADER = "task,iteration,metric,value\n"


class RunFolder:
    """A run's folder; make one by :meth:`create` or :meth:`open`.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: list[str] = []

    @staticmethod
    def is_run(path: str | Path) -> bool:
        """Return whether ``path`` is a folder with a ``config.yaml``, that is a run that can be opened."""
        return (Path(path) / "config.yaml").is_file()

    @classmethod
    def create(cls, path: str | Path, overwrite: bool = False) -> RunFolder:
        """Make a new, empty run folder (and those above it).

        Args:
            path: a folder that is missing or empty, or with ``overwrite`` a run, whose files are deleted.
            overwrite: whether a run that is already there is replaced. Folders that are no run, and runs in which
                somebody has put files of their own, are never deleted.

        Raises:
            LitVizError: the folder exists and is not empty, or can't be made.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise LitVizError(f"{path} is a file: give a folder for the run by --out")
        if path.is_dir() and any(path.iterdir()):
            if not overwrite:
                raise LitVizError(_refusal(path))
            _delete_run(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LitVizError(
                f"the run folder {path} can't be made ({error.strerror}): give another by --out"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open a run that is there, to continue or to read it.

        Raises:
            LitVizError: ``path`` is not a run.
        """
        if not cls.is_run(path):
            why = "it has no config.yaml" if Path(path).is_dir() else "there is no such folder"
            raise LitVizError(f"{path} is not a lit_viz run ({why}): give the folder that a run was written to")
        return cls(path)

    # -- writing

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``; a comment line that marks the folder as a run is put before ``text``."""
        write_text(self.path / "config.yaml", text if text.startswith(_MARK) else _MARK + text)

    def write_queue(self, tasks: Sequence[Task]) -> None:
        """Write the tasks, so that a resume has the same ones, whatever became of the folder they were found in."""
        write_text(self.path / "queue.jsonl", "".join(json_line(asdict(task)) for task in tasks))

    def queue(self) -> list[Task]:
        """Return the tasks of the run; none where it was killed before they were written."""
        return [Task(**json.loads(line)) for line in whole_lines(self.path / "queue.jsonl")]

    def discard(self) -> None:
        """Take back a folder that has only configuration and queue; what else lies in it stays."""
        for name in ("queue.jsonl", "config.yaml"):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def write_source(self, task: Task, image: Tensor) -> str:
        """Write the photograph as the network saw it, ``(C, H, W)`` in [0, 1]; return the file's relative path.

        Beside the PNG, an array that was handed over off the 8-bit lattice is kept as it is.
        """
        levels = image.detach().cpu().double() * 255
        if bool((levels - levels.round()).abs().max() > 1e-4):
            self._write_array(f"sources/{task.key}.npy", image)
        return self._write_png(f"sources/{task.key}.png", image)

    def add_observation(self, observation: Observation) -> None:
        """Write the frame at once, and buffer the scalars until :meth:`flush`."""
        task, iteration = observation.task, observation.iteration
        if observation.image is not None:
            self._write_png(f"frames/{task.key}/iter_{iteration:06d}.png", observation.image)
        for name, picture in observation.besides.items():
            self._write_png(f"frames/{task.key}.{name}/iter_{iteration:06d}.png", picture)
        line = io.StringIO()
        rows = csv.writer(line, lineterminator="\n")
        rows.writerows((task.key, iteration, name, f"{float(v):.9g}") for name, v in observation.scalars.items())
        self._rows.append(line.getvalue())

    def add_result(self, result: Result) -> dict[str, Any]:
        """Write image, array and then the record of a finished task, to be settled; return the record."""
        task = result.task
        file = array = None
        if result.source is not None:
            self.write_source(task, result.source)
        if result.image is not None:
            file = self._write_png(f"images/{task.key}.png", result.image)
        if result.array is not None:
            array = self._write_array(f"arrays/{task.key}.npy", result.array)
        if result.bearers:
            self._write_bearers(task.key, result.bearers)
        record = result.complete(file, array)
        append_bytes(self.path / "results.jsonl", json_line(record).encode(), at_once=False)
        return record

    def flush(self) -> None:
        """Append the buffered scalars to ``metrics.csv``; on an error they stay buffered."""
        if not self._rows:
            return
        path = self.path / "metrics.csv"
        text = "".join(self._rows)
        begun = path.exists() and path.stat().st_size > 0
        append_bytes(path, (text if begun else _METRICS_HEADER + text).encode(), at_once=False)
        self._rows.clear()

    def settle(self) -> None:
        """Flush, and return when all that was written so far is on the disk: a checkpoint may now call it done."""
        self.flush()
        settle(self.path)

    def finish(self) -> None:
        """Flush, and put ``results.jsonl`` in task order, one record a task (the last one written holds)."""
        self.flush()
        path = self.path / "results.jsonl"
        if path.exists():
            write_text(path, "".join(json_line(record) for record in self.records()))

    def amend(self, values: Mapping[int, Mapping[str, Any]]) -> None:
        """Add to the records of finished tasks, by index, what was found out of them later."""
        records = [{**record, **values.get(record["index"], {})} for record in self.records()]
        write_text(self.path / "results.jsonl", "".join(map(json_line, records)))

    def merge_evidence(self, evidence: Mapping[str, Any]) -> None:
        """Put these parts into ``evidence.json``, in the place of what it held of them; its other parts stay."""
        write_text(self.path / "evidence.json", json.dumps({**self.evidence(), **evidence}, indent=2) + "\n")

    def evidence(self) -> dict[str, Any]:
        """Return what ``evidence.json`` holds; nothing where there is none."""
        path = self.path / "evidence.json"
        held = _parse_object(path.read_text(encoding="utf-8")) if path.exists() else None
        return held or {}

    def trim(self, done: Collection[int], iterations: Mapping[int, int]) -> None:
        """Go back to a checkpoint: drop what was written after it, which is computed again.

        Args:
            done: indices of the tasks that the checkpoint calls finished (or failed): everything of them is kept.
            iterations: for each task in progress, by index, the iteration it goes on with: earlier rows and frames are
                kept. Of all other tasks nothing is kept. Lines that a kill left broken are dropped.
        """
        done = frozenset(done)

        def keeps(index: int, iteration: int) -> bool:
            return index in done or iteration < iterations.get(index, 0)

        self._rows.clear()
        # Lines are in the order of time: all that the checkpoint has are before all that it has not.
        cut_tail(self.path / "metrics.csv", lambda line: _keeps_row(line, keeps))
        cut_tail(self.path / "results.jsonl", lambda line: _keeps_record(line, done))
        for file in (file for name in ("sources", "images", "arrays") for file in files_in(self.path / name)):
            if _is_of_another(file.name, done):
                file.unlink()
        for listed in files_in(self.path / "photographs"):
            if _is_of_another(listed.name, done):
                shutil.rmtree(listed.with_suffix(""), ignore_errors=True)
                listed.unlink()
        for folder in folders_in(self.path / "frames"):
            if _is_of_another(folder.name, done):
                for file in files_in(folder):
                    if not keeps(_index(folder.name), _iteration(file)):
                        file.unlink()
                if not any(folder.iterdir()):
                    folder.rmdir()

    # -- reading

    def records(self) -> list[dict[str, Any]]:
        """Return the records written so far, in task order; broken lines are passed over."""
        by_index: dict[int, dict[str, Any]] = {}
        for line in whole_lines(self.path / "results.jsonl"):
            record = _parse(line)
            if record is not None:
                by_index[record["index"]] = record
        return [by_index[index] for index in sorted(by_index)]

    def keyed_records(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (``task.key``, record) of the tasks, in task order."""
        return [(key_of(record["index"], record["name"]), record) for record in self.records()]

    def frames(self, key: str) -> list[tuple[int, Path]]:
        """Return the logged images of a task (``task.key``) as (iteration, PNG file), in order."""
        return sorted((_iteration(file), file) for file in (self.path / "frames" / key).glob("iter_*.png"))

    def curves(self, metric: str) -> dict[str, list[tuple[int, float]]]:
        """Return one metric of all tasks: by ``task.key`` the (iteration, value) in order of iteration."""
        by_task: dict[str, dict[int, float]] = {}
        for key, iteration, name, value in self._scalars():
            if name == metric:
                by_task.setdefault(key, {})[int(iteration)] = float(value)
        return {key: sorted(by_task[key].items()) for key in sorted(by_task, key=_index)}

    def metrics(self, keys: Collection[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """Return all metrics of some tasks: by ``task.key`` and name the (iteration, value) in order of iteration."""
        wanted: dict[str, dict[str, dict[int, float]]] = {key: {} for key in keys}
        for key, iteration, name, value in self._scalars():
            if key in wanted:
                wanted[key].setdefault(name, {})[int(iteration)] = float(value)
        return {key: {name: sorted(of[name].items()) for name in of} for key, of in wanted.items()}

    def _scalars(self) -> Iterator[list[str]]:
        """Yield the rows of ``metrics.csv``; broken ones are passed over."""
        self.flush()
        rows = csv.reader(whole_lines(self.path / "metrics.csv"))
        yield from (row for row in rows if len(row) == 4 and row[1].isdecimal())

    def bearers(self, key: str) -> list[Bearer]:
        """Return the photographs that bear what a task (``task.key``) trained for all, as files; none for other tasks.

        Their records are the lines of ``photographs/<key>.jsonl``.
        """
        listed = self.path / "photographs" / f"{key}.jsonl"
        records = [record for line in whole_lines(listed) if (record := _parse(line)) is not None]
        files = [(self.path / r["file"], self.path / r["original"]) if r["file"] else (None, None) for r in records]
        return [Bearer(record, *these) for record, these in zip(records, files, strict=True)]

    def _write_bearers(self, key: str, bearers: Sequence[Bearer]) -> None:
        records = []
        for bearer in bearers:
            name = f"photographs/{key}/{key_of(bearer.record['index'], bearer.record['name'])}"
            file = original = None
            if isinstance(bearer.image, Tensor) and isinstance(bearer.source, Tensor):
                file = self._write_png(f"{name}.png", bearer.image)
                original = self._write_png(f"{name}.original.png", bearer.source)
            records.append({**bearer.record, "file": file, "original": original})
        write_text(self.path / "photographs" / f"{key}.jsonl", "".join(map(json_line, records)))

    def _write_png(self, relative: str, image: Tensor) -> str:
        write_bytes(self.path / relative, encode_png(image), at_once=False)
        return relative

    def _write_array(self, relative: str, array: Tensor) -> str:
        with replacing(self.path / relative, at_once=False) as temporary:
            np.save(temporary, array.detach().cpu().float().numpy(), allow_pickle=False)
        return relative


# -- an existing folder


def _refusal(path: Path) -> str:
    if RunFolder.is_run(path):
        return f"{path} already holds a run: --resume continues it, --overwrite replaces it, or choose another --out"
    return f"{path} is not empty and not a run, so neither --overwrite nor --resume touches it: choose another --out"


def _delete_run(path: Path) -> None:
    config = path / "config.yaml"
    if not config.is_file() or not config.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
        raise LitVizError(f"{path} is not a lit_viz run, so --overwrite doesn't delete it: choose another --out")
    order = {entry: _place(entry.name) for entry in path.iterdir()}
    foreign = sorted(entry.name for entry, place in order.items() if place is None)
    if foreign:
        names = ", ".join(foreign[:3])
        raise LitVizError(f"{path} also holds {names}, which is not of the run: move it away before --overwrite")
    for entry in sorted(order, key=lambda e: order[e] or 0):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _place(name: str) -> int | None:
    return next((i for i, pattern in enumerate(_LAYOUT) if fnmatch(name, pattern)), None)


# -- lines and files of a task


def _keeps_row(line: str, keeps: Callable[[int, int], bool]) -> bool:
    if line == _METRICS_HEADER:
        return True
    key, _, rest = line.partition(",")
    iteration = rest.partition(",")[0]
    return rest.count(",") >= 2 and iteration.isdecimal() and keeps(_index(key), int(iteration))


def _parse(line: str) -> dict[str, Any] | None:
    """Return the record of a line of ``results.jsonl``, or None where a kill or a hand broke it."""
    record = _parse_object(line)
    return record if record is not None and isinstance(record.get("index"), int) else None


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        held = json.loads(text)
    except ValueError:
        return None
    return held if isinstance(held, dict) else None


def _keeps_record(line: str, done: Collection[int]) -> bool:
    record = _parse(line)
    return record is not None and record["index"] in done


def _index(key: str) -> int:
    """Return the task's index, the number before the first underscore; -1, which no task has, for foreign names."""
    number = key.partition("_")[0]
    return int(number) if number.isdecimal() else -1


def _is_of_another(name: str, done: Collection[int]) -> bool:
    """Return whether a file or folder is called by a task that is none of these."""
    return (index := _index(name)) >= 0 and index not in done


def _iteration(frame: Path) -> int:
    number = frame.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1
