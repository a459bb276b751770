"""From a name or a module to a :class:`Network`."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from lit_viz.errors import LitVizError, first_line, printable, require
from lit_viz.networks import isolation
from lit_viz.networks.bands import MOST_CHANNELS, MOST_SIDE, Bands, ValueRange
from lit_viz.networks.batch_norms import LaidOutGradients
from lit_viz.networks.decisions import rule_of
from lit_viz.networks.network import GIVEN_WEIGHTS, Network
from lit_viz.networks.outputs import LOGITS, Logits, Output, embedding_sign, logits_in, probability_head
from lit_viz.networks.single_images import EachImage
from lit_viz.networks.sources import Source, find_source, module_source, networks_in
from lit_viz.networks.summaries import probe_images, relative_difference
from lit_viz.networks.weights import fill, fit_keys, read_weights, state_dict_of
from lit_viz.utils.files import sha256
from lit_viz.utils.labels import numbered_labels, read_labels

# Relative difference of logits between a batch and single images; dynamically quantized layers differ by less.
_BATCH_TOLERANCE = 0.05
# Relative difference of logits between equal evaluations; rounding differs by less.
_REPEAT_TOLERANCE = 1e-3
# Relative difference of gradients between equal evaluations; rounding differs by less.
_GRADIENT_TOLERANCE = 1e-3

#: Smallest standard deviation: the steps of 16 bits are larger.
_LEAST_STD = 1e-6

_EXCLUSIVE = ", and multi_label=True if its labels do not exclude each other"

#: Words of exceptions about inputs of another size than in training.
_SHAPE_WORDS = re.compile("size|shape|dimension|height|width|kernel|resolution|pixel", re.IGNORECASE)

#: A file, ``DEFAULT``, ``none``, or a state dict.
Weights = str | Path | Mapping[str, Any] | None
#: One value for all channels, or one per channel.
PerChannel = Sequence[float] | float


@dataclass(frozen=True)
class _Images:
    """What is given, or published, of the images of a network; arguments of :func:`lit_viz.load_network`.

    ``mean`` and ``std`` are given ones, in the unit of ``value_range``; published ones refer to [0, 1].
    """

    size: tuple[int, int]
    mean: PerChannel | None
    std: PerChannel | None
    published_mean: PerChannel | None
    published_std: PerChannel | None
    channels: int | None
    names: Sequence[str] | None
    display: Sequence[str | int] | str | int | None
    value_range: ValueRange | None

    def bands(self, channels: int) -> Bands:
        """Return the bands of this number of channels."""
        return Bands.of(channels, self.names, self.display, self.value_range)

    def normalization(self, bands: Bands) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std for images in [0, 1]."""
        channels = bands.channels
        mean = _per_channel("mean", self.mean, 0.0, bands)
        std = _per_channel("std", self.std, 1.0, bands)
        means, stds = bands.scaled(mean, std)
        pictures = Bands(channels)
        if self.mean is None and self.published_mean is not None:
            means = _per_channel("mean", self.published_mean, 0.0, pictures)
        if self.std is None and self.published_std is not None:
            std = stds = _per_channel("std", self.published_std, 1.0, pictures)
        require(all(value > 0 for value in std), "std must be positive", _listed(std))
        given = "for images in [0, 1]" if not bands.ranges else "as a share of value_range"
        require(min(stds) >= _LEAST_STD, f"std must be at least {_LEAST_STD:g} {given}", _listed(std))
        return means, stds

    def candidates(self, module: nn.Module) -> list[int]:
        """Return numbers of channels to test, in this order."""
        if self.channels is not None:
            return [self.channels]
        counts = [_first_channels(module, self.size)]
        for values in (self.mean, self.published_mean, self.names, self.value_range):
            if isinstance(values, Sequence) and not isinstance(values, str):
                counts.append(len(values))
        found: list[int] = []
        for count in (*counts, 3, 1):
            if 1 <= count <= MOST_CHANNELS and count not in found:
                found.append(count)
        return found


