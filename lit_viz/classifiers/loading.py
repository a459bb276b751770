"""``load_classifier``: from a name or a module to a :class:`Classifier`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lit_viz.classifiers.classifier import GIVEN_WEIGHTS, Classifier
from lit_viz.classifiers.isolation import (
    device_of,
    dtype_of,
    private_copy,
    random_state,
    random_state_preserved,
    state_preserved,
)
from lit_viz.classifiers.labels import check_count, imagenet_labels, numbered_labels, read_labels
from lit_viz.classifiers.outputs import detect_probability_head, logits_of
from lit_viz.classifiers.probe import probe_images, relative_difference
from lit_viz.classifiers.sources import Source, find_source
from lit_viz.classifiers.weights import fill, fit_keys, read_weights
from lit_viz.errors import LitVizError, first_line
from lit_viz.utils.files import sha256

_MIXED = 0.05  # of the largest logit; so much may the scales of layers that are quantized as they run move it


def load_classifier(
    classifier: str | nn.Module = "efficientnet_lite0",
    *,
    weights: str | Path | None = "DEFAULT",
    labels: Sequence[str] | str | Path | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    size: int | Sequence[int] | None = None,
    device: str | torch.device | None = None,
) -> Classifier:
    """Load a trained image classifier.

    Args:
        classifier: ``efficientnet_lite0`` (needs no download; also 1 and 2), ``torchvision/NAME``, ``timm/NAME``,
            ``package.module:factory`` (importable, also from the current folder), or a module, which is used as it is.
        weights: ``"DEFAULT"`` as published (or as the factory or module has them); a ``.pth``, ``.safetensors`` or
            Lightning ``.ckpt`` file; ``"none"`` or None for random ones, the same every time.
        labels: class names, or a text file with one a line; by default as published, else ``class 0`` ...
        mean, std: of the normalization, one value or one a channel, in units of [0, 1]; by default as published, else 0
            and 1.
        size: side, or (height, width), of the input in pixels; by default as published.
        device: where the network runs; by default where it is. A given module is copied rather than moved.

    Returns:
        The classifier, tried once on random images.

    Raises:
        LitVizError: one sentence for whatever can be mended: unknown names, weights that are missing, damaged or don't
            match, a size that must be given, outputs that are no logits.
    """
    with torch.inference_mode(False), random_state_preserved():
        loaded = _load_module(classifier, weights) if isinstance(classifier, nn.Module) else _load(classifier, weights)
        module = loaded.module
        if device is not None and _usable(device) != device_of(module):
            module = _on(module, torch.device(device), ours=not isinstance(classifier, nn.Module))
        return _described(loaded, module, labels, mean, std, size)


def class_names(
    name: str, *, weights: str | Path | None = "DEFAULT", labels: str | Path | None = None, **options: Any
) -> tuple[str, ...]:
    """Return the labels of a classifier, the arguments as :func:`load_classifier`.

    The network is not built where the published labels hold.
    """
    published = find_source(name).labels if labels is None and weights == "DEFAULT" else None
    return tuple(published or load_classifier(name, weights=weights, labels=labels, **options).labels)


@dataclass(frozen=True)
class _Loaded:
    module: nn.Module
    source: Source
    weights: str
    sha256: str | None


def _load(name: str, weights: str | Path | None) -> _Loaded:
    source = find_source(name)
    # Seeded, so that every rank, and a resumed run, gets the same random network; the caller's state is put back.
    torch.default_generator.manual_seed(0)
    if weights == "DEFAULT":
        module, path = source.publish()
        loaded = _Loaded(module, source, "DEFAULT", sha256(path) if path else None)
    else:
        module = source.build(None)
        none = weights is None or weights == "none"
        loaded = _Loaded(module, source, "none", None) if none else _with_file(module, source, Path(str(weights)))
    # Ready to be asked; a module that is handed over stays in its owner's mode.
    loaded.module.eval()
    return loaded


def _load_module(module: nn.Module, weights: str | Path | None) -> _Loaded:
    name = type(module).__name__
    source = Source(name, lambda classes: module, lambda: (module, None))
    if weights is None or weights in ("DEFAULT", "none", GIVEN_WEIGHTS):
        return _Loaded(module, source, GIVEN_WEIGHTS, None)
    return _with_file(_copied(module, "loads a file into it"), source, Path(weights))


def _with_file(module: nn.Module, source: Source, path: Path) -> _Loaded:
    state = fit_keys(read_weights(path), module, f"the weights file {str(path)!r}")
    module = _with_classes_of(state, module, source)
    fill(module, state, f"the weights file {str(path)!r}")
    return _Loaded(module, source, str(path), sha256(path))


def _with_classes_of(state: dict[str, torch.Tensor], module: nn.Module, source: Source) -> nn.Module:
    """Build the network anew where the file only differs in the number of classes (a network trained further)."""
    wanted = module.state_dict()
    wrong = [key for key, tensor in state.items() if tensor.shape != wanted[key].shape]
    classes = {state[key].shape[:1] for key in wrong}
    if len(classes) != 1 or any(state[key].shape[1:] != wanted[key].shape[1:] for key in wrong):
        return module
    (shape,) = classes
    rebuilt = source.build(shape[0]) if len(shape) else module
    fits = all(state[key].shape == tensor.shape for key, tensor in rebuilt.state_dict().items() if key in state)
    return rebuilt if fits else module


def _known_of(module: nn.Module) -> dict[str, Any]:
    """Return what a module tells of its own preprocessing, as timm's, torchvision's ViT and Hugging Face's do."""
    config = getattr(module, "pretrained_cfg", None)
    if isinstance(config, dict) and "input_size" in config:
        labels = imagenet_labels() if config.get("num_classes") == 1000 else None
        known = {"mean": config.get("mean"), "std": config.get("std"), "size": tuple(config["input_size"][1:])}
        return {"labels": labels, **known}
    config = getattr(module, "config", None)
    side = getattr(module, "image_size", None) or getattr(config, "image_size", None)
    names = getattr(config, "id2label", None)
    known = {"size": (side, side)} if isinstance(side, int) else {}
    return {**known, "labels": [names[i] for i in sorted(names, key=int)]} if isinstance(names, Mapping) else known


