"""The short functions: each places its keywords in a form, builds module and tasks, and runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from lit_viz.attacks import ATTACKS, Attack
from lit_viz.attributions import ATTRIBUTIONS, Attribution
from lit_viz.engine.failures import gradients_enabled
from lit_viz.errors import LitVizError, require
from lit_viz.images import Fourier, Parameterization
from lit_viz.images.reading import Fit
from lit_viz.images.sources import ImageLike, Images, Normalization, picture_size
from lit_viz.launch.answers import texts_by_name
from lit_viz.launch.comparison import Comparison, compare_runs, run_in_folder
from lit_viz.launch.execute import execute, finished, run
from lit_viz.launch.form import Form
from lit_viz.launch.logs import log_run
from lit_viz.launch.merge import merge_shards
from lit_viz.launch.methods import run_method
from lit_viz.launch.resume import changed_form, stored_form, stored_module, stored_tasks
from lit_viz.launch.run import Paths, Run, check_folder, check_settings
from lit_viz.loggers.base import LoggerSettings
from lit_viz.methods import AdversarialExample, ClassVisualization, SaliencyMap
from lit_viz.methods.tasks import Classes
from lit_viz.networks import Network, as_network
from lit_viz.networks.loading import load
from lit_viz.objectives import Objective
from lit_viz.objectives.layers import Axis
from lit_viz.optim import Adam, StepRule
from lit_viz.outputs.loading import load_recorded
from lit_viz.presentations import FigureFormat
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.tar_store import open_run
from lit_viz.utils.checking import checked_types
from lit_viz.utils.formatting import Notify, choose_notify, remark
from lit_viz.utils.parts import constructor_parameters
from lit_viz.utils.sequences import split_commas

MethodLike = str | Attribution | type[Attribution] | Callable[..., Tensor]

__all__ = ["attack", "check", "compare", "log", "merge", "read", "resume", "run", "saliency", "visualize"]


@checked_types
@gradients_enabled()
def visualize(
    network: Network | nn.Module | str,
    target: Classes = (),
    *,
    against: Classes | None = None,
    objective: str | Objective | type[Objective] | None = None,
    layer: str | int | nn.Module | None = None,
    channel: Sequence[int] | str | int | None = None,
    neuron: tuple[int, int] | str | None = None,
    axis: Axis | None = None,
    parameterization: str | Parameterization | type[Parameterization] | None = None,
    step_rule: str | StepRule | type[StepRule] | None = None,
    init: ImageLike | None = None,
    iterations: int | Sequence[int] | None = None,
    vary: Mapping[str, Sequence[float]] | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Optimize images that maximize the logit of a class, or the activation of a layer.

    Args:
        network: a :class:`~lit_viz.Network`, or an argument of :func:`load_network`.
        target: class names or indices, one image each; none for a layer.
        against: classes that the targets are contrasted with, one for all or one per target: the objective is
            ``z_target - gamma * z_against``, with ``gamma=1`` by default.
        objective: what is maximized: a name of :data:`lit_viz.objectives.OBJECTIVES`, or an instance such as
            ``Channel("blocks.3.2", 14) + 8 * Diversity("blocks.3.2")``. Default: the logit of the target, or the
            channels of ``layer``.
        layer: name of a layer to visualize instead of classes. The default configuration is then that of
            ``configs/visualize/channels.yaml``, without ``native`` if the network has a fixed size, or of
            ``small.yaml`` for networks of small images. In Python also the module.
        channel: channels of the layer, one image each: indices, ``3,14-20`` or ``all``. Default: one image of the
            whole layer.
        neuron: position in the channels: row and column, as ``3,4``, or ``center``.
        axis: meaning of a channel in a layer of tokens: ``feature`` or ``token``.
        parameterization, step_rule: parts of the method, instances or names of classes.
        init: file of the initial image. Default: noise. In Python also a Pillow image, an array or a tensor.
        iterations: updates per image; several vary. Default: the configuration's.
        vary: values of ``iterations`` and ``lr`` by name, an image for each combination.
        seed: seed of the first image; image i uses ``seed + i``. Default: the configuration's, or 0.
        config: YAML file, or name of a packaged configuration, with other defaults of the arguments.
        out: run folder. Default: nothing is written.
        progress: show progress and messages. Default: in notebooks both, in scripts the progress of long runs.
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
    given = locals()
    has_target = not isinstance(target, (list, tuple)) or len(target) > 0
    is_selected = has_target or layer is not None or objective is not None or config is not None
    require(is_selected, "target must name at least one class", "none", hint="or give a layer")
    run: Run = run_method("visualize", {**given, "target": target if has_target else None})
    return run


@checked_types
@gradients_enabled()
def saliency(
    network: Network | nn.Module | str,
    images: Images,
    *,
    target: Classes | None = None,
    label: Classes | None = None,
    against: Classes | None = None,
    method: MethodLike | Sequence[MethodLike] | None = None,
    normalization: Normalization | None = None,
    vary: Mapping[str, Sequence[str | int]] | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Compute saliency maps: the relevance of each pixel for a class.

    Args:
        network: a :class:`~lit_viz.Network`, or an argument of :func:`load_network`.
        images: one or several files or folders, which are fitted to the size of the network as published with it, or by
            ``fit``. In Python also Pillow images, and arrays or tensors ``(H, W, C)``, ``(C, H, W)`` or ``(N, ...)``,
            uint8, floating-point in [0, 1], or in the unit of the network's ``value_range``; or a dataset or its
            loader. Floating-point images of this size are unchanged.
        target: explained class, one for all images or one per image: name, index, ``label`` (default),
            ``predicted``, ``random`` or ``least-likely``.
        label: true class, one for all images or one per image, or the source of all: ``predicted``, ``folders`` or a
            CSV file (file,label). Default: the dataset's, else predicted.
        against: class that the target is contrasted with, one for all images or one per image: name, index or
            ``runner-up``, the most probable class other than the target. The explained score is
            ``z_target - gamma * z_against``, with ``gamma=1`` by default.
        method: one or several saliency methods, by name. Default: ``auto``, of transformers ``libra_gradient`` as far
            as its rule applies, otherwise ``gradient``. A function of your own is given by its
            path ``module:function`` (:class:`~lit_viz.attributions.FunctionMap`). In Python also instances such as
            ``GradCAM(layer="blocks.6")``, and the function itself; names are those of
            :data:`lit_viz.attributions.ATTRIBUTIONS`.
        normalization: mean and standard deviation of floating-point arrays and tensors, or of the images of a dataset,
            which are removed. Default: from the transform of a dataset.
        vary: ``{"target": [...]}``: every target for each image.
        seed: seed of the first map; map i uses ``seed + i``. Default: the configuration's, or 0.
        config: YAML file, or name of a packaged configuration, with other defaults of the arguments.
        out: run folder. Default: nothing is written.
        progress: show progress and messages. Default: in notebooks both, in scripts the progress of long runs.
        options: other arguments of :class:`~lit_viz.methods.SaliencyMap` (``iterations=``, ``tolerance=``,
            ``reducer=`` ...), of the method (``sigma=``, ``layer=`` ...) and of :func:`run` (``captum=``, ``logger=``,
            ``resume=`` ...).

    Returns:
        A run with the attributions ``run.arrays`` ``(N, C, H, W)`` or ``(N, 1, H, W)``, signed where the method
        is, the maps ``run.maps`` ``(N, H, W)``, ``run.records`` and ``run.figure()``.

    Raises:
        LitVizError: unknown class, method or argument, images out of range, or existing run folder.
    """
    run: Run = run_method("saliency", locals())
    return run


