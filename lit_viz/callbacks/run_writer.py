"""Callbacks that receive the snapshots and results of a run."""

from __future__ import annotations

import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.runs.folder import RunFolder
from lit_viz.types import Result, Snapshot
from lit_viz.utils.process import single_thread_executor

#: Maximum number of queued writes; a disk that is slower than the run then slows the run.
_MAX_PENDING = 64


class RunWriter(Callback):
    """Write frames, metrics and results to the run folder during training.

    A separate thread writes in order. Everything before a checkpoint is on the disk before the checkpoint is saved, so
    this callback must precede the one that saves it. Only rank 0 has it; its ``outputs`` are those of all ranks.

    Args:
        folder: run folder.
        flush_every: seconds between two flushes of the metrics.

    Raises:
        LitVizError: the disk is full; finished results are kept.
    """

    def __init__(self, folder: RunFolder, flush_every: float = 2.0) -> None:
        self.folder = folder
        self.flush_every = flush_every
        self._flushed = time.monotonic()
        self._pending: deque[Future[None]] = deque()
        self._failed = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Queue the snapshots and results of this step."""
        for snapshot in outputs["snapshots"]:
            self._submit(partial(self.folder.add_snapshot, _copy_images(snapshot)))
        for result in outputs["results"]:
            self._submit(partial(self.folder.add_result, _copy_images(result)))
        if time.monotonic() - self._flushed >= self.flush_every:
            self._submit(self.folder.flush)
            self._flushed = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Flush before a checkpoint, because a resumed run does not repeat what precedes it."""
        self.flush()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Flush; a failure is a warning, so that it does not hide the exception."""
        try:
            self.flush()
        except (LitVizError, OSError) as error:
            warnings.warn(f"the last metrics were not written: {error}", stacklevel=2)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the folder."""
        self._wait(0)
        self.folder.finish()
        self._writer.shutdown()

    def flush(self) -> None:
        """Return when all queued data is on the disk."""
        self._wait(0)
        self.folder.settle()
        self._flushed = time.monotonic()

    @cached_property
    def _writer(self) -> ThreadPoolExecutor:
        return single_thread_executor("lit_viz-files")

    def _submit(self, write: Callable[[], object]) -> None:
        self._pending.append(self._writer.submit(self._write, write))
        self._wait(_MAX_PENDING)

    def _write(self, write: Callable[[], object]) -> None:
        """Write, unless an earlier write failed."""
        if self._failed:
            return
        try:
            write()
        except BaseException:
            self._failed = True
            raise

    def _wait(self, pending: int) -> None:
        """Wait until at most ``pending`` writes are queued, and raise the error of a finished one."""
        while self._pending and (len(self._pending) > pending or self._pending[0].done()):
            self._pending.popleft().result()


class Memory(Callback):
    """Keep all snapshots and results in memory, for runs without a folder.

    Attributes:
        snapshots: by task index, in order of iteration.
        results: by task index.
    """

    def __init__(self) -> None:
        self.snapshots: dict[int, list[Snapshot]] = defaultdict(list)
        self.results: dict[int, Result] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the snapshots and results of this step."""
        for snapshot in outputs["snapshots"]:
            self.snapshots[snapshot.task.index].append(snapshot)
        for result in outputs["results"]:
            self.results[result.task.index] = result


def _copy_images(item: Any) -> Any:
    """Return a snapshot or result with copies of its images, because training continues while they are written."""
    copies: dict[str, Any] = {}
    for name, value in vars(item).items():
        if isinstance(value, Tensor):
            copies[name] = value.clone()
        elif name == "extra_images":
            copies[name] = {key: image.clone() for key, image in value.items()}
    return replace(item, **copies)
