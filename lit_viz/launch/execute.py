"""Execution of a configuration: load, optimize, verify, draw. The command line, scripts and Python share it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import copy
from datetime import datetime, timezone
from functools import partial
from inspect import signature
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure

from lit_viz.attacks import BudgetAttack
from lit_viz.attacks.norms import format_distance
from lit_viz.callbacks.progress import Notes, Progress
from lit_viz.callbacks.saving import Memory, RunWriter
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.classifier import GIVEN_WEIGHTS
from lit_viz.classifiers.isolation import is_out_of_memory
from lit_viz.classifiers.loading import load
from lit_viz.classifiers.outputs import MULTI_LABEL_CAPTION
from lit_viz.engine.lightning import is_distributed
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, interrupt_exit_status
from lit_viz.figures.evolution import save_evolution
from lit_viz.figures.layout import footer
from lit_viz.figures.style import save_figure, with_notebook_png
from lit_viz.launch.commands.base import Command
from lit_viz.launch.config import MethodCLI
from lit_viz.launch.logs import incomplete_loggers, open_loggers, run_loggers, settings_of
from lit_viz.launch.resume import (
    LastCheckpoint,
    check_identity,
    method_files,
    open_or_create,
    provenance,
    write_checkpoint,
)
from lit_viz.launch.trainer import Interrupted, build_trainer, failures_reported, fit, stopped_before_evidence
from lit_viz.presentations import CAPTUM_SECONDS, EvidenceSettings
from lit_viz.report.page import REPORT, format_value, run_html, write_report
from lit_viz.runs import is_run, run_lock
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome, Run, filed, remembered
from lit_viz.types import Task, slug
from lit_viz.utils.files import translate_write_errors
from lit_viz.utils.formatting import Notify, command_line, pluralize
from lit_viz.utils.process import is_rank_zero, tune_allocator

_SEED_LIMIT = 10**18  # seeds are stored in 64 bits
#: Runs in which this process has taken part with a rank other than zero.
_FOLLOWED_RUNS: list[str | None] = []


def execute(cli: MethodCLI, classifier: Classifier | None = None, *, notify: Notify | None = None) -> Run:
    """Run a configuration to its end, or continue the run in its folder."""
    config = cli.config
    cli.command.check(config)
    run_loggers(config)  # first, because it may fail
    if abs(config.seed) >= _SEED_LIMIT:
        raise LitVizError(f"--seed must have at most 18 digits, got {config.seed}")
    if classifier is not None:
        classifier.refresh()
    with (
        _gradients_enabled(),
        tempfile.TemporaryDirectory() as scratch,
        failures_reported(config),
    ):
        trainer = build_trainer(config, scratch)  # first, because it may fail
        tune_allocator()
        if not is_rank_zero():
            if is_distributed(config.trainer):
                return _follow(trainer, cli, classifier)
            if _FOLLOWED_RUNS and config.out is not None:  # Lightning has started this script once per rank
                return _run(cli, ())
        with nullcontext() if config.out is None else run_lock(config.out):
            if config.out is None:
                return _run_in_memory(trainer, cli, classifier, notify)
            return _run_in_folder(trainer, cli, classifier, notify)


def _run_in_memory(trainer: pl.Trainer, cli: MethodCLI, classifier: Classifier | None, notify: Notify | None) -> Run:
    classifier = classifier or _load_classifier(cli.config, trainer.strategy.root_device)
    module, tasks = _build(cli, classifier)
    memory = Memory()
    fit(trainer, cli.config, module, tasks, [memory, Notes(notify), Progress(quiet=notify is None)])
    outcomes = remembered(memory.results, memory.snapshots)
    settings = EvidenceSettings(cli.config, CAPTUM_SECONDS, notify or _ignore)
    cli.command.presentation(cli.config).verify(module, outcomes, None, settings)
    return _run(cli, outcomes, None, classifier)


def _run_in_folder(trainer: pl.Trainer, cli: MethodCLI, classifier: Classifier | None, notify: Notify | None) -> Run:
    """Create or open the run folder, and run the configuration in it."""
    config = cli.config
    folder, is_resumed = open_or_create(cli)
    replaces = not is_resumed and is_run(folder.path)
    is_new = not is_resumed and not replaces
    try:
        if is_new:
            folder.write_config(cli.dump(), provenance(cli, None))
        classifier = classifier or _load_classifier(config, trainer.strategy.root_device)
        stored_tasks = folder.queue() if is_resumed else []
        module, tasks = _build(cli, classifier, stored_tasks)
        if replaces:  # only now that the new run is valid
            folder.clear(method_files())
        if not stored_tasks:
            folder.write_queue(tasks)
        check_identity(folder, cli, classifier, is_resumed)
    except BaseException:
        if is_new:
            folder.discard()  # otherwise the corrected command would need --overwrite
        raise
    module.keep_results = False  # they are in the folder
    presentation = cli.command.presentation(config)
    checkpoint, names, send = LastCheckpoint(folder), run_loggers(config), notify or _ignore
    finished = checkpoint.is_finished(tasks)
    if finished and (folder.path / REPORT).exists():
        run = _run(cli, filed(folder), folder, classifier)
        if not (folder.path / f"figure.{config.figure}").exists():
            _draw(cli, run)
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
            fit(trainer, config, module, tasks, [RunWriter(folder), log, Notes(notify), Progress(quiet=notify is None)])
        run = _run(cli, filed(folder), folder, classifier)
        try:
            settings = EvidenceSettings(config, CAPTUM_SECONDS, send)
            with _captions(cli, classifier):
                presentation.verify(module, run.outcomes, folder, settings)
            _draw(cli, run)  # the figure shows evidence
            write_report(folder, presentation)
        except KeyboardInterrupt as interrupt:
            exit_status = interrupt_exit_status(interrupt)
            raise Interrupted(stopped_before_evidence(config), exit_status=exit_status) from interrupt
        log.finish()
    finally:
        log.close(success=False)  # no effect after finish()
    return run


def _follow(trainer: pl.Trainer, cli: MethodCLI, classifier: Classifier | None) -> Run:
    """Take part in a run whose folder and outcomes belong to rank zero."""
    config = cli.config
    if config.resume and is_run(config.out):
        folder = RunFolder.open(config.out)
        tasks = folder.queue()
        if tasks and LastCheckpoint(folder).is_finished(tasks):  # no tasks: rank zero is just creating the folder
            return _run(cli, ())
    module = cli.command.build(config, cli.parts, classifier or _load_classifier(config, trainer.strategy.root_device))
    module.keep_results = config.out is None
    _FOLLOWED_RUNS.append(config.out)
    fit(trainer, config, module)
    return _run(cli, ())


def _build(
    cli: MethodCLI, classifier: Classifier, stored_tasks: Sequence[Task] = ()
) -> tuple[ImageTraining, Sequence[Task]]:
    """Return the module and its queue: the stored one of a resumed run, or a new one."""
    module = cli.command.build(cli.config, cli.parts, classifier)
    if stored_tasks:
        return module, stored_tasks
    tasks, notes = cli.command.tasks(cli.config, cli.parts, classifier)
    module.notes += notes
    return module, module.expand_tasks(tasks)


def check(
    cli: MethodCLI,
    classifier: Classifier | None = None,
    *,
    faithfulness: bool = False,
    trust: bool = False,
    notify: Notify | None = None,
) -> bool:
    """Compute all evidence for the outcomes in a run folder, and write it there; return whether no check has failed."""
    config = cli.config
    settings = _evidence_settings(cli, faithfulness, trust, notify)
    tune_allocator()
    folder = RunFolder.open(config.out)
    if classifier is None:
        classifier = _load_classifier(config)
    else:
        classifier.refresh()
    with _gradients_enabled(), run_lock(folder.path), failures_reported(config), _captions(cli, classifier):
        check_identity(folder, cli, classifier, is_resumed=True)
        outcomes = filed(folder)
        if not outcomes:
            raise LitVizError(f"{folder.path} has no results yet: {command_line('resume', folder.path)}")
        module = cli.command.build(config, cli.parts, classifier)
        passed = cli.command.presentation(config).verify(module, outcomes, folder, settings)
        damaged = LastCheckpoint(folder).damaged_files
        for name in damaged:
            settings.notify(f"{folder.path / name} is damaged: its checksum is not that of the checkpoint")
        write_report(folder, cli.command.presentation(config))
    return passed and not damaged


def _check(
    cli: MethodCLI,
    classifier: Classifier,
    run: Run,
    *,
    faithfulness: bool = False,
    trust: bool = False,
    notify: Notify | None = None,
    at_end: bool = False,
) -> bool:
    """Compute the evidence of a run. The files of a run in memory are written to a temporary folder."""
    if run.folder is not None:
        passed = check(cli, classifier, faithfulness=faithfulness, trust=trust, notify=notify)
        run.outcomes = filed(RunFolder(run.folder))
        return passed
    settings = _evidence_settings(cli, faithfulness, trust, notify, CAPTUM_SECONDS if at_end else None)
    classifier.refresh()
    with _gradients_enabled(), tempfile.TemporaryDirectory() as scratch, failures_reported(cli.config):
        folder = RunFolder(scratch)
        run.write(folder, cli.dump(), provenance(cli, classifier))
        outcomes = filed(folder)
        module = cli.command.build(cli.config, cli.parts, classifier)
        passed = cli.command.presentation(cli.config).verify(module, outcomes, folder, settings)
        run._evidence = folder.evidence()
        for outcome, verified in zip(run.outcomes, outcomes, strict=True):
            outcome.record = verified.record.amend(file=None, array=None)
    return passed


def _evidence_settings(
    cli: MethodCLI, faithfulness: bool, trust: bool, notify: Notify | None, seconds: float | None = None
) -> EvidenceSettings:
    for option, requested in {"faithfulness": faithfulness, "trust": trust}.items():
        if requested and option not in cli.command.presented("evidence_options"):
            raise LitVizError(f"--{option} does not apply to a run of lit-viz {cli.command.name}")
    return EvidenceSettings(cli.config, seconds, notify or _ignore, faithfulness, trust)


# -- cost


class Cost(NamedTuple):
    """Cost of a run, if every image uses all of its iterations."""

    images: int
    steps: int
    evaluations: int
    seconds: float


def cost(cli: MethodCLI) -> Cost:
    """Return the cost of a configuration, from the time of one evaluation on this machine's CPU."""
    cli.command.check(cli.config)
    tune_allocator()
    module, tasks = _build(cli, _load_classifier(cli.config))
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


