"""Saving often, and stopping well when told to."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_viz.engine.distributed import LocalRequests
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import Terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Checkpoints(Callback):
    """Saves a checkpoint every so often, at the end, and when a signal asks the run to stop.

    SIGINT and SIGTERM only set a flag: at the end of the step the checkpoint is saved and the run stops, so neither an
    update nor a file is cut in two. A second signal stops at once. Put it behind the callbacks that write.

    Several processes do both together, when they meet; what the others have is in the checkpoint of the first one.

    Args:
        path: the checkpoint file; None saves nothing (a run without a folder) and still stops well. Only the first
            process writes it, but all need to say that they save.
        every: seconds between two checkpoints, unless ``every_steps`` is given.
        every_steps: steps of the batch between two checkpoints.
    """

    def __init__(self, path: Path | None, every: float = 30.0, every_steps: int | None = None) -> None:
        self.path = path
        self.every = every
        self.every_steps = every_steps
        self._asked = LocalRequests()
        self._saved = time.monotonic()
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over (Lightning's own handler of SIGTERM would exit with status 0)."""
        self._asked = _training(pl_module).requests
        self._saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ask for a checkpoint when it is time."""
        self._asked.save |= self._due(batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when all have agreed to, and when the run ends or is told to."""
        agreed = _training(pl_module).decision
        stops = bool(agreed.signal) or trainer.should_stop
        if stops or agreed.save:
            if self.path is not None:
                trainer.save_checkpoint(self.path)  # before should_stop: a stopped run would resume to zero steps
            self._saved = time.monotonic()
            agreed.save = False
        if stops:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._release()

    def _due(self, batch_idx: int) -> bool:
        if self.every_steps is not None:
            return (batch_idx + 1) % self.every_steps == 0
        return time.monotonic() - self._saved >= self.every

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._asked.signal:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self._asked.signal = number

    def _release(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def _training(module: LightningModule) -> ImageTraining:
    assert isinstance(module, ImageTraining)
    return module
