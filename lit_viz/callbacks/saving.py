"""Callbacks that store the results of a run, and its checkpoints."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lit_viz._version import __version__
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.engine.ranks import RankStatus
from lit_viz.errors import LitVizError, Terminated
from lit_viz.evidence.verifier import verifier_of
from lit_viz.presentations import presentation_of, recorded_method
from lit_viz.report.page import write_report
from lit_viz.runs.access import run_lock
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import REPORT
from lit_viz.runs.memory import Storage
from lit_viz.runs.verification import LastCheckpoint
from lit_viz.utils.checking import checked_types
from lit_viz.utils.files import check_writable, plain
from lit_viz.utils.process import single_thread_executor

#: Bytes of queued writes, at most; a disk that is slower than the run then slows the run. A write counts as a megabyte
#: at least.
_MOST_PENDING, _LEAST_WRITE = 64 << 20, 1 << 20


class RunWriter(Callback):
    """Store snapshots and results during training.

    For a run folder a separate thread writes in order; in memory nothing is copied. Everything before a checkpoint is
    on the disk before the checkpoint is saved, so this callback must precede the one that saves it. Only rank 0 has it;
    its ``outputs`` are from all ranks.

    Args:
        storage: run folder, or memory.

    Raises:
        LitVizError: the disk is full; finished results are kept.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._pending: deque[tuple[Future[None], int]] = deque()  # with its bytes
        self._failed = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store the snapshots and results of this step."""
        snapshots = outputs["snapshots"] if self.storage.keeps_snapshots else ()
        if not self.storage.is_slow:
            for snapshot in snapshots:
                self.storage.add_snapshot(snapshot)
            for result in outputs["results"]:
                self.storage.add_result(result)
            return
        for snapshot in snapshots:
            self._submit(partial(self.storage.add_snapshot, _copy_images(snapshot)), _bytes_of(snapshot))
        for result in outputs["results"]:
            self._submit(partial(self.storage.add_result, _copy_images(result)), _bytes_of(result))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Commit what has finished before a checkpoint, which states it."""
        self._wait(0)
        checkpoint.update(self.storage.commit())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Commit; a failure is a warning, so that it does not hide the exception."""
        try:
            self._wait(0)
            self.storage.commit()
        except (LitVizError, OSError) as error:
            warnings.warn(f"the last results were not written: {error}", stacklevel=2)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the results."""
        self._wait(0)
        self.storage.commit()
        if self.storage.is_slow:
            self._writer.shutdown()

    @cached_property
    def _writer(self) -> ThreadPoolExecutor:
        return single_thread_executor("lit_viz-files")

    def _submit(self, write: Callable[[], object], size: int = 0) -> None:
        self._pending.append((self._writer.submit(self._write, write), max(size, _LEAST_WRITE)))
        self._wait(_MOST_PENDING)

    def _write(self, write: Callable[[], object]) -> None:
        """Write, unless an earlier write failed."""
        if not self._failed:
            self._failed = True
            write()
            self._failed = False

    def _wait(self, most: int) -> None:
        """Wait until writes of at most ``most`` bytes are queued, and raise the error of a finished one."""
        while self._pending:
            first, _ = self._pending[0]
            if not first.done() and sum(size for _, size in self._pending) <= most:
                break
            self._pending.popleft()
            first.result()


def create_run(path: str | Path, module: ImageTraining, overwrite: bool = False, **recorded: Any) -> FolderStorage:
    """Create a run folder with the queue of a method, and its network, module and tasks in the form of a run.

    Args:
        path: the folder.
        module: the method.
        overwrite: whether an existing run is replaced.
        recorded: what is recorded in addition to the versions.

    Raises:
        LitVizError: the folder is not empty, the disk is full, or the method has no presentation.
    """
    method = recorded_method(type(module))
    folder = FolderStorage.create(path, overwrite)
    folder.clear()
    form = TaskQueue(module.tasks).form_with(module)
    config = yaml.safe_dump(plain(form), sort_keys=False, allow_unicode=True)
    folder.write_start(config, {**method, "lit_viz": __version__, **recorded}, module.tasks)
    return folder


def complete_run(folder: FolderStorage, method: type[ImageTraining]) -> None:
    """Write the report of a run folder without evidence, whose tasks are finished, and state that it is complete."""
    write_report(folder, presentation_of(method), verifier_of(method).evidence_class())
    folder.seal()


