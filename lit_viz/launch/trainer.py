"""The Trainer of a run: construction, training with interrupt handling, and errors of the network."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lit_viz.callbacks.saving import ExactCheckpoint
from lit_viz.engine.failures import failures_reported
from lit_viz.engine.heartbeat import rank_timeout
from lit_viz.engine.lightning import (
    AtomicCheckpointIO,
    interrupts_raised,
    is_rank_failure,
    is_rank_timeout,
    kill_ranks,
    messages_ignored,
    trainer_options,
)
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.errors import (
    Interrupted,
    LitVizError,
    first_line,
    interrupt_exit_status,
)
from lit_viz.images.listing import ARRAY_PREFIX
from lit_viz.launch.options import RunOptions
from lit_viz.launch.resume import has_progress
from lit_viz.networks.network import GIVEN_WEIGHTS
from lit_viz.runs.layout import LAST_CHECKPOINT
from lit_viz.utils.formatting import command_line, pluralize, warn_caller
from lit_viz.utils.parts import has_instances
from lit_viz.utils.process import is_rank_zero, launcher_topology

_MOST_CPU_PROCESSES = 8  # on machines with fewer processors
#: State of a run that was stopped after its last image.
STOPPED_BEFORE_EVIDENCE = "stopped: all images are done, figure and evidence are not"


def build_trainer(options: RunOptions, scratch: str) -> pl.Trainer:
    """Return the Trainer of a run, which may be a given one.

    Raises:
        LitVizError: an option is invalid, a device does not exist, or too many processes on CPUs are requested.
    """
    if isinstance(options.trainer, pl.Trainer):
        return options.trainer
    arguments = options.trainer_arguments
    try:
        with messages_ignored():
            # Lightning's own SLURM requeueing saves a checkpoint within a signal handler; scripts/slurm.sh requeues.
            is_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
            environments: list[Any] = [SLURMEnvironment(auto_requeue=False)] if is_slurm else []
            given = trainer_options(arguments)
            if options.shard is not None and torch.cuda.is_available() and str(given["devices"]) == "1":
                given["devices"] = [torch.cuda.current_device()]
            trainer = pl.Trainer(
                **given,
                max_epochs=-1,
                logger=False,
                plugins=environments,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                inference_mode=False,
                default_root_dir=options.folder or scratch,
            )
    except Exception as error:  # exceptions of Lightning and of backends that are not installed
        devices = f"accelerator={arguments.accelerator} with devices={arguments.devices}"
        raise LitVizError(f"{devices} is not available: {first_line(error)}") from error
    most = max(_MOST_CPU_PROCESSES, os.cpu_count() or 1)
    # Lightning starts any number of processes on CPUs. Those of torchrun and SLURM run already.
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > most and not launcher_topology():
        raise LitVizError(f"devices on CPUs must be at most {most} processes, got {trainer.num_devices}")
    return trainer


def fit(
    trainer: pl.Trainer,
    options: RunOptions,
    module: ImageTraining,
    queue: TaskQueue,
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Optimize the images of the tasks, from the last checkpoint if the run is resumed.

    The results are in the callbacks; the module keeps none.

    Warns:
        UserWarning: a limit of the Trainer, or one of its callbacks, has ended the run before all images were done.
    """
    checkpoint = None if options.folder is None else options.folder / LAST_CHECKPOINT
    resumed = checkpoint if checkpoint is not None and options.continues and checkpoint.exists() else None
    checkpoints = ExactCheckpoint(checkpoint, every_steps=options.checkpoint_every)
    module.keep_results = False
    try:
        with trainer_preserved(trainer):
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
            trainer.callbacks.extend([*callbacks, checkpoints])  # type: ignore[attr-defined]
            _train(trainer, options, module, queue, resumed)
    finally:
        module.ranks.close()
        module.keep_results = True
    stopped = module.decision.signal or module.exchange.status.signal  # the latter of the last step
    if not stopped:
        if module.decision.unfinished and is_rank_zero():
            unfinished = len(queue.tasks) - len(module.finished)
            images = f"{unfinished} of {pluralize(len(queue.tasks), 'image')} unfinished"
            warn_caller(f"{_limits(trainer)} ended the run with {images}")
        return
    event = STOPPED_BEFORE_EVIDENCE
    if module.decision.unfinished:
        saved = "" if options.out is None else ", progress is saved"
        event = f"stopped after {len(module.finished)} of {len(queue.tasks)} images{saved}"
    raise Interrupted(event, continuation(module, options), 128 + stopped)


