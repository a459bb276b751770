"""Parts of Lightning that a run replaces: strategy, checkpoint format and private attributes."""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from lit_viz.engine.heartbeat import rank_timeout
from lit_viz.errors import LitVizError, first_line
from lit_viz.networks.isolation import torch_warnings_ignored
from lit_viz.utils.files import write_bytes
from lit_viz.utils.imports import required
from lit_viz.utils.process import launcher_topology

with required("pytorch-lightning 2.6"):
    from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar
    from pytorch_lightning.plugins.io import CheckpointIO
    from pytorch_lightning.plugins.precision import MixedPrecision
    from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
    from pytorch_lightning.trainer.states import TrainerFn

#: Private attributes of Lightning that lit_viz sets, overrides or reads, and why; a test checks that they exist.
PRIVATE_ATTRIBUTES = {
    "pytorch_lightning.loops.training_epoch_loop._TrainingEpochLoop._broadcast_sigterm_tensor": (
        "the ranks would synchronize before every step; they exchange signals in their status instead"
    ),
    "pytorch_lightning.loops.fit_loop._FitLoop.__init__": "a run with a given Trainer has a loop of its own",
    "pytorch_lightning.loops.training_epoch_loop._TrainingEpochLoop.__init__": "it counts the steps of that loop",
    "pytorch_lightning.LightningDataModule.trainer": (
        "its assignment is the only call before Lightning warns about max_epochs; the Trainer is adapted then"
    ),
    "pytorch_lightning.LightningModule._trainer": "whether a module has a Trainer, and its precision",
}


# The package `lightning`, if it is imported too, redirects the messages of `pytorch_lightning` to its own loggers.
_LIGHTNING_LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning", "lightning.pytorch", "lightning.fabric")
_levels: list[list[int]] = []  # levels before the first of the current runs, once per run
_levels_lock = threading.Lock()


_DIGEST = 32  # bytes of the SHA-256 digest at the end of a checkpoint


class AtomicCheckpointIO(CheckpointIO):
    """Write a checkpoint next to its path and rename it, so that the previous one is valid until then.

    The digest of the content follows it in the file; readers of zip files ignore it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint; on a full disk the previous one is kept."""
        content = BytesIO()  # torch hides the reason if it cannot write a file
        torch.save(checkpoint, content)
        content.write(hashlib.sha256(content.getvalue()).digest())
        write_bytes(path, content.getvalue())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, always with ``weights_only``, so that no code is executed.

        Raises:
            LitVizError: the file is missing or damaged.
        """
        try:
            data = Path(path).read_bytes()
            if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
                raise ValueError("wrong checksum")
            checkpoint: dict[str, Any] = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
            if not isinstance(checkpoint, dict):
                raise ValueError("it is no dictionary")
        except Exception as error:  # several types, depending on the damage
            raise LitVizError(
                f"the checkpoint {path} is damaged ({first_line(error)}): "
                "start the run again with overwrite, or in another folder"
            ) from error
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the file, if it exists."""
        Path(path).unlink(missing_ok=True)


class LaunchOnlyStrategy(DDPStrategy):
    """Strategy that launches and connects processes like ``ddp``, without wrapping the module.

    There are no weights with gradients to average.
    """

    def configure_ddp(self) -> None:
        """Do nothing."""


StrategyRegistry.register("lit_viz", LaunchOnlyStrategy, description="Several processes without DDP")


def is_distributed(options: Any) -> bool:
    """Return whether the Trainer's options, torchrun or SLURM request more than one process."""
    return str(options.devices) not in ("1", "[0]") or options.num_nodes != 1 or launcher_topology() is not None


def trainer_options(options: Any) -> dict[str, Any]:
    """Return the Trainer's options, with a strategy if there are several processes.

    Devices and nodes default to the processes launched by torchrun or SLURM.

    Raises:
        LitVizError: the accelerator is a GPU of Apple.
    """
    given = dict(vars(options))
    if torch.backends.mps.is_available():  # Lightning would select it by default
        if given["accelerator"] in ("mps", "gpu"):
            raise LitVizError("GPUs of Apple have no float64 and are not supported: use accelerator=cpu")
        given["accelerator"] = "cpu"
    if not is_distributed(options):
        return given
    if str(options.devices) == "1" and (launched := launcher_topology()) is not None:
        given["devices"], given["num_nodes"] = launched
    return given | {"strategy": LaunchOnlyStrategy(timeout=rank_timeout()), "use_distributed_sampler": False}