def load(
    network: str | nn.Module | Enum,
    *,
    weights: Weights = "DEFAULT",
    labels: Sequence[str] | str | Path | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    bands: Sequence[str] | None = None,
    display: Sequence[str | int] | str | int | None = None,
    value_range: ValueRange | None = None,
    multi_label: bool | None = None,
    processor: Any = None,
    device: str | torch.device | None = None,
    each_image: bool = False,
    output: Output = LOGITS,
    default_size: tuple[int, int] | None = None,
) -> Network:
    """Load a network; see :func:`lit_viz.load_network`. Its notes are not logged: every run prints them.

    ``default_size`` is that of a network that is given without a size and publishes none.
    """
    if not isinstance(network, (nn.Module, str, Enum)):
        raise LitVizError(f"network must be an nn.Module or a name, got {network!r}")
    if isinstance(network, Enum):
        network = f"torchvision/{network}"
    if channels is not None:
        is_count = 1 <= channels <= MOST_CHANNELS
        require(is_count, f"channels must be between 1 and {MOST_CHANNELS}", channels)
    is_complete = mean is not None and std is not None and size is not None
    with torch.inference_mode(False), isolation.random_state_preserved():
        module, source, recorded, digest = _load_module(network, weights, output.auto_class)
        name = source.name
        if device is not None:
            module = _on_device(module, device, is_given=isinstance(network, nn.Module))
        if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
            raise LitVizError(f"{name} has lazy layers without shapes: call it once on an input of its size")
        if each_image:
            module = EachImage(module)
        is_own = source.size is None
        if output.preprocesses:
            output = output.with_processor(module, processor)
            source = replace(source, size=output.input_size)
        elif is_own or processor is not None:
            source = module_source(module, source, processor, strict=not is_complete)
        sizes = [given for given in (size, source.size, default_size) if given is not None]
        input_size = _checked_size(next(iter(sizes), None), name)
        has_names = labels is not None or bool(source.labels)
        images = _Images(input_size, mean, std, source.mean, source.std, channels, bands, display, value_range)
        tested, notes = _tested(name, module, images, output, has_names)
    if multi_label is None and rule_of(output.decision).is_exclusive:
        multi_label = source.multi_label
    is_assumed = (mean is None or std is None) and not output.preprocesses
    if is_assumed and (is_own or recorded not in ("DEFAULT", "none")):
        notes.append(_normalization_note(tested, source.origin, multi_label))
    if recorded == "DEFAULT" and digest is None:
        notes.append(f"{name} has the weights that it was built with: give trained ones by weights=FILE")
    if multi_label:
        notes.append(f"{name} is multi-label: a probability is a sigmoid, and an attack flips the decision on a label")
    loaded = Network(
        name,
        module,
        labels=_labels(labels, source, tested),
        mean=tested.mean,
        std=tested.std,
        size=tested.size,
        multi_label=bool(multi_label),
        resizing=source.resizing,
        weights=recorded,
        sha256=digest,
        notes=[*notes, *tested.bands.notes, *filter(None, [tested.output.note])],
        output=tested.output,
        given_labels=labels,
        bands=tested.bands,
        each_image=each_image,
    )
    loaded.draws = tested.draws
    return loaded


def _on_device(module: nn.Module, device: str | torch.device, *, is_given: bool) -> nn.Module:
    """Return the module, or a copy of the user's, on a device."""
    try:
        target = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # unknown, missing, or torch is built without it
        raise LitVizError(f"device {str(device)!r} is not available ({first_line(error)})") from error
    if target == isolation.device_of(module):
        return module
    if is_given:
        module = _copied(module, "moving it to another device")
    return module.to(target)