def _usable(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # unknown, not there, or torch is built without it
        raise LitVizError(f"device {str(device)!r} can't be used here ({first_line(error)})") from error


def _on(module: nn.Module, device: torch.device, ours: bool) -> nn.Module:
    return (module if ours else _copied(module, "moves it to another device")).to(device)


def _copied(module: nn.Module, purpose: str) -> nn.Module:
    try:
        return private_copy(module)
    except Exception as error:  # whatever its attributes raise
        raise LitVizError(
            f"{type(module).__name__} can't be copied, which lit_viz does before it {purpose}: do that yourself first"
        ) from error


def _described(
    loaded: _Loaded,
    module: nn.Module,
    labels: Sequence[str] | str | Path | None,
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
    size: int | Sequence[int] | None,
) -> Classifier:
    source, name = loaded.source, loaded.source.name
    if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        raise LitVizError(f"{name} has lazy layers that don't know their shapes yet: call it once on its own input")
    if source.size is None:
        source = replace(source, **_known_of(module))
    where = _size(size if size is not None else source.size, name)
    means, stds = mean if mean is not None else source.mean, std if std is not None else source.std
    draft, classes = _tried(name, module, means, stds, where)
    notes = []
    if mean is None and std is None and source.mean is None:
        notes.append(f"{name} gets images in [0, 1] as they are: if it was trained on others, give mean= and std=")
    if loaded.weights == "DEFAULT" and loaded.sha256 is None:
        notes.append(f"{name} has the weights that it was made with: for trained ones in a file give weights=FILE")
    if labels is not None:
        names = check_count(read_labels(labels), classes, name)
    else:
        names = tuple(source.labels) if source.labels and len(source.labels) == classes else numbered_labels(classes)
    return Classifier(
        name, module, labels=names, mean=draft.mean, std=draft.std, size=where,
        weights=loaded.weights, sha256=loaded.sha256, notes=notes,
    )  # fmt: skip


def _size(size: int | Sequence[int] | None, name: str) -> tuple[int, int]:
    if size is None:
        raise LitVizError(
            f"the input size of {name} isn't known: give size=, in pixels (and mean=, std= as in training; on the "
            "command line --classifier.size, .mean, .std)"
        )
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
        raise LitVizError(f"size must be a side or (height, width) in pixels, but {size!r} was given")
    return sides


def _tried(
    name: str,
    module: nn.Module,
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
    size: tuple[int, int],
) -> tuple[Classifier, int]:
    """Return the classifier, of images of as many channels as it takes, and its number of classes."""
    told = _channels(module, size, mean)
    # Which layer comes first can't be seen of every network.
    tries = [channels for channels in dict.fromkeys((told, 3, 1)) if channels in (1, 3)]
    errors = []
    if told not in tries:
        errors.append(LitVizError(f"{name} takes images of {told} channels: pictures here have 1 (grey) or 3 (RGB)"))
    for channels in tries:
        try:
            means, stds = _per_channel("mean", mean, 0.0, channels), _per_channel("std", std, 1.0, channels)
            if not all(s > 0 for s in stds):
                raise LitVizError(f"std must be positive, but {stds} was given")
            draft = Classifier(name, module, labels=(), mean=means, std=stds, size=size)
            return draft, _try(draft)
        except LitVizError as error:
            errors.append(error)
    raise errors[0]


def _channels(module: nn.Module, size: tuple[int, int], mean: Sequence[float] | float | None) -> int:
    """Return how many channels images seem to have, by the first convolution, the mean, or the first linear layer."""
    convolutions = [layer.in_channels for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    first = next(filter(None, convolutions), None)
    if first in (1, 3):
        return first
    if isinstance(mean, Sequence) and (len(mean) > 1 or first is None):  # it may follow a space-to-depth
        return len(mean)
    if first is not None:
        return first
    linear = next((layer for layer in module.modules() if isinstance(layer, nn.Linear)), None)
    pixels = size[0] * size[1]
    return linear.in_features // pixels if linear is not None and linear.in_features % pixels == 0 else 3


def _per_channel(what: str, values: Sequence[float] | float | None, default: float, channels: int) -> tuple[float, ...]:
    if values is None:
        return (default,) * channels
    given = (float(values),) if isinstance(values, (int, float)) else tuple(float(v) for v in values)
    if len(given) not in (1, channels):
        raise LitVizError(f"{what} has {len(given)} values, but the network has {channels} channels: give one for each")
    return given * channels if len(given) == 1 else given


def _try(classifier: Classifier) -> int:
    """Run the network once; return the number of classes, or raise what is wrong with it."""
    name, channels, size = classifier.name, classifier.channels, classifier.size
    images = probe_images(channels, size).to(classifier.device, dtype_of(classifier.original))
    with torch.no_grad(), state_preserved(classifier.original) as network:
        try:
            before = random_state(classifier.device)
            logits, probabilities = detect_probability_head(network, classifier.normalize(images))
            draws = not torch.equal(before, random_state(classifier.device))
            alone = [logits_of(network(classifier.normalize(one)), 1) for one in (images[:1], images[1:])]
        except LitVizError as error:
            raise LitVizError(f"{name}: {error}") from error
        except Exception as error:  # whatever the network raises on an input that isn't to its taste
            told = first_line(error)
            with suppress(Exception):
                network(classifier.normalize(images[:1]))
                told = "it takes one image, but several are asked about at once"
            raise LitVizError(
                f"{name} fails on images of shape (2, {channels}, {size[0]}, {size[1]}): give the size= it was trained "
                f"with ({told})"
            ) from error
    if probabilities:
        raise LitVizError(
            f"{name} {probabilities}, but logits are wanted: strip its last layer, as by "
            "net.set_submodule('layer', torch.nn.Identity()), or return the scores before it"
        )
    if len(logits) != len(images):
        raise LitVizError(
            f"{name} gives {len(logits)} rows of logits for {len(images)} images: one row an image is wanted"
        )
    apart = 0.0 if draws else relative_difference(torch.cat(alone), logits)
    if _MIXED < apart < math.inf:  # infinite where logits are no numbers
        raise LitVizError(
            f"{name} gives an image other logits in a batch than alone, so what is beside it would count: leave out "
            "what mixes images (batch norms without running statistics, a mean over the batch)"
        )
    return logits.shape[1]
