"""The short functions: each builds a module and its tasks, and calls :func:`lit_viz.run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import Logger
from torch import nn

from lit_viz.attacks import ATTACKS, Attack, NormalizedAscentAttack, Universal
from lit_viz.attributions import Attribution, Gradient
from lit_viz.engine.lightning import TaskQueue
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError, require
from lit_viz.images import PARAMETERIZATIONS, Parameterization
from lit_viz.images.sources import ImageLike, Images, Normalization, picture_size
from lit_viz.launch.commands import COMMANDS
from lit_viz.launch.commands.visualize import parse_place
from lit_viz.launch.config import ConfiguredMethod, configured_by, layer_settings, read_config
from lit_viz.launch.execute import execute, run
from lit_viz.launch.keywords import (
    RUN_KEYWORDS,
    Choice,
    Keywords,
    as_list,
    chosen_methods,
    chosen_part,
    reject_positional,
)
from lit_viz.launch.logs import log_run
from lit_viz.launch.resume import load_run
from lit_viz.launch.run import (
    Paths,
    Run,
    check_finished,
    check_folder,
    check_settings,
    gradients_enabled,
    warn_of_unfinished,
)
from lit_viz.loggers.base import LoggerSettings, WandbMode
from lit_viz.methods import AdversarialExample, ClassVisualization, SaliencyMap, UniversalPerturbation
from lit_viz.methods.class_visualization import default_recipe
from lit_viz.methods.photographs import AttackTraining
from lit_viz.methods.tasks import Classes, ImageTasks, objective_tasks, to_classes
from lit_viz.networks import Network, as_network
from lit_viz.networks.loading import load
from lit_viz.objectives import OBJECTIVES, Logit, Objective
from lit_viz.objectives.layers import Axis, layer_parts, objective_of_layer
from lit_viz.optim import RULES, StepRule
from lit_viz.runs.folder import FolderStorage
from lit_viz.utils.formatting import choose_notify, remark
from lit_viz.utils.typecheck import checked_types

MethodLike = str | Attribution | type[Attribution]

__all__ = ["attack", "check", "log", "resume", "run", "saliency", "visualize"]


@checked_types
@gradients_enabled()
def visualize(
    network: Network | nn.Module | str,
    targets: Classes = (),
    *misplaced: Any,
    against: Classes | None = None,
    objective: str | Objective | type[Objective] | None = None,
    layer: str | nn.Module | None = None,
    channels: Sequence[int] | str | int | None = None,
    neuron: tuple[int, int] | Literal["center"] | None = None,
    axis: Axis | None = None,
    parameterization: str | Parameterization | type[Parameterization] | None = None,
    step_rule: str | StepRule | type[StepRule] | None = None,
    init: ImageLike | None = None,
    iterations: int | None = None,
    vary: Mapping[str, Sequence[float]] | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Optimize images that maximize the logit of a class, or the activation of a layer.

    Args:
        network: a :class:`~lit_viz.networks.Network`, or an argument of :func:`load_network`.
        targets: class names or indices, one image each; none for a layer.
        against: classes that the targets are contrasted with, one for all or one per target: the objective is
            ``z_target - gamma * z_against``, with ``gamma=1`` by default.
        objective: what is maximized: a name of :data:`lit_viz.objectives.OBJECTIVES`, or an instance such as
            ``Channel("blocks.3.2", 14) + 8 * Diversity("blocks.3.2")``. Default: the logit of the target, or the
            channels of ``layer``.
        layer: layer to visualize instead of classes: its name or the module. The default configuration is then that of
            ``configs/visualize/channels.yaml``, without ``native`` if the network has a fixed size, or of
            ``small.yaml`` for networks of small images.
        channels: channels of the layer, one image each: indices, ``"3,14-20"`` or ``"all"``. Default: one image of the
            whole layer.
        neuron: position in the channels, row and column, or ``center``.
        axis: meaning of a channel in a layer of tokens: ``feature`` or ``token``.
        parameterization, step_rule: parts of the method, instances or names of classes.
        init: initial image: a file, a Pillow image, an array or a tensor. Default: noise.
        iterations: updates per image. Default: the configuration's.
        vary: values of ``iterations`` and ``lr`` by name, an image for each combination.
        seed: seed of the first image; image i uses ``seed + i``. Default: the configuration's, or 0.
        config: YAML file, or name of a packaged configuration, with other defaults of the arguments.
        out: run folder. Default: nothing is written.
        progress: show progress and messages. Default: in notebooks.
        options: other arguments of :class:`~lit_viz.methods.ClassVisualization` and of its picture
            (``size=``, ``group=``, ``views=`` ...), of one of its parts (``lr=``), and of :func:`run` (``logger=``,
            ``resume=`` ...).

    Returns:
        A run with ``run.images`` ``(N, C, H, W)`` in [0, 1], ``run.records`` and ``run.figure()``.

    Raises:
        LitVizError: unknown class or argument, unreadable image, or existing run folder.

    Example:
        >>> import lit_viz as lv
        >>> run = lv.visualize("efficientnet_lite0", ["tarantula"], iterations=1, views=1)
        >>> tuple(run.images.shape)
        (1, 3, 224, 224)
    """
    reject_positional("visualize", misplaced, "such as against=")
    network = as_network(network)
    if layer is not None:
        of_layer = layer_settings(network, config)
        config = of_layer.pop("config")
        options = of_layer | options
    defaults = _defaults("visualize", config)
    arguments = defaults.module or dict(vars(default_recipe()))
    arguments |= _without_none(iterations=iterations, init=init)
    given = None if objective is None else chosen_part(objective, Objective, OBJECTIVES, "objective")
    chosen = given or Choice(Logit())
    if defaults.configured is not None:
        settings = defaults.configured.config
        chosen = given or Choice(defaults.configured.parts["objective"])
        vary, axis = vary or settings.vary, axis or settings.axis
        if layer is None and given is None and not to_classes(targets):
            layer, channels = settings.layer, channels or settings.channel
            if neuron is None and settings.neuron is not None:
                neuron = parse_place(settings.neuron)
    if layer is not None:
        if given is not None and not any(layer_parts(given.value)):
            raise LitVizError(f"objective must read a layer where layer= is given, got {given.name}: leave one out")
        chosen = replace(chosen, value=objective_of_layer(chosen.value, layer, channels is not None, axis, neuron))
    chosen_parameterization = chosen_part(
        parameterization,
        Parameterization,
        PARAMETERIZATIONS,
        "parameterization",
        default=arguments["parameterization"],
    )
    parts = {
        "objective": [chosen],
        "parameterization": [chosen_parameterization],
        "step_rule": [chosen_part(step_rule, StepRule, RULES, "step rule", default=arguments["step_rule"])],
        "picture": [Choice(arguments["picture"])],
    }
    keywords = Keywords(ClassVisualization, parts)
    keywords.assign(options)
    module = keywords.build(network, arguments)
    if to_classes(targets) and "target" not in module.objective.task_fields:
        name = type(module.objective).__name__
        raise LitVizError(f"targets require an objective of a class (task_fields), got {name}: leave one of them out")
    tasks = objective_tasks(
        network,
        module.objective,
        target=targets,
        against=against,
        channel=channels,
        vary=vary,
        seed=defaults.seed if seed is None else seed,
    )
    return _run(module, tasks, out, progress, defaults, keywords)


