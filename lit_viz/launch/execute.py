"""Execution of a configuration: load, optimize, verify, draw. The command line, scripts and Python share it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl

from lit_viz.callbacks.progress import Progress
from lit_viz.callbacks.saving import Memory, RunWriter
from lit_viz.classifiers import Classifier
from lit_viz.engine.lightning import is_distributed
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, WriteError, interrupt_exit_status
from lit_viz.launch.commands.base import Command
from lit_viz.launch.config import ConfiguredMethod
from lit_viz.launch.logs import incomplete_loggers, open_loggers, run_loggers, settings_of
from lit_viz.launch.resume import LastCheckpoint, check_identity, has_progress, method_files, open_or_create, provenance
from lit_viz.launch.run import Run, captions, gradients_enabled, ignore, load_configured
from lit_viz.launch.trainer import Interrupted, build_trainer, failures_reported, fit, stopped_before_evidence
from lit_viz.presentations import CAPTUM_SECONDS, EvidenceSettings
from lit_viz.report.page import REPORT, write_report
from lit_viz.runs import is_run, run_lock
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import memory_outcomes, stored_outcomes
from lit_viz.types import Task, slug
from lit_viz.utils.files import translate_write_errors
from lit_viz.utils.formatting import Notify, pluralize
from lit_viz.utils.process import is_rank_zero, tune_allocator

_SEED_LIMIT = 10**18  # seeds are stored in 64 bits
#: Runs in which this process has taken part with a rank other than zero.
_FOLLOWED_RUNS: list[str | None] = []


def execute(configured: ConfiguredMethod, classifier: Classifier | None = None, *, notify: Notify | None = None) -> Run:
    """Run a configuration to its end, or continue the run in its folder."""
    config = configured.config
    configured.command.check(config)
    run_loggers(config)  # first, because it may fail
    if abs(config.seed) >= _SEED_LIMIT:
        raise LitVizError(f"--seed must have at most 18 digits, got {config.seed}")
    if classifier is not None:
        classifier.refresh()
    with (
        gradients_enabled(),
        tempfile.TemporaryDirectory() as scratch,
        failures_reported(config),
    ):
        trainer = build_trainer(config, scratch)  # first, because it may fail
        tune_allocator()
        if not is_rank_zero():
            if is_distributed(config.trainer):
                return _follow(trainer, configured, classifier)
            if _FOLLOWED_RUNS and config.out is not None:  # Lightning has started this script once per rank
                return Run(configured, ())
        if config.out is None:
            return _run_in_memory(trainer, configured, classifier, notify)
        with run_lock(config.out), _failed_start_discarded(Path(config.out)):
            return _run_in_folder(trainer, configured, classifier, notify)


def _run_in_memory(
    trainer: pl.Trainer, configured: ConfiguredMethod, classifier: Classifier | None, notify: Notify | None
) -> Run:
    classifier = classifier or load_configured(configured.config, trainer.strategy.root_device)
    module, tasks = _build(configured, classifier)
    memory = Memory()
    module.keep_results = False  # they are in the callback
    fit(trainer, configured.config, module, tasks, [memory, Progress(notify)])
    outcomes = memory_outcomes(memory.results, memory.snapshots)
    trainer.callbacks.clear()  # type: ignore[attr-defined] # a Trainer is freed late, since it contains itself
    settings = EvidenceSettings(configured.config, CAPTUM_SECONDS, notify or ignore)
    configured.presentation.verify(module, outcomes, None, settings)
    return Run(configured, outcomes, None, classifier)


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
                RunFolder(path).clear(method_files())
        raise


def _run_in_folder(
    trainer: pl.Trainer, configured: ConfiguredMethod, classifier: Classifier | None, notify: Notify | None
) -> Run:
    """Create or open the run folder, and run the configuration in it."""
    config = configured.config
    folder, is_resumed = open_or_create(configured)
    replaces = not is_resumed and is_run(folder.path)
    if not is_resumed and not replaces:
        folder.write_config(configured.dump(), provenance(configured, None))
    classifier = classifier or load_configured(config, trainer.strategy.root_device)
    stored_tasks = folder.queue() if is_resumed else []
    module, tasks = _build(configured, classifier, stored_tasks)
    if replaces:  # only now that the new run is valid
        folder.clear(method_files())
    if not stored_tasks:
        folder.write_queue(tasks)
    check_identity(folder, configured, classifier, is_resumed)
    module.keep_results = False  # they are in the folder
    presentation = configured.presentation
    checkpoint, names, send = LastCheckpoint(folder), run_loggers(config), notify or ignore
    finished = checkpoint.is_finished(tasks)
    if finished and (folder.path / REPORT).exists():
        run = Run(configured, stored_outcomes(folder), folder, classifier)
        if not (folder.path / f"figure.{config.figure}").exists():
            run.draw()
        open_loggers(folder, incomplete_loggers(folder, names), settings_of(config), presentation, send).finish()
        return run
    if not finished:
        module.validate_tasks(tasks)
        with translate_write_errors(folder.path):
            (folder.path / REPORT).unlink(missing_ok=True)  # a report marks a complete run
        checkpoint.restore()
    log = open_loggers(folder, names, settings_of(config), presentation, send)
    try:
        if not finished:  # a finished run without a report was killed before its evidence
            fit(trainer, config, module, tasks, [RunWriter(folder), log, Progress(notify)])
        run = Run(configured, stored_outcomes(folder), folder, classifier)
        try:
            settings = EvidenceSettings(config, CAPTUM_SECONDS, send)
            with captions(configured, classifier):
                presentation.verify(module, run.outcomes, folder, settings)
            run.draw()  # the figure shows evidence
            write_report(folder, presentation)
        except KeyboardInterrupt as interrupt:
            exit_status = interrupt_exit_status(interrupt)
            raise Interrupted(stopped_before_evidence(config), exit_status=exit_status) from interrupt
        log.finish()
    finally:
        log.close(success=False)  # no effect after finish()
    return run


def _follow(trainer: pl.Trainer, configured: ConfiguredMethod, classifier: Classifier | None) -> Run:
    """Take part in a run whose folder and outcomes belong to rank zero."""
    config = configured.config
    if config.resume and is_run(config.out):
        folder = RunFolder.open(config.out)
        tasks = folder.queue()
        if tasks and LastCheckpoint(folder).is_finished(tasks):  # no tasks: rank zero is just creating the folder
            return Run(configured, ())
    module = configured.build(classifier or load_configured(config, trainer.strategy.root_device))
    module.keep_results = False
    _FOLLOWED_RUNS.append(config.out)
    fit(trainer, config, module)
    return Run(configured, ())


def _build(
    configured: ConfiguredMethod, classifier: Classifier, stored_tasks: Sequence[Task] = ()
) -> tuple[ImageTraining, Sequence[Task]]:
    """Return the module and its queue: the stored one of a resumed run, or a new one."""
    module = configured.build(classifier)
    if stored_tasks:
        return module, stored_tasks
    tasks, notes = configured.command.tasks(configured.config, configured.parts, classifier)
    module.notes += notes
    return module, module.expand_tasks(tasks)


# -- cost


class Cost(NamedTuple):
    """Cost of a run, if every image uses all of its iterations."""

    images: int
    steps: int
    evaluations: int
    seconds: float


def cost(configured: ConfiguredMethod) -> Cost:
    """Return the cost of a configuration, from the time of one evaluation on this machine's CPU."""
    configured.command.check(configured.config)
    tune_allocator()
    module, tasks = _build(configured, load_configured(configured.config))
    steps, evaluations = module.cost(tasks)
    return Cost(len(tasks), steps, evaluations, steps * module.step_seconds(tasks))