class RunFolder(Callback):
    """Write a run folder: the logged images, metrics, final images, records, and at the end ``report.html``.

    Add it before checkpointing callbacks. With ``ckpt_path=``, the folder continues from the checkpoint.
    :func:`lit_viz.log` accepts the folder; ``lit-viz check`` and ``resume`` require a run of the command line.

    Args:
        path: a missing or empty folder; with ``ckpt_path=``, that of the run.
        overwrite: whether an existing run is replaced.

    Raises:
        LitVizError: the folder is not empty, another process writes a run in it, the disk is full, or files of the run
            were changed before it continues.
    """

    @checked_types
    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.overwrite = overwrite
        self._folder: FolderStorage | None = None
        self._writer: RunWriter | None = None
        self._lock = ExitStack()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Open the folder, and delete what is later than the checkpoint."""
        if trainer.is_global_zero and trainer.training:
            self._lock.enter_context(run_lock(self.path))
            folder = FolderStorage.open(self.path)
            last = LastCheckpoint(folder, checkpoint)
            if last.loss is not None:
                raise LitVizError(
                    f"{self.path} is not as the checkpoint states ({last.loss}): start again in another folder"
                )
            last.check_sources(folder.queue())
            last.restore()
            (self.path / REPORT).unlink(missing_ok=True)
            self._write_to(folder)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the folder, with the queue."""
        if not trainer.is_global_zero or self._writer is not None:
            return
        assert isinstance(pl_module, ImageTraining)
        self._lock.enter_context(run_lock(self.path))
        self._write_to(create_run(self.path, pl_module, self.overwrite))

    def _write_to(self, folder: FolderStorage) -> None:
        self._folder, self._writer = folder, RunWriter(folder)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Queue the snapshots and results of this step."""
        if self._writer is not None:
            self._writer.on_train_batch_end(trainer, pl_module, *args)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write everything before a checkpoint."""
        if self._writer is not None:
            self._writer.on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the rest of the results."""
        if self._writer is not None:
            self._writer.on_exception(trainer, pl_module, exception)
            self._writer = None
        self._lock.close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the folder, and write the report of a complete run."""
        if self._writer is None or self._folder is None:
            return
        self._writer.on_train_end(trainer, pl_module)
        assert isinstance(pl_module, ImageTraining)
        if len(pl_module.finished) == len(pl_module.tasks):
            complete_run(self._folder, type(pl_module))
        self._writer = None
        self._lock.close()


def _copy_images(item: Any) -> Any:
    """Return a snapshot or result with copies of its images, because training continues while they are written."""
    copies: dict[str, Any] = {}
    for name, value in vars(item).items():
        if isinstance(value, Tensor):
            copies[name] = value.clone()
        elif name == "extra_images":
            copies[name] = {key: image.clone() for key, image in value.items()}
    return replace(item, **copies)


def _bytes_of(item: Any) -> int:
    """Return the bytes of the images of a snapshot or result."""
    images = [*vars(item).values(), *getattr(item, "extra_images", {}).values()]
    return sum(image.nbytes for image in images if isinstance(image, Tensor))


class ExactCheckpoint(Callback):
    """Save a checkpoint periodically, at the end of the run, and when a signal stops it.

    SIGINT and SIGTERM set a flag: at the end of the step the checkpoint is saved and the run stops. A second signal
    stops at once. All ranks save and stop in the same step; rank 0 writes the state of all of them. This callback must
    follow the callbacks that write files.

    Args:
        path: checkpoint file; None saves nothing and still handles signals.
        every: seconds between two checkpoints, unless ``every_steps`` is given.
        every_steps: steps between two checkpoints, at least 1.

    Raises:
        LitVizError: ``every_steps`` is less than 1.
    """

    @checked_types
    def __init__(self, path: str | Path | None, every: float = 30.0, every_steps: int | None = None) -> None:
        if every_steps is not None and every_steps < 1:
            raise LitVizError(f"every_steps must be at least 1, got {every_steps}")
        self.path = None if path is None else Path(path)
        self.every = every
        self.every_steps = every_steps
        self._status = RankStatus()
        self._saved = time.monotonic()
        self._previous_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers, in place of Lightning's: its SIGTERM handler exits with status 0.

        Raises:
            LitVizError: the checkpoint can't be written.
        """
        assert isinstance(pl_module, ImageTraining)
        if self.path is not None and trainer.is_global_zero:
            check_writable(self.path)
        self._status = pl_module.exchange.status
        self._saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Request a checkpoint if it is due."""
        if self.every_steps is not None:
            self._status.save |= (batch_idx + 1) % self.every_steps == 0
        else:
            self._status.save |= time.monotonic() - self._saved >= self.every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if the ranks decided to, and at the end of the run."""
        assert isinstance(pl_module, ImageTraining)
        decision = pl_module.decision
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
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self.on_train_end(trainer, pl_module)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._status.signal:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self._status.signal = number
