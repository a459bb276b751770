"""``lit_viz.run``: optimize, verify, draw. The command line, scripts and the short functions share it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lit_viz.callbacks.progress import Progress
from lit_viz.callbacks.saving import RunWriter
from lit_viz.engine.failures import gradients_enabled
from lit_viz.engine.lightning import is_distributed
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.engine.shards import Shard
from lit_viz.errors import ArgumentError, Interrupted, LitVizError, WriteError, interrupt_exit_status, require
from lit_viz.evidence.verifier import verifier_of
from lit_viz.launch.form import Form
from lit_viz.launch.logs import incomplete_loggers, open_loggers
from lit_viz.launch.options import RunOptions, extra_files, options_of_methods, with_options
from lit_viz.launch.provenance import device_name, provenance
from lit_viz.launch.resume import check_identity, check_records, has_progress, open_or_create
from lit_viz.launch.run import (
    Run,
    check_finished,
    complete,
    evidence_settings,
    give_photographs,
    verify_outcomes,
)
from lit_viz.launch.shards import check_shard, process_of_shard
from lit_viz.launch.trainer import STOPPED_BEFORE_EVIDENCE, build_trainer, continuation, failures_of_run, fit
from lit_viz.networks import Network
from lit_viz.presentations import presentation_of
from lit_viz.runs.access import is_run, run_lock
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import EVIDENCE, REPORT
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.results import records_of
from lit_viz.runs.seal import is_drawing, is_evidence
from lit_viz.runs.tar_store import open_run
from lit_viz.runs.verification import LastCheckpoint, foreign_files_text
from lit_viz.types import Task
from lit_viz.utils.formatting import Notify, choose_notify, ignore, pluralize, remark, warn_caller
from lit_viz.utils.process import is_rank_zero, tune_allocator

_SEED_LIMIT = 10**18  # seeds are stored in 64 bits
#: Run folders in which this process has taken part with a rank other than zero.
_FOLLOWED_RUNS: list[Path | None] = []


@with_options(RunOptions)
def run(module: ImageTraining, tasks: TaskQueue, options: RunOptions) -> Run:
    """Train the images of a queue of tasks by a method, verify the results and draw the figure.

    With ``out``, everything is written to a run folder, which can be resumed, checked and logged.

    Args:
        module: the method, such as :class:`~lit_viz.methods.ClassVisualization`.
        tasks: its tasks, such as :class:`~lit_viz.methods.tasks.ClassTasks`.
        out: run folder. Default: nothing is written.
        logger: names of the loggers of the run folder, ``wandb,tensorboard,mlflow,csv`` or ``none``. In Python also
            loggers of Lightning, or a list of both.
        logging: settings of the loggers that are given by name.
        trainer: arguments of the Trainer, such as ``{"devices": 2, "precision": "16-mixed"}``, or a Trainer; its own
            loggers and callbacks are used too.
        captum: ``captum`` compares saliency maps with Captum for 15 seconds, ``auto`` for as long as the run took, but
            between 1 and 15 seconds, and ``none`` compares none. The first map of each method is compared in any case.
        faithfulness: measure the saliency maps by insertion, deletion, sensitivity and randomization, and compare their
            methods in a table and a figure.
        localize: localize objects by the saliency maps.
        boxes: file or folder of reference boxes, with which the boxes of the maps are compared.
        explain: draw the saliency maps of photographs and adversarial examples.
        figure: format of the figure: ``png``, ``pdf`` or ``svg``.
        scale: color scale of the saliency maps of the figure: ``shared``, or one per ``map``.
        overlays: also draw the saliency maps over the photographs.
        rows: photographs on the first page of the figure: the ``first``, errors of the network before others, or the
            ``worst``, ``best`` or ``random`` ones. Maps go by the probability of their class, attacks by their change.
        resume: continue the run in ``out``; start it if there is none.
        overwrite: replace the run in ``out``.
        checkpoint_every: steps between checkpoints. Default: about 30 seconds.
        shard: part ``i/n`` of the tasks, with i from 0: tasks i, i + n and so on, with the draws of the whole run. Its
            run folder is ``shard-i-of-n`` in ``out``. The same call starts it, continues it, or does nothing. ``auto``
            is the part of this process in an array of SLURM or under torchrun.
        store: where results are: ``files``, or ``tar`` for many tasks: tars of a thousand tasks each, with reduced maps
            in float16 and without copies of photographs that lie in files. Figure, report and evidence are then of a
            sample of 100 tasks.
        store_arrays: with ``tar``, also store the maps with their channels, in float32.
        progress: show progress and messages. Default: in notebooks both, in scripts the progress of long runs.

    Returns:
        The results: images, maps, records, evidence and figure.

    Raises:
        LitVizError: an option is invalid, the run folder exists, all tasks have failed, or all ranks have to end
            because of a failure.

    Warns:
        UserWarning: some tasks have failed or were skipped.

    Example:
        >>> import lit_viz as lv
        >>> net = lv.load_network("efficientnet_lite0")
        >>> module, tasks = lv.SaliencyMap(net), lv.ImageTasks(net, "packaged:chelsea")
        >>> lv.run(module, tasks).maps.shape
        torch.Size([1, 224, 224])
    """
    # The tasks of the caller stay: those of a run in a folder are replaced by what the folder stores.
    return finished(execute(module, copy(tasks), options, notify=choose_notify(options.progress)))


def finished(run: Run) -> Run:
    """Return a run that is done.

    Raises:
        LitVizError: all images have failed. Some that have failed or were skipped are a warning.
    """
    unfinished = check_finished(run.endings(), run.folder)
    if unfinished is not None:
        warn_caller(unfinished)
    return run


def execute(
    module: ImageTraining,
    tasks: TaskQueue,
    options: RunOptions,
    *,
    form: Form | None = None,
    moves_network: bool = False,
    notify: Notify | None = None,
) -> Run:
    """Run a method to its end, or continue the run in its folder; see :func:`run`.

    Args:
        module, tasks, options: see :func:`run`.
        form: form of the run, if it is not that of the objects: that of a stored run that continues.
        moves_network: whether the network, which was loaded for this run, is moved to the device of the Trainer.
        notify: receives lines for the terminal.
    """
    with process_of_shard(options.shard) as shard:
        if shard != options.shard:  # of this process
            options = replace(options, shard=shard)
        return _execute(module, tasks, options, form, moves_network, notify)


def _execute(
    module: ImageTraining,
    tasks: TaskQueue,
    options: RunOptions,
    form: Form | None,
    moves_network: bool,
    notify: Notify | None,
) -> Run:
    _check_options(type(module), options)
    check_shard(module, options)
    if options.folder is None and options.own_loggers:
        raise LitVizError("logger requires out: loggers log a run folder")
    for task in tasks.tasks[:1]:
        if options.store != "files" and task.tile is not None:
            raise ArgumentError("store", "does not apply to tiles of large images: leave it out")
        require(abs(task.seed) < _SEED_LIMIT, "seed must have at most 18 digits", task.seed)
    module.network.refresh()
    recorded = form or Form.of(module, tasks, options)
    with (
        gradients_enabled(),
        tempfile.TemporaryDirectory() as scratch,
        failures_of_run(module, options),
    ):
        trainer = build_trainer(options, scratch)  # first, because it may fail
        tune_allocator()
        if moves_network:
            _move_network(module.network, trainer.strategy.root_device)
        if not is_rank_zero():
            if is_distributed(options.trainer_arguments):
                return _follow(trainer, module, tasks, options)
            if _FOLLOWED_RUNS and options.folder is not None:  # Lightning has started this script once per rank
                return Run(module, (), options)
        if options.folder is None:
            return _run_in_memory(trainer, module, tasks, options, recorded, notify)
        with run_lock(options.folder), _failed_start_discarded(options.folder):
            return _run_in_folder(trainer, module, tasks, options, recorded, notify)


def _check_options(method: type[ImageTraining], options: RunOptions) -> None:
    """Reject an option of figure or evidence that does not apply to the method, unless it has its default."""
    presentation = presentation_of(method)
    for name in sorted(options_of_methods() & options.changed.keys()):
        if name not in presentation.run_options:
            raise ArgumentError(name, f"does not apply to {presentation.title.lower()}: leave it out")
    if "store" in options.changed and not method.can_shard:
        raise ArgumentError("store", f"does not apply to {method.__name__}: leave it out")
    verifier_of(method).check_settings(evidence_settings(options, ignore))


def _move_network(network: Network, device: torch.device) -> None:
    """Move a network that was loaded for the run to the device, if its forward works there."""
    if device == network.device or network.device.type != "cpu":
        return
    with suppress(Exception):  # modules that support the CPU only raise various exceptions
        network.original.to(device)
    if not network.probe_logits().numel():
        network.original.to("cpu")


def _run_in_memory(
    trainer: pl.Trainer,
    module: ImageTraining,
    tasks: TaskQueue,
    options: RunOptions,
    form: Form,
    notify: Notify | None,
) -> Run:
    storage = MemoryStorage(configure=partial(_configuration, module, form))
    fit(trainer, options, module, tasks, [RunWriter(storage), Progress(notify)])
    outcomes = storage.outcomes()
    settings = replace(evidence_settings(options, notify or ignore), reads_files=False)  # at the first access
    verify_outcomes(module, outcomes, storage, settings)
    storage.amend(records_of(outcomes))
    return Run(module, tasks.tasks, options, storage)


def _configuration(module: ImageTraining, form: Form) -> tuple[str, Mapping[str, Any]]:
    """Return the form of a run as YAML, and its provenance."""
    return form.to_yaml(), provenance(type(module), module.network)


@contextmanager
def _failed_start_discarded(path: Path) -> Iterator[None]:
    """Delete a new run folder if the run fails before its first result or checkpoint; the corrected command would need
    ``--overwrite``."""
    exists = is_run(path)
    try:
        yield
    except BaseException as error:
        # After a WriteError, such as of a full disk, the run is resumed.
        if not (exists or has_progress(path) or isinstance(error, WriteError)):
            with suppress(LitVizError):  # no run, or with other files
                FolderStorage(path).clear(extra_files())
        raise


def _run_in_folder(
    trainer: pl.Trainer,
    module: ImageTraining,
    tasks: TaskQueue,
    options: RunOptions,
    form: Form,
    notify: Notify | None,
) -> Run:
    """Create or open the run folder, and run the method in it."""
    device = device_name(trainer.strategy.root_device)
    folder, queue, checkpoint = _open_folder(module, tasks, options, form, device)
    send = notify or ignore
    finished, changed, names = False, [REPORT, EVIDENCE], options.logger_names
    if checkpoint is not None:
        finished = checkpoint.is_finished(queue.tasks)
        if checkpoint.is_untouched(queue.tasks):
            changed = checkpoint.changed_files
            names = incomplete_loggers(folder, names)
            if folder.shard:
                send(f"{folder.path} is complete: nothing is computed")
        else:
            checkpoint.check_sources(queue.tasks)
            # Evidence that is not of a complete run is not verified.
            changed = [*checkpoint.changed_files, *changed]
            for stated in (checkpoint.loss, checkpoint.later):
                if stated is not None:
                    (notify or remark)(stated)
            checkpoint.restore()
        folder.discard(changed)
        check_records(folder, module.network)
    log = open_loggers(folder, names, options, type(module), send)
    try:
        if not finished:
            queue.finished = dict(folder.segments.statuses())
            fit(trainer, options, module, queue, [RunWriter(folder), log, Progress(notify)])
        run = Run(module, queue.tasks, options, folder)
        if not folder.shard:
            _complete(run, module, options, folder, send, changed)
        elif changed:  # evidence, figure and report are made when the shards are merged
            folder.seal()
        log.finish()
    finally:
        log.close(success=False)  # no effect after finish()
    added = None if checkpoint is None else foreign_files_text(folder)
    if added is not None:
        (notify or remark)(added)
    return run


def _open_folder(
    module: ImageTraining, tasks: TaskQueue, options: RunOptions, form: Form, device: str
) -> tuple[FolderStorage, TaskQueue, LastCheckpoint | None]:
    """Return the run folder and its queue, of a resumed run also its checkpoint; a new run has none."""
    text, recorded = _configuration(module, form)
    folder, is_resumed = open_or_create(options, form)
    give_photographs(folder, module)
    stored: Sequence[Task] = folder.queue() if is_resumed else ()
    if len(tasks.images):
        module.images = tasks.images  # type: ignore[assignment]
    if is_resumed:
        check_identity(folder, module.network)
    if stored:
        checkpoint = LastCheckpoint(folder)
        if not checkpoint.is_finished(stored):
            module.validate_tasks(stored)
        return folder, tasks.store(stored), checkpoint
    whole = module.expand_tasks(tasks.tasks)
    shard = None if options.shard is None else Shard.parse(options.shard)
    module.validate_tasks(whole)
    if shard is not None and not shard.indices(len(whole)):
        raise LitVizError(f"shard {shard} of {pluralize(len(whole), 'task')} has none: give fewer shards")
    if is_run(folder.path):  # only now that the new run is valid
        folder.clear(extra_files())
    folder.write_start(text, {**recorded, "device": device}, whole, shard)
    return folder, tasks.store(folder.queue()), None


def _complete(
    run: Run,
    module: ImageTraining,
    options: RunOptions,
    folder: FolderStorage,
    send: Notify,
    discarded: Sequence[str],
) -> None:
    """Compute the evidence, and draw figure and report of a run with finished images.

    ``discarded`` are the derived files that are missing: the evidence is computed if one of its files is among them,
    and what shows it is drawn again.
    """
    needs_evidence = any(map(is_evidence, discarded))
    needs_figure = needs_evidence or not run.is_drawn or any(map(is_drawing, discarded))
    if not needs_figure and REPORT not in discarded:
        if discarded:  # exports of the records
            folder.seal()
        return
    settings = evidence_settings(options, send) if needs_evidence else None
    try:
        complete(run, module, folder, settings, draws=needs_figure)
    except KeyboardInterrupt as interrupt:
        exit_status = interrupt_exit_status(interrupt)
        raise Interrupted(STOPPED_BEFORE_EVIDENCE, continuation(module, options), exit_status) from interrupt


def _follow(trainer: pl.Trainer, module: ImageTraining, tasks: TaskQueue, options: RunOptions) -> Run:
    """Take part in a run. Its folder and outcomes belong to rank zero."""
    if options.continues and options.folder is not None and is_run(options.folder):
        folder = open_run(options.folder)
        stored = folder.queue()
        if stored and LastCheckpoint(folder).is_finished(stored):  # no tasks: rank zero is just creating the folder
            return Run(module, (), options)
    _FOLLOWED_RUNS.append(options.folder)
    fit(trainer, options, module, TaskQueue((), tasks.images))
    return Run(module, (), options)
