"""Weights & Biases: images and metrics of a run over the iterations, on Lightning's ``WandbLogger``."""

from __future__ import annotations

import json
import math
import threading
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from queue import Full, Queue
from statistics import fmean, median
from typing import Any, TypeVar

import wandb
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from wandb.sdk.mailbox import HandleAbandonedError
from wandb.sdk.wandb_run import Run

from lit_viz.errors import first_line
from lit_viz.figures.layout import pixels
from lit_viz.figures.sheet import tile
from lit_viz.loggers import COMPLETE
from lit_viz.loggers.base import CaptionedImage, ImageAdapter
from lit_viz.loggers.rows import caption, names_of
from lit_viz.loggers.wandb_run import FINISH_SECONDS, silent, stop_service, sync_command
from lit_viz.presentations import Presentation
from lit_viz.runs.folder import RunFolder
from lit_viz.types import Curve, Record, Snapshot, Task
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import Notify, notify

# More images in tables and grids make the page unusable in the browser; the artifact has all of them.
_MAX_IMAGES = 256
_GRID = 16  # tasks per grid
_MAX_CALLS = 64  # that wait for W&B
_CALL_SECONDS = 10.0  # after which a call of a run that continues is given up
_EXIT_SECONDS = 8.0  # the same for a run that is stopped

T = TypeVar("T")
#: Creates a row, with its images, when it is logged.
Row = Callable[[], Mapping[str, Any]]


class WandbAdapter(ImageAdapter):
    """Adapter to ``WandbLogger``.

    Rows of another axis than the global step have its name as a key, which is the step metric of the other keys.
    """

    def __init__(self, logger: Any, axis: str | None = None) -> None:
        super().__init__(logger, axis)
        self._defined: set[str] = set()

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log metrics and images as one row."""
        media = {key: wandb.Image(image, caption=caption) for key, (image, caption) in images.items()}
        self._log({**metrics, **media}, step)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log a row of scalars."""
        self.log(metrics, {}, step)

    def log_images(self, images: Mapping[str, CaptionedImage], step: int) -> None:
        """Log a row of images."""
        self.log({}, images, step)

    def _log(self, row: Mapping[str, Any], step: int) -> None:
        if self.axis is None:
            self.logger.log_metrics(row, step)
            return
        run = self.logger.experiment
        for key in row.keys() - self._defined:
            run.define_metric(key, step_metric=self.axis)
        self._defined |= row.keys()
        run.log({self.axis: step, **row})


