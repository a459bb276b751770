"""One run from its configuration to its results: the shared road of the command line, the scripts and Python."""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import yaml

from lit_viz import __version__
from lit_viz.allocator import tune_allocator
from lit_viz.callbacks.checkpoints import Checkpoints
from lit_viz.callbacks.files import RunFiles
from lit_viz.callbacks.memory import Memory
from lit_viz.callbacks.notes import Notes
from lit_viz.callbacks.progress import Progress
from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.commands import Command
from lit_viz.commands.base import Inquiry
from lit_viz.config import RECORDED, MethodCLI, dump
from lit_viz.engine.checkpoint import AtomicCheckpointIO
from lit_viz.engine.devices import others_have_ended, several, shared, unlock_steps
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.run_folder import RunFolder
from lit_viz.engine.tasks import Task, slug
from lit_viz.engine.ticks import TaskQueue
from lit_viz.errors import LitVizError, first_line
from lit_viz.figures.animation import save_evolution
from lit_viz.figures.evolution import evolutions
from lit_viz.figures.report import REPORT, write_report
from lit_viz.figures.style import save_figure
from lit_viz.launched import is_first
from lit_viz.outcomes import Run, filed, remembered

if TYPE_CHECKING:
    from lit_viz.callbacks.wandb import RunLogger, WandbEvolution

Say = Callable[[str], None]

#: Seconds that a run may spend on evidence at its end; `lit-viz check` takes what it needs.
_CHECK_SECONDS = 15.0
_LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")
#: Options that may differ between a run and its continuation.
_FREE = (
    "out",
    "overwrite",
    "resume",
    "wandb",
    "project",
    "trainer",
    "devices_mode",
    "slots",
    "checkpoint_every",
    "figure",
    "count",
    "check",
    "explain",
)


class Interrupted(LitVizError):
    """A signal stopped the run; what it had is saved."""


def execute(command: Command, cli: MethodCLI, classifier: Classifier | None = None, *, say: Say | None = None) -> Run:
    """Run a configuration to its end, or continue it.

    Args:
        command: the method.
        cli: its parsed configuration.
        classifier: an own network, already loaded; the configuration's unless given.
        say: is given the lines that a person at a terminal wants to read; None is quiet.

    Raises:
        LitVizError: in one sentence, whatever a user can mend; what was finished is kept.
        Interrupted: SIGINT or SIGTERM; the run can be resumed.
    """
    with torch.inference_mode(False), torch.enable_grad():  # it may be called in one of Lightning's evaluation loops
        return _execute(command, cli, classifier, say)


def _execute(command: Command, cli: MethodCLI, classifier: Classifier | None, say: Say | None) -> Run:
    config = cli.config
    command.check(config)
    _refuse_devices_that_are_not_here(config)
    tune_allocator()
    if several(config.trainer) and not is_first():
        return _join(command, cli, classifier)
    folder, continues = _folder(config, cli)
    try:
        if folder is not None and not continues:
            folder.write_config(dump(cli, _recorded(command, None)))
        if classifier is None:
            classifier = _load(config.classifier.as_dict())
        begun = folder.queue() if folder is not None and continues else []
        module, tasks = _built(command, cli, classifier, begun)
        if folder is not None:
            _keep_identity(folder, cli, _recorded(command, classifier), continues)
            if not begun:
                folder.write_queue(tasks)
    except LitVizError:
        if folder is not None and not continues:
            folder.discard()  # so that the corrected command is not refused
        raise
    if folder is None:
        memory = Memory()
        _fit(cli, module, tasks, None, [memory, Notes(say), Progress(quiet=say is None)])
        outcomes = remembered(memory)
        command.verify(module, outcomes, None, Inquiry(config, _CHECK_SECONDS, say or (lambda _: None)))
        return Run(outcomes, None, partial(command.figure, config=config))
    return _run_in(folder, cli, module, tasks, say)


