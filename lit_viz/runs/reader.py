"""What a run folder tells: the tasks, records, scalars and frames that were written so far."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from lit_viz.errors import LitVizError, first_line
from lit_viz.types import PerturbedImage, PerturbedImageRecord, Record, Task
from lit_viz.utils.files import complete_lines, read_yaml

#: Of a config.yaml, what the run wrote of itself: its method, versions and network; not an option.
RECORDED = "recorded"
METRICS_HEADER = "task,iteration,metric,value\n"

Self = TypeVar("Self", bound="RunReader")


class RunReader:
    """Reads a run's folder; lines that a kill left broken are passed over.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @staticmethod
    def is_run(path: str | Path) -> bool:
        """Return whether ``path`` is a folder with a ``config.yaml``, that is a run that can be opened."""
        try:
            return (Path(path) / "config.yaml").is_file()
        except OSError:  # a name that is too long, a folder that may not be looked into
            return False

    @classmethod
    def open(cls: type[Self], path: str | Path) -> Self:
        """Open a run that is there, to continue or to read it.

        Raises:
            LitVizError: ``path`` is not a run.
        """
        if not cls.is_run(path):
            try:
                why = "it has no config.yaml" if Path(path).is_dir() else "there is no such folder"
                (Path(path) / "config.yaml").stat()
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                why = str(error.strerror)
            raise LitVizError(f"{path} is not a lit_viz run ({why}): give the folder that a run was written to")
        return cls(path)

    @property
    def config(self) -> dict[str, Any]:
        """What ``config.yaml`` holds: the resolved options, and :attr:`recorded` beside them; read anew each time.

        Raises:
            LitVizError: it is no YAML.
        """
        return read_yaml(self.path / "config.yaml")

    @property
    def recorded(self) -> dict[str, Any]:
        """What the run wrote of itself; nothing where it was killed before."""
        return self.config.get(RECORDED) or {}

    def queue(self) -> list[Task]:
        """Return the tasks of the run; none where it was killed before they were written.

        Raises:
            LitVizError: a line is no task.
        """
        try:
            tasks = [Task(**json.loads(line)) for line in complete_lines(self.path / "queue.jsonl")]
            if [task.index for task in tasks] != list(range(len(tasks))):
                raise ValueError("lines are missing")
            return tasks
        except (ValueError, TypeError) as error:
            raise LitVizError(
                f"{self.path / 'queue.jsonl'} is damaged ({first_line(error)}), so it isn't known what the run was to "
                "make: start it again with --overwrite, or in another folder"
            ) from error

    def records(self) -> list[Record]:
        """Return the records written so far, in task order; broken lines are passed over."""
        by_index: dict[int, Record] = {}
        for line in complete_lines(self.path / "results.jsonl"):
            record = parsed_record(line)
            if record is not None:
                by_index[record.index] = record
        return [by_index[index] for index in sorted(by_index)]

    def keyed_records(self) -> list[tuple[str, Record]]:
        """Return (``task.key``, record) of the tasks, in task order."""
        return [(record.key, record) for record in self.records()]

    def frames(self, key: str) -> list[tuple[int, Path]]:
        """Return the logged images of a task (``task.key``) as (iteration, PNG file), in order."""
        return sorted((iteration_of(file), file) for file in (self.path / "frames" / key).glob("iter_*.png"))

    def metric_names(self) -> list[str]:
        """Return what was logged of any task, in alphabetical order."""
        return sorted({name for _, _, name, _ in self._scalars()})

    def curves(self, metric: str) -> dict[str, list[tuple[int, float]]]:
        """Return one metric of all tasks: by ``task.key`` the (iteration, value) in order of iteration."""
        by_task: dict[str, dict[int, float]] = {}
        for key, iteration, name, value in self._scalars():
            if name == metric:
                by_task.setdefault(key, {})[int(iteration)] = float(value)
        return {key: sorted(by_task[key].items()) for key in sorted(by_task, key=index_of)}

    def metrics(self, keys: Collection[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """Return all metrics of some tasks: by ``task.key`` and name the (iteration, value) in order of iteration."""
        wanted: dict[str, dict[str, dict[int, float]]] = {key: {} for key in keys}
        for key, iteration, name, value in self._scalars():
            if key in wanted:
                wanted[key].setdefault(name, {})[int(iteration)] = float(value)
        return {key: {name: sorted(of[name].items()) for name in of} for key, of in wanted.items()}

    def _scalars(self) -> Iterator[list[str]]:
        """Yield the rows of ``metrics.csv``; broken ones are passed over."""
        rows = csv.reader(complete_lines(self.path / "metrics.csv"))
        yield from (row for row in rows if len(row) == 4 and row[1].isdecimal())

    def perturbed_images(self, key: str) -> list[PerturbedImage]:
        """Return the photographs that bear what a task (``task.key``) trained for all, as files; none for other tasks.

        Their records are the lines of ``photographs/<key>.jsonl``.
        """
        table = self.path / "photographs" / f"{key}.jsonl"
        lines = (parsed_object(line) for line in complete_lines(table))
        records = [PerturbedImageRecord.from_dict(line) for line in lines if _is_record(line)]
        return [
            PerturbedImage(
                record, *(None if file is None else self.path / file for file in (record.file, record.original))
            )
            for record in records
        ]

    def evidence(self) -> dict[str, Any]:
        """Return what ``evidence.json`` holds; nothing where there is none."""
        path = self.path / "evidence.json"
        held = parsed_object(path.read_text(encoding="utf-8")) if path.exists() else None
        return held or {}


def parsed_record(line: str) -> Record | None:
    """Return the record of a line of ``results.jsonl``, or None if the line is damaged."""
    values = parsed_object(line)
    return Record.read(values) if _is_record(values) else None


def _is_record(values: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    return values is not None and isinstance(values.get("index"), int) and "name" in values


def parsed_object(text: str) -> dict[str, Any] | None:
    """Return a JSON object, or None where the text is broken or no object."""
    try:
        held = json.loads(text)
    except ValueError:
        return None
    return held if isinstance(held, dict) else None


def index_of(key: str) -> int:
    """Return the task's index, the number before the first underscore; -1, which no task has, for foreign names."""
    number = key.partition("_")[0]
    return int(number) if number.isdecimal() else -1


def iteration_of(frame: Path) -> int:
    """Return the iteration that a frame's file name ends in; -1 for foreign names."""
    number = frame.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1
