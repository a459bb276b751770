"""How layers lay out what they give: feature maps, tokens, channels-last maps or vectors, found by one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Literal

import torch
from torch import Tensor, nn

from lit_viz.classifiers.classifier import Classifier
from lit_viz.classifiers.layers import check_layers, reading_all
from lit_viz.classifiers.probe import probe_images
from lit_viz.errors import LitVizError

#: Pixels from one place to the next, of patches and of stages of convolutions.
_STRIDES = tuple(factor << power for factor in (1, 3, 5, 7) for power in range(9))
Kind = Literal["maps", "grid", "tokens", "vector", "other"]


@dataclass(frozen=True)
class Layout:
    """What a layer gives for one image of the classifier's size.

    Attributes:
        shape: without the dimension of the images.
        kind: ``maps`` (C, H, W), ``grid`` (H, W, D) channels-last, ``tokens`` (T, D), ``vector`` (D,), or ``other``,
            where the rows are not the images (attention windows) or have other dimensions.
        prefix: so many tokens at the head stand for no place: class token, registers.
    """

    shape: tuple[int, ...]
    kind: Kind
    prefix: int = 0

    @property
    def has_tokens(self) -> bool:
        """Whether "channel" could mean two things: a feature of all tokens, or all features of a token."""
        return self.kind in ("tokens", "grid")

    @property
    def channels(self) -> int:
        """Channels, or features; 0 where it is not known what they are."""
        return {"maps": self.shape[0], "other": 0}.get(self.kind, self.shape[-1]) if self.shape else 0

    @property
    def tokens(self) -> int:
        """Tokens that stand for a place; 0 where there are none."""
        places = {"tokens": self.shape[:1], "grid": self.shape[:2]}.get(self.kind, (0,))
        return int(torch.Size(places).numel()) - self.prefix

    def __str__(self) -> str:
        """Return ``80 x 14 x 14, 80 channels``."""
        shape = " x ".join(map(str, self.shape))
        if self.kind == "other":
            return shape
        if not self.has_tokens:
            return f"{shape}, {self.channels} channels"
        head = f" behind {self.prefix} of no place" if self.prefix else ""
        return f"{shape}, {self.channels} features of {self.tokens} tokens{head}"


def layouts(classifier: Classifier) -> dict[str, Layout]:
    """Return the layouts of all layers that a forward calls, in the order in which they are called.

    Where features are as many as places along a side, a forward of a wider image tells them apart. Where the network
    takes none, they are the last dimension of a transformer's layers, and the first of any other's.
    """
    network, size = classifier.original, classifier.size
    outputs = _outputs(classifier, size)
    prefix, patches = prefix_tokens(network), _patches(network)
    found = {name: layout_of(output, size, prefix, patches) for name, output in outputs.items()}
    cubes = [name for name, output in outputs.items() if output.ndim == 4 and _is_cube(output.shape[1:], size)]
    if cubes:
        wider = (size[0], 2 * size[1])
        try:
            known = _outputs(classifier, wider)
        except Exception:  # whatever a network raises on an input that isn't to its taste
            known = {}
        for name in cubes:
            last = channels_last(known[name].shape[1:], wider) if name in known else bool(prefix or patches)
            found[name] = replace(found[name], kind="grid" if last else "maps")
    return found


def _outputs(classifier: Classifier, size: tuple[int, int]) -> dict[str, Tensor]:
    with reading_all(classifier.original) as outputs:
        classifier.logits(probe_images(classifier.channels, size)[:1])
    return outputs


def layout(classifier: Classifier, layer: str) -> Layout:
    """Return how one layer lays out what it gives.

    Raises:
        LitVizError: a layer that the network doesn't have (the near names are listed), or doesn't call.
    """
    check_layers([layer], classifier.original)
    known = layouts(classifier)
    if layer not in known:
        raise LitVizError(f"layer {layer!r} can't be read: a forward doesn't call it, or it returns no tensor")
    return known[layer]


def layout_of(output: Tensor, size: Sequence[int], prefix: int = 0, patches: int = 0) -> Layout:
    """Return the layout of what a layer gave for one image of the classifier's ``size`` (H, W).

    Args:
        output: of the layer.
        size: of the image.
        prefix: tokens that stand for no place (see :func:`prefix_tokens`).
        patches: tokens that stand for one, where it is known.
    """
    rows, *rest = output.shape
    shape = tuple(rest)
    if rows != 1 or not 1 <= len(shape) <= 3:
        return Layout(tuple(output.shape), "other")
    if len(shape) == 1:
        return Layout(shape, "vector")
    if len(shape) == 2:
        return Layout(shape, "tokens", _head(shape[0], prefix, patches))
    return Layout(shape, "grid" if channels_last(shape, size) else "maps")


def channels_last(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Return whether ``(a, b, c)`` is (H, W, D): a to b is as in the input (H, W), and b to c is not."""
    a, b, c = shape
    return _is_map((a, b), size) and not _is_map((b, c), size)


def _is_cube(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Return whether ``(a, b, c)`` may be (H, W, D) and (C, H, W)."""
    a, b, c = shape
    return a > 1 and _is_map((a, b), size) and _is_map((b, c), size)


def _is_map(sides: tuple[int, int], size: Sequence[int]) -> bool:
    """Return whether these may be the sides of a map of the input (H, W): in its proportions, or but for rounding."""
    pairs = list(zip(sides, size, strict=True))
    exact = sides[0] * size[1] == sides[1] * size[0]
    return exact or any(all(abs(length / stride - side) < 1 for side, length in pairs) for stride in _STRIDES)


def prefix_tokens(network: nn.Module) -> int:
    """Return how many class tokens and registers go before a transformer's patches: timm's ``num_prefix_tokens``, and
    one where there is a ``class_token`` (torchvision) or ``cls_token``; else none."""
    for module in network.modules():
        if isinstance(number := getattr(module, "num_prefix_tokens", None), int):
            return number
        if any(isinstance(getattr(module, name, None), Tensor) for name in ("class_token", "cls_token")):
            return 1
    return 0


def _patches(network: nn.Module) -> int:
    """Return how many patches a transformer of timm makes of an image; 0 where it isn't known."""
    number = getattr(getattr(network, "patch_embed", None), "num_patches", None)
    return number if isinstance(number, int) else 0


def _head(tokens: int, prefix: int, patches: int) -> int:
    """Return the prefix, unless these are the patches alone: their number is known, or they are no square without the
    prefix and one with it."""
    if patches and tokens in (patches, patches + prefix):
        return tokens - patches
    square = isqrt(max(tokens - prefix, 0)) ** 2 == tokens - prefix
    return 0 if not square and isqrt(tokens) ** 2 == tokens else prefix