def _refuse_devices_that_are_not_here(config: Any) -> None:
    """Have the Trainer look for the devices, before a folder is made."""
    try:
        with _quiet_lightning():
            pl.Trainer(**shared(config.trainer), logger=False, enable_checkpointing=False, enable_progress_bar=False)
    except Exception as error:  # Lightning's own kinds, and those of a backend that is not installed
        devices = f"--trainer.accelerator {config.trainer.accelerator} --trainer.devices {config.trainer.devices}"
        raise LitVizError(f"{devices} can't be used here: {first_line(error)}") from error


def _join(command: Command, cli: MethodCLI, classifier: Classifier | None) -> Run:
    """Take part, as one of several processes, in the run that the first one leads and keeps.

    Returns:
        a run without outcomes: the first process has them.
    """
    config = cli.config
    nothing = Run([], None, partial(command.figure, config=config))
    if config.resume and RunFolder.is_run(config.out):
        folder = RunFolder.open(config.out)
        if _finished(folder, folder.queue()):
            return nothing
    module = command.build(config, cli.parts, classifier or _load(config.classifier.as_dict()))
    _fit(cli, module, (), None, [])
    return nothing


def cost(command: Command, cli: MethodCLI) -> tuple[int, int, int, float]:
    """Return the images, steps, evaluations and minutes of a configuration, from the time of one evaluation on this
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
    return len(tasks), steps, evaluations, steps * module.seconds_a_step(tasks) / 60


def count(command: Command, cli: MethodCLI) -> str:
    """Return in one line what :func:`cost` finds."""
    images, steps, evaluations, minutes = cost(command, cli)
    return (
        f"{images} images, {steps} steps, {evaluations} evaluations (forward and backward): about {minutes:.1f} "
        "minutes on the processor of this machine"
    )


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


def _run_in(folder: RunFolder, cli: MethodCLI, module: ImageTraining, tasks: Sequence[Task], say: Say | None) -> Run:
    figure = folder.path / f"figure.{cli.config.figure}"
    if _finished(folder, tasks):
        run = _opened(folder, cli)
        if not figure.exists():  # it was killed between its last result and its figure
            _draw(run, figure)
        if not (folder.path / REPORT).exists():
            write_report(folder, cli.command.table)
        return run
    evolution, logger = _wandb(folder, cli, say or (lambda _: None))
    views = [] if evolution is None else [evolution]
    _fit(cli, module, tasks, folder, [RunFiles(folder), *views, Notes(say), Progress(quiet=say is None)], logger)
    run = _opened(folder, cli)
    _draw(run, figure)
    cli.command.verify(module, run.outcomes, folder, Inquiry(cli.config, _CHECK_SECONDS, say or (lambda _: None)))
    write_report(folder, cli.command.table)
    if evolution is not None:
        evolution.finish()
    return run


def _wandb(folder: RunFolder, cli: MethodCLI, say: Say) -> tuple[WandbEvolution | None, RunLogger | None]:
    """Open the W&B run; nothing, and half a second of imports less, where none is wanted."""
    if cli.config.wandb == "disabled":
        return None, None
    from lit_viz.callbacks.wandb import RunLogger, WandbEvolution, open_wandb

    wandb_run = open_wandb(
        folder,
        cli.config.project,
        name=folder.path.name,
        config=yaml.safe_load((folder.path / "config.yaml").read_text()),
        mode=cli.config.wandb,
        say=say,
    )
    logger = None if wandb_run is None else RunLogger(wandb_run, folder)
    return WandbEvolution(wandb_run, folder, say=say), logger


def check(
    command: Command,
    cli: MethodCLI,
    classifier: Classifier | None = None,
    *,
    faithfulness: bool = False,
    trust: bool = False,
    peers: bool = False,
    say: Say | None = None,
) -> bool:
    """Look for all evidence that the outcomes in a run folder are true.

    Args:
        command, cli: of the run folder (see :func:`lit_viz.api.stored`).
        classifier: an own network; the configuration's unless given.
        faithfulness: also measures what saliency maps are good for.
        trust: also tries further attacks on what an attack could not fool.
        peers: also asks other implementations of the attack that are installed.
        say: is given the lines that a person at a terminal wants to read.

    Returns:
        whether nothing speaks against them.

    Raises:
        LitVizError: the weights are not those of the run, or it has no results, or no maps to measure.
    """
    if faithfulness and command.name != "saliency":
        raise LitVizError(f"{cli.config.out} holds no saliency maps: leave out --faithfulness, which measures maps.")
    for flag, wanted in (("--trust", trust), ("--peers", peers)):
        if wanted and command.name != "attack":
            raise LitVizError(f"{cli.config.out} holds no adversarial examples: leave out {flag}, which tries attacks.")
    tune_allocator()
    folder = RunFolder.open(cli.config.out)
    if classifier is None:
        classifier = _load(cli.config.classifier.as_dict())
    _keep_identity(folder, cli, _recorded(command, classifier), continues=True)
    outcomes = filed(folder)
    if not outcomes:
        raise LitVizError(f"{folder.path} has no results yet: lit-viz resume {folder.path}")
    module = command.build(cli.config, cli.parts, classifier)
    sound = command.verify(
        module, outcomes, folder, Inquiry(cli.config, None, say or (lambda _: None), faithfulness, trust, peers)
    )
    write_report(folder, command.table)
    return sound


def _opened(folder: RunFolder, cli: MethodCLI) -> Run:
    """Return the outcome that lies in a run folder."""
    return Run(filed(folder), folder.path, partial(cli.command.figure, config=cli.config))


def _draw(run: Run, figure: Path) -> None:
    """Write the figure, and where images emerge over several iterations the animation."""
    moving = [evolution for evolution in evolutions(run.outcomes) if len(evolution.frames) > 2]
    if moving:
        save_evolution(moving, figure.with_name("evolution.gif"))
    save_figure(run.figure(), figure)  # last: where it is, the run is drawn


def _fit(
    cli: MethodCLI,
    module: ImageTraining,
    tasks: Sequence[Task],
    folder: RunFolder | None,
    callbacks: list[pl.Callback],
    logger: Any = None,
) -> None:
    """Train the tasks; ``folder`` and what belongs to it only on the first of several processes."""
    config = cli.config
    module.devices_mode = config.devices_mode
    last = None if config.out is None else Path(config.out) / _LAST_CHECKPOINT
    checkpoints = Checkpoints(last, every_steps=config.checkpoint_every)
    resumed = last if last is not None and config.resume and last.exists() else None
    if folder is not None:
        _trim(folder)
    queue = TaskQueue(tasks)
    with _quiet_lightning(), tempfile.TemporaryDirectory() as scratch:
        trainer = pl.Trainer(
            **shared(config.trainer),
            max_epochs=-1,
            callbacks=[*callbacks, checkpoints],
            logger=logger or False,
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,
            default_root_dir=scratch if folder is None else folder.path,
        )
        unlock_steps(trainer)
        try:
            trainer.fit(module, datamodule=queue, ckpt_path=resumed, weights_only=True)
        except Exception as error:
            if trainer.world_size > 1 and others_have_ended(error):
                raise LitVizError(
                    "another process of the run has ended, and said above why; what was finished is kept"
                    f"{_go_on(folder)}"
                ) from error
            raise
    if module.agreed.signal and module.agreed.unfinished:
        raise Interrupted(
            f"stopped after {len(module.finished)} of {len(queue.tasks)} images, all is saved{_go_on(folder)}",
            exit_status=128 + module.agreed.signal,
        )


def _go_on(folder: RunFolder | None) -> str:
    return "" if folder is None else f"; go on with: lit-viz resume {folder.path}"


def _load(options: dict[str, Any]) -> Classifier:
    return load_classifier(options.pop("name"), **options)


# -- the folder


def default_folder(command: Command, config: Any) -> Path:
    """Return ``runs/<method>/<UTC time>_<first target>``, or the layer's name where one is shown."""
    first = next(iter(getattr(config, command.positional)), getattr(config, "layer", None) or command.name)
    return Path("runs") / command.name / f"{utc_now()}_{slug(str(first))}"


