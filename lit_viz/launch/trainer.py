"""The Trainer of a run: construction, training with interrupt handling, and errors of the network."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lit_viz.callbacks.saving import ExactCheckpoint
from lit_viz.classifiers.classifier import GIVEN_WEIGHTS
from lit_viz.classifiers.isolation import is_out_of_memory
from lit_viz.engine.lightning import (
    AtomicCheckpointIO,
    TaskQueue,
    interrupts_raised,
    is_rank_failure,
    kill_ranks,
    messages_ignored,
    trainer_options,
)
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, NetworkError, first_line, interrupt_exit_status
from lit_viz.images.listing import has_array_images
from lit_viz.launch.config import INSTANCE, without_instances
from lit_viz.launch.resume import LAST_CHECKPOINT, has_progress
from lit_viz.types import Task
from lit_viz.utils.formatting import command_line
from lit_viz.utils.process import is_rank_zero, launcher_topology

_MOST_CPU_PROCESSES = 8  # on machines with fewer processors


class Interrupted(LitVizError):
    """SIGINT or SIGTERM stopped the run. With a run folder, the finished steps are saved."""


def build_trainer(config: Any, scratch: str) -> pl.Trainer:
    """Return the Trainer of a run.

    Raises:
        LitVizError: an option is invalid, a device does not exist, or too many processes on CPUs are requested.
    """
    if config.checkpoint_every is not None and config.checkpoint_every < 1:
        raise LitVizError(f"--checkpoint-every must be at least 1, got {config.checkpoint_every}")
    try:
        with messages_ignored():
            # Lightning's own SLURM requeueing saves a checkpoint within a signal handler; scripts/slurm.sh requeues.
            is_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
            slurm = [SLURMEnvironment(auto_requeue=False)] if is_slurm else []
            trainer = pl.Trainer(
                **trainer_options(config.trainer),
                max_epochs=-1,
                logger=False,
                plugins=[AtomicCheckpointIO(), *slurm],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                inference_mode=False,
                default_root_dir=config.out or scratch,
            )
    except Exception as error:  # exceptions of Lightning and of backends that are not installed
        devices = f"--trainer.accelerator {config.trainer.accelerator} --trainer.devices {config.trainer.devices}"
        raise LitVizError(f"{devices} is not available: {first_line(error)}") from error
    most = max(_MOST_CPU_PROCESSES, os.cpu_count() or 1)
    # Lightning starts any number of processes on CPUs. Those of torchrun and SLURM run already.
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > most and not launcher_topology():
        message = f"--devices on CPUs must be at most {most} processes, got {trainer.num_devices}"
        raise LitVizError(message)
    return trainer


def fit(
    trainer: pl.Trainer,
    config: Any,
    module: ImageTraining,
    tasks: Sequence[Task] = (),
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Optimize the images of the tasks, from the last checkpoint if the run is resumed."""
    module.devices_mode, module.compile_mode = config.devices_mode, config.compile
    checkpoint = None if config.out is None else Path(config.out) / LAST_CHECKPOINT
    resumed = checkpoint if checkpoint is not None and config.resume and checkpoint.exists() else None
    checkpoints = ExactCheckpoint(checkpoint, every_steps=config.checkpoint_every)
    trainer.callbacks.extend([*callbacks, checkpoints])  # type: ignore[attr-defined]
    queue = TaskQueue(tasks)
    with messages_ignored():
        try:
            with interrupts_raised():
                trainer.fit(module, datamodule=queue, ckpt_path=resumed, weights_only=True)
        except SIGTERMException as error:  # before the ExactCheckpoint callback has installed its handler
            message = f"stopped before the first step{resume_hint(config)}"
            raise Interrupted(message, exit_status=128 + signal.SIGTERM) from error
        except KeyboardInterrupt as interrupt:
            kill_ranks(trainer)
            message = f"stopped immediately{resume_hint(config)}"
            raise Interrupted(message, exit_status=interrupt_exit_status(interrupt)) from interrupt
        except Exception as error:
            kill_ranks(trainer)
            if trainer.world_size > 1 and is_rank_failure(error):
                message = f"another process of the run has ended; finished images are kept{resume_hint(config)}"
                raise LitVizError(message) from error
            raise
    stopped = module.decision.signal or module.exchange.status.signal  # the latter of the last step
    if not stopped:
        return
    message = stopped_before_evidence(config)
    if module.decision.unfinished:
        saved = "" if config.out is None else ", progress is saved"
        message = f"stopped after {len(module.finished)} of {len(queue.tasks)} images{saved}{resume_hint(config)}"
    raise Interrupted(message, exit_status=128 + stopped)


@contextmanager
def failures_reported(config: Any) -> Iterator[None]:
    """Translate failures of the network and exhausted memory into a :class:`~lit_viz.errors.LitVizError`."""
    batch = " and a smaller --model.batch" if "batch" in config.model else ""
    fewer = f"fewer --slots (now {config.slots}){batch}"
    try:
        yield
    except NetworkError as error:
        raise LitVizError(f"{error}: use {fewer} if the batch is too large{resume_hint(config)}") from error
    except SystemExit as error:
        raise LitVizError(f"the network's code ended Python with status {error.code}{resume_hint(config)}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        device = "GPU" if isinstance(error, torch.OutOfMemoryError) or "CU" in str(error) else "CPU"
        hint = f"; finished images are kept{hint} and fewer --slots" if (hint := resume_hint(config)) else ""
        raise LitVizError(f"out of {device} memory: use {fewer}, fewer --views or smaller images{hint}") from error


def stopped_before_evidence(config: Any) -> str:
    """Return the message of a run that was stopped after its last image."""
    return f"stopped: all images are done, figure and evidence are not{resume_hint(config)}"


def resume_hint(config: Any) -> str:
    """Return ``; continue with: lit-viz resume RUN``, or the Python call if the run was given arrays or a module."""
    if config.out is None or not has_progress(config.out) or not is_rank_zero():
        return ""  # a folder without progress is discarded
    if has_array_images(vars(config)) or INSTANCE in str(without_instances(config.model)):
        return "; continue in Python with the same call and resume=True"
    if config.classifier.weights == GIVEN_WEIGHTS:
        return f"; continue in Python with lit_viz.resume({str(config.out)!r}, network)"
    return f"; continue with: {command_line('resume', config.out)}"