def _normalization_note(tested: isolation.Original, origin: str, multi_label: bool | None) -> str:
    means, stds = tested.bands.in_files(tested.mean, tested.std)
    mean, std = _listed(means), _listed(stds)
    if tested.bands.ranges:
        std += " in the unit of the files"
    note = (
        f"{tested.name}: images are normalized by mean {mean} and std {std} ({origin}); give mean and std if it was "
        "trained with others"
    )
    if multi_label is None:
        return note + _EXCLUSIVE
    return note


def _listed(values: Sequence[float]) -> str:
    """Return the values of the channels, or the value that all have."""
    if len(set(values)) == 1:
        values = values[:1]
    return ", ".join(map("{:g}".format, values))


def _is_about_shapes(error: Exception) -> bool:
    """Return whether the message of an exception is about sizes, as with inputs of another size than in training."""
    return _SHAPE_WORDS.search(str(error)) is not None


def _output_notes(name: str, returned: Any, has_names: bool) -> list[str]:
    """Return notes about logits that are an element of a tuple, or that may be no logits."""
    notes = []
    logits = logits_in(returned)
    if logits is not returned and isinstance(returned, (tuple, list)) and not hasattr(returned, "logits"):
        kind, shape = type(returned).__name__, ", ".join(map(str, logits.shape[1:]))
        notes.append(
            f"{name} returns a {kind} of {len(returned)}: its first element (N, {shape}) is taken for the logits"
        )
    sign = None if has_names else embedding_sign(logits)
    if sign is not None:
        notes.append(
            f"the {logits.shape[-1]} outputs of {name} look like an embedding, not like logits of classes ({sign}): "
            "give labels if they are classes, or score them by load_network(..., output=Embedding(...))"
        )
    return notes


def _labels(labels: Sequence[str] | str | Path | None, source: Source, tested: isolation.Original) -> tuple[str, ...]:
    """Return the given labels, else the published ones if their number matches, else numbers."""
    classes = tested.num_classes
    if labels is None:
        for names in (tested.output.names, source.labels):
            if names and len(names) == classes:
                return tuple(names)
        return numbered_labels(classes, rule_of(tested.output.decision).noun)
    names = read_labels(labels)
    if len(names) != classes:
        raise LitVizError(f"labels must be one per class: {tested.name} has {classes} classes, got {len(names)} labels")
    return names


def as_network(network: Network | nn.Module | str | Enum, default_size: tuple[int, int] | None = None) -> Network:
    """Return a network; of a module or a name, the notes are printed by the run.

    ``default_size`` is the input size of a network that publishes none.
    """
    if isinstance(network, Network):
        return network
    return load(network, default_size=default_size)


def at_size(network: Network, size: tuple[int, int]) -> Network:
    """Return a network with inputs of another size (height, width); the original is shared.

    Raises:
        LitVizError: the network or its output does not accept the size.
    """
    height, width = size
    if not network.accepts(size):
        usual = f"{network.size[0]} x {network.size[1]}"
        raise LitVizError(f"{network.name} takes inputs of {usual} pixels, and does not accept {height} x {width}")
    resized = copy.copy(network)
    resized.size, resized._copies, resized._state = size, {}, None
    resized.output = _prepared(network.output, resized)
    return resized


def class_names(
    name: str = "efficientnet_lite0",
    *,
    weights: str | Path | None = "DEFAULT",
    labels: str | Path | None = None,
    **options: Any,
) -> tuple[str, ...]:
    """Return the labels of a network; arguments as of :func:`load`.

    The network is not built if its published labels apply.
    """
    are_published = labels is None and weights == "DEFAULT" and "output" not in options
    published = find_source(name).labels if are_published else None
    return tuple(published or load(name, weights=weights, labels=labels, **options).labels)


def with_output(network: Network, output: Output) -> Network:
    """Return a network with other scores; the original is shared."""
    other = copy.copy(network)
    other._copies, other._state = {}, None
    other.output = _prepared(output, other)
    other.labels = tuple(map(printable, other.output.names or ()))
    other.num_classes = len(other.labels)
    return other


