"""The Python functions: each does what its command does, with a network and values instead of names and options."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.errors import LitVizError
from lit_viz.images.listing import ARRAY_PREFIX
from lit_viz.images.reading import from_pil
from lit_viz.launch.argv import rewrite
from lit_viz.launch.commands import COMMANDS, Command
from lit_viz.launch.commands.attack import Attack, class_path_of, radii_of
from lit_viz.launch.commands.saliency import Saliency, class_paths
from lit_viz.launch.commands.visualize import Visualize
from lit_viz.launch.config import MethodCLI, read_config
from lit_viz.launch.execute import check as check_run
from lit_viz.launch.execute import execute
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.layout import RECORDED
from lit_viz.runs.results import Run

#: Options that make no sense of a run that goes on.
_OF_A_BEGINNING = ("config", "out", "overwrite", "resume", "count", "print_config")


def visualize(
    classifier: Classifier | nn.Module | str,
    targets: Sequence[str | int] | str | int = (),
    *,
    iterations: int | None = None,
    init: Tensor | Image.Image | str | Path | None = None,
    out: str | Path | None = None,
    config: str | None = None,
    **options: Any,
) -> Run:
    """Make class images, or images of what a layer looks for: train images until the frozen network sees it in them.

    Args:
        classifier: what :func:`load_classifier` returned, or what it takes.
        targets: class names or indices; one image each. None for a layer: ``layer="blocks.3.2", channel="3,14-20"``.
        iterations: updates an image; the configuration's unless given.
        init: photograph to start from: a file, ``packaged:NAME``, a picture of Pillow, or ``(C, H, W)`` in [0, 1];
            noise unless given.
        out: run folder; nothing is written unless it is given.
        config: a YAML file or the name of a packaged configuration, which says what is not given here.
        options: any other option of ``lit-viz visualize``, dots as double underscores: ``model__views=8, seed=3``.

    Returns:
        the pictures as ``run.images`` ``(N, C, H, W)`` in [0, 1], the records as ``run.results``, and
        ``run.figure()``.

    Raises:
        LitVizError: in one sentence: an unknown class or option, a broken photograph, a folder that exists.

    Example:
        >>> import lit_viz as lv
        >>> run = lv.visualize("efficientnet_lite0", ["tarantula"], iterations=1, model__views=1)
        >>> tuple(run.images.shape)
        (1, 3, 224, 224)
    """
    network = _classifier(classifier)
    handed = None if init is None or isinstance(init, (str, Path)) else _picture(init, network)
    named = None if init is None else str(init) if handed is None else f"{ARRAY_PREFIX}0"
    given = {"iterations": iterations, "init": named, "out": out and str(out)}
    targets = [_class(target) for target in _several(_plain(targets))]
    command = Visualize(handed)
    config = config or command.config_for([f"--{name}" for name in options])
    return _launch(command, network, config, {"targets": targets, **given}, options)


def saliency(
    classifier: Classifier | nn.Module | str,
    images: Tensor | str | Path | Sequence[str | Path],
    targets: Sequence[str | int] | str | int | None = None,
    *,
    method: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = "gradient",
    labels: Sequence[str | int] | str = "predicted",
    iterations: int | None = None,
    tolerance: float | None = None,
    check: str = "captum",
    out: str | Path | None = None,
    config: str = "gradient",
    **options: Any,
) -> Run:
    """Explain which pixels of photographs decide for a class.

    Args:
        classifier: what :func:`load_classifier` returned, or what it takes.
        images: ``(N, C, H, W)`` in [0, 1] of the classifier's size; or files and folders.
        targets: what is explained: one for all, or one an image; class names, indices, ``label`` (the default),
            ``predicted``, ``random``, ``least-likely``.
        method: a name of :data:`lit_viz.attributions.METHODS` or several; or names with their arguments,
            ``{"smoothgrad": {"sigma": 0.2}}``.
        labels: true classes, one an image; or where they are known from, as ``--labels``.
        iterations: evaluations a map; the method's own number unless given.
        tolerance: relative error at which a map is done.
        check: ``captum`` cross-checks as many maps as a quarter of a minute allows; ``none`` does not.
        out: run folder; nothing is written unless it is given.
        config: a YAML file or the name of a packaged configuration, which says what is not given here.
        options: any other option of ``lit-viz saliency``, dots as double underscores.

    Returns:
        the raw maps as ``run.attributions``, signed where the method is, ``(N, C, H, W)`` or ``(N, 1, H, W)``;
        ``run.maps`` ``(N, H, W)``; the records as ``run.results``; and ``run.figure()``.

    Raises:
        LitVizError: in one sentence: an unknown class, method or option, images out of range, a folder that exists.
    """
    network = _classifier(classifier)
    images = _images(images)
    handed = _handed(images, network) if isinstance(images, Tensor) else None
    given = {
        **_photographs(images, targets, labels),
        "iterations": iterations,
        "out": out and str(out),
        "check": check,
        "model__method": class_paths(method),
        "model__tolerance": tolerance,
    }
    return _launch(Saliency(handed), network, config, given, options)


def attack(
    classifier: Classifier | nn.Module | str,
    images: Tensor | str | Path | Sequence[str | Path],
    labels: Sequence[str | int] | str = "predicted",
    target: Sequence[str | int] | str | int | None = None,
    *,
    attack: str | Mapping[str, Mapping[str, Any]] = "normalized_ascent",
    eps: float | str | Sequence[float | str] | None = None,
    norm: str | None = None,
    iterations: int | None = None,
    out: str | Path | None = None,
    config: str = "normalized_ascent",
    **options: Any,
) -> Run:
    """Change images until the network is wrong; a success counts if it is true in the 8-bit file.

    Args:
        classifier: what :func:`load_classifier` returned, or what it takes.
        images: ``(N, C, H, W)`` in [0, 1] of the classifier's size; or files and folders.
        labels: true classes, one an image; or where they are known from, as ``--labels``.
        target: the class to reach: one for all, or one an image; untargeted unless given.
        attack: a name of :data:`lit_viz.attacks.ATTACKS`; or one with its arguments, ``{"pgd": {"alpha": 0.01}}``.
        eps, norm: of the budget, where the attack has one: the radius in units of [0, 1] (``"4/255"`` will do), or
            several for a robustness curve; ``linf`` or ``l2``.
        iterations: updates an image at most; the attack's own number unless given.
        out: run folder; nothing is written unless it is given.
        config: a YAML file or the name of a packaged configuration, which says what is not given here.
        options: any other option of ``lit-viz attack``, dots as double underscores.

    Returns:
        the outcomes on the 8-bit lattice as ``run.images``, the records as ``run.results``, and ``run.figure()``; of a
        universal attack one perturbation, magnified on mid-grey, and in ``run.attributions`` as it is.

    Raises:
        LitVizError: in one sentence: an unknown class, attack or option, images out of range, a folder that exists.
    """
    network = _classifier(classifier)
    images = _images(images)
    handed = _handed(images, network) if isinstance(images, Tensor) else None
    chosen = class_path_of(attack)
    radii = [] if eps is None else radii_of(_plain(eps))
    options |= {"radii": radii} if len(radii) > 1 else {}
    single = radii[0] if len(radii) == 1 else None
    budget = {key: value for key, value in (("eps", single), ("norm", norm)) if value is not None}
    if budget:
        chosen["init_args"] = {**chosen.get("init_args", {}), **budget}
    given = {
        **_photographs(images, target, labels),
        "iterations": iterations,
        "out": out and str(out),
        "model__attack": chosen,
    }
    return _launch(Attack(handed), network, config, given, options)


def check(
    folder: str | Path,
    classifier: Classifier | nn.Module | None = None,
    *,
    faithfulness: bool = False,
    trust: bool = False,
) -> bool:
    """Look for all evidence that the pictures in a run folder are true, and write it to ``evidence.json``.

    Args:
        folder: the run folder.
        classifier: the network, where it was handed over as a module.
        faithfulness: also compute saliency metrics (see
            :func:`~lit_viz.evidence.saliency.evaluation.compute_map_metrics`). They do not change the returned value.
        trust: also tries further attacks on what an attack with a budget could not fool.

    Returns:
        whether nothing speaks against them.

    Raises:
        LitVizError: the folder is no run, or the weights are not those of the run; there is no map to measure.
    """
    command, cli = stored(folder)
    return check_run(command, cli, _again(classifier, cli), faithfulness=faithfulness, trust=trust)


def resume(folder: str | Path, classifier: Classifier | nn.Module | None = None, **options: Any) -> Run:
    """Continue a run from its last checkpoint, or return the results of one that is finished.

    Args:
        folder: the run folder.
        classifier: the network, where it was handed over as a module (a name is found again).
        options: what may differ from then on, dots as double underscores: ``slots=4, trainer__accelerator="cpu"``.

    Raises:
        LitVizError: the folder is no run, the weights are not those it was begun with, or an option can't be changed.
    """
    command, cli = stored(folder, **options)
    return execute(command, cli, _again(classifier, cli))


def stored(folder: str | Path, words: Sequence[str] = (), **given: Any) -> tuple[Any, MethodCLI]:
    """Return the command and the configuration of a run folder, set to continue it.

    Args:
        folder: the run folder.
        words: options as of the method's command line that take the place of the stored ones.
        given: such options by name, dots as double underscores.

    Raises:
        LitVizError: the folder is no run, or it has no such option.
    """
    run = RunFolder.open(folder)
    path, options = run.path, run.config
    method = (options.pop(RECORDED, None) or {}).get("method")
    if method not in COMMANDS:
        raise LitVizError(f"{path} was not made by a method of this lit_viz ({method}): it can't be continued.")
    command = COMMANDS[method]
    changed = rewrite(words, command.positional, command.option)
    for name in [*given, *(word[2:].partition("=")[0] for word in changed if word.startswith("--"))]:
        if name in _OF_A_BEGINNING:
            raise LitVizError(f"--{name} is for a run that begins: leave it out to continue {path}.")
    for name, value in given.items():
        _put(options, name.split("__"), value)
    options |= {"out": str(path), "resume": True, "overwrite": False, "count": False}
    return command, MethodCLI(command, ["--config", yaml.safe_dump(options), *changed])


def _launch(
    command: Command, network: Classifier, config: str, given: Mapping[str, Any], options: Mapping[str, Any]
) -> Run:
    """Run a configuration with what was ``given``, where it isn't None, and with the ``options``, of which None is a
    value."""
    merged = read_config(command.name, config)
    options = {name: _in_words(name, value) for name, value in options.items()}
    for name, value in options.items():
        if not isinstance(value, (str, int, float, list, tuple, dict, Path, np.generic, np.ndarray, Tensor, NoneType)):
            raise LitVizError(
                f"{name} takes the name of a class, or {{'class_path': ..., 'init_args': {{...}}}}, not an instance of "
                f"{type(value).__name__}: a run is written down, and can be repeated."
            )
    for name, value in [*((n, v) for n, v in given.items() if v is not None), *options.items()]:
        _put(merged, name.split("__"), value)
    # What a resume needs to find the network again; a module that was handed over must be handed over again.
    merged["classifier"] = {
        "name": network.name,
        "weights": network.weights,
        "mean": list(network.mean),
        "std": list(network.std),
        "size": list(network.size),
    }
    return execute(command, MethodCLI(command, merged), network)


def _in_words(name: str, value: Any) -> Any:
    """Return numbers of iterations, and of channels, as the command line has them; others as they are."""
    if name == "layer" and isinstance(value, (int, np.integer)):  # of a Sequential
        return str(value)
    if name not in ("log_at", "curve_at", "channel") or not isinstance(value, (list, tuple, range, np.ndarray, Tensor)):
        return value
    return ",".join(map(str, np.asarray(value).ravel().tolist()))


def _handed(images: Tensor, classifier: Classifier) -> Tensor:
    """Return images that are handed over, if they are images (N, C, H, W) in [0, 1] of the classifier's size."""
    wanted = (classifier.channels, *classifier.size)
    if images.ndim != 4 or tuple(images.shape[1:]) != wanted or not images.is_floating_point():
        raise LitVizError(
            f"{classifier.name} takes floating-point images (N, {', '.join(map(str, wanted))}) in [0, 1], not "
            f"{images.dtype} {tuple(images.shape)}: resize them, or hand over files."
        )
    if not len(images):
        raise LitVizError("no images were handed over: give at least one.")
    return _in_range(images)


