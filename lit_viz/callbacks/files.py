"""The callback that writes the run folder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_viz.engine.run_folder import RunFolder
from lit_viz.errors import LitVizError


class RunFiles(Callback):
    """Write frames, scalars and results to the run folder as they come.

    Results are on the disk when ``on_train_batch_end`` returns, frames too; scalars are flushed every ``flush_every``
    seconds, before every checkpoint, and at the end, also that by an exception. Put it before whatever saves a
    checkpoint, so that what a checkpoint calls done has been written. Only the process with a folder (rank 0) writes:
    ``outputs`` holds there what all ranks observed and finished.

    Args:
        folder: where to; None writes nothing (the other ranks).
        flush_every: seconds between two flushes of the scalars.

    Raises:
        LitVizError: the disk is full; what was finished is kept.
    """

    def __init__(self, folder: RunFolder | None, flush_every: float = 2.0) -> None:
        self.folder = folder
        self.flush_every = flush_every
        self._flushed = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what this step observed and finished."""
        if self.folder is None or not isinstance(outputs, Mapping):
            return
        for observation in outputs.get("observations", ()):
            self.folder.add_observation(observation)
        for result in outputs.get("results", ()):
            self.folder.add_result(result)
        if time.monotonic() - self._flushed >= self.flush_every:
            self.flush()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Flush: scalars earlier than a checkpoint are not computed again after a resume."""
        self.flush()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what was observed so far; the exception goes on."""
        try:
            self.flush()
        except (LitVizError, OSError) as error:  # it must not hide the exception that stops the run
            warnings.warn(f"the last scalars were not written: {error}", stacklevel=2)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Flush, and put the records in task order."""
        if self.folder is not None:
            self.folder.finish()

    def flush(self) -> None:
        """Write the buffered scalars now."""
        if self.folder is not None:
            self.folder.flush()
        self._flushed = time.monotonic()