#: A network, its source, the recorded name of its weights, and the sha256 of their file.
_Loaded = tuple[nn.Module, Source, str, str | None]


def _load_module(network: str | nn.Module, weights: Weights, auto_class: str) -> _Loaded:
    if isinstance(network, nn.Module):  # which keeps its mode
        given = _network_of(network)
        source = Source(type(given).__name__, lambda classes: given, lambda: (given, None))
        if weights is None or (isinstance(weights, str) and weights in ("DEFAULT", "none", GIVEN_WEIGHTS)):
            return given, source, GIVEN_WEIGHTS, None
        return _with_weights(_copied(given, "loading weights into it"), source, weights)
    source = find_source(network, auto_class)
    # Seeded, so that all ranks and resumed runs have the same random network; the caller restores the state.
    torch.default_generator.manual_seed(0)
    if isinstance(weights, str) and weights == "DEFAULT":
        module, path = source.publish()
        module.eval()  # apart, because many networks override train() without returning themselves
        return module, source, "DEFAULT", sha256(path) if path else None
    module = source.build(None)
    module.eval()
    if weights is None or (isinstance(weights, str) and weights == "none"):
        return module, source, "none", None
    return _with_weights(module, source, weights)


def _network_of(module: nn.Module) -> nn.Module:
    """Return a module, or its only submodule with parameters if it has no forward."""
    forward_name = getattr(module.forward, "__qualname__", "")  # TorchScript's has none
    if forward_name not in ("_forward_unimplemented", "LightningModule.forward"):
        return module
    networks = networks_in(module)
    if len(networks) == 1:
        return next(iter(networks.values()))
    hint = f": give one of them, such as its .{next(iter(networks))}" if networks else ""
    raise LitVizError(
        f"{type(module).__name__} must define forward or contain one network, got {', '.join(networks) or 'none'}{hint}"
    )


def _with_weights(module: nn.Module, source: Source, weights: str | Path | Mapping[str, Any]) -> _Loaded:
    """Load a state dict or file, also of a fine-tuned network that differs only in its number of classes."""
    if isinstance(weights, (str, Path)):
        path, origin = Path(weights), f"weights file {str(weights)!r}"
        state, recorded, digest = read_weights(path), str(path), sha256(path)
    elif isinstance(weights, Mapping):
        origin = "the given state dict"
        state, recorded, digest = state_dict_of(weights, origin), GIVEN_WEIGHTS, None
    else:
        raise LitVizError(f"weights must be a file, a state dict, DEFAULT or none, got {type(weights).__name__}")
    state = fit_keys(state, module, origin)
    classes = _other_classes(state, module)
    if classes is not None:
        rebuilt = source.build(classes)
        if _have_equal_shapes(state, rebuilt.state_dict()):
            rebuilt.eval()
            module = rebuilt  # a given module is never rebuilt
    fill(module, state, origin)
    return module, source, recorded, digest


def _other_classes(state: Mapping[str, Tensor], module: nn.Module) -> int | None:
    """Return the number of rows of all tensors of other shapes than in the network, if they differ in that alone."""
    expected, rows = module.state_dict(), set[int]()
    for key, tensor in state.items():
        shape, own = tensor.shape, expected[key].shape
        if shape == own:
            continue
        if not shape or shape[1:] != own[1:]:
            return None
        rows.add(shape[0])
    if len(rows) == 1:
        return rows.pop()
    return None


def _have_equal_shapes(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(state[key].shape == other[key].shape for key in state.keys() & other.keys())


def _copied(module: nn.Module, purpose: str) -> nn.Module:
    try:
        return isolation.private_copy(module)
    except Exception as error:  # any error of its attributes
        raise LitVizError(
            f"{type(module).__name__} can't be copied before {purpose}: do that before load_network"
        ) from error


def _checked_size(size: int | Sequence[int] | None, name: str) -> tuple[int, int]:
    if size is None:
        raise LitVizError(
            f"the input size of {name} is required: give the size in pixels, and mean and std as in training"
        )
    sides = (size, size) if isinstance(size, int) else tuple(size)
    valid = len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)
    require(valid, "size must be a side or (height, width) in pixels", repr(size))
    require(max(sides) <= MOST_SIDE, f"size must be at most {MOST_SIDE} pixels", repr(size))
    return sides  # type: ignore[return-value]