@checked_types
@gradients_enabled()
def saliency(
    network: Network | nn.Module | str,
    images: Images,
    *misplaced: Any,
    targets: Classes | None = None,
    labels: Classes | None = None,
    against: Classes | None = None,
    method: MethodLike | Sequence[MethodLike] | None = None,
    normalization: Normalization | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Compute saliency maps: the relevance of each pixel for a class.

    Args:
        network: a :class:`~lit_viz.networks.Network`, or an argument of :func:`load_network`.
        images: one or a list of: files, folders, Pillow images, and arrays or tensors ``(H, W, C)``, ``(C, H, W)`` or
            ``(N, ...)``, uint8 or floating-point in [0, 1]; or a dataset or its loader. They are fitted to the
            network's size as files are, as published or by ``fit="crop"``, ``"squash"`` or ``"pad"``; floating-point
            images of this size are unchanged.
        targets: explained class, one for all images or one per image: name, index, ``label`` (default),
            ``predicted``, ``random`` or ``least-likely``.
        labels: true classes, one for all images or one per image, or their source: ``predicted``, ``folders`` or a CSV
            file (file,label). Default: those of a dataset, else predicted.
        against: class that the target is contrasted with, one for all images or one per image: name, index or
            ``runner-up``, the most probable class other than the target. The explained score is
            ``z_target - gamma * z_against``, with ``gamma=1`` by default.
        method: one or several names of :data:`lit_viz.attributions.ATTRIBUTIONS`, or instances such as
            ``GradCAM(layer="blocks.6")``. Default: ``gradient``.
        normalization: mean and standard deviation of floating-point arrays and tensors, or of the images of a dataset,
            which are removed. Default: of a dataset those of its transform.
        seed: seed of the first map; map i uses ``seed + i``. Default: the configuration's, or 0.
        config: YAML file, or name of a packaged configuration, with other defaults of the arguments.
        out: run folder. Default: nothing is written.
        progress: show progress and messages. Default: in notebooks.
        options: other arguments of :class:`~lit_viz.methods.SaliencyMap` (``iterations=``, ``tolerance=``,
            ``reducer=`` ...), of the method (``sigma=``, ``layer=`` ...) and of :func:`run` (``check=``, ``logger=``,
            ``resume=`` ...).

    Returns:
        A run with the attributions ``run.arrays`` ``(N, C, H, W)`` or ``(N, 1, H, W)``, signed where the method
        is, the maps ``run.maps`` ``(N, H, W)``, ``run.records`` and ``run.figure()``.

    Raises:
        LitVizError: unknown class, method or argument, images out of range, or existing run folder.
    """
    reject_positional("saliency", misplaced, "targets= or labels=")
    if isinstance(targets, (str, list, tuple)) and "none" in as_list(targets):
        raise LitVizError("targets of saliency maps must be classes, got none: leave targets out for the labels")
    network = as_network(network, picture_size(images, normalization))
    defaults = _defaults("saliency", config)
    methods = chosen_methods(method, defaults.module.get("method", Gradient()))
    keywords = Keywords(SaliencyMap, {"method": methods})
    keywords.assign(options)
    module = keywords.build(network, defaults.module)
    tasks = ImageTasks(
        network,
        images,
        target=targets,
        label=labels,
        against=against,
        normalization=normalization,
        seed=defaults.seed if seed is None else seed,
    )
    return _run(module, tasks, out, progress, defaults, keywords)


@checked_types
@gradients_enabled()
def attack(
    network: Network | nn.Module | str,
    images: Images,
    *misplaced: Any,
    targets: Classes | None = None,
    labels: Classes | None = None,
    attack: str | Attack | type[Attack] | None = None,
    eps: float | str | Sequence[float | str] | None = None,
    goal: str | None = None,
    normalization: Normalization | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Compute adversarial examples. A success counts if the image, rounded to 8 bits, fools the original network.

    Args:
        network: a :class:`~lit_viz.networks.Network`, or an argument of :func:`load_network`.
        images: as in :func:`saliency`.
        targets: target class, one for all images or one per image. Default: untargeted.
        labels: true classes, as in :func:`saliency`. An image that is not predicted as its label is skipped.
        attack: a name of :data:`lit_viz.attacks.ATTACKS`, or an instance such as ``PGD(alpha=0.01)``. Default:
            ``normalized_ascent``.
        eps: radius in units of [0, 1], such as ``"4/255"``, for attacks with a budget; several give a robustness
            curve.
        goal: of a network whose scores are numbers: ``above:V``, ``below:V`` or ``change:T`` (rise and fall by T), in
            the unit of the score; of decisions that do not exclude each other ``vanish`` or ``appear``, and of
            :class:`~lit_viz.outputs.Share` ``share:S``.
        normalization, seed, config, out, progress: as in :func:`saliency`.
        options: other arguments of :class:`~lit_viz.methods.AdversarialExample` (``iterations=``, ``transforms=`` ...),
            of the attack (``norm=``, ``alpha=``, ``restarts=`` ...) and of :func:`run` (``explain=``, ``logger=`` ...).

    Returns:
        A run with the images ``run.images`` on the 8-bit lattice, ``run.records`` and ``run.figure()``. A universal
        attack has one perturbation: magnified on gray in ``run.images``, unchanged in ``run.arrays``.

    Raises:
        LitVizError: unknown class, attack or argument, images out of range, or existing run folder.
    """
    reject_positional("attack", misplaced, "targets= for the classes to reach, or labels= for the true ones")
    network = as_network(network, picture_size(images, normalization))
    defaults = _defaults("attack", config)
    arguments = defaults.module
    chosen = chosen_part(attack, Attack, ATTACKS, "attack", default=arguments.get("attack", NormalizedAscentAttack()))
    radii = _listed_radii(eps)
    if len(radii) == 1:
        options["eps"], radii = radii[0], []
    elif radii:
        require(chosen.accepts("eps"), f"several eps require an attack with a radius, such as pgd, got {chosen.name}")
    kind: type[AttackTraining] = AdversarialExample
    if isinstance(chosen.value, Universal):
        kind = UniversalPerturbation
        arguments.pop("transforms", None)
        arguments = _without_none(**arguments)
    keywords = Keywords(kind, {"attack": [chosen]})
    keywords.assign(options)
    module = keywords.build(network, arguments)
    tasks = ImageTasks(
        network,
        images,
        target=targets,
        label=labels,
        vary={"eps": radii},
        goal=goal,
        normalization=normalization,
        seed=defaults.seed if seed is None else seed,
    )
    return _run(module, tasks, out, progress, defaults, keywords)


@checked_types
@gradients_enabled()
def check(
    folder: str | Path | Run,
    network: Network | nn.Module | None = None,
    *,
    faithfulness: bool = False,
    trust: bool = False,
    photographs: Paths = (),
    progress: bool | None = None,
) -> bool:
    """Compute all evidence for the images of a run, and write it to ``evidence.json`` in its folder.

    Args:
        folder: run folder, or a run; the evidence of a run in memory is in ``run.evidence``.
        network: the network, if the run in the folder was started with a module.
        faithfulness: also compute saliency metrics (see
            :func:`~lit_viz.evidence.saliency.faithfulness.evaluate_maps`). They do not change the returned value.
        trust: also run stronger attacks on images that an attack with a budget did not fool.
        photographs: files or folders with which class images are compared: how natural their way through the network
            is (:func:`~lit_viz.evidence.class_images.class_image_naturalness`). It does not change the returned value.
        progress: show messages. Default: in notebooks.

    Returns:
        True if no check has failed.

    Raises:
        LitVizError: the folder is not a run, the weights are not those of the run, or an option does not apply to it.
    """
    if isinstance(folder, Run):
        return folder.check(faithfulness=faithfulness, trust=trust, photographs=photographs, progress=progress)
    configured = load_run(_path("folder", folder))
    module = configured.build(_stored_network(network, configured))
    options = configured.options()
    assert options.out is not None
    settings = check_settings(module, options, faithfulness, trust, choose_notify(progress), photographs)
    return check_folder(module, options, FolderStorage.open(options.out), settings)


@checked_types
@gradients_enabled()
def resume(
    folder: str | Path,
    network: Network | nn.Module | None = None,
    *,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Continue a run from its last checkpoint, or return the results of a finished run.

    Args:
        folder: run folder.
        network: the network, if the run was started with a module.
        progress: show progress and messages. Default: in notebooks.
        options: options to change: ``slots=4, trainer={"accelerator": "cpu"}``.

    Raises:
        LitVizError: the folder is not a run, the weights are not those of the run, or an option can't be changed.
    """
    configured = load_run(_path("folder", folder), **options)
    return resume_configured(configured, _stored_network(network, configured), progress)


def resume_configured(configured: ConfiguredMethod, network: Network, progress: bool | None) -> Run:
    """Continue the run of a stored configuration with its stored tasks."""
    module = configured.build(network)
    tasks = configured.stored_tasks(module)
    resumed = execute(module, tasks, configured.options(), notify=choose_notify(progress))
    check_finished(resumed)
    warn_of_unfinished(resumed)
    return resumed


@checked_types
def log(
    folder: str | Path | Run,
    to: str | Logger | Sequence[str | Logger] = "wandb",
    *,
    project: str | None = None,
    tags: Sequence[str] = (),
    group: str | None = None,
    job_type: str | None = None,
    wandb: WandbMode = "auto",
    progress: bool | None = None,
) -> list[str]:
    """Log a run folder: metrics and images at their iterations, results, evidence and summary.

    Repeating it adds only what a logger lacks: W&B and MLflow continue the run whose id is in the run folder,
    TensorBoard and CSV write their files in the run folder anew.

    Args:
        folder: run folder, or a run that has one.
        to: ``wandb``, ``tensorboard``, ``mlflow`` or ``csv``, or a logger of Lightning, which receives everything; one
            or several.
        project: W&B project or MLflow experiment.
        tags: tags in W&B and MLflow.
        group: W&B group.
        job_type: W&B job type.
        wandb: mode of W&B: ``auto``, ``online`` or ``offline``.
        progress: show messages. Default: in notebooks.

    Returns:
        The location of the run in each logger, or the command that shows it.

    Raises:
        LitVizError: the folder is not a run or is in use, there is no such logger, or a logger fails.
    """
    path = folder.folder if isinstance(folder, Run) else _path("folder", folder)
    if path is None:
        raise LitVizError("a run in memory can't be logged: run.save(folder) writes a run folder")
    settings = LoggerSettings(project, list(tags), group, job_type, wandb)
    return log_run(path, to, settings, choose_notify(progress) or remark)


# -- helpers


@dataclass(frozen=True)
class _Defaults:
    """Values of a configuration for the keywords that a call does not give.

    Attributes:
        configured: the configuration; None without one.
        module: arguments of the module.
        run: arguments of :func:`run` that the file contains.
        seed: seed of the first task.
    """

    configured: ConfiguredMethod | None = None
    module: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


def _defaults(method: str, config: str | Path | None) -> _Defaults:
    """Return the values of a configuration, which is given by its name or path."""
    if config is None:
        return _Defaults()
    name = _path("config", config)
    configured = configured_by(COMMANDS[method], name)
    given = read_config(method, name)
    of_run = {option: given[option] for option in RUN_KEYWORDS if given.get(option) is not None}
    return _Defaults(configured, configured.module_arguments(), of_run, int(configured.config.seed))


def _run(
    module: ImageTraining,
    tasks: TaskQueue,
    out: str | Path | None,
    progress: bool | None,
    defaults: _Defaults,
    keywords: Keywords,
) -> Run:
    """Run a module with its tasks, by the arguments of the keywords and of the configuration."""
    arguments = dict(defaults.run)
    arguments |= keywords.run_arguments
    return run(module, tasks, out, progress=progress, **arguments)


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _listed_radii(eps: Any) -> list[float | str]:
    """Return one or several radii as a list; ``1/255,2/255`` are several."""
    if eps is None:
        return []
    if isinstance(eps, str):
        return list(eps.split(","))
    plain = eps.tolist() if hasattr(eps, "tolist") else eps
    radii = list(plain) if isinstance(plain, Sequence) else [plain]
    require(radii, "eps must have at least one radius", "none", hint="try 4/255")
    return radii


def _path(name: str, value: Any) -> str:
    require(isinstance(value, (str, Path)), f"{name} must be a path", repr(value))
    return str(value)


def _stored_network(network: Network | nn.Module | None, configured: ConfiguredMethod) -> Network:
    """Return the network for a run; a module gets the recorded labels and normalization, others must have them."""
    if network is None:
        return configured.load_network()
    options = configured.config.network.as_dict()
    recorded: dict[str, Any] = {}
    for name in ("mean", "std", "size"):
        if isinstance(options[name], (list, tuple)):
            recorded[name] = list(options[name])
    if labels := FolderStorage(configured.config.out).recorded.get("labels"):
        recorded["labels"] = labels
    if options["multi_label"] is not None:
        recorded["multi_label"] = options["multi_label"]
    if isinstance(network, nn.Module):
        return load(network, **recorded)
    network = as_network(network)
    for name, before in recorded.items():
        now = network.multi_label if name == "multi_label" else list(getattr(network, name))
        if now != before:
            values = "" if name == "labels" else f" {before}, got {now}"
            raise LitVizError(f"{configured.config.out} was started with other {name}{values}: pass the same network")
    return network
