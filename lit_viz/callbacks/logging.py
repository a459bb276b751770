"""Callbacks that log images to any logger: of a plain Trainer, and of a run folder, which never waits for a logger."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Full, Queue
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lit_viz.engine.module import ImageTraining
from lit_viz.engine.snapshots import Snapshot
from lit_viz.errors import first_line
from lit_viz.loggers import LOGGERS, adapter
from lit_viz.loggers.base import ImageAdapter, LogRow
from lit_viz.loggers.rows import FolderRows, caption, log_snapshot, names_of
from lit_viz.presentations import Presentation, presentation_of
from lit_viz.runs.folder import FolderStorage
from lit_viz.utils.checking import checked_types
from lit_viz.utils.files import write_text
from lit_viz.utils.formatting import Notify, command_line

_MAX_CALLS = 64  # that wait for the logger
_EXIT_SECONDS = 8.0  # time limit of a call of a run that is stopped


class ImageLogger(Callback):
    """Log the images of a method over their iterations to all loggers of the Trainer.

    The logged iterations are set by the method, ``log_at`` and ``curve_at``. An image has the key ``image/<name>``
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

    @checked_types
    def __init__(self, max_images: int = 32) -> None:
        self.max_images = max_images
        self._adapters: list[ImageAdapter] = []
        self._names: dict[int, str] = {}

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
        if not self._adapters:
            return
        for snapshot in outputs["snapshots"]:
            if snapshot.task.index < self.max_images:
                self._log(snapshot, presentation_of(type(pl_module)))

    def _log(self, snapshot: Snapshot, presentation: Presentation) -> None:
        text = caption(snapshot, presentation)
        images: dict[str, Tensor] = {}
        if snapshot.image is not None:
            images["image"] = snapshot.image
            images.update(snapshot.extra_images)
        for logs in self._adapters:
            log_snapshot(logs, self._names[snapshot.task.index], snapshot, images, text)


class LoggerThread:
    """A thread that calls the logger of a run folder, in order.

    The first error of the logger, or a call that does not return in time, is reported in one line; after it, nothing is
    logged and the run continues. The end of a complete run has one time limit for all of its calls.

    Args:
        name: name of the logger, or the class of a logger of the user.
        adapter: its adapter.
        folder: run folder.
        notify: receives the line about an error.
    """

    def __init__(self, name: str, adapter: ImageAdapter, folder: FolderStorage, notify: Notify) -> None:
        self.name, self.adapter = name, adapter
        self.failed = False
        self._folder, self._notify = folder, notify
        self._logged = adapter.rows_logged
        self._calls: Queue[Callable[[], object] | None] = Queue(_MAX_CALLS)
        self._limit = adapter.call_seconds
        self._returned = time.monotonic()
        self._deadline: float | None = None  # of the end of a complete run
        self._has_folder = name in LOGGERS  # in the run folder, which a logger of the user has not
        if self._has_folder:
            complete_mark(folder, name).unlink(missing_ok=True)
        self._thread = threading.Thread(target=self._call_all, name=f"lit_viz-{name}", daemon=True)
        self._thread.start()
        self.submit(adapter.open)

    def log_rows(self, rows: Sequence[LogRow]) -> None:
        """Log the rows of the run that the logger lacks; ``rows`` start with the rows of earlier calls."""
        new = rows[self._logged :]
        self._logged = max(self._logged, len(rows))

        def log() -> None:
            for row in new:
                row(self.adapter)
                self._returned = time.monotonic()

        if new:
            self.submit(log)

    def submit(self, call: Callable[[], object]) -> None:
        """Call a function after the previous ones."""
        if not self._calls.unfinished_tasks:
            self._returned = time.monotonic()
        while not self.failed and self._thread.is_alive():
            with suppress(Full):
                self._calls.put(call, timeout=0.1)
                return
            self._give_up_if_late()

    def begin_end(self) -> None:
        """Let the time limit of the end begin when all rows so far are logged."""

        def begin() -> None:
            self._deadline = time.monotonic() + self.adapter.end_seconds

        self.submit(begin)

    def close(self, success: bool, seconds: float | None = None) -> None:
        """Wait for all calls and finish the run of the logger, unless it is closed or has failed; without ``success``
        the run can be continued, and no call may take longer than ``seconds``, by default 8."""
        if self.failed or not self._thread.is_alive():
            return
        if not success and seconds is not None:
            self._limit = seconds
        elif not success:
            self._limit = min(self._limit, _EXIT_SECONDS)
        self._give_up_if_late()
        self.submit(lambda: self.adapter.close(success))
        self.submit(lambda: self._calls.put_nowait(None))
        while self._thread.is_alive() and not self.failed:
            self._thread.join(0.1)
            self._give_up_if_late()
        if success and self._has_folder and not self.failed:
            write_text(complete_mark(self._folder, self.name), "")

    def _call_all(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                with self.adapter.calls():
                    call()
            except (Exception, SystemExit) as error:  # logging must not stop the run
                self._fail(f"failed ({first_line(error)})")
                self.adapter.abandon()
                return
            self._returned = time.monotonic()
            self._calls.task_done()

    def _give_up_if_late(self) -> None:
        """Stop the logger if a call has not returned for the time limit, or the end takes too long."""
        end = self._returned + self._limit if self._deadline is None else self._deadline
        if self._calls.unfinished_tasks and time.monotonic() > end:
            self._fail("timed out")
            self.adapter.abandon()

    def _fail(self, event: str) -> None:
        if self.failed:
            return
        self.failed = True
        title, later = self.name, f"lit_viz.log({str(self._folder.path)!r}, logger)"
        if self._has_folder:
            title, later = LOGGERS[self.name].title, command_line("log", self._folder.path, to=self.name)
        self._notify(f"{title} {event}, nothing more is logged; later: {later}")


def complete_mark(folder: FolderStorage, name: str) -> Path:
    """Return the file that marks a run as logged completely."""
    return folder.path / name / "complete"


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
        if threads:
            hyperparameters = rows.hyperparameters()
            for thread in threads:
                thread.submit(partial(thread.adapter.log_hyperparameters, hyperparameters))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the rows of the folder that the loggers lack."""
        self.log_rows(cast(ImageTraining, pl_module).finished)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Log the rows since the last checkpoint; they are on the disk at this point."""
        self.log_rows(cast(ImageTraining, pl_module).finished)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the remaining rows."""
        self.log_rows(cast(ImageTraining, pl_module).finished)

    def finish(self) -> None:
        """Log the rest of a complete run folder (records, figure, evidence), and finish the runs of the loggers."""
        if not self.threads:
            return
        rows, results = self.rows.all(), self.rows.results()
        for thread in self.threads:
            thread.log_rows(rows)
            thread.begin_end()
            thread.log_rows([*rows, lambda adapter: adapter.log_results(results)])
            thread.submit(partial(thread.adapter.log_summary, results))
        self.close(success=True)

    def close(self, success: bool) -> None:
        """Finish the runs of the loggers that are still open."""
        for thread in self.threads:
            thread.close(success)

    def log_rows(self, finished: Collection[int]) -> None:
        """Log the rows in the folder that the loggers lack; ``finished`` are the indices of finished tasks."""
        if not self.threads:
            return
        rows = self.rows.rows(finished)
        for thread in self.threads:
            thread.log_rows(rows)
