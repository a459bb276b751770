"""Python functions: each runs the command of the same name, with Python values instead of names and options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from torch import nn

from lit_viz.attacks import Attack as AttackRule
from lit_viz.attributions import METHODS, Attribution
from lit_viz.classifiers import Classifier, as_classifier
from lit_viz.classifiers.loading import load
from lit_viz.errors import LitVizError
from lit_viz.launch.arguments import parser_option
from lit_viz.launch.commands.attack import Attack, attack_path, radii_of
from lit_viz.launch.commands.base import Command, class_paths
from lit_viz.launch.commands.saliency import Saliency
from lit_viz.launch.commands.visualize import Visualize
from lit_viz.launch.config import ConfiguredMethod, read_config, set_option
from lit_viz.launch.execute import execute
from lit_viz.launch.inputs import (
    ImageLike,
    image_inputs,
    initial_image,
    photograph_options,
    to_classes,
    to_option,
    to_path,
    to_plain,
)
from lit_viz.launch.logs import log_run
from lit_viz.launch.resume import load_run
from lit_viz.launch.run import Run
from lit_viz.launch.run import check as check_run
from lit_viz.loggers.base import LoggerSettings, WandbMode
from lit_viz.runs.folder import RunFolder
from lit_viz.utils.formatting import choose_notify, remark


def visualize(
    classifier: Classifier | nn.Module | str,
    targets: Sequence[str | int] | str | int = (),
    *,
    against: Sequence[str | int] | str | int | None = None,
    iterations: int | None = None,
    init: ImageLike | None = None,
    out: str | Path | None = None,
    config: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Optimize images that maximize the logit of a class, or the activation of a layer.

    Args:
        classifier: a :class:`~lit_viz.classifiers.Classifier`, or an argument of :func:`load_classifier`.
        targets: class names or indices, one image each; none for a layer: ``layer="blocks.3.2", channel="3,14-20"``.
        against: classes that the targets are contrasted with, one for all or one per target: the objective is
            ``z_target - gamma * z_against``, with ``gamma=1`` by default.
        iterations: updates per image. Default: the configuration's.
        init: initial image, as in :func:`saliency`. Default: noise.
        out: run folder. Default: nothing is written.
        config: YAML file or name of a packaged configuration.
        progress: show progress and messages. Default: in notebooks.
        options: other options of ``lit-viz visualize``, with dots as double underscores: ``model__views=8, seed=3``.

    Returns:
        A run with ``run.images`` ``(N, C, H, W)`` in [0, 1], ``run.results`` and ``run.figure()``.

    Raises:
        LitVizError: unknown class or option, unreadable image, or existing run folder.

    Example:
        >>> import lit_viz as lv
        >>> run = lv.visualize("efficientnet_lite0", ["tarantula"], iterations=1, model__views=1)
        >>> tuple(run.images.shape)
        (1, 3, 224, 224)
    """
    network = as_classifier(classifier)
    image, name = initial_image(init)
    command = Visualize(image)
    arguments = {
        "targets": [] if targets is None else to_classes(targets),
        "against": None if against is None else to_classes(against),
        "iterations": iterations,
        "init": name,
    }
    return _launch(command, network, config, out, arguments, options, progress)


