"""The evolution of the images in Weights & Biases. W&B is a view: the run folder stays the record."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean, median
from typing import Any, TypeVar

import numpy as np
import wandb
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from wandb.sdk.wandb_run import Run

from lit_viz.errors import first_line
from lit_viz.figures.style import probability_text
from lit_viz.figures.tiles import pixels, tile
from lit_viz.images.reading import to_uint8
from lit_viz.loggers.wandb_run import LOST, SEND_SECONDS, forget_service, open_wandb, silent, sync_line
from lit_viz.runs.writer import RunFolder
from lit_viz.types import Observation, Task
from lit_viz.utils.formatting import Say, say, with_target

__all__ = ["RunLogger", "WandbEvolution", "open_wandb"]

# Tables and grids with more pictures than this make the page in the browser unusable; all are in the artifact.
_PICTURES = 256
_BLOCK = 16  # tasks of a grid
#: Options in which tasks of the same name may differ, and how they are told.
_OPTIONS = {"method": "{}", "lr": "lr {:g}", "eps": "eps {:.3g}"}

T = TypeVar("T")
Curve = Sequence[tuple[int, float]]
#: Makes rows anew: a picture of W&B belongs to one run.
Rows = Callable[[], Iterable[dict[str, Any]]]


class WandbEvolution(Callback):
    """Log every observation as one row that holds ``iteration``; at the end the records and the results.

    Up to ``separate`` tasks, each has its own keys, ``image/<task.key>``, ``probability/<task.key>`` and so on. Above,
    sixteen that follow one another share a grid, ``image/grid/0000-0015``, and the means of their scalars: they are
    read from the run folder when all sixteen have ended, so that every iteration shows the same ones, in their order.
    The first 256 tasks have grids; the scalars of a task are in the run folder only.

    An error of W&B is said once; from then on the callback is silent and the run goes on. Where only its service has
    ended, the run is opened again, and what that may not have sent is logged again.

    Args:
        run: from :func:`open_wandb`; None does nothing.
        folder: where grids, the final records and images are read from.
        separate: at most so many tasks have keys of their own.
        reopen: opens the run again.
        say: is given the one line on an error.
    """

    def __init__(
        self,
        run: Run | None,
        folder: RunFolder,
        separate: int = 32,
        reopen: Callable[[], Run | None] = lambda: None,
        say: Say = say,
    ) -> None:
        self.run = run
        self.folder = folder
        self.separate = separate
        self._reopen = reopen
        self._say = say
        self._failed = False
        self._last = 0
        self._unsent: deque[tuple[float, Rows]] = deque()  # perhaps; and when it was logged
        self._blocks: list[Sequence[Task]] = []  # that have no grid yet

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See which grids are to come; those of a run that goes on were logged before its checkpoint."""
        tasks: Sequence[Task] = pl_module.tasks  # type: ignore[assignment]
        if len(tasks) > self.separate:
            blocks = [tasks[first : first + _BLOCK] for first in range(0, min(len(tasks), _PICTURES), _BLOCK)]
            self._blocks = [block for block in blocks if not _ended(block, pl_module)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what this step observed."""
        tasks: Sequence[Task] = pl_module.tasks  # type: ignore[assignment]
        if outputs["observations"] and len(tasks) <= self.separate:
            self._log(partial(map, _row, outputs["observations"]))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Log the grids of those that have ended: their frames are on the disk by now."""
        self._log_grids(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rest of the grids."""
        self._log_grids(pl_module)

    def finish(self) -> None:
        """Log the final records and pictures as a table and the results as an artifact, and end the W&B run.

        To be called when everything that belongs into the run folder is there (records, figure, evidence). Calling it
        again does nothing.
        """
        if self.run is None:
            return
        records = self.folder.records()
        if len(records) > self.separate:
            self._log(partial(_mean_rows, self.folder))
        self._last = max([self._last, *(int(record.get("iterations") or 0) for record in records)])
        for name, made in _RESULTS.items():
            self.safely(partial(self._log_result, name, made))
        self.safely(lambda run: run.summary.update(_summary(records)))
        self.safely(lambda run: run.log_artifact(_artifact(self.folder, run.id)))
        self.close(exit_code=0)

    def _log_result(self, name: str, made: Callable[[RunFolder], Any], run: Run) -> None:
        result = made(self.folder)
        if result is not None:
            run.log({"iteration": self._last, name: result})

    def _log_grids(self, module: LightningModule) -> None:
        ended = [block for block in self._blocks if _ended(block, module)]
        self._blocks = [block for block in self._blocks if block not in ended]
        if ended:
            self._log(partial(_grid_rows, self.folder, ended))

    def _log(self, rows: Rows) -> None:
        if self.run is None:
            return
        self.safely(partial(self._log_rows, rows))
        now = time.monotonic()
        self._unsent.append((now, rows))
        while now - self._unsent[0][0] > 2 * SEND_SECONDS:
            self._unsent.popleft()

    def _log_rows(self, rows: Rows, run: Run) -> None:
        for row in rows():
            self._last = max(self._last, row["iteration"])
            run.log(row)

    def safely(self, action: Callable[[Run], object]) -> None:
        """Do something with the W&B run, where there is one; an error is said once and stops nothing."""
        if self.run is None or self._failed:
            return
        try:
            self._act(action, self.run)
        except Exception as error:  # a view must never stop what it shows
            self._complain(f"W&B failed ({first_line(error)}): the run goes on without it")

    def close(self, exit_code: int) -> None:
        """End the W&B run, if that was not done yet; a resume continues it."""
        if self.run is not None:
            try:
                self._act(lambda run: run.finish(exit_code=exit_code), self.run)
            except Exception as error:  # as above
                self._complain(f"W&B didn't finish ({first_line(error)})")
        self.run = None

    def _complain(self, what: str) -> None:
        if not self._failed:
            self._failed = True
            self._say(f"{what}; later: {sync_line(self.folder, '*run-*')}")

    def _act(self, action: Callable[[Run], object], run: Run) -> None:
        try:
            with silent():
                action(run)
        except LOST:
            forget_service()
            self.run = self._reopen()
            if self.run is None:
                raise
            with silent():
                for _, rows in self._unsent:
                    self._log_rows(rows, self.run)
                action(self.run)


class RunLogger(WandbLogger):
    """Lightning's logger on an open run, so that ``trainer.logger`` and ``self.log`` work.

    What Lightning logs goes under ``trainer/`` (``trainer/loss``), apart from the images' own curves.

    Args:
        evolution: whose run it is.
    """

    LOGGER_JOIN_CHAR = "/"

    def __init__(self, evolution: WandbEvolution) -> None:
        project = getattr(evolution.run, "project", None) or "lit_viz"
        super().__init__(experiment=evolution.run, save_dir=evolution.folder.path, project=project, prefix="trainer")
        self._evolution = evolution

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row; an error of W&B is said once and stops nothing."""

        def log(run: Run) -> None:
            self._experiment = run  # it may have been opened again
            WandbLogger.log_metrics(self, metrics, step)

        self._evolution.safely(log)


def _row(observation: Observation) -> dict[str, Any]:
    key = observation.task.key
    row: dict[str, Any] = {"iteration": observation.iteration}
    row |= {f"{scalar}/{key}": value for scalar, value in observation.scalars.items()}
    if observation.image is not None:
        row[f"image/{key}"] = wandb.Image(to_uint8(observation.image), caption=caption(observation))
    for name, picture in observation.besides.items():
        row[f"{name}/{key}"] = wandb.Image(to_uint8(picture), caption=f"{name}: {_headline(observation)}")
    return row


def caption(observation: Observation) -> str:
    """Return ``tarantula - iteration 50 - p = 0.93 (rank 1)``, and the five most probable classes on a second line."""
    top5 = ", ".join(f"{name} {probability:.2f}" for name, probability in observation.top5)
    return _headline(observation) + (f"\n{top5}" if top5 else "")


def _headline(observation: Observation) -> str:
    """Return what the picture is and what is said of it: the last one of an attack is that of the file."""
    scalars = observation.scalars if observation.of_picture is None else observation.of_picture
    return " - ".join([_named(observation.task), f"iteration {observation.iteration}", *_said(scalars)])


def _named(task: Task) -> str:
    """Return what is made of what, and how, where tasks of the same name may differ in it."""
    told = [text.format(task.options[key]) for key, text in _OPTIONS.items() if key in task.options]
    return ", ".join([with_target(task.name, task.target_name), *told])


def _said(scalars: Mapping[str, float]) -> list[str]:
    parts = []
    if "fooling_rate" in scalars:  # of a universal perturbation
        parts.append(f"fools {scalars['fooling_rate']:.0%}")
    if "probability" in scalars:
        rank = f" (rank {scalars['rank']:.0f})" if "rank" in scalars else ""
        parts.append(probability_text(scalars["probability"]) + rank)
    elif "objective" in scalars:  # no class is asked for
        parts.append(f"objective {scalars['objective']:.3g}")
    if scalars.get("margin", 0.0) > 0:  # of an adversarial example
        parts.append("fooled")
    return parts


# -- many tasks


def _ended(block: Sequence[Task], module: LightningModule) -> bool:
    finished: Mapping[int, str] = module.finished  # type: ignore[assignment]
    return all(task.index in finished for task in block)


def _grid_rows(folder: RunFolder, blocks: Sequence[Sequence[Task]]) -> Iterator[dict[str, Any]]:
    """Yield a row for every block and iteration of which one of its tasks has a frame; the others show their latest."""
    metrics = folder.metrics([task.key for block in blocks for task in block])
    records = {record["index"]: record for record in folder.records()}
    for block in blocks:
        name = f"{block[0].index:04d}-{block[-1].index:04d}"
        frames = [(task, of_task) for task in block if (of_task := folder.frames(task.key))]
        moments = sorted({iteration for _, of_task in frames for iteration, _ in of_task})
        means = {
            f"{metric}/{name}": _mean([of[metric] for task in block if metric in (of := metrics[task.key])], moments)
            for metric in {metric for task in block for metric in metrics[task.key]}
        }
        for k in moments:
            lines = [f"iteration {k}"]
            for task, of_task in frames:
                known = {metric: _latest(curve, k) for metric, curve in metrics[task.key].items()}
                if k >= of_task[-1][0]:  # the last picture may be that of a file, which the record tells of
                    record = records.get(task.index, {})
                    known |= {key: record[key] for key in known if isinstance(record.get(key), float)}
                lines.append(" - ".join([_named(task), *_said(known)]))
            grid = tile([pixels(_latest(of_task, k)) for _, of_task in frames], side=2048)
            yield {
                "iteration": k,
                f"image/grid/{name}": wandb.Image(grid, caption="\n".join(lines)),
                **_known_at(means, k),
            }


def _mean_rows(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Yield a row for every iteration with the means over all tasks; the metrics are read one after another."""
    curves: dict[str, dict[int, float]] = {}
    for metric in folder.metric_names():
        of_tasks = list(folder.curves(metric).values())
        moments = sorted({k for curve in of_tasks for k, _ in curve})
        curves[f"{metric}/mean"] = _mean(of_tasks, moments)
    for k in sorted({k for curve in curves.values() for k in curve}):
        yield {"iteration": k, **_known_at(curves, k)}


def _latest(values: Sequence[tuple[int, T]], iteration: int) -> T:
    """Return the last value until an iteration, or the first one where there is none yet."""
    return next((value for k, value in reversed(values) if k <= iteration), values[0][1])


def _mean(curves: Sequence[Curve], moments: Sequence[int]) -> dict[int, float]:
    """Return by moment the mean of the finite values; a curve that has ended keeps its last one."""
    values = np.full((len(curves), len(moments)), np.nan)
    for row, curve in zip(values, curves, strict=True):
        iterations, known = zip(*curve, strict=True)
        row[:] = np.array(known)[np.maximum(np.searchsorted(iterations, moments, side="right") - 1, 0)]
    means = np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)
    return dict(zip(moments, means.tolist(), strict=True))


def _known_at(curves: Mapping[str, Mapping[int, float]], iteration: int) -> dict[str, float]:
    return {name: of[iteration] for name, of in curves.items() if math.isfinite(of.get(iteration, math.nan))}


# -- the end


def _summary(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what tells runs apart: how many tasks ended how, of a verdict the share, of a number the median."""
    statuses = Counter(str(record["status"]) for record in records)
    found = {f"count/{status}": float(count) for status, count in statuses.items()}
    verdicts: dict[str, list[bool]] = defaultdict(list)
    numbers: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for key, value in record.items() if record["status"] == "done" else ():
            if isinstance(value, bool):
                verdicts[key].append(value)
            elif isinstance(value, float) and math.isfinite(value):
                numbers[key].append(value)
    found |= {f"share/{key}": fmean(values) for key, values in verdicts.items()}
    return found | {f"median/{key}": median(values) for key, values in numbers.items()}


def _table(folder: RunFolder) -> wandb.Table:
    records = folder.records()
    columns = list(dict.fromkeys(key for record in records for key in record if key not in ("file", "array")))
    cells = [_column([record.get(column) for record in records]) for column in columns]
    table = wandb.Table(columns=["image", *columns])
    for place, (record, *row) in enumerate(zip(records, *cells, strict=True)):
        table.add_data(_picture(folder, record) if place < _PICTURES else None, *row)
    return table


def _picture(folder: RunFolder, record: Mapping[str, Any]) -> wandb.Image | None:
    file = folder.path / (record.get("file") or "missing")
    return wandb.Image(str(file), caption=str(record["name"])) if file.is_file() else None


def _column(values: Sequence[Any]) -> list[Any]:
    """Return one column of the table; lists become text, and so does everything where the kinds differ: W&B asks so."""
    plain = [json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value for value in values]
    kinds = {float if type(value) is int else type(value) for value in plain if value is not None}
    return plain if len(kinds) < 2 else [None if value is None else str(value) for value in plain]


def _artifact(folder: RunFolder, run_id: str) -> wandb.Artifact:
    artifact = wandb.Artifact(f"results-{run_id}", type="results")
    for pattern in ("config.yaml", "results.jsonl", "metrics.csv", "evidence.*", "figure.*", "evolution.*"):
        for file in sorted(folder.path.glob(pattern)):
            # Immutable: read where it lies instead of copied to a cache outside the run folder.
            artifact.add_file(str(file), policy="immutable", skip_cache=True)
    for name in ("images", "sources", "arrays", "photographs"):
        if (folder.path / name).is_dir():
            artifact.add_dir(str(folder.path / name), name=name, policy="immutable", skip_cache=True)
    return artifact


def _picture_of(pattern: str, kind: Callable[[str], Any]) -> Callable[[RunFolder], Any]:
    """Return what makes of the first such file of a run folder something to log; None where there is none."""

    def made(folder: RunFolder) -> Any:
        file = next(iter(sorted(folder.path.glob(pattern))), None)
        return None if file is None else kind(str(file))

    return made


#: What is logged of the finished folder, by key.
_RESULTS: dict[str, Callable[[RunFolder], Any]] = {
    "results": _table,
    "figure": _picture_of("figure.png", wandb.Image),
    "evolution": _picture_of("evolution.gif", lambda file: wandb.Video(file, format="gif")),
    "evidence": _picture_of("evidence.png", wandb.Image),
}