def format_cost(costs: Sequence[Cost]) -> str:
    """Return the total cost of one or several runs in one line."""
    images, steps, evaluations, seconds = (sum(column) for column in zip(*costs, strict=True))
    runs = {"run": len(costs)} if len(costs) > 1 else {}
    counts = {**runs, "image": images, "step": steps, "evaluation": evaluations}
    total = ", ".join(pluralize(number, noun) for noun, number in counts.items())
    duration = f"{seconds / 60:.1f} minutes" if seconds > 100 else pluralize(max(1, round(seconds)), "second")
    return f"{total}: about {duration} on this machine's CPU, if every image uses all of its iterations"


# -- helpers


def default_folder(command: Command, config: Any) -> Path:
    """Return a new path ``runs/<method>/<UTC time>_<first target>``, or with the layer's name if a layer is shown."""
    first = next(iter(getattr(config, command.positional)), getattr(config, "layer", None) or command.name)
    name = f"{utc_now()}_{slug(str(first))}"
    names = chain([name], (f"{name}_{n}" for n in count(2)))  # for runs that start in the same second
    return next(path for path in (Path("runs") / command.name / name for name in names) if not path.exists())


def utc_now() -> str:
    """Return the UTC time as used in folder names, ``20260102-030405``."""
    return datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
