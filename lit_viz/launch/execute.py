"""One run from its configuration to its results: the shared road of the command line, the scripts and Python."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from matplotlib.figure import Figure

from lit_viz.callbacks.progress import Notes, Progress
from lit_viz.callbacks.run_writer import Memory, RunWriter
from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.classifiers.classifier import GIVEN_WEIGHTS
from lit_viz.engine.distributed import is_distributed
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, interrupt_exit_status
from lit_viz.figures.animation import save_evolution
from lit_viz.figures.style import save_figure, with_notebook_png
from lit_viz.launch.commands import Command
from lit_viz.launch.config import MethodCLI, dump
from lit_viz.launch.resume import is_finished, keep_identity, open_or_make, recorded_of, trim
from lit_viz.launch.trainer import Interrupted, all_but_evidence, failures_told, fit, trainer_for
from lit_viz.presentations import METHOD_FILES
from lit_viz.presentations.base import EvidenceSettings, Presentation
from lit_viz.report.page import REPORT, write_report
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.layout import run_lock
from lit_viz.runs.results import Outcome, Run, filed, remembered
from lit_viz.types import Task, slug
from lit_viz.utils.files import translate_write_errors
from lit_viz.utils.formatting import Notify, command_line, pluralize
from lit_viz.utils.process import tune_allocator
from lit_viz.utils.ranks import is_rank_zero

if TYPE_CHECKING:
    from lit_viz.loggers.wandb import WandbImages


#: Seeds are kept in 64 bits.
_SEEDS = 10**18
#: Not empty once this process has taken part in a run that another one leads.
_HAS_JOINED: list[bool] = []
#: Seconds that a run may ask Captum for at its end; `lit-viz check` takes what it needs.
_CHECK_SECONDS = 15.0


def execute(
    command: Command, cli: MethodCLI, classifier: Classifier | None = None, *, notify: Notify | None = None
) -> Run:
    """Run a configuration to its end, or continue it.

    Args:
        command: the method.
        cli: its parsed configuration.
        classifier: an own network, already loaded; the configuration's unless given.
        notify: is given the lines that a person at a terminal wants to read; None is quiet.

    Raises:
        LitVizError: in one sentence, whatever a user can mend; what was finished is kept.
        Interrupted: SIGINT or SIGTERM; the run can be resumed.
    """
    command.check(cli.config)
    if not abs(cli.config.seed) < _SEEDS:
        raise LitVizError(f"--seed {cli.config.seed} is too large: give a whole number of at most 18 digits.")
    if classifier is not None:
        classifier.refresh()
    with (
        _with_gradients(),
        tempfile.TemporaryDirectory() as scratch,
        failures_told(cli.config),
    ):
        trainer = trainer_for(cli.config, scratch)  # before a folder is made: it may refuse
        tune_allocator()
        if not is_rank_zero():
            if is_distributed(cli.config.trainer):
                return _join(trainer, command, cli, classifier)
            if _HAS_JOINED and cli.config.out is not None:  # in a script that Lightning has started more than once
                return _nothing(command, cli)
        with nullcontext() if cli.config.out is None else run_lock(cli.config.out):
            return _lead(trainer, command, cli, classifier, notify)


def _lead(
    trainer: pl.Trainer, command: Command, cli: MethodCLI, classifier: Classifier | None, notify: Notify | None
) -> Run:
    """Make or open the folder, and run in it what the configuration asks for."""
    config = cli.config
    folder, continues = open_or_make(config, cli)
    replaces = folder is not None and not continues and RunFolder.is_run(folder.path)
    begins = folder is not None and not continues and not replaces
    try:
        if folder is not None and begins:
            folder.write_config(dump(cli, recorded_of(command, None)))
        if classifier is None:
            classifier = _load(config.classifier.as_dict(), trainer.strategy.root_device)
        begun = folder.queue() if folder is not None and continues else []
        module, tasks = _built(command, cli, classifier, begun)
        if folder is not None:
            if replaces:  # only now, when nothing stands against the new one
                folder.clear(METHOD_FILES)
            keep_identity(folder, cli, recorded_of(command, classifier), continues)
            if not begun:
                folder.write_queue(tasks)
    except BaseException:
        if folder is not None and begins:
            folder.discard()  # so that the next command is not refused
        raise
    if folder is None:
        memory = Memory()
        fit(trainer, config, module, tasks, [memory, Notes(notify), Progress(quiet=notify is None)])
        outcomes = remembered(memory.results, memory.snapshots)
        command.presentation(config).verify(
            module, outcomes, None, EvidenceSettings(config, _CHECK_SECONDS, notify or (lambda _: None))
        )
        return Run(outcomes, None, partial(_figure, command, config))
    return _run_in(folder, trainer, cli, module, tasks, notify)


def _join(trainer: pl.Trainer, command: Command, cli: MethodCLI, classifier: Classifier | None) -> Run:
    """Take part, as one of several processes, in the run that the first one leads and keeps.

    Returns:
        a run without outcomes: the first process has them.
    """
    config = cli.config
    if config.resume and RunFolder.is_run(config.out):
        folder = RunFolder.open(config.out)
        tasks = folder.queue()
        if tasks and is_finished(folder, tasks):  # none: the first process has only begun to make the folder
            return _nothing(command, cli)
    classifier = classifier or _load(config.classifier.as_dict(), trainer.strategy.root_device)
    module = command.build(config, cli.parts, classifier)
    _HAS_JOINED.append(True)
    fit(trainer, config, module)
    return _nothing(command, cli)


def _figure(command: Command, config: Namespace, outcomes: Sequence[Outcome]) -> Figure:
    return with_notebook_png(command.presentation(config).figure(outcomes, config))


def _nothing(command: Command, cli: MethodCLI) -> Run:
    """Return what every process but the first one has of a run in a folder."""
    return Run([], None, partial(_figure, command, cli.config))


def cost(command: Command, cli: MethodCLI) -> tuple[int, int, int, float]:
    """Return the images, steps, evaluations and seconds of a configuration, from the time of one evaluation on this
    machine's processor.

    Raises:
        LitVizError: as :func:`execute`.
    """
    config = cli.config
    command.check(config)
    tune_allocator()
    classifier = _load(config.classifier.as_dict())
    module, tasks = _built(command, cli, classifier, ())
    steps, evaluations = module.cost(tasks)
    return len(tasks), steps, evaluations, steps * module.step_seconds(tasks)


def cost_in_words(costs: Sequence[tuple[int, int, int, float]]) -> str:
    """Return in one line what :func:`cost` finds, of one run or of several together."""
    images, steps, evaluations, seconds = (sum(column) for column in zip(*costs, strict=True))
    counts = {"run": len(costs), "image": images, "step": steps, "evaluation": evaluations}
    said = ", ".join(pluralize(n, what) for what, n in counts.items() if what != "run" or n > 1)
    took = f"about {seconds:.0f} seconds" if seconds < 100 else f"about {seconds / 60:.1f} minutes"
    took = "a second or less" if seconds < 1.5 else took
    return f"{said}: {took} on the processor of this machine, if every image takes all its iterations"


def _built(
    command: Command, cli: MethodCLI, classifier: Classifier, begun: Sequence[Task]
) -> tuple[ImageTraining, Sequence[Task]]:
    """Return the module and its queue: that of the run that goes on, if there is one."""
    module = command.build(cli.config, cli.parts, classifier)
    if begun:
        return module, begun
    tasks, notes = command.tasks(cli.config, cli.parts, classifier)
    module.notes += notes
    return module, tasks


def _run_in(
    folder: RunFolder,
    trainer: pl.Trainer,
    cli: MethodCLI,
    module: ImageTraining,
    tasks: Sequence[Task],
    notify: Notify | None,
) -> Run:
    figure = folder.path / f"figure.{cli.config.figure}"
    finished = is_finished(folder, tasks)
    if finished and (folder.path / REPORT).exists():
        run = _opened(folder, cli)
        if not figure.exists():
            _draw(run, figure, cli.command.presentation(cli.config))
        return run
    if not finished:
        module.validate_tasks(tasks)
        with translate_write_errors(folder.path):
            (folder.path / REPORT).unlink(missing_ok=True)  # it says that the run has come to its end
    wandb = _open_wandb(folder, cli.config, notify or (lambda _: None))
    try:
        if not finished:  # else it was killed between its last result and its report
            trim(folder)
            views = [] if wandb is None else [wandb]
            callbacks = [RunWriter(folder), *views, Notes(notify), Progress(quiet=notify is None)]
            fit(trainer, cli.config, module, tasks, callbacks, None if wandb is None else wandb.logger)
        run = _opened(folder, cli)
        try:
            _draw(run, figure, cli.command.presentation(cli.config))
            how = EvidenceSettings(cli.config, _CHECK_SECONDS, notify or (lambda _: None))
            cli.command.presentation(cli.config).verify(module, run.outcomes, folder, how)
            write_report(folder, cli.command.presentation(cli.config))
        except KeyboardInterrupt as stop:
            raise Interrupted(all_but_evidence(cli.config), exit_status=interrupt_exit_status(stop)) from stop
        if wandb is not None:
            wandb.finish()
    finally:
        if wandb is not None:
            wandb.logger.close(exit_code=1)  # no effect after finish()
    return run


def _open_wandb(folder: RunFolder, config: Namespace, notify: Notify) -> WandbImages | None:
    """Return the W&B callback of a run, or None if W&B is disabled."""
    if config.wandb == "disabled":
        return None  # saves half a second of imports
    from lit_viz.loggers.wandb import RunLogger, WandbImages
    from lit_viz.loggers.wandb_run import open_run

    run = open_run(folder, config.project, folder.path.name, folder.config, config.wandb, notify)
    return None if run is None else WandbImages(RunLogger(run, folder, notify), folder)


def check(
    command: Command,
    cli: MethodCLI,
    classifier: Classifier | None = None,
    *,
    faithfulness: bool = False,
    trust: bool = False,
    notify: Notify | None = None,
) -> bool:
    """Look for all evidence that the outcomes in a run folder are true.

    Args:
        command, cli: of the run folder (see :func:`lit_viz.api.stored`).
        classifier: an own network; the configuration's unless given.
        faithfulness: also measures what saliency maps are good for.
        trust: also tries further attacks on what an attack could not fool.
        notify: is given the lines that a person at a terminal wants to read.

    Returns:
        whether nothing speaks against them.

    Raises:
        LitVizError: the weights are not those of the run, or it has no results, or no maps to measure.
    """
    if faithfulness and command.name != "saliency":
        raise LitVizError(f"{cli.config.out} holds no saliency maps: leave out --faithfulness, which measures maps.")
    if trust and command.name != "attack":
        raise LitVizError(f"{cli.config.out} holds no adversarial examples: leave out --trust, which tries attacks.")
    tune_allocator()
    folder = RunFolder.open(cli.config.out)
    if classifier is None:
        classifier = _load(cli.config.classifier.as_dict())
    else:
        classifier.refresh()
    with _with_gradients(), run_lock(folder.path), failures_told(cli.config):
        keep_identity(folder, cli, recorded_of(command, classifier), continues=True)
        outcomes = filed(folder)
        if not outcomes:
            raise LitVizError(f"{folder.path} has no results yet: {command_line('resume', folder.path)}")
        module = command.build(cli.config, cli.parts, classifier)
        how = EvidenceSettings(cli.config, None, notify or (lambda _: None), faithfulness, trust)
        sound = command.presentation(cli.config).verify(module, outcomes, folder, how)
        write_report(folder, command.presentation(cli.config))
    return sound


@contextmanager
def _with_gradients() -> Iterator[None]:
    """Let what runs here make gradients, also in one of Lightning's evaluation loops."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _opened(folder: RunFolder, cli: MethodCLI) -> Run:
    """Return the outcome that lies in a run folder."""
    return Run(filed(folder), folder.path, partial(_figure, cli.command, cli.config))