def _limits(trainer: pl.Trainer) -> str:
    """Return the limits of a Trainer that can end a run: ``max_steps=3 of the Trainer``."""
    limits: list[str] = []
    if trainer.max_steps != -1:
        limits.append(f"max_steps={trainer.max_steps}")
    if isinstance(trainer.limit_train_batches, int):
        limits.append(f"limit_train_batches={trainer.limit_train_batches}")
    if any(isinstance(callback, Timer) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        limits.append("max_time")
    return f"{' or '.join(limits) or 'a callback'} of the Trainer"


@contextmanager
def trainer_preserved(trainer: pl.Trainer) -> Iterator[None]:
    """Restore the Trainer of a run: checkpoint plugin, callbacks, loggers, module, data, progress and signal handlers.

    The training starts at step 0 of a loop of its own, also with a Trainer that has reached its last epoch.
    """
    loop, checkpoint_io = trainer.fit_loop, trainer.strategy.checkpoint_io
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    own_callbacks, own_loggers = list(callbacks), list(trainer.loggers)
    lightning_module = trainer.strategy.lightning_module
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    trainer.fit_loop = type(loop)(trainer, loop.min_epochs, loop.max_epochs)
    trainer.fit_loop.epoch_loop = type(loop.epoch_loop)(trainer, loop.epoch_loop.min_steps, loop.epoch_loop.max_steps)
    try:
        yield
    finally:
        trainer.fit_loop, trainer.strategy.checkpoint_io = loop, checkpoint_io
        callbacks[:] = own_callbacks  # in place: a Trainer is freed late, since it contains itself
        trainer.loggers = own_loggers
        trainer.datamodule = datamodule  # type: ignore[attr-defined]
        if lightning_module is not None:
            trainer.strategy.connect(lightning_module)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _train(
    trainer: pl.Trainer, options: RunOptions, module: ImageTraining, queue: TaskQueue, resumed: Path | None
) -> None:
    """Run the Trainer; an interrupt, and the end of another rank, become errors that name the next command."""
    with messages_ignored():
        try:
            with interrupts_raised():
                trainer.fit(module, datamodule=queue, ckpt_path=resumed, weights_only=True)
        except SIGTERMException as error:  # before the ExactCheckpoint callback has installed its handler
            exit_status = 128 + signal.SIGTERM
            raise Interrupted("stopped before the first step", continuation(module, options), exit_status) from error
        except KeyboardInterrupt as interrupt:
            kill_ranks(trainer, interrupt)
            exit_status = interrupt_exit_status(interrupt)
            raise Interrupted("stopped immediately", continuation(module, options), exit_status) from interrupt
        except Exception as error:
            kill_ranks(trainer, error)
            if trainer.world_size > 1 and is_rank_failure(error):
                event = "has ended"
                if is_rank_timeout(error):
                    event = f"did not respond for {rank_timeout().total_seconds():g} s"
                hint = resume_hint(module, options)
                raise LitVizError(f"another process of the run {event}; finished images are kept{hint}") from error
            raise


def failures_of_run(module: ImageTraining, options: RunOptions) -> AbstractContextManager[None]:
    """Translate failures of a run, with how it is continued; see :func:`~lit_viz.engine.failures.failures_reported`."""
    return failures_reported(module, partial(resume_hint, module, options))


def resume_hint(module: ImageTraining, options: RunOptions) -> str:
    """Return the :func:`continuation` of a run after a semicolon, as the end of a message."""
    command = continuation(module, options)
    return f"; {command}" if command else ""


def continuation(module: ImageTraining, options: RunOptions) -> str:
    """Return ``continue with: lit-viz resume RUN``, or the Python call if the run was given arrays or a module; nothing
    for a run without progress."""
    folder = options.folder
    if folder is None or not has_progress(folder) or not is_rank_zero():
        return ""  # a folder without progress is discarded
    if _is_of_python(module):
        return "continue in Python with the same call and resume=True"
    if module.network.weights == GIVEN_WEIGHTS:
        return f"continue in Python with lit_viz.resume({str(folder)!r}, network)"
    return f"continue with: {command_line('resume', folder)}"


def _is_of_python(module: ImageTraining) -> bool:
    """Return whether a run has images in memory, or parts that can't be written to its configuration."""
    has_images = len(getattr(module, "images", ())) > 0 or str(module.arguments.get("init")).startswith(ARRAY_PREFIX)
    return has_images or has_instances(module.plain_arguments())
