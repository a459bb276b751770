"""Rows of loggers: keys, captions and images of the tasks over the iterations."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from operator import itemgetter, methodcaller
from statistics import fmean, median
from typing import TypeVar

from lit_viz.figures.layout import pixels
from lit_viz.figures.sheet import tile
from lit_viz.loggers.base import ImageAdapter, LogRow, RunResults
from lit_viz.presentations import Presentation
from lit_viz.runs.folder import RunFolder, top5_of
from lit_viz.types import Curve, Picture, Record, Snapshot, Task, slug

_GRID = 16  # tasks per grid
_MAX_IN_GRIDS = 256  # tasks; more grids make the page of a logger unusable

T = TypeVar("T")


def names_of(tasks: Sequence[Task]) -> list[str]:
    """Return the name of each task in keys, by index: its own if names are unique, so that runs can be compared."""
    names = [slug(task.name) for task in tasks]
    return names if len(set(names)) == len(names) else [task.key for task in tasks]


def caption(snapshot: Snapshot, presentation: Presentation) -> str:
    """Return ``tarantula - iteration 50 - p = 0.93 (rank 1)`` and, on a second line, the top five classes."""
    metrics = snapshot.metrics if snapshot.file_metrics is None else snapshot.file_metrics
    texts = presentation.metric_texts(metrics)
    headline = " - ".join([presentation.task_name(snapshot.task), f"iteration {snapshot.iteration}", *texts])
    top5 = ", ".join(f"{name} {probability:.2f}" for name, probability in snapshot.top5)
    return headline + (f"\n{top5}" if top5 else "")


def log_snapshot(
    adapter: ImageAdapter, name: str, snapshot: Snapshot, images: Mapping[str, Picture], caption: str
) -> None:
    """Log the metrics of a snapshot as ``<metric>/<name>``, and its images as ``<kind>/<name>``.

    Args:
        adapter: adapter to a logger.
        name: name of the task in keys.
        snapshot: the snapshot; its own images are not read.
        images: images by kind: ``image``, and further ones.
        caption: caption of the image; those of the further ones are its first line.
    """
    metrics = {f"{metric}/{name}": value for metric, value in snapshot.metrics.items()}
    texts = {kind: caption if kind == "image" else f"{kind}: {caption.splitlines()[0]}" for kind in images}
    captioned = {f"{kind}/{name}": (pixels(image), texts[kind]) for kind, image in images.items()}
    adapter.log(metrics, captioned, snapshot.iteration)


class FolderRows:
    """The rows of a run folder, in an order that does not change when others follow.

    Up to ``separate`` tasks have their own keys, ``image/<name>``, ``probability/<name>`` and so on. With more tasks,
    16 consecutive tasks share ``image/grid/0000-0015`` and the means of their metrics. A grid is a row when all of its
    tasks, and those before, are finished; the first 256 tasks have grids.

    Args:
        folder: run folder with a queue.
        presentation: texts of the captions.
        separate: maximum number of tasks with their own keys.
    """

    def __init__(self, folder: RunFolder, presentation: Presentation, separate: int = 32) -> None:
        self.folder = RunFolder(folder.path)  # another thread reads it than the one that writes
        self.presentation = presentation
        self.tasks = self.folder.queue()
        self.is_separate = len(self.tasks) <= separate

    def rows(self, finished: Collection[int]) -> list[LogRow]:
        """Return the rows of the snapshots in the folder; ``finished`` are the indices of finished tasks."""
        if self.is_separate:
            by_key, names = {task.key: task for task in self.tasks}, names_of(self.tasks)
            records = {record.key: record for record in self.folder.records()}
            snapshots = [(key, Snapshot(by_key[key], k, m)) for key, k, m in self.folder.snapshots() if key in by_key]
            return [partial(self._log_snapshot, names[s.task.index], s, records.get(key)) for key, s in snapshots]
        rows: list[LogRow] = []
        for first in range(0, min(len(self.tasks), _MAX_IN_GRIDS), _GRID):
            tasks = self.tasks[first : first + _GRID]
            if not all(task.index in finished for task in tasks):
                break
            rows += self._grid_rows(tasks)
        return rows

    def all(self) -> list[LogRow]:
        """Return the rows of a complete run: snapshots, and with many tasks means over all of them."""
        rows = self.rows([task.index for task in self.tasks])
        if self.is_separate:
            return rows
        means: dict[int, dict[str, float]] = defaultdict(dict)
        for metric in self.folder.metric_names():  # one at a time, because all curves of many tasks need much memory
            curves = list(self.folder.curves(metric).values())
            for k in {k for curve in curves for k, _ in curve}:
                means[k] |= _mean(f"{metric}/mean", curves, k)
        return [*rows, *(methodcaller("log", means[k], {}, k) for k in sorted(means))]

    def results(self) -> RunResults:
        """Return the results of a complete run."""
        records = self.folder.records()
        last = max(((record.iterations or 0) for record in records), default=0)
        scalars = self.presentation.scalars(records, self.folder.evidence())
        return RunResults(self.folder, {**_summary(records), **scalars}, last)

    def _log_snapshot(self, name: str, snapshot: Snapshot, record: Record | None, adapter: ImageAdapter) -> None:
        if record is not None and record.iterations == snapshot.iteration:
            snapshot = replace(snapshot, file_metrics=_with_file_metrics(dict(snapshot.metrics), record))
        images = self.folder.images_at(snapshot.task.key, snapshot.iteration)
        top5 = top5_of(images["image"]) if "image" in images else ()
        log_snapshot(adapter, name, snapshot, images, caption(replace(snapshot, top5=top5), self.presentation))

    def _grid_rows(self, tasks: Sequence[Task]) -> list[LogRow]:
        """Return a row per iteration of tasks that share an image and the means of their metrics. A task without a
        frame at the iteration shows its latest frame."""
        shown = [(task, frames) for task in tasks if (frames := self.folder.frames(task.key))]
        name = f"{tasks[0].index:04d}-{tasks[-1].index:04d}"

        @cache  # read when the first row is logged, once for all iterations
        def read() -> tuple[Mapping[str, Mapping[str, Curve]], Mapping[int, Record]]:
            curves = self.folder.metrics([task.key for task in tasks])
            return curves, {record.index: record for record in self.folder.records()}

        def log(k: int, adapter: ImageAdapter) -> None:
            curves, records = read()
            lines = [f"iteration {k}"]
            for task, frames in shown:
                metrics = {metric: _latest(curve, k) for metric, curve in curves[task.key].items()}
                if k >= frames[-1][0]:  # the final image may be the file's, whose metrics are in the record
                    metrics = _with_file_metrics(metrics, records.get(task.index))
                lines.append(" - ".join([self.presentation.task_name(task), *self.presentation.metric_texts(metrics)]))
            image = tile([pixels(_latest(frames, k)) for _, frames in shown], side=2048)
            means: dict[str, float] = {}
            for metric in sorted({metric for of_task in curves.values() for metric in of_task}):
                means |= _mean(f"{metric}/{name}", [c for of_task in curves.values() if (c := of_task.get(metric))], k)
            adapter.log(means, {f"image/grid/{name}": (image, "\n".join(lines))}, k)

        return [partial(log, k) for k in sorted({k for _, frames in shown for k, _ in frames})]


def _with_file_metrics(metrics: dict[str, float], record: Record | None) -> dict[str, float]:
    """Return the metrics of the last image with those of its file, which may differ."""
    recorded = {} if record is None else record.metrics
    return {**metrics, **{name: v for name in metrics if isinstance(v := recorded.get(name), float)}}


def _mean(key: str, curves: Iterable[Curve], iteration: int) -> dict[str, float]:
    """Return the mean of the latest values under a key, without infinite and missing values; empty if there is none."""
    values = [value for curve in curves if math.isfinite(value := _latest(curve, iteration))]
    return {key: fmean(values)} if values else {}


def _latest(values: Sequence[tuple[int, T]], iteration: int) -> T:
    """Return the last value up to an iteration, or the first value if there is none."""
    return values[max(bisect_right(values, iteration, key=itemgetter(0)) - 1, 0)][1]


def _summary(records: Sequence[Record]) -> dict[str, float]:
    """Return the number of tasks by status, the share of true flags, and the median of the numbers of done tasks."""
    flags: dict[str, list[bool]] = defaultdict(list)
    numbers: dict[str, list[float]] = defaultdict(list)
    for key, value in (item for record in records if record.status == "done" for item in record.to_dict().items()):
        if isinstance(value, bool):
            flags[f"share/{key}"].append(value)
        elif isinstance(value, float) and math.isfinite(value):
            numbers[f"median/{key}"].append(value)
    counts = Counter(f"count/{record.status}" for record in records)
    shares = {key: fmean(values) for key, values in flags.items()}
    return {**counts, **shares, **{key: median(values) for key, values in numbers.items()}}