@contextmanager
def _gradients_enabled() -> Iterator[None]:
    """Enable gradients, also inside an evaluation loop of Lightning."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _ignore(message: str) -> None:
    pass


def _run(
    cli: MethodCLI,
    outcomes: Sequence[Outcome],
    folder: RunFolder | None = None,
    classifier: Classifier | None = None,
) -> Run:
    path = None if folder is None else folder.path
    verify = None if classifier is None else partial(_check, cli, classifier)
    store = None if classifier is None else partial(_save, cli, classifier)
    return Run(outcomes, path, partial(_figure, cli, classifier), verify, partial(_html, cli, classifier), store)


def _html(cli: MethodCLI, classifier: Classifier | None, run: Run) -> str:
    return run_html(run, cli.command.presentation(cli.config), _output_caption(classifier))


def _save(cli: MethodCLI, classifier: Classifier, run: Run, path: Path) -> Run:
    """Write a run in memory to a new run folder, or copy its folder; return the run in the folder."""
    folder, cli = RunFolder.create(path), copy(cli)
    cli.config = cli.config.clone()
    cli.config.out = str(path)
    if run.folder is not None:
        shutil.copytree(run.folder, path, dirs_exist_ok=True)
        return _run(cli, filed(folder), folder, classifier)
    run.write(folder, cli.dump(), provenance(cli, classifier), frames=True)
    write_checkpoint(folder, folder.records())
    stored = _run(cli, filed(folder), folder, classifier)
    _draw(cli, stored)
    if run.evidence.to_dict():
        folder.merge_evidence(run.evidence)
    write_report(folder, cli.command.presentation(cli.config))
    return stored


def _figure(cli: MethodCLI, classifier: Classifier | None, outcomes: Sequence[Outcome]) -> Figure:
    with _captions(cli, classifier):
        return with_notebook_png(cli.command.presentation(cli.config).figure(outcomes, cli.config))


def _captions(cli: MethodCLI, classifier: Classifier | None) -> AbstractContextManager[None]:
    """Add the settings, and of a multi-label network the meaning of its outputs, to the captions of figures."""
    return footer(settings_line(cli), _output_caption(classifier))


def _output_caption(classifier: Classifier | None) -> str:
    return MULTI_LABEL_CAPTION if classifier is not None and classifier.multi_label else ""


def settings_line(cli: MethodCLI) -> str:
    """Return the network, the parts of the method with the numbers that are not their defaults, and the seed in one
    line."""
    config = cli.config
    described = []
    for name, value in cli.parts.items():
        several, configured = isinstance(value, (list, tuple)), config.model.get(name)
        for part, options in zip(value, configured, strict=True) if several else [(value, configured)]:
            if type(part).__module__ != "builtins":
                described.append(_describe(part, getattr(options, "init_args", None) or {}))
    numbers = {"iteration": config.iterations, "view": cli.parts.get("views")}
    counts = [pluralize(number, noun) for noun, number in numbers.items() if number is not None]
    return " · ".join([config.classifier.name, ", ".join(described), *counts, f"seed {config.seed}"])


def _describe(part: Any, options: Any) -> str:
    shown = []
    for parameter in signature(type(part)).parameters.values():
        configured = options.get(parameter.name)
        value = getattr(part, parameter.name, None) if configured is None else configured
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value != parameter.default:
            is_radius = parameter.name == "eps" and isinstance(part, BudgetAttack)
            text = format_distance(value, part.norm.name) if is_radius else format_value(value)
            shown.append(f"{parameter.name} {text}")
    return type(part).__name__ + (f" ({', '.join(shown)})" if shown else "")


def _draw(cli: MethodCLI, run: Run) -> None:
    """Write the animation, if an image changes over the iterations, and then the figure."""
    figure = Path(cli.config.out, f"figure.{cli.config.figure}")
    changes = cli.command.presentation(cli.config).evolutions(run.outcomes)
    if any(evolution.is_animated for evolution in changes):
        save_evolution(changes, figure.with_name("evolution.gif"))
    save_figure(run.figure(), figure)


def _load_classifier(config: Namespace, device: torch.device | None = None) -> Classifier:
    """Load the configured classifier, onto the training device if its forward works there."""
    options = config.classifier.as_dict()
    if options["weights"] == GIVEN_WEIGHTS:
        raise LitVizError(
            f"the run was started with a Python module ({options['name']}): continue in Python with "
            "lit_viz.resume(folder, network) or check(folder, network)"
        )
    name = options.pop("name")
    try:
        classifier = load(name, **options)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise LitVizError(f"out of memory while {name} is loaded: its weights need more than there is") from error
    if device is not None and device != classifier.device and classifier.device.type == "cpu":
        with suppress(Exception):  # modules that support the CPU only raise various exceptions
            classifier.original.to(device)
        if not classifier.probe_logits().numel():
            classifier.original.to("cpu")
    return classifier
