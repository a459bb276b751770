"""Callbacks that log images to any logger: of a plain Trainer, and of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_viz.engine.module import ImageTraining
from lit_viz.loggers import adapter
from lit_viz.loggers.base import ImageAdapter
from lit_viz.loggers.rows import FolderRows, caption, log_snapshot, names_of
from lit_viz.loggers.thread import LoggerThread
from lit_viz.presentations import presentation_of


class ImageLogger(Callback):
    """Log the images of a method over their iterations to all loggers of the Trainer.

    The logged iterations are those of the method, ``log_at`` and ``curve_at``. An image has the key ``image/<name>``
    and a caption with its most probable classes; its metrics are ``probability/<name>`` and so on. The name is that of
    the task, or ``<index>_<name>`` if names are not unique. The axis is ``iteration``, not the global step:

    - ``WandbLogger``: media panels and curves with ``iteration`` as step metric
    - ``TensorBoardLogger``: images, captions as texts ``image/<name>/caption``
    - ``MLFlowLogger``: images, captions as artifacts ``captions/image/<name>/<iteration>.txt``
    - ``CSVLogger``: rows with the column ``iteration``, files ``image/<name>/<iteration>.png`` and ``images.csv``
    - other loggers: the metrics

    Args:
        max_images: number of tasks that are logged, the first of the queue.

    Example:
        >>> import pytorch_lightning as pl
        >>> import lit_viz as lv
        >>> trainer = pl.Trainer(callbacks=[lv.callbacks.ImageLogger()])  # doctest: +SKIP
    """

    def __init__(self, max_images: int = 32) -> None:
        self.max_images = max_images
        self._adapters: list[ImageAdapter] = []
        self._names: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the loggers, on rank 0."""
        assert isinstance(pl_module, ImageTraining)
        self._adapters = [adapter(logger, "iteration") for logger in trainer.loggers if trainer.is_global_zero]
        self._names = names_of(pl_module.tasks)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the snapshots of this step."""
        assert isinstance(pl_module, ImageTraining)
        snapshots = [snapshot for snapshot in outputs["snapshots"] if snapshot.task.index < self.max_images]
        for snapshot in snapshots if self._adapters else ():
            text = caption(snapshot, presentation_of(type(pl_module)))
            images = {} if snapshot.image is None else {"image": snapshot.image, **snapshot.extra_images}
            for logs in self._adapters:
                log_snapshot(logs, self._names[snapshot.task.index], snapshot, images, text)


class FolderLogger(Callback):
    """Log the rows of a run folder, and its results at the end.

    Rows are read from the folder when a checkpoint is saved, so that a logger never has a row that a resume computes
    again, and a resume logs the rows that the logger lacks.

    Args:
        rows: rows of the folder.
        threads: the loggers.
    """

    def __init__(self, rows: FolderRows, threads: Sequence[LoggerThread]) -> None:
        self.rows = rows
        self.threads = threads

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rows of the folder that the loggers lack."""
        self._log(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Log the rows since the last checkpoint; they are on the disk at this point."""
        self._log(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the remaining rows."""
        self._log(pl_module)

    def finish(self) -> None:
        """Log the rest of a complete run folder (records, figure, evidence), and finish the runs of the loggers."""
        if not self.threads:
            return
        rows, results = self.rows.all(), self.rows.results()
        for thread in self.threads:
            thread.log_rows([*rows, lambda adapter: adapter.log_results(results)])
            thread.submit(partial(thread.adapter.log_summary, results))
        self.close(success=True)

    def close(self, success: bool) -> None:
        """Finish the runs of the loggers that are still open."""
        for thread in self.threads:
            thread.close(success)

    def _log(self, module: LightningModule) -> None:
        finished: Mapping[int, str] = module.finished  # type: ignore[assignment]
        rows = self.rows.rows(finished) if self.threads else ()
        for thread in self.threads:
            thread.log_rows(rows)