def _in_range(images: Tensor) -> Tensor:
    """Return a copy of images if they are in [0, 1]."""
    if bool(images.isnan().any()):
        raise LitVizError("the images have values that are no numbers (NaN): look at how they were made.")
    low, high = float(images.min()), float(images.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise LitVizError(
            f"images are wanted in [0, 1], and these lie between {low:.3g} and {high:.3g}: hand them over as they were "
            "before any normalization; the classifier normalizes."
        )
    with torch.inference_mode(False):  # what is made in one of Lightning's evaluation loops could never be trained
        return images.detach().clone().clamp_(0, 1)


def _picture(given: Any, classifier: Classifier) -> Tensor:
    """Return a picture that is handed over as ``(C, H, W)``, if it is one, in [0, 1] and of the classifier's channels.

    Raises:
        LitVizError: it isn't.
    """
    channels = classifier.channels
    if isinstance(given, Image.Image):
        return from_pil(given, channels)
    given = np.ascontiguousarray(given) if isinstance(given, np.ndarray) else given
    picture = torch.as_tensor(given) if isinstance(given, (Tensor, np.ndarray)) else torch.empty(0)
    picture = picture[0] if picture.ndim == 4 and len(picture) == 1 else picture
    if picture.ndim != 3 or len(picture) != channels or not picture.numel() or not picture.is_floating_point():
        found = f"{picture.dtype} {tuple(picture.shape)}" if picture.numel() else type(given).__name__
        raise LitVizError(
            f"init is a file, packaged:NAME, a picture of Pillow, or floating-point numbers ({channels}, H, W) in "
            f"[0, 1], not {found}."
        )
    return _in_range(picture)


def _photographs(
    images: Tensor | str | Path | Sequence[str | Path],
    targets: Sequence[str | int] | str | int | None,
    labels: Sequence[str | int] | str,
) -> dict[str, Any]:
    """Return the options that name photographs, targets and labels: one for all, or one a photograph."""
    if isinstance(images, Tensor):
        files = [f"array:{i}" for i in range(len(images))]
    else:
        files = [str(images)] if isinstance(images, (str, Path)) else [str(path) for path in images]
    rows: list[dict[str, Any]] = [{"file": file} for file in files]
    targets, labels = _plain(targets), _plain(labels)
    for key, values in (("target", targets), ("label", labels)):
        if values is None or (isinstance(values, str) and _is_read_as_text(values)):
            continue
        each = values if isinstance(values, list) else [values] * len(files)
        if len(each) != len(files):
            raise LitVizError(f"{len(each)} {key}s for {len(files)} images: give one for all, or one an image.")
        for row, value in zip(rows, each, strict=True):
            row[key] = _class(value)
    return {
        "photographs": rows if any(len(row) > 1 for row in rows) else files,
        "target": targets if isinstance(targets, str) and _is_read_as_text(targets) else None,
        "labels": labels if isinstance(labels, str) else None,
    }


def _images(given: Any) -> Any:
    """Return images as a tensor, or files and folders as they are.

    Raises:
        LitVizError: they are neither.
    """
    if isinstance(given, (Tensor, str, Path)):
        return given
    if isinstance(given, np.ndarray):
        return torch.from_numpy(given)
    several = list(given) if isinstance(given, Iterable) else [given]
    if several and all(isinstance(one, (Tensor, np.ndarray)) for one in several):
        if len({tuple(one.shape) for one in several}) > 1:
            raise LitVizError("the images have several sizes: resize them to the classifier's, or hand over files.")
        return torch.stack([torch.as_tensor(one) for one in several])
    for one in several:
        if not isinstance(one, (str, Path)):
            raise LitVizError(
                f"images are a tensor (N, C, H, W) in [0, 1], or files and folders, not {type(one).__name__}: "
                "torchvision's to_tensor makes a tensor of a picture."
            )
    return several


def _is_read_as_text(word: str) -> bool:
    """Return whether the parser, which reads YAML, takes a word for what it is: ``null`` is none."""
    try:
        return bool(yaml.safe_load(word) == word)
    except yaml.YAMLError:
        return False


def _several(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _plain(value: Any) -> Any:
    """Return classes as one value or a list of values: what tensors and arrays hold, and other sequences."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return value if value is None or isinstance(value, (str, int, float)) else list(value)


def _class(value: Any) -> str | int:
    """Return a class's name or index.

    Raises:
        LitVizError: it is neither.
    """
    if isinstance(value, str):
        return value
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise LitVizError(f"a class is its name or its index, not {value!r}")


def _put(options: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        options = _arguments(options, name)
        if isinstance(options.get(name), str):  # a part without arguments
            options[name] = {"class_path": options[name]}
        options = options.setdefault(name, {})
    options = _arguments(options, path[-1])
    value = str(value) if isinstance(value, Path) else value
    options[path[-1]] = value.item() if getattr(value, "ndim", None) == 0 else value  # numbers of NumPy


def _arguments(part: dict[str, Any], name: str) -> dict[str, Any]:
    """Return where the argument of a part stands that is given by its ``class_path``."""
    is_part = "class_path" in part and name not in ("class_path", "init_args")
    return part.setdefault("init_args", {}) if is_part else part


def _classifier(given: Classifier | nn.Module | str) -> Classifier:
    if not isinstance(given, (Classifier, nn.Module, str)):
        raise LitVizError(f"a classifier is an nn.Module, a name, or what load_classifier returned, not {given!r}")
    return given if isinstance(given, Classifier) else load_classifier(given)


def _again(given: Classifier | nn.Module | None, cli: MethodCLI) -> Classifier | None:
    """Return the network of a run that goes on, as it was described when the run began.

    Raises:
        LitVizError: a classifier that is described otherwise.
    """
    if given is None:
        return None
    options = cli.config.classifier.as_dict()
    known: dict[str, Any] = {
        name: list(options[name]) for name in ("mean", "std", "size") if isinstance(options[name], (list, tuple))
    }
    known |= {"labels": labels} if (labels := RunFolder(cli.config.out).recorded.get("labels")) else {}
    if isinstance(given, nn.Module):
        return load_classifier(given, **known)
    classifier = _classifier(given)
    for name, before in known.items():
        now = list(getattr(classifier, name))
        if now != before:
            differs = f"{before}, not {now}" if name != "labels" else "of its own, which the network doesn't have"
            raise LitVizError(f"{cli.config.out} was begun with {name} {differs}: hand over the same network.")
    return classifier
