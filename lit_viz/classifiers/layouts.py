"""Layouts of layer outputs: feature maps, tokens, channels-last maps or vectors, detected in a forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Literal

import torch
from torch import Tensor, nn

from lit_viz.classifiers.classifier import Classifier
from lit_viz.classifiers.layers import check_layers, reading_all, unreadable
from lit_viz.classifiers.probe import probe_images

#: Possible strides, in pixels, of patches and of stages of convolutions.
_STRIDES = tuple(factor << power for factor in (1, 3, 5, 7) for power in range(9))
Kind = Literal["maps", "grid", "tokens", "vector", "other"]


@dataclass(frozen=True)
class Layout:
    """Layout of a layer's output for one image of the classifier's size.

    Attributes:
        shape: without the batch dimension.
        kind: ``maps`` (C, H, W), ``grid`` (H, W, D) channels-last, ``tokens`` (T, D), ``vector`` (D,), or ``other``,
            where rows are not images (attention windows) or the dimensions differ.
        prefix: number of leading tokens without a place: class token and registers.
    """

    shape: tuple[int, ...]
    kind: Kind
    prefix: int = 0

    @property
    def has_tokens(self) -> bool:
        """Whether "channel" may mean a feature of all tokens or all features of a token."""
        return self.kind in ("tokens", "grid")

    @property
    def channels(self) -> int:
        """Number of channels or features; 0 if unknown."""
        return {"maps": self.shape[0], "other": 0}.get(self.kind, self.shape[-1]) if self.shape else 0

    @property
    def tokens(self) -> int:
        """Number of tokens with a place; 0 if there are none."""
        places = {"tokens": self.shape[:1], "grid": self.shape[:2]}.get(self.kind, (0,))
        return int(torch.Size(places).numel()) - self.prefix

    def __str__(self) -> str:
        """Return ``80 x 14 x 14, 80 channels``."""
        shape = " x ".join(map(str, self.shape))
        if self.kind == "other":
            return shape
        if not self.has_tokens:
            return f"{shape}, {self.channels} channels"
        prefix = f" after {self.prefix} without a place" if self.prefix else ""
        return f"{shape}, {self.channels} features of {self.tokens} tokens{prefix}"


def layouts(classifier: Classifier) -> dict[str, Layout]:
    """Return the layouts of all layers that a forward calls, in the order of the calls.

    If a layer has as many features as places along a side, a forward of a wider image distinguishes them. If the
    network accepts no other size, features are the last dimension in transformers and the first in other networks.
    """
    network, size = classifier.original, classifier.size
    outputs = _outputs(classifier, size)
    prefix, patches = prefix_tokens(network), _patches(network)
    result = {name: layout_of(output, size, prefix, patches) for name, output in outputs.items()}
    cubes = [name for name, output in outputs.items() if output.ndim == 4 and _is_cube(output.shape[1:], size)]
    if cubes:
        wider_size = (size[0], 2 * size[1])
        try:
            wider = _outputs(classifier, wider_size)
        except Exception:  # any error of a network that accepts one size only
            wider = {}
        for name in cubes:
            last = channels_last(wider[name].shape[1:], wider_size) if name in wider else bool(prefix or patches)
            result[name] = replace(result[name], kind="grid" if last else "maps")
    return result


def layout(classifier: Classifier, layer: str) -> Layout:
    """Return the layout of one layer.

    Raises:
        LitVizError: the network has no such layer, or does not call it.
    """
    check_layers([layer], classifier.original)
    available = layouts(classifier)
    if layer not in available:
        raise unreadable(layer)
    return available[layer]


def layout_of(output: Tensor, size: Sequence[int], prefix: int = 0, patches: int = 0) -> Layout:
    """Return the layout of a layer's output for one image.

    Args:
        output: of the layer, with the batch dimension.
        size: of the image (H, W).
        prefix: number of tokens without a place; see :func:`prefix_tokens`.
        patches: number of tokens with a place; 0 if unknown.
    """
    rows, *shape = output.shape
    if rows != 1 or not 1 <= len(shape) <= 3:
        return Layout(tuple(output.shape), "other")
    if len(shape) == 1:
        return Layout(tuple(shape), "vector")
    if len(shape) == 2:
        return Layout(tuple(shape), "tokens", _prefix(shape[0], prefix, patches))
    return Layout(tuple(shape), "grid" if channels_last(shape, size) else "maps")


def channels_last(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Return whether ``(a, b, c)`` is (H, W, D): a and b are in the input's (H, W) proportions, and b and c are not."""
    a, b, c = shape
    return _is_map((a, b), size) and not _is_map((b, c), size)


def prefix_tokens(network: nn.Module) -> int:
    """Return the number of class tokens and registers before a transformer's patches.

    It is timm's ``num_prefix_tokens``, else 1 for modules with ``class_token`` (torchvision) or ``cls_token``, else 0.
    """
    for module in network.modules():
        if isinstance(number := getattr(module, "num_prefix_tokens", None), int):
            return number
        if any(isinstance(getattr(module, name, None), Tensor) for name in ("class_token", "cls_token")):
            return 1
    return 0


def _outputs(classifier: Classifier, size: tuple[int, int]) -> dict[str, Tensor]:
    with reading_all(classifier.original) as outputs:
        classifier.logits(probe_images(classifier.channels, size)[:1])
    return outputs


def _is_cube(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Return whether ``(a, b, c)`` may be both (H, W, D) and (C, H, W)."""
    a, b, c = shape
    return a > 1 and _is_map((a, b), size) and _is_map((b, c), size)


def _is_map(sides: tuple[int, int], size: Sequence[int]) -> bool:
    """Return whether these may be the sides of a map of the input (H, W): its proportions, exactly or rounded."""
    pairs = list(zip(sides, size, strict=True))
    exact = sides[0] * size[1] == sides[1] * size[0]
    return exact or any(all(abs(length / stride - side) < 1 for side, length in pairs) for stride in _STRIDES)


def _patches(network: nn.Module) -> int:
    """Return the number of patches of a timm transformer; 0 if unknown."""
    number = getattr(getattr(network, "patch_embed", None), "num_patches", None)
    return number if isinstance(number, int) else 0


def _prefix(tokens: int, prefix: int, patches: int) -> int:
    """Return the prefix of an output; 0 if it holds the patches alone, by their number or because it is square."""
    if patches and tokens in (patches, patches + prefix):
        return tokens - patches
    square = isqrt(max(tokens - prefix, 0)) ** 2 == tokens - prefix
    return 0 if not square and isqrt(tokens) ** 2 == tokens else prefix