def _draw(run: Run, figure: Path, presentation: Presentation) -> None:
    """Write the figure, and where an image emerges over several iterations the animation."""
    emerged = presentation.evolutions(run.outcomes)
    if any(evolution.is_animated for evolution in emerged):
        save_evolution(emerged, figure.with_name("evolution.gif"))
    save_figure(run.figure(), figure)  # last: where it is, the run is drawn


def _load(options: dict[str, Any], device: torch.device | None = None) -> Classifier:
    """Load the network of a configuration; onto the device, if it works there, so that what the original is asked
    (labels, files) is asked where the images are trained."""
    if options["weights"] == GIVEN_WEIGHTS:
        raise LitVizError(
            f"the run was begun with a network that was handed over in Python ({options['name']}): go on there, with "
            "lit_viz.resume(folder, network) or check(folder, network)"
        )
    classifier = load_classifier(options.pop("name"), **options)
    if device is not None and device != classifier.device and classifier.device.type == "cpu":
        with suppress(Exception):  # whatever its modules raise that know the processor alone
            classifier.original.to(device)
        if not classifier.probe_logits().numel():
            classifier.original.to("cpu")
    return classifier


# -- the folder


def default_folder(command: Command, config: Any) -> Path:
    """Return ``runs/<method>/<UTC time>_<first target>``, or the layer's name where one is shown."""
    first = next(iter(getattr(config, command.positional)), getattr(config, "layer", None) or command.name)
    name = f"{utc_now()}_{slug(str(first))}"
    names = chain([name], (f"{name}_{n}" for n in count(2)))  # runs may begin in the same second
    return next(path for path in (Path("runs") / command.name / one for one in names) if not path.exists())


def utc_now() -> str:
    """Return the time as folders are called by it."""
    return datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
