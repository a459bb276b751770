"""The callback that writes the run folder."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.runs.writer import RunFolder
from lit_viz.types import Result, Snapshot
from lit_viz.utils.process import single_thread_executor

#: Observations and results that wait to be written; a disk that is slower than the run slows it down in the end.
_WAITING = 64

Told = TypeVar("Told", Snapshot, Result)


class RunFiles(Callback):
    """Write frames, scalars and results to the run folder as they come, beside the training.

    They are written in their order by a thread of its own. All that came before a checkpoint is on the disk before it
    is saved: what a checkpoint calls done has been written. Put it before whatever saves one. Scalars are flushed every
    ``flush_every`` seconds, before every checkpoint, and at the end, also that by an exception. Only the first process
    has it: ``outputs`` holds there what all ranks observed and finished.

    Args:
        folder: where to.
        flush_every: seconds between two flushes of the scalars.

    Raises:
        LitVizError: the disk is full; what was finished is kept.
    """

    def __init__(self, folder: RunFolder, flush_every: float = 2.0) -> None:
        self.folder = folder
        self.flush_every = flush_every
        self._flushed = time.monotonic()
        self._waiting: deque[Future[None]] = deque()
        self._broken = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Have written what this step observed and finished."""
        for snapshot in outputs["snapshots"]:
            self._write(partial(self.folder.add_snapshot, _as_it_is(snapshot)))
        for result in outputs["results"]:
            self._write(partial(self.folder.add_result, _as_it_is(result)))
        if time.monotonic() - self._flushed >= self.flush_every:
            self._write(self.folder.flush)
            self._flushed = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write and flush: what is earlier than a checkpoint is not computed again after a resume."""
        self.flush()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what was observed so far; the exception goes on."""
        try:
            self.flush()
        except (LitVizError, OSError) as error:  # it must not hide the exception that stops the run
            warnings.warn(f"the last scalars were not written: {error}", stacklevel=2)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and flush the rest, and put the records in task order."""
        self._await(0)
        self.folder.finish()
        self._writer.shutdown()

    def flush(self) -> None:
        """Return when everything that was handed over is on the disk."""
        self._await(0)
        self.folder.settle()
        self._flushed = time.monotonic()

    @cached_property
    def _writer(self) -> ThreadPoolExecutor:
        """The thread, which starts with the first thing to write."""
        return single_thread_executor("lit_viz-files")

    def _write(self, action: Callable[[], object]) -> None:
        self._waiting.append(self._writer.submit(self._written, action))
        self._await(_WAITING)

    def _written(self, action: Callable[[], object]) -> None:
        """Write, unless something before could not be written."""
        if self._broken:
            return
        try:
            action()
        except BaseException:
            self._broken = True
            raise

    def _await(self, left: int) -> None:
        """Wait until no more than so many are left, and raise what went wrong."""
        while self._waiting and (len(self._waiting) > left or self._waiting[0].done()):
            self._waiting.popleft().result()


def _as_it_is(told: Told) -> Told:
    """Return it with copies of its images: training goes on while they are written."""
    copies: dict[str, Any] = {}
    for name, value in vars(told).items():
        if isinstance(value, Tensor):
            copies[name] = value.clone()
        elif name == "extra_images":
            copies[name] = {picture: image.clone() for picture, image in value.items()}
    return replace(told, **copies)