def is_rank_failure(error: BaseException) -> bool:
    """Return whether the error was caused by the end of another rank."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def is_rank_timeout(error: BaseException) -> bool:
    """Return whether the error was caused by another rank that is stopped or stuck."""
    return is_rank_failure(error) and "timed out" in str(error).lower()


def kill_ranks(trainer: pl.Trainer, error: BaseException) -> None:
    """Kill the processes launched by this one if they would not end after an error: they wait in a collective of NCCL,
    or are stopped."""
    kill = getattr(trainer.strategy.launcher, "kill", None)
    if kill is None or not (dist.is_available() and dist.is_initialized()):
        return
    if dist.get_backend() == "nccl" or is_rank_timeout(error):
        kill(signal.SIGKILL)


@contextmanager
def adapted_trainer(trainer: pl.Trainer) -> Iterator[None]:
    """Adapt precision, signals and warnings of a Trainer to the training of images, and restore them."""
    precision: Any = trainer.precision_plugin
    scaler = getattr(precision, "scaler", None)
    loop: Any = trainer.fit_loop.epoch_loop
    if isinstance(precision, MixedPrecision):
        precision.scaler = None  # there is no scaled loss
    # Lightning broadcasts the SIGTERM of rank 0 here before every step.
    loop._broadcast_sigterm_tensor = lambda: None
    try:
        with warnings.catch_warnings():
            for start in ("`max_epochs` was not set", "Using ModelCheckpoint with manual optimization"):
                warnings.filterwarnings("ignore", start)
            yield
    finally:
        del loop._broadcast_sigterm_tensor
        if isinstance(precision, MixedPrecision):
            precision.scaler = scaler


class AdaptingDataModule(pl.LightningDataModule):
    """A data module whose Trainer is adapted to images for the duration of a training."""

    def __init__(self) -> None:
        super().__init__()
        self._adapted = ExitStack()

    @property
    def trainer(self) -> pl.Trainer | None:
        """The Trainer that has the data."""
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: pl.Trainer | None) -> None:
        self._trainer = trainer
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            self._adapted.close()
            self._adapted.enter_context(adapted_trainer(trainer))

    def teardown(self, stage: str) -> None:
        """Restore the Trainer."""
        self._adapted.close()

    def on_exception(self, exception: BaseException) -> None:
        """Restore the Trainer."""
        self._adapted.close()


def adapt_strategy(trainer: pl.Trainer) -> None:
    """Leave the module as it is on several devices.

    Raises:
        LitVizError: the strategy divides the module between the devices.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy.model = trainer.lightning_module  # there are no weights with gradients to average
    elif trainer.world_size > 1:
        name = type(trainer.strategy).__name__
        raise LitVizError(f"several devices require strategy='lit_viz' or 'ddp', got {name}")


def describe_bar(trainer: pl.Trainer, text: str, steps: int) -> None:
    """Describe the bar of the training, which Lightning calls ``Epoch 0/-2`` in a run without a number of epochs.

    Args:
        trainer: its progress bar is one of Lightning's; others are unchanged.
        text: description.
        steps: maximum number of steps.
    """
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar) and bar.progress is not None and bar.train_progress_bar_id is not None:
        bar.progress.update(bar.train_progress_bar_id, description=text, total=steps)
    elif isinstance(bar, TQDMProgressBar) and not bar.is_disabled:
        bar.train_progress_bar.total = steps
        bar.train_progress_bar.set_description(text, refresh=False)


@contextmanager
def messages_ignored() -> Iterator[None]:
    """Ignore messages of Lightning about devices and about networks in eval mode."""
    with _levels_raised(), warnings.catch_warnings():
        for start in ("GPU available but not used", "The `srun` command", r"Found \d+ module\(s\) in eval mode"):
            warnings.filterwarnings("ignore", start)
        with torch_warnings_ignored():
            yield


@contextmanager
def _levels_raised() -> Iterator[None]:
    """Set the loggers of Lightning to the level WARNING, until the last of simultaneous runs in threads stops."""
    with _levels_lock:
        levels = [logging.getLogger(name).level for name in _LIGHTNING_LOGGERS]
        if _levels:
            levels = _levels[0]
        _levels.append(levels)
        for name in _LIGHTNING_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        with _levels_lock:
            levels = _levels.pop()
            if not _levels:
                for name, level in zip(_LIGHTNING_LOGGERS, levels, strict=True):
                    logging.getLogger(name).setLevel(level)


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """Raise the KeyboardInterrupt that a Trainer turns into a SystemExit, and restore the handler of SIGINT, which the
    Trainer leaves ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
