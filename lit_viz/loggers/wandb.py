"""Weights & Biases: images and metrics as rows, and tables, figures, summary and artifact of a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger
from wandb.sdk.mailbox import HandleAbandonedError
from wandb.sdk.wandb_run import Run

from lit_viz.figures.layout import pixels
from lit_viz.loggers.base import CaptionedImage, ImageAdapter, LoggerSettings, RunResults
from lit_viz.loggers.wandb_run import open_run, silent, stop_service
from lit_viz.runs.folder import RunFolder, top5_of
from lit_viz.utils.formatting import Notify

# More images in a table make the page unusable in the browser; the artifact has all of them.
_MAX_IMAGES = 256


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


class _RunAdapter(WandbAdapter):
    """Adapter to the W&B run of a run folder; a call of ``run.log`` is a row."""

    def __init__(self, run: Run) -> None:
        super().__init__(WandbLogger(experiment=run, project=run.project), "iteration")
        self._run = run
        self._place = f"wandb leet {Path(run.dir).parent}" if run.settings.mode == "offline" else str(run.url)
        self.rows_logged = 0 if run.settings.mode == "offline" else run.starting_step

    def log_results(self, results: RunResults) -> None:
        """Log the tables of records and of logged images, figure, animation and evidence as one row."""
        path = results.folder.path
        row: dict[str, Any] = {"results": _record_table(results.folder), "iterations": _iteration_table(results.folder)}
        figures = [path / name for name in ("figure.png", "evidence.png")]
        row |= {figure.stem: wandb.Image(str(figure)) for figure in figures if figure.exists()}
        if (path / "evolution.gif").exists():
            row["evolution"] = wandb.Video(str(path / "evolution.gif"), format="gif")
        self._log(row, results.iteration)

    def log_summary(self, results: RunResults) -> None:
        """Log the summary, and the files of the run as an artifact."""
        self._run.summary.update(dict(results.summary))
        artifact = wandb.Artifact(f"results-{self._run.id}", type="results")
        for file, place in results.files():
            # Immutable files are uploaded from the run folder instead of being copied to a cache first.
            name = f"{place}/{file.name}" if place else file.name
            artifact.add_file(str(file), name=name, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def close(self, success: bool) -> None:
        """Finish the W&B run, as failed if it will be resumed."""
        self._run.finish(exit_code=0 if success else 1)

    def abandon(self, error: BaseException | None) -> None:
        """Kill the service process of W&B if it has ended or timed out; otherwise Python waits for it at exit."""
        if error is None or isinstance(error, (ConnectionError, HandleAbandonedError)):
            stop_service()

    def calls(self) -> AbstractContextManager[None]:
        """Suppress the console output of W&B."""
        return silent()

    @property
    def place(self) -> str:
        """Location of the run, or the command that shows it."""
        return self._place


def open_adapter(folder: RunFolder, settings: LoggerSettings, notify: Notify) -> ImageAdapter | None:
    """Return the adapter of a run folder; None if W&B is disabled or cannot write offline files."""
    run = open_run(folder, settings, notify)
    return None if run is None else _RunAdapter(run)


def _record_table(folder: RunFolder) -> wandb.Table:
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


def _iteration_table(folder: RunFolder) -> wandb.Table:
    """Return a table with a row per logged image, which W&B groups by task and iteration."""
    table = wandb.Table(columns=["task", "iteration", "image", "probability", "prediction"], allow_mixed_types=True)
    frames = [(task, k, file) for task in folder.queue() for k, file in folder.frames(task.key)][:_MAX_IMAGES]
    probabilities = {key: dict(curve) for key, curve in folder.curves("probability").items()}
    for task, k, file in frames:
        top5 = top5_of(file)
        prediction = top5[0][0] if top5 else None
        table.add_data(task.name, k, wandb.Image(pixels(file)), probabilities.get(task.key, {}).get(k), prediction)
    return table
