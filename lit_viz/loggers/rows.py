"""Rows of loggers: keys, captions and images of the tasks over the iterations."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from operator import itemgetter, methodcaller
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeVar

from lit_viz.engine.module import ImageTraining
from lit_viz.engine.snapshots import Snapshot
from lit_viz.evidence.verifier import verifier_of
from lit_viz.figures.layout import pixels
from lit_viz.figures.sheet import tile
from lit_viz.loggers.base import CaptionedImage, ImageAdapter, LogRow, RunResults
from lit_viz.presentations import Presentation, presentation_of
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import RECORDED
from lit_viz.runs.results import TaskRows, curves_of
from lit_viz.runs.task_files import top5_of
from lit_viz.types import Curve, Picture, Record, Task, slug
from lit_viz.utils.limits import MOST_IN_GRIDS, MOST_SUMMARIZED

_GRID = 16  # tasks per grid
_GRID_SIDE = 2048  # pixels

T = TypeVar("T")


def names_of(tasks: Sequence[Task]) -> dict[int, str]:
    """Return the name of each task in keys, by index: its own if names are unique, so that runs can be compared."""
    names = {task.index: slug(task.name) for task in tasks}
    if len(set(names.values())) == len(names):
        return names
    return {task.index: task.key for task in tasks}


def caption(snapshot: Snapshot, presentation: Presentation) -> str:
    """Return ``tarantula - iteration 50 - p = 0.93 (rank 1)`` and, on a second line, the top five classes."""
    metrics = snapshot.metrics
    if snapshot.file_metrics is not None:
        metrics = snapshot.file_metrics
    name = presentation.task_name(snapshot.task)
    text = " - ".join([name, f"iteration {snapshot.iteration}", *presentation.metric_texts(metrics)])
    if snapshot.top5:
        classes = [f"{name} {probability:.2f}" for name, probability in snapshot.top5]
        text += "\n" + ", ".join(classes)
    return text


def log_snapshot(
    adapter: ImageAdapter, name: str, snapshot: Snapshot, images: Mapping[str, Picture], caption: str
) -> None:
    """Log the metrics of a snapshot as ``<metric>/<name>``, and its images as ``<kind>/<name>``.

    Args:
        adapter: adapter to a logger.
        name: name of the task in keys.
        snapshot: the snapshot; its own images are not read.
        images: images by kind: ``image``, and extra ones.
        caption: caption of the image; extra images have its first line.
    """
    metrics = {f"{metric}/{name}": value for metric, value in snapshot.metrics.items()}
    captioned: dict[str, CaptionedImage] = {}
    for kind, image in images.items():
        text = caption
        if kind != "image":
            text = f"{kind}: {caption.splitlines()[0]}"
        captioned[f"{kind}/{name}"] = (pixels(image), text)
    adapter.log(metrics, captioned, snapshot.iteration)


class FolderRows:
    """The rows of a run folder, in an order that does not change when others follow.

    Up to ``separate`` tasks have their own keys, ``image/<name>``, ``probability/<name>`` and so on. With more tasks,
    16 consecutive tasks share ``image/grid/0000-0015`` and the means of their metrics. A grid is a row when all of its
    tasks, and all tasks before, are finished; the first 256 tasks have grids.

    Args:
        folder: run folder with a queue.
        method: method of the run, for the texts of captions and the numbers of the summary.
        separate: maximum number of tasks with their own keys.
    """

    def __init__(self, folder: FolderStorage, method: type[ImageTraining], separate: int = 32) -> None:
        self.folder = folder
        self.presentation, self.verifier = presentation_of(method), verifier_of(method)
        self.tasks = self.folder.queue()
        self.is_separate = len(self.tasks) <= separate

    def rows(self, finished: Collection[int]) -> list[LogRow]:
        """Return the rows of the snapshots in the folder; ``finished`` are the indices of finished tasks."""
        if not self.folder.keeps_snapshots:
            return []
        if self.is_separate:
            return list(self._separate_rows())
        return list(self._grid_rows(finished))

    def all(self) -> list[LogRow]:
        """Return the rows of a complete run: snapshots, and with many tasks means over all of them."""
        rows = self.rows(self.tasks.indices)
        if self.folder.keeps_snapshots and not self.is_separate:
            rows += self._mean_rows()
        return rows

    def hyperparameters(self) -> dict[str, Any]:
        """Return the configuration of the run with the keys that ``hparams`` of its module has, and the arguments of
        its tasks, of the run and of the network."""
        config = self.folder.config
        sections: dict[str, dict[str, Any]] = {}
        for name in ("network", "module", "tasks", "run"):
            sections[name] = dict(config.pop(name, None) or {})
        network = sections["network"]
        return {
            **config,
            **sections["run"],
            **(sections["tasks"].get("init_args") or {}),
            **(sections["module"].get("init_args") or {}),
            "module": (config.get(RECORDED) or {}).get("module"),
            "network": network.pop("name", None),
            "network_options": network,
        }

    def results(self) -> RunResults:
        """Return the results of a complete run."""
        records: Sequence[Record] = self.folder.records()
        if len(records) <= MOST_SUMMARIZED:  # stored records are read at each pass
            records = list(records)
        evidence = self.folder.evidence(self.verifier.evidence_class)
        summary, last = _summary(records)
        summary.update(self.verifier.scalars(records, evidence))
        items = self.presentation.evidence_items(evidence, records)
        return RunResults(self.folder, self.hyperparameters(), items, summary, last)

    def _separate_rows(self) -> Iterator[LogRow]:
        """Yield a row per snapshot."""
        tasks = {task.key: task for task in self.tasks}
        records = {record.key: record for record in self.folder.records()}
        names = names_of(self.tasks)
        for key, iteration, metrics in snapshots_of(self.folder.metrics()):
            if key in tasks:
                snapshot = Snapshot(tasks[key], iteration, metrics)
                yield partial(self._log_snapshot, names[snapshot.task.index], snapshot, records.get(key))

    def _log_snapshot(self, name: str, snapshot: Snapshot, record: Record | None, adapter: ImageAdapter) -> None:
        images: dict[str, Path] = {}
        for kind, frames in self.folder.frames(snapshot.task.key).items():
            file = dict(frames).get(snapshot.iteration)
            if file is not None:
                images[kind] = file
        if record is not None and record.iterations == snapshot.iteration:
            snapshot = replace(snapshot, file_metrics=_with_file_metrics(snapshot.metrics, record))
        if "image" in images:
            snapshot = replace(snapshot, top5=top5_of(images["image"]))
        log_snapshot(adapter, name, snapshot, images, caption(snapshot, self.presentation))

    def _grid_rows(self, finished: Collection[int]) -> Iterator[LogRow]:
        """Yield the rows of the grids up to the first one with unfinished tasks."""
        for first in range(0, min(len(self.tasks), MOST_IN_GRIDS), _GRID):
            tasks = self.tasks[first : first + _GRID]
            if not all(task.index in finished for task in tasks):
                return
            grid = _TaskGrid(self.folder, self.presentation, tasks)
            for iteration in grid.iterations():
                yield partial(grid.log, iteration)

    def _mean_rows(self) -> Iterator[LogRow]:
        """Yield a row per iteration with the means over all tasks."""
        means: dict[int, dict[str, float]] = defaultdict(dict)
        # One at a time, because all curves of many tasks need much memory.
        for metric in metric_names(self.folder.metrics()):
            curves = task_curves(self.folder.metrics(), metric).values()
            for iteration in _iterations(curves):
                mean = _mean(curves, iteration)
                if mean is not None:
                    means[iteration][f"{metric}/mean"] = mean
        for iteration in sorted(means):
            yield methodcaller("log", means[iteration], {}, iteration)


class _TaskGrid:
    """Rows of consecutive tasks that share an image and the means of their metrics.

    A task without a frame at an iteration shows its latest frame. Curves and records are read when the first row is
    logged, once for all iterations.
    """

    def __init__(self, folder: FolderStorage, presentation: Presentation, tasks: Sequence[Task]) -> None:
        self._folder, self._presentation, self._tasks = folder, presentation, tasks
        self._name = f"{tasks[0].index:04d}-{tasks[-1].index:04d}"
        self._frames: list[tuple[Task, Sequence[tuple[int, Path]]]] = []
        for task in tasks:
            frames = folder.frames(task.key).get("image")
            if frames:
                self._frames.append((task, frames))

    def iterations(self) -> list[int]:
        """Return the iterations at which a task has a frame."""
        return _iterations(frames for _, frames in self._frames)

    def log(self, iteration: int, adapter: ImageAdapter) -> None:
        """Log the row of an iteration."""
        images, lines = [], [f"iteration {iteration}"]
        for task, frames in self._frames:
            images.append(pixels(_latest(frames, iteration)))
            texts = self._presentation.metric_texts(self._metrics(task, iteration, frames[-1][0]))
            lines.append(" - ".join([self._presentation.task_name(task), *texts]))
        image = tile(images, side=_GRID_SIDE)
        adapter.log(self._means(iteration), {f"image/grid/{self._name}": (image, "\n".join(lines))}, iteration)

    def _metrics(self, task: Task, iteration: int, last: int) -> Mapping[str, float]:
        curves = self._curves[task.key]
        metrics = {metric: _latest(curve, iteration) for metric, curve in curves.items()}
        if iteration < last or task.index not in self._records:
            return metrics
        return _with_file_metrics(metrics, self._records[task.index])

    def _means(self, iteration: int) -> dict[str, float]:
        by_metric: dict[str, list[Curve]] = defaultdict(list)
        for curves in self._curves.values():
            for metric, curve in curves.items():
                by_metric[metric].append(curve)
        means: dict[str, float] = {}
        for metric in sorted(by_metric):
            mean = _mean(by_metric[metric], iteration)
            if mean is not None:
                means[f"{metric}/{self._name}"] = mean
        return means

    @cached_property
    def _curves(self) -> Mapping[str, Mapping[str, Curve]]:
        return {task.key: curves_of(self._folder.contents(task.index).rows) for task in self._tasks}

    @cached_property
    def _records(self) -> Mapping[int, Record]:
        """The records of these tasks; those of all tasks, once per grid, need much memory."""
        indices = {task.index for task in self._tasks}
        records = self._folder.records()
        return {index: records.of_index(index) for index in indices & self._folder.segments.lines.keys()}


def _with_file_metrics(metrics: Mapping[str, float], record: Record) -> Mapping[str, float]:
    """Return the metrics of the last image and of its file, which may differ."""
    of_file = dict(metrics)
    for name in metrics:
        value = record.metrics.get(name)
        if isinstance(value, float):
            of_file[name] = value
    return of_file


def _iterations(curves: Iterable[Sequence[tuple[int, object]]]) -> list[int]:
    """Return the iterations of any of the curves, sorted."""
    iterations: set[int] = set()
    for curve in curves:
        iterations.update(iteration for iteration, _ in curve)
    return sorted(iterations)


def _mean(curves: Iterable[Curve], iteration: int) -> float | None:
    """Return the mean of the latest values, without infinite and missing values; None if there is no other."""
    latest = [_latest(curve, iteration) for curve in curves]
    finite = list(filter(math.isfinite, latest))
    if not finite:
        return None
    return fmean(finite)


def _latest(values: Sequence[tuple[int, T]], iteration: int) -> T:
    """Return the last value up to an iteration, or the first value if there is none."""
    position = bisect_right(values, iteration, key=itemgetter(0)) - 1
    return values[max(position, 0)][1]


def _summary(records: Iterable[Record]) -> tuple[dict[str, float], int]:
    """Return the number of tasks by status, the share of true flags, and the median of the numbers of done tasks; and
    the last iteration."""
    last = 0
    counts: dict[str, float] = defaultdict(int)
    flags: dict[str, list[bool]] = defaultdict(list)
    numbers: dict[str, list[float]] = defaultdict(list)
    for record in records:
        last = max(last, record.iterations or 0)
        counts[f"count/{record.status}"] += 1
        if record.status != "done":
            continue
        for key, value in record.flat().items():
            if key in record.settings:
                continue
            if isinstance(value, bool):
                flags[key].append(value)
            elif isinstance(value, float) and math.isfinite(value):
                numbers[key].append(value)
    summary = dict(counts)
    for flag, of_tasks in flags.items():
        summary[f"share/{flag}"] = fmean(of_tasks)
    for number, values in numbers.items():
        summary[f"median/{number}"] = median(values)
    return summary, last


def metric_names(tasks: TaskRows) -> list[str]:
    """Return the names of all metrics, sorted."""
    names: set[str] = set()
    for _, rows in tasks:
        for _, _, values in rows:
            names.update(values)
    return sorted(names)


def task_curves(tasks: TaskRows, metric: str) -> dict[str, Curve]:
    """Return a metric of all tasks: by ``task.key``, (iteration, value) in order of iteration."""
    curves = {key: curves_of(rows).get(metric, []) for key, rows in tasks}
    return {key: curve for key, curve in curves.items() if curve}


def snapshots_of(tasks: TaskRows) -> list[tuple[str, int, dict[str, float]]]:
    """Return ``task.key``, iteration and metrics of each snapshot, in the order in which they were logged."""
    snapshots: list[tuple[int, str, int, dict[str, float]]] = []
    for key, rows in tasks:
        for number, iteration, values in rows:
            metrics = {name: float(value) for name, value in values.items()}
            snapshots.append((number, key, iteration, metrics))
    snapshots.sort(key=itemgetter(0))
    return [snapshot[1:] for snapshot in snapshots]
