"""The Trainer of a run: made before a folder is, and put to work on the queue."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lit_viz.callbacks.checkpoints import Checkpoints
from lit_viz.classifiers.classifier import GIVEN_WEIGHTS
from lit_viz.classifiers.isolation import is_out_of_memory, torch_warnings_ignored
from lit_viz.engine.checkpoint import AtomicCheckpointIO
from lit_viz.engine.data_module import TaskQueue
from lit_viz.engine.distributed import disable_step_barrier, is_rank_failure, kill_ranks, trainer_options
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, NetworkError, first_line, interrupt_exit_status
from lit_viz.images.listing import has_array_images
from lit_viz.launch.resume import LAST_CHECKPOINT
from lit_viz.types import Task
from lit_viz.utils.formatting import command_line
from lit_viz.utils.ranks import is_rank_zero


class Interrupted(LitVizError):
    """A signal stopped the run; what it had is saved, where it has a folder."""


def trainer_for(config: Any, scratch: str) -> pl.Trainer:
    """Return the Trainer of a run, which has found its devices.

    Args:
        config: of the run.
        scratch: folder of a run that has none.

    Raises:
        LitVizError: the devices are not here, or there is no step at which a checkpoint is due.
    """
    if config.checkpoint_every is not None and config.checkpoint_every < 1:
        raise LitVizError(f"--checkpoint-every {config.checkpoint_every} is no number of steps: give 1 or more.")
    try:
        with _quiet_lightning():
            trainer = pl.Trainer(
                **trainer_options(config.trainer),
                max_epochs=-1,
                logger=False,
                plugins=[AtomicCheckpointIO(), *_slurm()],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                inference_mode=False,
                default_root_dir=config.out or scratch,
            )
    except Exception as error:  # Lightning's own kinds, and those of a backend that is not installed
        devices = f"--trainer.accelerator {config.trainer.accelerator} --trainer.devices {config.trainer.devices}"
        raise LitVizError(f"{devices} can't be used here: {first_line(error)}") from error
    disable_step_barrier(trainer)
    return trainer


def fit(
    trainer: pl.Trainer,
    config: Any,
    module: ImageTraining,
    tasks: Sequence[Task] = (),
    callbacks: Sequence[pl.Callback] = (),
    logger: Any = None,
) -> None:
    """Train the tasks, from the last checkpoint on where there is one; only the first of several processes has any.

    Raises:
        Interrupted: by a signal.
        LitVizError: another process has ended.
    """
    module.devices_mode, module.compile_mode = config.devices_mode, config.compile
    last = None if config.out is None else Path(config.out) / LAST_CHECKPOINT
    resumed = last if last is not None and config.resume and last.exists() else None
    checkpoints = Checkpoints(last, every_steps=config.checkpoint_every)
    trainer.callbacks.extend([*callbacks, checkpoints])  # type: ignore[attr-defined]
    trainer.logger = logger
    queue = TaskQueue(tasks)
    with _quiet_lightning(), _sigint_kept():
        try:
            trainer.fit(module, datamodule=queue, ckpt_path=resumed, weights_only=True)
        except SIGTERMException as error:  # it came before Checkpoints had taken the signal over
            raise Interrupted(f"stopped at the start, nothing is lost{go_on(config)}", exit_status=143) from error
        except SystemExit as error:  # so Lightning ends on a KeyboardInterrupt
            stop = error.__context__
            if not isinstance(stop, KeyboardInterrupt):
                raise
            kill_ranks(trainer)
            raise Interrupted(f"stopped at once{go_on(config)}", exit_status=interrupt_exit_status(stop)) from error
        except Exception as error:
            kill_ranks(trainer)
            if trainer.world_size > 1 and is_rank_failure(error):
                raise LitVizError(
                    "another process of the run has ended (killed, or for the reason above); what was finished is kept"
                    f"{go_on(config)}"
                ) from error
            raise
    stopped = module.decision.signal or module.requests.signal  # the last step's, which nobody has agreed on
    if stopped and not module.decision.unfinished:
        raise Interrupted(all_but_evidence(config), exit_status=128 + stopped)
    if stopped:
        saved = "" if config.out is None else ", all is saved"
        raise Interrupted(
            f"stopped after {len(module.finished)} of {len(queue.tasks)} images{saved}{go_on(config)}",
            exit_status=128 + stopped,
        )


@contextmanager
def failures_told(config: Any) -> Iterator[None]:
    """Turn what the network raises, and what torch and NumPy say where memory is not enough, into one sentence.

    Raises:
        LitVizError: memory was not enough, or the network failed.
    """
    smaller = " and a smaller --model.batch" if "batch" in config.model else ""
    at_once = f"fewer --slots (now {config.slots}){smaller}"
    try:
        yield
    except NetworkError as error:
        raise LitVizError(f"{error}; where it can't take so many at once give {at_once}{go_on(config)}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        on_gpu = isinstance(error, torch.OutOfMemoryError) or "CU" in str(error)
        kept = f"; what was finished is kept{how} and fewer --slots" if (how := go_on(config)) else ""
        raise LitVizError(
            f"the memory of {'the GPU' if on_gpu else 'this machine'} is not enough: take {at_once}, fewer --views or "
            f"smaller pictures{kept}"
        ) from error


def _slurm() -> list[SLURMEnvironment]:
    """Return SLURM's environment where Lightning would take it, without Lightning's own requeueing.

    That saves a checkpoint of its own into the run folder from within a signal's handler, on SIGUSR1; here a job ends
    with status 143 and is put back by ``scripts/slurm.sh``.
    """
    mine = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if mine else []


def all_but_evidence(config: Any) -> str:
    """Return what is said of a run that is stopped between its last image and its end."""
    return f"stopped: all images are done, figure and evidence are not{go_on(config)}"


def go_on(config: Any) -> str:
    """Return the end of a sentence that says how a run goes on: what was handed over in Python is only there."""
    if config.out is None or not is_rank_zero():
        return ""
    if has_array_images(vars(config)):
        return "; go on in Python with the same call and resume=True"
    if config.classifier.weights == GIVEN_WEIGHTS:
        return f"; go on in Python with lit_viz.resume({str(config.out)!r}, network)"
    return f"; go on with: {command_line('resume', config.out)}"


@contextmanager
def _sigint_kept() -> Iterator[None]:
    """Put the handler of SIGINT back, which Lightning leaves ignored."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's remarks on devices, on a network in eval mode and on torch's inner life are of no use here."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "GPU available but not used")  # as the user has asked
        warnings.filterwarnings("ignore", "The `srun` command is available")  # on every node of a cluster
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")
        try:
            with torch_warnings_ignored():
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