class RunLogger(WandbLogger):
    """Lightning's ``WandbLogger`` on the W&B run of a run folder.

    A thread calls W&B, so that the run never waits for it. The first error of W&B, or a call that does not return in
    time, is reported in one line; after it, nothing is logged and the run continues.

    Args:
        run: from :func:`~lit_viz.loggers.wandb_run.open_run`.
        folder: run folder.
        notify: receives the line about an error.
    """

    LOGGER_JOIN_CHAR = "/"

    def __init__(self, run: Run, folder: RunFolder, notify: Notify = notify) -> None:
        super().__init__(experiment=run, save_dir=folder.path, project=run.project, prefix="trainer")
        self._run = run
        self._folder = folder
        self._notify = notify
        self._failed = False
        self._metrics: dict[str, Any] = {}
        self._calls: Queue[Callable[[Run], object] | None] = Queue(_MAX_CALLS)
        self._limit = _CALL_SECONDS
        self._returned = time.monotonic()
        self._thread = threading.Thread(target=self._call_all, name="lit_viz-wandb", daemon=True)
        self._thread.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics of ``self.log`` to the next row, with the prefix ``trainer/``."""
        values = {**metrics, **({} if step is None else {"global_step": step})}
        self._metrics |= {f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}": value for name, value in values.items()}

    def log_rows(self, rows: Iterable[Row]) -> None:
        """Log rows that have the key ``iteration``."""
        metrics, self._metrics = self._metrics, {}

        def log(run: Run) -> None:
            for place, row in enumerate(rows):
                run.log({**row(), **(metrics if place == 0 else {})})
                self._returned = time.monotonic()

        self.submit(log)

    def submit(self, call: Callable[[Run], object]) -> None:
        """Call a function of the W&B run after the previous ones."""
        if not self._calls.unfinished_tasks:
            self._returned = time.monotonic()
        while not self._failed and self._thread.is_alive():
            with suppress(Full):
                self._calls.put(call, timeout=0.1)
                return
            self._give_up_if_late()

    def close(self, exit_code: int) -> None:
        """Finish the W&B run, unless it is closed or has failed; a resume continues it."""
        if self._failed or not self._thread.is_alive():
            return
        if exit_code != 0:
            self._limit = min(self._limit, _EXIT_SECONDS)
        self._give_up_if_late()
        self.submit(lambda run: run.finish(exit_code=exit_code))
        self.submit(lambda run: self._calls.put_nowait(None))
        if exit_code == 0:
            self._limit += FINISH_SECONDS
        while self._thread.is_alive() and not self._failed:
            self._thread.join(0.1)
            self._give_up_if_late()
        if exit_code == 0 and not self._failed:
            write_text(self._folder.path / COMPLETE, "")

    def _call_all(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                with silent():
                    call(self._run)
            except Exception as error:  # logging must not stop the run
                self._fail(f"failed, the run continues without it ({first_line(error)})")
                if isinstance(error, (ConnectionError, HandleAbandonedError)):  # its service process has ended
                    stop_service()  # otherwise wandb prints a traceback at exit
                return
            self._returned = time.monotonic()
            self._calls.task_done()

    def _give_up_if_late(self) -> None:
        """Stop W&B if a call has not returned for the time limit."""
        if self._calls.unfinished_tasks and time.monotonic() - self._returned > self._limit:
            self._fail("does not answer, the run continues without it")
            stop_service()

    def _fail(self, event: str) -> None:
        if not self._failed:
            self._failed = True
            self._notify(f"W&B {event}; later: {sync_command(self._folder)}")


class WandbImages(Callback):
    """Log the images and metrics of every snapshot, and the results at the end, to W&B.

    Rows are read from the run folder when a checkpoint is saved, so that W&B never has a row that a resume computes
    again, and a resume logs the rows that W&B lacks. Each row has the key ``iteration``. Up to ``separate`` tasks have
    their own keys, ``image/<name>``, ``probability/<name>`` and so on, with ``<task.key>`` if names are not unique.
    With more tasks, 16 consecutive tasks share ``image/grid/0000-0015`` and the means of their metrics. A grid is
    logged when all of its tasks, and those before, are finished; the first 256 tasks have grids.

    Args:
        logger: logger of the run.
        folder: run folder, from which rows, records and final images are read.
        presentation: texts of the captions and values of the summary.
        separate: maximum number of tasks with their own keys.
        logged: number of rows that W&B already has; None for those of the folder.
    """

    def __init__(
        self,
        logger: RunLogger,
        folder: RunFolder,
        presentation: Presentation,
        separate: int = 32,
        logged: int | None = 0,
    ) -> None:
        self.logger = logger
        self.folder = RunFolder(folder.path)  # another thread reads it than the one that writes
        self.presentation = presentation
        self.separate = separate
        self._logged = logged
        self._captions: dict[tuple[str, int], str] = {}  # of snapshots that are not logged yet

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rows of the folder that W&B lacks."""
        self._log(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the captions of this step, whose classes are not in the run folder."""
        tasks: Sequence[Task] = pl_module.tasks  # type: ignore[assignment]
        if len(tasks) <= self.separate:
            for snapshot in outputs["snapshots"]:
                self._captions[snapshot.task.key, snapshot.iteration] = caption(snapshot, self.presentation)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Log the rows since the last checkpoint; they are on the disk at this point."""
        self._log(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the remaining rows."""
        self._log(pl_module)

    def finish(self) -> None:
        """Log results table, figures, summary and artifact, and finish the W&B run.

        Call it when the run folder is complete (records, figure, evidence).
        """
        tasks, records = self.folder.queue(), self.folder.records()
        rows = self._rows(tasks, [task.index for task in tasks])
        if len(tasks) > self.separate:
            rows += [partial(dict, row) for row in _mean_rows(self.folder)]
        last = max(((record.iterations or 0) for record in records), default=0)
        rows += [partial(_result_row, last, name, create) for name, create in _results(self.folder)]
        self._log_new(rows)
        summary = {**_summary(records), **self.presentation.scalars(records, self.folder.evidence())}
        self.logger.submit(lambda run: run.summary.update(summary))
        self.logger.submit(lambda run: run.log_artifact(_artifact(self.folder, run.id)))
        self.logger.close(exit_code=0)

    def _log(self, module: LightningModule) -> None:
        tasks: Sequence[Task] = module.tasks  # type: ignore[assignment]
        finished: Mapping[int, str] = module.finished  # type: ignore[assignment]
        self._log_new(self._rows(tasks, finished))

    def _log_new(self, rows: list[Row]) -> None:
        if self._logged is not None and (new := rows[self._logged :]):
            self.logger.log_rows(new)
        self._logged = max(self._logged or 0, len(rows))

    def _rows(self, tasks: Sequence[Task], finished: Collection[int]) -> list[Row]:
        """Return the rows of the snapshots in the folder, in an order that does not change when others follow."""
        if len(tasks) <= self.separate:
            by_key, names = {task.key: task for task in tasks}, names_of(tasks)
            snapshots = [(by_key[key], k, metrics) for key, k, metrics in self.folder.snapshots() if key in by_key]
            return [
                partial(
                    _snapshot_row, self.folder, names[task.index], task, k, metrics, self._headline(task, k, metrics)
                )
                for task, k, metrics in snapshots
            ]
        rows: list[Row] = []
        for first in range(0, min(len(tasks), _MAX_IMAGES), _GRID):
            grid = _Grid(self.folder, tasks[first : first + _GRID], self.presentation)
            if not all(task.index in finished for task in grid.tasks):
                break
            rows += [partial(grid.row, k) for k in grid.iterations]
        return rows

    def _headline(self, task: Task, iteration: int, metrics: Mapping[str, float]) -> str:
        return self._captions.pop((task.key, iteration), None) or caption(
            Snapshot(task, iteration, metrics), self.presentation
        )


def _snapshot_row(
    folder: RunFolder, name: str, task: Task, iteration: int, metrics: Mapping[str, float], caption: str
) -> dict[str, Any]:
    row: dict[str, Any] = {"iteration": iteration, **{f"{metric}/{name}": value for metric, value in metrics.items()}}
    for kind, file in folder.images_at(task.key, iteration).items():
        text = caption if kind == "image" else f"{kind}: {caption.splitlines()[0]}"
        row[f"{kind}/{name}"] = wandb.Image(str(file), caption=text)
    return row


# -- more tasks than `separate`


class _Grid:
    """Consecutive tasks that share an image and the means of their metrics."""

    def __init__(self, folder: RunFolder, tasks: Sequence[Task], presentation: Presentation) -> None:
        self.folder, self.tasks, self.presentation = folder, tasks, presentation
        self.frames = [(task, frames) for task in tasks if (frames := folder.frames(task.key))]
        self.iterations = sorted({k for _, frames in self.frames for k, _ in frames})
        self._curves: Mapping[str, Mapping[str, Curve]] = {}

    def row(self, k: int) -> dict[str, Any]:
        """Return the row of an iteration. A task without a frame at the iteration shows its latest frame."""
        self._curves = self._curves or self.folder.metrics([task.key for task in self.tasks])
        records = {record.index: record for record in self.folder.records()}
        lines = [f"iteration {k}"]
        for task, frames in self.frames:
            metrics = {metric: _latest(curve, k) for metric, curve in self._curves[task.key].items()}
            if k >= frames[-1][0]:  # the final image may be the file's, whose metrics are in the record
                final = records[task.index].metrics if task.index in records else {}
                metrics |= {name: value for name in metrics if isinstance(value := final.get(name), float)}
            lines.append(" - ".join([self.presentation.task_name(task), *self.presentation.metric_texts(metrics)]))
        image = tile([pixels(_latest(frames, k)) for _, frames in self.frames], side=2048)
        name = f"{self.tasks[0].index:04d}-{self.tasks[-1].index:04d}"
        row: dict[str, Any] = {"iteration": k, f"image/grid/{name}": wandb.Image(image, caption="\n".join(lines))}
        for metric in {metric for curves in self._curves.values() for metric in curves}:
            row |= _mean(f"{metric}/{name}", [c for curves in self._curves.values() if (c := curves.get(metric))], k)
        return row


def _mean_rows(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Yield a row per iteration with the mean of each metric over all tasks."""
    rows: dict[int, dict[str, float]] = defaultdict(dict)
    for metric in folder.metric_names():  # one at a time, because all curves of many tasks need much memory
        curves = list(folder.curves(metric).values())
        for k in {k for curve in curves for k, _ in curve}:
            rows[k] |= _mean(f"{metric}/mean", curves, k)
    yield from ({"iteration": k, **rows[k]} for k in sorted(rows))


def _mean(key: str, curves: Iterable[Curve], iteration: int) -> dict[str, float]:
    """Return the mean of the latest values under a key, without infinite and missing values; empty if there is none."""
    values = [value for curve in curves if math.isfinite(value := _latest(curve, iteration))]
    return {key: fmean(values)} if values else {}


def _latest(values: Sequence[tuple[int, T]], iteration: int) -> T:
    """Return the last value up to an iteration, or the first value if there is none."""
    return values[max(bisect_right(values, iteration, key=itemgetter(0)) - 1, 0)][1]


# -- results


def _results(folder: RunFolder) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the results table and the images of a complete run folder, by key."""
    yield "results", partial(_table, folder)
    for name, file in (("figure", "figure.png"), ("evolution", "evolution.gif"), ("evidence", "evidence.png")):
        path = folder.path / file
        if path.exists():
            is_video = path.suffix == ".gif"
            yield name, partial(wandb.Video, str(path), format="gif") if is_video else partial(wandb.Image, str(path))


def _result_row(iteration: int, name: str, create: Callable[[], Any]) -> dict[str, Any]:
    return {"iteration": iteration, name: create()}


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


def _table(folder: RunFolder) -> wandb.Table:
    records = folder.records()
    rows = [record.to_dict() for record in records]
    columns = [
        column for column in dict.fromkeys(key for row in rows for key in row) if column not in ("file", "array")
    ]
    table = wandb.Table(columns=["image", *columns], allow_mixed_types=True)
    for place, (record, row) in enumerate(zip(records, rows, strict=True)):
        file = folder.path / (record.file or "")
        show = place < _MAX_IMAGES and file.is_file()
        image = wandb.Image(str(file), caption=record.name) if show else None
        values = [row.get(column) for column in columns]
        table.add_data(
            image, *(json.dumps(v, ensure_ascii=False) if isinstance(v, (dict, list)) else v for v in values)
        )
    return table


def _artifact(folder: RunFolder, run_id: str) -> wandb.Artifact:
    artifact = wandb.Artifact(f"results-{run_id}", type="results")
    for pattern in ("config.yaml", "results.jsonl", "metrics.csv", "evidence.*", "figure.*", "evolution.*"):
        for file in sorted(folder.path.glob(pattern)):
            # Immutable files are uploaded from the run folder instead of being copied to a cache first.
            artifact.add_file(str(file), policy="immutable", skip_cache=True)
    for name in ("images", "sources", "arrays", "photographs"):
        if (folder.path / name).is_dir():
            artifact.add_dir(str(folder.path / name), name=name, policy="immutable", skip_cache=True)
    return artifact
