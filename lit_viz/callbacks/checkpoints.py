"""The callback that saves checkpoints and stops the run at a signal."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_viz.engine.module import ImageTraining
from lit_viz.engine.ranks import LocalRequests
from lit_viz.errors import Terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Checkpoints(Callback):
    """Save a checkpoint periodically, at the end of the run, and when a signal stops it.

    SIGINT and SIGTERM set a flag: at the end of the step the checkpoint is saved and the run stops. A second signal
    stops at once. All ranks save and stop in the same step; rank 0 writes the state of all of them. This callback must
    follow those that write files.

    Args:
        path: checkpoint file; None saves nothing and still handles signals.
        every: seconds between two checkpoints, unless ``every_steps`` is given.
        every_steps: steps between two checkpoints.
    """

    def __init__(self, path: Path | None, every: float = 30.0, every_steps: int | None = None) -> None:
        self.path = path
        self.every = every
        self.every_steps = every_steps
        self._requests = LocalRequests()
        self._saved = time.monotonic()
        self._previous_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers, in place of Lightning's, whose SIGTERM handler exits with status 0."""
        self._requests = _image_training(pl_module).requests
        self._saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Request a checkpoint if it is due."""
        if self.every_steps is not None:
            self._requests.save |= (batch_idx + 1) % self.every_steps == 0
        else:
            self._requests.save |= time.monotonic() - self._saved >= self.every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if the ranks decided to, and at the end of the run."""
        decision = _image_training(pl_module).decision
        stop = bool(decision.signal) or trainer.should_stop
        if stop or decision.save:
            if self.path is not None:
                # Before should_stop is set: Lightning would resume such a checkpoint as finished.
                trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
            decision.save = False
        if stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the signal handlers."""
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._restore_handlers()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._requests.signal:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self._requests.signal = number

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()


def _image_training(module: LightningModule) -> ImageTraining:
    assert isinstance(module, ImageTraining)
    return module