def utc_now() -> str:
    """Return the time as folders are called by it."""
    return datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")


def _folder(config: Any, cli: MethodCLI) -> tuple[RunFolder | None, bool]:
    """Return the folder, made or opened, and whether the run in it goes on."""
    if config.out is None:
        return None, False
    if config.resume and RunFolder.is_run(config.out):
        folder = RunFolder.open(config.out)
        _refuse_another(folder, cli)
        return folder, True
    return RunFolder.create(config.out, overwrite=config.overwrite), False


def _refuse_another(folder: RunFolder, cli: MethodCLI) -> None:
    """Refuse to continue a run under another configuration."""
    before = yaml.safe_load((folder.path / "config.yaml").read_text())
    now = yaml.safe_load(cli.parser.dump(cli.config))
    kept = {key: value for key, value in now.items() if key not in _FREE}
    for name, was, given in _changed(before, kept):
        raise LitVizError(
            f"--{name} can't be changed: {folder.path} was begun with {was}, not {given}; "
            f"lit-viz resume {folder.path} goes on as it was begun."
        )


def _changed(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the options, dotted, that differ, with both values."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield name, before, now
        return
    for key in (key for key in now if key in before):  # a later lit_viz may have more options
        yield from _changed(before[key], now[key], f"{name}.{key}".lstrip("."))


def _recorded(command: Command, classifier: Classifier | None) -> dict[str, Any]:
    packages = ("torch", "torchvision", "pytorch-lightning", "captum", "timm", "wandb", "numpy")
    return {
        "method": command.name,
        "lit_viz": __version__,
        "python": sys.version.split()[0],
        **{package: metadata.version(package) for package in packages},
        "weights_sha256": None if classifier is None else classifier.sha256,
    }


def _keep_identity(folder: RunFolder, cli: MethodCLI, recorded: dict[str, Any], continues: bool) -> None:
    """Record the weights' sha256, or on a resume hold the weights against it."""
    if continues:
        before = (yaml.safe_load((folder.path / "config.yaml").read_text()).get(RECORDED) or {}).get("weights_sha256")
        if before is not None and before != recorded["weights_sha256"]:
            raise LitVizError(
                f"{folder.path} was begun with other weights (sha256 {before[:12]}..., now "
                f"{str(recorded['weights_sha256'])[:12]}...): give the same file, or start another run."
            )
        return
    folder.write_config(dump(cli, recorded))


def _kept(folder: RunFolder) -> dict[str, Any]:
    """Return what the last checkpoint keeps of slots and finished tasks; nothing where there is none."""
    path = folder.path / _LAST_CHECKPOINT
    if not path.exists():
        return {"slots": [], "finished": {}}
    kept: dict[str, Any] = AtomicCheckpointIO().load_checkpoint(path)["lit_viz"]
    return kept


def _trim(folder: RunFolder) -> None:
    """Drop from the folder what is later than the last checkpoint: it is computed again."""
    kept = _kept(folder)
    iterations = {entry["task"]: int(entry["state"]["iteration"]) for entry in kept["slots"]}
    folder.trim(set(kept["finished"]), iterations)


def _finished(folder: RunFolder, tasks: Sequence[Task]) -> bool:
    """Return whether the last checkpoint calls every task finished, and the folder has all records."""
    recorded = {record["index"] for record in folder.records()}
    return len(_kept(folder)["finished"]) == len(tasks) and recorded >= {task.index for task in tasks}


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's remarks on devices, on a network in eval mode and on torch's inner life are of no use here."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        try:
            yield
        finally:
            logger.setLevel(level)