@overload
def attack(
    network: Network | nn.Module | str,
    images: Images,
    *,
    attack: str | Attack | type[Attack] | None = None,
    **options: Any,
) -> Run: ...


@overload
def attack(
    network: Network | nn.Module | str,
    images: Images,
    *,
    attack: list[Any] | tuple[Any, ...],
    **options: Any,
) -> Comparison: ...


@checked_types
@gradients_enabled()
def attack(
    network: Network | nn.Module | str,
    images: Images,
    *,
    target: Classes | None = None,
    label: Classes | None = None,
    attack: str | Attack | type[Attack] | Sequence[str | Attack | type[Attack]] | None = None,
    eps: float | str | Sequence[float | str] | None = None,
    goal: str | None = None,
    normalization: Normalization | None = None,
    vary: Mapping[str, Sequence[float | str | int]] | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Run | Comparison:
    """Compute adversarial examples. A success counts if the file, 8-bit or as its source, fools the original network.

    Args:
        network: a :class:`~lit_viz.Network`, or an argument of :func:`load_network`.
        images: one or several files or folders. In Python also Pillow images, arrays or tensors; or a dataset or its
            loader, as in :func:`saliency`.
        target: target class, one for all images or one per image. Default: untargeted.
        label: true class, one for all images or one per image, or the source of all: ``predicted``, ``folders`` or a
            CSV file (file,label). Default: the dataset's, else predicted. An image that is not predicted as its
            label is skipped.
        attack: name of an attack; several are a run each, compared at the end. Default: ``normalized_ascent``. In
            Python also an instance such as ``PGD(alpha=0.01)``; names are those of :data:`lit_viz.attacks.ATTACKS`.
        eps: radius in units of [0, 1], such as ``4/255``, or of the files, ``20 file``, for attacks with a
            budget; several give a robustness curve. Of several attacks, it is that of those with a budget.
        goal: for scores that are numbers: ``above:V``, ``below:V`` or ``change:T`` (rise and fall by T), in
            the unit of the score; of decisions that do not exclude each other ``vanish``, ``appear`` or
            ``become`` (the target in place of the label), and of :class:`~lit_viz.outputs.Share` ``share:S``.
        normalization: as in :func:`saliency`.
        vary: values of ``eps`` and ``target`` by name, each combination for each image.
        seed: seed of the first image; image i uses ``seed + i``. Default: the configuration's, or 0.
        config: YAML file, or name of a packaged configuration, with other defaults of the arguments.
        out: run folder. Default: nothing is written.
        progress: show progress and messages. Default: in notebooks both, in scripts the progress of long runs.
        options: other arguments of :class:`~lit_viz.methods.AdversarialExample` (``iterations=``, ``transforms=`` ...),
            of the attack (``norm=``, ``alpha=``, ``restarts=`` ...) and of :func:`run` (``explain=``, ``logger=`` ...).

    Returns:
        A run with the images ``run.images`` as in the files, ``run.records`` and ``run.figure()``. A universal
        attack has one perturbation: magnified on gray in ``run.images``, unchanged in ``run.arrays``. Of several
        attacks, their :class:`Comparison`, with ``runs``; ``out`` has a run folder of each, and the comparison.

    Raises:
        LitVizError: unknown class, attack or argument, images out of range, or existing run folder.
    """
    result: Run | Comparison = run_method("attack", locals())
    return result


@checked_types
def read(
    network: Network | nn.Module | str,
    images: Images,
    *,
    fit: Fit | None = None,
    normalization: Normalization | None = None,
) -> list[str]:
    """Return the text that a network says or reads of each image, by its own greedy decoding.

    Args:
        network: a :class:`~lit_viz.Network` whose output gives texts, such as :class:`~lit_viz.outputs.ReadText`, or an
            argument of :func:`load_network`.
        images: one or several files or folders. In Python also Pillow images, arrays or tensors; or a dataset or its
            loader, as in :func:`saliency`.
        fit: how photographs are fitted to the input size of the network: ``crop``, ``squash`` or ``pad``. Default: as
            published.
        normalization: as in :func:`saliency`.

    Returns:
        A text for each image, in the order of the images.

    Raises:
        LitVizError: the network gives no text, or an image can't be read.
    """
    network = as_network(network, picture_size(images))
    return [text for _, text in texts_by_name(network, images, fit, normalization)]


@checked_types
@gradients_enabled()
def check(
    folder: str | Path | Run,
    network: Network | nn.Module | None = None,
    *,
    faithfulness: bool = False,
    trust: bool = False,
    images: Paths = (),
    progress: bool | None = None,
) -> bool:
    """Compute all evidence for the images of a run, and write it to ``evidence.json`` in its folder.

    Args:
        folder: run folder, or a run; the evidence of a run in memory is in ``run.evidence``.
        network: the network, if the run in the folder was started with a module.
        faithfulness: also measure saliency maps: deletion and insertion, sensitivity, randomization of the network's
            layers. It costs 198 forwards per map and 14 times the evaluations of the map. It does not change the
            verdict.
        trust: also attack the images that were not fooled within eps by random points, Square and a large eps.
        images: files or folders of photographs with which class images are compared, layer by layer; the class is the
            name of the folder, or else the prediction. It does not change the verdict.
        progress: show messages.

    Returns:
        True if no check has failed.

    Raises:
        LitVizError: the folder is not a run, the run has other weights, or an option does not apply to it.
    """
    if isinstance(folder, Run):
        return folder.check(faithfulness=faithfulness, trust=trust, images=images, progress=progress)
    stored = open_run(_path("folder", folder))
    form = stored_form(stored)
    module = stored_module(stored, form, stored_network(network, form, stored))
    options = form.options()
    settings = check_settings(module, options, faithfulness, trust, choose_notify(progress is not False), images)
    return check_folder(module, options, stored, settings)


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
        progress: show progress and messages. Default: in notebooks both, in scripts the progress of long runs.
        options: arguments to change: ``slots``, ``compile``, ``devices_mode``, and arguments of :func:`run`, such as
            ``trainer={"accelerator": "cpu"}``.

    Raises:
        LitVizError: the folder is not a run, the run has other weights, or an argument can't be changed.
    """
    return finished(resume_run(folder, network, options, choose_notify(progress)))


def resume_run(
    folder: str | Path, network: Network | nn.Module | None, options: Mapping[str, Any], notify: Notify | None
) -> Run:
    """Continue a run, of which all images may have failed; see :func:`resume`."""
    stored = open_run(_path("folder", folder))
    form = changed_form(stored, stored_form(stored, notify), options)
    loaded = stored_network(network, form, stored)
    module, tasks = stored_module(stored, form, loaded), stored_tasks(stored, form, loaded)
    with gradients_enabled():
        return execute(module, tasks, form.options(), form=form, notify=notify)


@checked_types
@gradients_enabled()
def merge(
    folders: Paths,
    out: str | Path,
    network: Network | nn.Module | None = None,
    *,
    partial: bool = False,
    progress: bool | None = None,
) -> Run:
    """Merge the shards of a run to one run, and compute its evidence, figure and report.

    The records, images, maps and metrics of the shards are unchanged; files are linked, or copied to another file
    system. The shards are compared with their digests first.

    Args:
        folders: run folders of shards, or the folder that contains them.
        out: run folder of the merged run, missing or empty, or of the same merge that was stopped before its end.
        network: the network, if the run was started with a module.
        partial: merge the finished tasks if shards or tasks are missing, and name these.
        progress: show messages. Default: in notebooks.

    Returns:
        The merged run.

    Raises:
        LitVizError: a folder is not a shard, shards are missing, unfinished or damaged, two have the same tasks, or
            they are of other networks, options or tasks.
    """
    given = [folders] if isinstance(folders, (str, Path)) else list(folders)
    notify = choose_notify(progress)
    merge_shards(given, out, partial, notify or remark)
    return finished(resume_run(out, network, {}, notify))


@checked_types
def log(
    folder: str | Path | Run,
    to: str | Logger | Sequence[str | Logger] = "wandb",
    *,
    logging: LoggerSettings | None = None,
    progress: bool | None = None,
) -> list[str]:
    """Log a run folder: metrics and images at their iterations, results, evidence and summary.

    Repeating it adds only what a logger lacks: W&B and MLflow continue the run by its id in the run folder,
    TensorBoard and CSV write their files in the run folder again.

    Args:
        folder: run folder, or a run that has one.
        to: one or several of ``wandb``, ``tensorboard``, ``mlflow`` and ``csv``. In Python also a logger of Lightning,
            which receives everything.
        logging: settings of the loggers that are given by name.
        progress: show messages. Default: in notebooks.

    Returns:
        The location of the run in each logger, or the command that shows it.

    Raises:
        LitVizError: the folder is not a run or is in use, there is no such logger, or a logger fails.
    """
    path = folder.folder if isinstance(folder, Run) else _path("folder", folder)
    if path is None:
        raise LitVizError("a run in memory can't be logged: run.save(folder) writes a run folder")
    return log_run(path, to, logging or LoggerSettings(), choose_notify(progress) or remark)


@checked_types
def compare(
    folders: Run | str | Path | Sequence[Run | str | Path],
    *,
    eps: float | str | Sequence[float | str] = (),
    out: str | Path | None = None,
    figure: FigureFormat = "png",
) -> Comparison:
    """Compare the methods or attacks of runs: one table and figure with 95 % intervals.

    Saliency methods are compared by the saliency metrics of ``lit-viz check RUN --faithfulness``, if they were
    computed, and attacks by robust photographs, successes and sizes of the changes; all by evaluations and time.

    Args:
        folders: run folders; in Python also runs.
        eps: radii at which attacks that minimize the change are compared, by the distances of their files. Default:
            the radii of the other attacks.
        out: folder for ``comparison.csv`` and the figure. Default: nothing is written.
        figure: format of the figure: ``png``, ``pdf`` or ``svg``.

    Returns:
        The comparison, with ``table()``, ``to_pandas()``, ``figure()`` and ``save(folder)``.

    Raises:
        LitVizError: a folder is not a run, is not complete or was changed, or no task is finished.
    """
    radii = split_commas(eps)
    given = [folders] if isinstance(folders, (str, Path, Run)) else folders
    runs = [run.compared if isinstance(run, Run) else run_in_folder(run) for run in given]
    comparison = compare_runs(runs, [radii] if isinstance(radii, (float, int)) else radii)
    if out is not None:
        comparison.save(out, figure=figure)
    return comparison


# -- helpers


def _state_options(function: Any, module: type[Any], parts: Mapping[str, type[Any]]) -> None:
    """Add the arguments of a module and its parts, which are keywords of a short function, to its docstring."""
    lines = ["", "    Options by owner:"]
    for name, kind in {module.__name__: module, **parts}.items():
        options = [option for option in constructor_parameters(kind) if option not in ("network", "images")]
        if options:
            lines.append(f"        {name}: {', '.join(options)}")
    function.__doc__ = (function.__doc__ or "") + "\n".join([*lines, "    "])


_state_options(visualize, ClassVisualization, {"Adam": Adam, "Fourier": Fourier})
_state_options(saliency, SaliencyMap, ATTRIBUTIONS)
_state_options(attack, AdversarialExample, ATTACKS)


#: Arguments of a network that describe its images.
_OF_IMAGES = ("mean", "std", "size", "channels", "bands", "display", "value_range")


def _path(name: str, value: Any) -> str:
    require(isinstance(value, (str, Path)), f"{name} must be a path", repr(value))
    return str(value)


def stored_network(network: Network | nn.Module | None, form: Form, folder: FolderStorage) -> Network:
    """Return the network of a run; a module gets the recorded labels and normalization, others must have them."""
    if network is None:
        return load_recorded(form.network)
    recorded = {name: value for name, value in form.network.items() if name in _OF_IMAGES or name == "labels"}
    if form.network.get("multi_label") is not None:
        recorded["multi_label"] = form.network["multi_label"]
    if isinstance(network, nn.Module):
        return load(network, **recorded)
    network = as_network(network)
    for name, before in recorded.items():
        now = network.arguments.get(name)
        if name == "labels":
            now = list(network.labels)
        if isinstance(before, (list, bool)) and now != before:
            values = "" if name == "labels" else f" {before}, got {now}"
            raise LitVizError(f"{folder.path} was started with other {name}{values}: pass the same network")
    return network
