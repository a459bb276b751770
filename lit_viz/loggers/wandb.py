"""Weights & Biases: images and metrics of a run over the iterations, on Lightning's ``WandbLogger``."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
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
from lit_viz.images.reading import to_uint8
from lit_viz.loggers.wandb_run import silent, sync_command
from lit_viz.presentations import Presentation
from lit_viz.runs.folder import RunFolder
from lit_viz.types import Record, Snapshot, Task
from lit_viz.utils.formatting import Notify, notify

# More images in tables and grids make the page unusable in the browser; the artifact has all of them.
_MAX_IMAGES = 256
_GRID = 16  # tasks per grid

T = TypeVar("T")
Curve = Sequence[tuple[int, float]]


class RunLogger(WandbLogger):
    """Lightning's ``WandbLogger`` on the W&B run of a run folder.

    The first error of W&B is reported in one line; after it, nothing is logged and the run continues. Metrics of
    ``self.log`` get the prefix ``trainer/``.

    Args:
        run: from :func:`~lit_viz.loggers.wandb_run.open_run`.
        folder: run folder.
        notify: receives the line about an error.
    """

    LOGGER_JOIN_CHAR = "/"

    def __init__(self, run: Run, folder: RunFolder, notify: Notify = notify) -> None:
        super().__init__(experiment=run, save_dir=folder.path, project=run.project, prefix="trainer")
        self._run: Run | None = run
        self._folder = folder
        self._notify = notify
        self._failed = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics under ``trainer/``."""
        self.safely(lambda run: WandbLogger.log_metrics(self, metrics, step))

    def log_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log rows that have the key ``iteration``, without the prefix."""

        def log(run: Run) -> None:
            for row in rows:
                run.log(dict(row))

        self.safely(log)

    def safely(self, action: Callable[[Run], object]) -> None:
        """Apply a function to the W&B run unless the run is closed or has failed."""
        if self._run is None or self._failed:
            return
        try:
            with silent():
                action(self._run)
        except Exception as error:  # logging must not stop the run
            self._report(error, "failed, the run continues without it")

    def close(self, exit_code: int) -> None:
        """Finish the W&B run, if it is open; a resume continues it."""
        if self._run is None:
            return
        try:
            with silent():
                self._run.finish(exit_code=exit_code)
        except Exception as error:
            self._report(error, "did not finish")
        self._run = None

    def _report(self, error: Exception, event: str) -> None:
        if not self._failed:
            self._notify(f"W&B {event} ({first_line(error)}); later: {sync_command(self._folder)}")
        self._failed = True
        if isinstance(error, (ConnectionError, HandleAbandonedError)):  # its service process has ended
            with suppress(Exception, SystemExit):
                wandb.teardown()  # otherwise wandb prints a traceback at exit


class WandbImages(Callback):
    """Log the images and metrics of every snapshot, and the results at the end, to W&B.

    Each row has the key ``iteration``. Up to ``separate`` tasks have their own keys, ``image/<task.key>``,
    ``probability/<task.key>`` and so on. With more tasks, 16 consecutive tasks share ``image/grid/0000-0015`` and the
    means of their metrics. A grid is read from the run folder when all of its tasks are finished; the first 256 tasks
    have grids.

    Args:
        logger: logger of the run.
        folder: run folder, from which grids, records and final images are read.
        presentation: texts of the captions.
        separate: maximum number of tasks with their own keys.
    """

    def __init__(self, logger: RunLogger, folder: RunFolder, presentation: Presentation, separate: int = 32) -> None:
        self.logger = logger
        self.folder = folder
        self.presentation = presentation
        self.separate = separate
        self._pending: list[Sequence[Task]] = []  # tasks of each grid that is not logged yet

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Split the queue into grids. Grids that were finished before a resume have already been logged."""
        tasks: Sequence[Task] = pl_module.tasks  # type: ignore[assignment]
        if len(tasks) > self.separate:
            grids = [tasks[first : first + _GRID] for first in range(0, min(len(tasks), _MAX_IMAGES), _GRID)]
            self._pending = [grid for grid in grids if not _is_finished(grid, pl_module)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the snapshots of this step."""
        tasks: Sequence[Task] = pl_module.tasks  # type: ignore[assignment]
        if len(tasks) <= self.separate:
            self.logger.log_rows(_snapshot_row(snapshot, self.presentation) for snapshot in outputs["snapshots"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Log the grids of finished tasks; their frames are on the disk at this point."""
        self._log_grids(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the remaining grids."""
        self._log_grids(pl_module)

    def finish(self) -> None:
        """Log results table, figures, summary and artifact, and finish the W&B run.

        Call it when the run folder is complete (records, figure, evidence).
        """
        records = self.folder.records()
        if len(records) > self.separate:
            self.logger.log_rows(_mean_rows(self.folder))
        last = max(((record.iterations or 0) for record in records), default=0)
        self.logger.log_rows({"iteration": last, name: value} for name, value in _results(self.folder))
        self.logger.safely(lambda run: run.summary.update(_summary(records)))
        self.logger.safely(lambda run: run.log_artifact(_artifact(self.folder, run.id)))
        self.logger.close(exit_code=0)

    def _log_grids(self, module: LightningModule) -> None:
        finished = [grid for grid in self._pending if _is_finished(grid, module)]
        self._pending = [grid for grid in self._pending if grid not in finished]
        if finished:
            self.logger.log_rows(_grid_rows(self.folder, finished, self.presentation))


def _snapshot_row(snapshot: Snapshot, presentation: Presentation) -> dict[str, Any]:
    key = snapshot.task.key
    row: dict[str, Any] = {"iteration": snapshot.iteration}
    row |= {f"{name}/{key}": value for name, value in snapshot.metrics.items()}
    if snapshot.image is not None:
        row[f"image/{key}"] = wandb.Image(to_uint8(snapshot.image), caption=caption(snapshot, presentation))
    for name, image in snapshot.extra_images.items():
        row[f"{name}/{key}"] = wandb.Image(to_uint8(image), caption=f"{name}: {_headline(snapshot, presentation)}")
    return row


def caption(snapshot: Snapshot, presentation: Presentation) -> str:
    """Return ``tarantula - iteration 50 - p = 0.93 (rank 1)`` and, on a second line, the top five classes."""
    top5 = ", ".join(f"{name} {probability:.2f}" for name, probability in snapshot.top5)
    return _headline(snapshot, presentation) + (f"\n{top5}" if top5 else "")


def _headline(snapshot: Snapshot, presentation: Presentation) -> str:
    metrics = snapshot.metrics if snapshot.file_metrics is None else snapshot.file_metrics
    texts = presentation.metric_texts(metrics)
    return " - ".join([presentation.task_name(snapshot.task), f"iteration {snapshot.iteration}", *texts])


# -- more tasks than `separate`


def _is_finished(grid: Sequence[Task], module: LightningModule) -> bool:
    finished: Mapping[int, str] = module.finished  # type: ignore[assignment]
    return all(task.index in finished for task in grid)


def _grid_rows(
    folder: RunFolder, grids: Sequence[Sequence[Task]], presentation: Presentation
) -> Iterator[dict[str, Any]]:
    """Yield a row per grid and iteration. A task without a frame at an iteration shows its latest frame."""
    curves = folder.metrics([task.key for grid in grids for task in grid])
    records = {record.index: record for record in folder.records()}
    for grid in grids:
        name = f"{grid[0].index:04d}-{grid[-1].index:04d}"
        frames = [(task, task_frames) for task in grid if (task_frames := folder.frames(task.key))]
        for k in sorted({k for _, task_frames in frames for k, _ in task_frames}):
            lines = [f"iteration {k}"]
            for task, task_frames in frames:
                metrics = {metric: _latest(curve, k) for metric, curve in curves[task.key].items()}
                if k >= task_frames[-1][0]:  # the final image may be the file's, whose metrics are in the record
                    final = records[task.index].metrics if task.index in records else {}
                    metrics |= {name: value for name in metrics if isinstance(value := final.get(name), float)}
                lines.append(" - ".join([presentation.task_name(task), *presentation.metric_texts(metrics)]))
            image = tile([pixels(_latest(task_frames, k)) for _, task_frames in frames], side=2048)
            row: dict[str, Any] = {"iteration": k, f"image/grid/{name}": wandb.Image(image, caption="\n".join(lines))}
            for metric in {metric for task in grid for metric in curves[task.key]}:
                row |= _mean(f"{metric}/{name}", [c for task in grid if (c := curves[task.key].get(metric))], k)
            yield row


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


def _results(folder: RunFolder) -> Iterator[tuple[str, Any]]:
    """Yield the results table and the images of a complete run folder, by key."""
    yield "results", _table(folder)
    for name, file in (("figure", "figure.png"), ("evolution", "evolution.gif"), ("evidence", "evidence.png")):
        path = folder.path / file
        if path.exists():
            yield name, wandb.Video(str(path), format="gif") if path.suffix == ".gif" else wandb.Image(str(path))


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
