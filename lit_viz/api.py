"""The Python functions: each does what its command does, with a network and values instead of names and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lit_viz.classifiers import Classifier, load_classifier
from lit_viz.commands import COMMANDS
from lit_viz.config import RECORDED, MethodCLI, find_config, read_yaml
from lit_viz.engine.run_folder import RunFolder
from lit_viz.errors import LitVizError
from lit_viz.outcomes import Run
from lit_viz.run import execute


def visualize(
    classifier: Classifier | nn.Module | str,
    targets: Sequence[str | int] | str | int,
    *,
    iterations: int | None = None,
    init: str | Path | None = None,
    out: str | Path | None = None,
    config: str = "tarantula",
    **options: Any,
) -> Run:
    """Make class images: train images until the frozen network sees the classes in them.

    Args:
        classifier: what :func:`load_classifier` returned, or what it takes.
        targets: class names or indices; one image each.
        iterations: updates an image; the configuration's unless given.
        init: photograph to start from, or ``packaged:NAME``; noise unless given.
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
    given = {"iterations": iterations, "init": init and str(init), "out": out and str(out)}
    targets = [targets] if isinstance(targets, (str, int)) else list(targets)
    return _launch("visualize", classifier, config, {"targets": targets, **given, **options})


def resume(folder: str | Path, classifier: Classifier | nn.Module | None = None) -> Run:
    """Continue a run from its last checkpoint, or return the results of one that is finished.

    Args:
        folder: the run folder.
        classifier: the network, where it was handed over as a module (a name is found again).

    Raises:
        LitVizError: the folder is no run, or the weights are not those it was begun with.
    """
    command, cli = stored(folder)
    return execute(command, cli, None if classifier is None else _classifier(classifier))


def stored(folder: str | Path) -> tuple[Any, MethodCLI]:
    """Return the command and the configuration of a run folder, set to continue it.

    Raises:
        LitVizError: the folder is no run.
    """
    path = RunFolder.open(folder).path
    options = read_yaml(path / "config.yaml")
    method = (options.pop(RECORDED, None) or {}).get("method")
    if method not in COMMANDS:
        raise LitVizError(f"{path} was not made by a method of this lit_viz ({method}): it can't be continued.")
    options |= {"out": str(path), "resume": True, "overwrite": False}
    return COMMANDS[method], MethodCLI(COMMANDS[method], options)


def _launch(method: str, classifier: Classifier | nn.Module | str, config: str, options: Mapping[str, Any]) -> Run:
    command = COMMANDS[method]
    merged = read_yaml(find_config(method, config))
    for name, value in options.items():
        if value is not None:
            _put(merged, name.split("__"), value)
    network = _classifier(classifier)
    # What a resume needs to find the network again; a module that was handed over must be handed over again.
    merged["classifier"] = {
        "name": network.name,
        "weights": network.weights,
        "mean": list(network.mean),
        "std": list(network.std),
        "size": list(network.size),
    }
    return execute(command, MethodCLI(command, merged), network)


def _put(options: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        options = options.setdefault(name, {})
    options[path[-1]] = value


def _classifier(given: Classifier | nn.Module | str) -> Classifier:
    return given if isinstance(given, Classifier) else load_classifier(given)