def saliency(
    classifier: Classifier | nn.Module | str,
    images: ImageLike | Iterable[ImageLike],
    targets: Sequence[str | int] | str | int | None = None,
    *,
    against: Sequence[str | int] | str | int | None = None,
    method: str | Attribution | Sequence[str | Attribution] | Mapping[str, Mapping[str, Any]] = "gradient",
    labels: Sequence[str | int] | str = "predicted",
    iterations: int | None = None,
    tolerance: float | None = None,
    check: str = "auto",
    out: str | Path | None = None,
    config: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Compute saliency maps: the relevance of each pixel for a class.

    Args:
        classifier: a :class:`~lit_viz.classifiers.Classifier`, or an argument of :func:`load_classifier`.
        images: one or a list of: files, folders, Pillow images, and arrays or tensors ``(H, W, C)``, ``(C, H, W)`` or
            ``(N, ...)``, uint8 or floating-point in [0, 1]. They are fitted to the classifier's size as files are, as
            published or by ``fit="crop"``, ``"squash"`` or ``"pad"``; floating-point images of this size are unchanged.
        targets: explained class, one for all images or one per image: name, index, ``label`` (default),
            ``predicted``, ``random`` or ``least-likely``.
        against: class that the target is contrasted with, one for all images or one per image: name, index or
            ``runner-up``, the most probable class other than the target. The explained score is
            ``z_target - gamma * z_against``, with ``gamma=1`` by default.
        method: one or several names of :data:`lit_viz.attributions.METHODS`, names with arguments
            (``{"smoothgrad": {"sigma": 0.2}}``), or instances (``GradCAM(layer="blocks.6")``).
        labels: true classes, one per image, or their source as in ``--labels``.
        iterations: evaluations per map. Default: the method's.
        tolerance: relative error at which a map is finished.
        check: ``captum`` compares as many maps with Captum as 15 seconds allow, and ``none`` compares none; ``auto``
            compares only maps whose comparison is estimated to take no longer than the run, or a second.
        out: run folder. Default: nothing is written.
        config: YAML file or name of a packaged configuration.
        progress: show progress and messages. Default: in notebooks.
        options: other options of ``lit-viz saliency``, with dots as double underscores.

    Returns:
        A run with the attributions ``run.attributions`` ``(N, C, H, W)`` or ``(N, 1, H, W)``, signed where the method
        is, the maps ``run.maps`` ``(N, H, W)``, ``run.results`` and ``run.figure()``.

    Raises:
        LitVizError: unknown class, method or option, images out of range, or existing run folder.
    """
    network = as_classifier(classifier)
    pictures, files = image_inputs(images)
    arguments = {
        **photograph_options(files, targets, labels, against),
        "iterations": iterations,
        "check": check,
        "model__method": class_paths(method, METHODS, "saliency method"),
        "model__tolerance": tolerance,
    }
    return _launch(Saliency(pictures), network, config, out, arguments, options, progress)


def attack(
    classifier: Classifier | nn.Module | str,
    images: ImageLike | Iterable[ImageLike],
    labels: Sequence[str | int] | str = "predicted",
    target: Sequence[str | int] | str | int | None = None,
    *,
    attack: str | AttackRule | Mapping[str, Mapping[str, Any]] = "normalized_ascent",
    eps: float | str | Sequence[float | str] | None = None,
    norm: str | None = None,
    iterations: int | None = None,
    out: str | Path | None = None,
    config: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Compute adversarial examples. A success counts if the image, rounded to 8 bits, fools the original network.

    Args:
        classifier: a :class:`~lit_viz.classifiers.Classifier`, or an argument of :func:`load_classifier`.
        images: as in :func:`saliency`.
        labels: true classes, one per image, or their source as in ``--labels``.
        target: target class, one for all images or one per image. Default: untargeted.
        attack: a name of :data:`lit_viz.attacks.ATTACKS`, a name with arguments (``{"pgd": {"alpha": 0.01}}``), or an
            instance (``PGD(alpha=0.01)``).
        eps: radius in units of [0, 1], such as ``"4/255"``, for attacks with a budget; several give a robustness
            curve.
        norm: ``linf`` or ``l2``.
        iterations: maximum number of updates per image. Default: the attack's.
        out: run folder. Default: nothing is written.
        config: YAML file or name of a packaged configuration.
        progress: show progress and messages. Default: in notebooks.
        options: other options of ``lit-viz attack``, with dots as double underscores.

    Returns:
        A run with the images ``run.images`` on the 8-bit lattice, ``run.results`` and ``run.figure()``. A universal
        attack has one perturbation: magnified on gray in ``run.images``, unchanged in ``run.attributions``.

    Raises:
        LitVizError: unknown class, attack or option, images out of range, or existing run folder.
    """
    network = as_classifier(classifier)
    pictures, files = image_inputs(images)
    class_path = attack_path(attack)
    radii = [] if eps is None else radii_of(to_plain(eps))
    budget = {"eps": radii[0] if len(radii) == 1 else None, "norm": norm}
    if isinstance(attack, AttackRule) and (eps is not None or norm is not None):
        raise LitVizError("eps and norm must be arguments of the attack's instance")
    if given := {key: value for key, value in budget.items() if value is not None}:
        class_path["init_args"] = {**class_path.get("init_args", {}), **given}
    arguments = {**photograph_options(files, target, labels), "iterations": iterations, "model__attack": class_path}
    if len(radii) > 1:
        options["radii"] = radii
    return _launch(Attack(pictures), network, config, out, arguments, options, progress)


def check(
    folder: str | Path | Run,
    classifier: Classifier | nn.Module | None = None,
    *,
    faithfulness: bool = False,
    trust: bool = False,
    progress: bool | None = None,
) -> bool:
    """Compute all evidence for the images of a run, and write it to ``evidence.json`` in its folder.

    Args:
        folder: run folder, or a run; the evidence of a run in memory is in ``run.evidence``.
        classifier: the network, if the run in the folder was started with a module.
        faithfulness: also compute saliency metrics (see
            :func:`~lit_viz.evidence.saliency.evaluation.compute_map_metrics`). They do not change the returned value.
        trust: also run stronger attacks on images that an attack with a budget did not fool.
        progress: show messages. Default: in notebooks.

    Returns:
        True if no check has failed.

    Raises:
        LitVizError: the folder is not a run, the weights are not those of the run, or an option does not apply to it.
    """
    if isinstance(folder, Run):
        return folder.check(faithfulness=faithfulness, trust=trust, progress=progress)
    configured = load_run(to_path("folder", folder))
    network = _stored_classifier(classifier, configured)
    return check_run(configured, network, faithfulness=faithfulness, trust=trust, notify=choose_notify(progress))


def resume(
    folder: str | Path,
    classifier: Classifier | nn.Module | None = None,
    *,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Continue a run from its last checkpoint, or return the results of a finished run.

    Args:
        folder: run folder.
        classifier: the network, if the run was started with a module.
        progress: show progress and messages. Default: in notebooks.
        options: options to change, with dots as double underscores: ``slots=4, trainer__accelerator="cpu"``.

    Raises:
        LitVizError: the folder is not a run, the weights are not those of the run, or an option can't be changed.
    """
    configured = load_run(to_path("folder", folder), **options)
    return execute(configured, _stored_classifier(classifier, configured), notify=choose_notify(progress))


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
    path = folder.folder if isinstance(folder, Run) else to_path("folder", folder)
    if path is None:
        raise LitVizError("a run in memory can't be logged: run.save(folder) writes a run folder")
    settings = LoggerSettings(project, list(tags), group, job_type, wandb)
    return log_run(path, to, settings, choose_notify(progress) or remark)


def _launch(
    command: Command,
    network: Classifier,
    config: str | Path | None,
    out: str | Path | None,
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
    progress: bool | None,
) -> Run:
    """Run a configuration with arguments, unless they are None, and options, where None is a value."""
    name = command.config_for([f"--{option}" for option in options]) if config is None else to_path("config", config)
    merged = read_config(command.name, name)
    given = {"out": None if out is None else to_path("out", out), **arguments}
    for name, value in given.items():
        if value is not None:
            set_option(merged, name, value)
    for name, value in options.items():
        option = parser_option(f"--{name}", command, dashes="")[2:].replace(".", "__")
        set_option(merged, option, to_option(name, value))
    # A resume loads the network by its name, or compares these values with those of the given module.
    sizes = {name: list(getattr(network, name)) for name in ("mean", "std", "size")}
    merged["classifier"] = {"name": network.name, "weights": network.weights, **sizes}
    merged["classifier"]["multi_label"] = network.multi_label
    return execute(ConfiguredMethod(command, merged), network, notify=choose_notify(progress))


def _stored_classifier(classifier: Classifier | nn.Module | None, configured: ConfiguredMethod) -> Classifier | None:
    """Return the classifier for a run; a module gets the recorded labels and normalization, others must have them."""
    if classifier is None:
        return None
    options = configured.config.classifier.as_dict()
    recorded: dict[str, Any] = {
        name: list(options[name]) for name in ("mean", "std", "size") if isinstance(options[name], (list, tuple))
    }
    if labels := RunFolder(configured.config.out).recorded.get("labels"):
        recorded["labels"] = labels
    if options["multi_label"] is not None:
        recorded["multi_label"] = options["multi_label"]
    if isinstance(classifier, nn.Module):
        return load(classifier, **recorded)
    classifier = as_classifier(classifier)
    for name, before in recorded.items():
        now = classifier.multi_label if name == "multi_label" else list(getattr(classifier, name))
        if now != before:
            values = "" if name == "labels" else f" {before}, got {now}"
            raise LitVizError(f"{configured.config.out} was started with other {name}{values}: pass the same network")
    return classifier