def _tested(
    name: str, module: nn.Module, images: _Images, output: Output, has_names: bool
) -> tuple[isolation.Original, list[str]]:
    """Return the tested network, with as many channels as it accepts, and notes about what it returns."""
    errors = []
    # The first layer can't be identified in every network, and may follow a space-to-depth, so others are tried.
    for channels in images.candidates(module):
        try:
            bands = images.bands(channels)
            means, stds = images.normalization(bands)
            tested = isolation.Original(name, module, means, stds, images.size, output=output, bands=bands)
            tested.output = _prepared(output, tested)
            tested.num_classes, notes = _test(tested, has_names)
            return tested, [*notes, *_gradient_notes(tested)]
        except LitVizError as error:
            errors.append(error)
    raise errors[0]


def _first_channels(module: nn.Module, size: tuple[int, int]) -> int:
    """Return the input channels of the first convolution, or of a linear layer that reads all pixels; 0 for others."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            count, rest = divmod(layer.in_features, size[0] * size[1])
            if rest:
                return 0
            return count
    return 0


def _per_channel(option: str, values: PerChannel | None, default: float, bands: Bands) -> tuple[float, ...]:
    channels = bands.channels
    if values is None:
        return (default,) * channels
    is_single = isinstance(values, (int, float, str))
    try:
        given = (float(values),) if is_single else tuple(map(float, values))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise LitVizError(f"{option} must be a number or one per channel, got {values!r}") from error
    require(all(map(math.isfinite, given)), f"{option} must be finite", repr(values))
    if not bands.ranges:
        largest = max(given, default=0.0)
        hint = f"{largest:g} / 255 is {largest / 255:.3g}"
        require(largest <= 1, f"{option} must be at most 1, for images in [0, 1]", repr(values), hint=hint)
    require(len(given) in (1, channels), f"{option} must have one value per channel ({channels})", len(given))
    return given * channels if len(given) == 1 else given


def _prepared(output: Output, classifier: isolation.Original) -> Output:
    """Return the output for a network."""

    def normalize(images: Tensor) -> Tensor:
        return classifier.normalize(images.to(classifier.device, isolation.dtype_of(classifier.original)))

    with torch.no_grad(), isolation.state_preserved(classifier.original) as network:
        own = copy.copy(output)
        own.bands = classifier.bands
        return own.prepare(network, normalize, classifier.size)


def _test(classifier: isolation.Original, has_names: bool) -> tuple[int, list[str]]:
    """Run the network on probe images; return the number of classes, and notes about what it returns.

    Args:
        network: the network.
        has_names: whether its classes have names.

    Raises:
        LitVizError: its forward fails, or its outputs are no logits or depend on the other images of a batch.
    """
    name, channels, size, output = classifier.name, classifier.channels, classifier.size, classifier.output
    images = probe_images(channels, size).to(classifier.device, isolation.dtype_of(classifier.original))
    with torch.no_grad(), isolation.state_preserved(classifier.original) as network:
        try:
            before = isolation.random_state(classifier.device)
            sums = _sums_of_weights(network)
            returned = output.returned_with_graph(network, classifier.normalize(images))
            logits = output.scores(returned, len(images)).detach()
            probabilities = probability_head(returned) if isinstance(output, Logits) else None
            classifier.draws = not torch.equal(before, isolation.random_state(classifier.device))
            single = [output(network, classifier.normalize(image)) for image in (images[:1], images[1:])]
        except LitVizError as error:
            raise LitVizError(f"{name}: {error}") from error
        except Exception as error:  # any error of the network
            message = isolation.network_error(name, (2, channels, *size), error)
            if _is_about_shapes(error):
                message += f"; give the size= that it was trained with, if that is not {size[0]} x {size[1]}"
            with suppress(Exception):
                output.returned(network, classifier.normalize(images[:1]))
                message += "; it accepts one image, but batches of several are required: give each_image=True"
            raise LitVizError(message) from error
    if probabilities:
        multi_label = ""
        if "sigmoid" in probabilities:
            multi_label = _EXCLUSIVE.replace(", and", "; give")
        raise LitVizError(
            f"{name} {probabilities}, but must return logits: remove its last layer, as by "
            f"net.set_submodule('layer', torch.nn.Identity()), or return the scores before it{multi_label}"
        )
    if logits.ndim != 2 or not logits.shape[1]:
        raise LitVizError(f"{name} must give one or more scores per image (N, K), got shape {tuple(logits.shape)}")
    if len(logits) != len(images):
        raise LitVizError(f"{name} must return one row of logits per image, got {len(logits)} for {len(images)} images")
    if _sums_of_weights(network) != sums:
        raise LitVizError(f"{name} changes its weights in its forward: change them outside of it")
    for scores in single:
        if scores.shape[1:] != logits.shape[1:]:
            raise LitVizError(
                f"{name} must give equally many scores in every evaluation, got {scores.shape[-1]} after "
                f"{logits.shape[1]}: remove from its forward what depends on earlier calls"
            )
    difference = 0.0 if classifier.draws else relative_difference(torch.cat(single), logits)
    is_mixing = _BATCH_TOLERANCE < difference < math.inf  # infinite if logits are not finite
    if _REPEAT_TOLERANCE < difference < math.inf:
        with torch.no_grad(), isolation.state_preserved(classifier.original) as network:
            again = output(network, classifier.normalize(images))
        classifier.draws = relative_difference(again, logits) > _REPEAT_TOLERANCE
    if is_mixing and classifier.draws:
        raise LitVizError(
            f"{name} gives an image other logits in every call: remove from its forward what depends on earlier calls"
        )
    if is_mixing:
        raise LitVizError(
            f"{name} gives an image other logits in a batch than alone: remove layers that mix images (batch norms "
            "without running statistics, a mean over the batch)"
        )
    notes = _output_notes(name, returned, has_names) if isinstance(output, Logits) else []
    return logits.shape[1], notes


def _gradient_notes(tested: isolation.Original) -> list[str]:
    """Return a note about a network of which torch computes a wrong gradient for one image."""
    if not any(isinstance(layer, _BatchNorm) for layer in tested.original.modules()):
        return []
    with suppress(Exception):  # without a gradient it can't be wrong
        x, _ = tested.probe()
        with LaidOutGradients() as layouts:
            expected = _gradient(tested, x[:1])
        if layouts.was_needed and relative_difference(_gradient(tested, x[:1]), expected) > _GRADIENT_TOLERANCE:
            return [
                f"torch {torch.__version__} computes a wrong gradient of {tested.name} for one image, since a batch "
                "norm is followed by a transposition: maps of lit_viz are right, and code of your own needs batches of "
                "two images or more"
            ]
    return []


def _gradient(tested: isolation.Original, x: Tensor) -> Tensor:
    """Return a gradient of the scores of normalized images."""
    with isolation.state_preserved(tested.original) as network:
        leaf, scores = tested.output.with_graph(network, x)
        (gradient,) = torch.autograd.grad(scores[:, ::2].sum(), leaf)
    return gradient


def _sums_of_weights(network: nn.Module) -> list[float]:
    """Return the sum of each parameter, which differs after a change; NaN equals itself."""
    sums: list[float] = []
    for parameter in network.parameters():
        values = parameter.detach()
        total = float(values.sum(dtype=torch.float64)) if values.is_floating_point() else 0.0
        sums.append(0.0 if math.isnan(total) else total)
    return sums
