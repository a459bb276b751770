"""Grad-CAM: which places of a layer's feature maps speak for the class?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_viz.attributions.base import add_rows, gather_rows
from lit_viz.attributions.gradient import Gradient
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.layers import check_layers, timm_types
from lit_viz.classifiers.layouts import Layout, layouts
from lit_viz.classifiers.probe import probe_images
from lit_viz.errors import LitVizError
from lit_viz.optim import Evaluate, State
from lit_viz.types import Task

#: From a layer's output to feature maps ``(N, C, h, w)``.
Reshape = Callable[[Tensor], Tensor]
_VIT = "timm.models.vision_transformer.VisionTransformer"


class GradCAM(Gradient):
    """``ReLU(sum over c of w_c A_c)``, upsampled to the input (Selvaraju et al. 2017, arXiv:1610.02391, section 3).

    ``A`` ``(N, C, h, w)`` are a layer's feature maps and ``w_c`` the mean over the places of ``d score / d A_c``. The
    backward stops at the layer. Upsampling is bilinear.

    Args:
        layer: its name; by default the last on the way to the logits that gives feature maps (after which places are
            pooled), and in timm's
            ``VisionTransformer`` the first norm of the last block, because nothing after it but the class token
            reaches the score. In timm's ``SwinTransformer`` that is the last norm, so the map is the CAM of
            Zhou et al. 2016.
        relu: whether only what speaks for the class is kept; without it the map is signed.
        reshape: from the layer's output to feature maps ``(N, C, h, w)``; known for these, for channels-last maps
            ``(N, h, w, C)``, and for the tokens of timm's ``VisionTransformer``.
    """

    spatial = True

    def __init__(self, layer: str | None = None, relu: bool = True, reshape: Reshape | None = None) -> None:
        self.layer, self.relu, self.reshape = layer, relu, reshape
        self.layers = () if layer is None else (layer,)
        self._maps: Reshape = _as_they_are if reshape is None else reshape

    def bind(self, classifier: Classifier) -> None:
        """Choose the layer unless one was named, and find how its output is read as feature maps.

        Raises:
            LitVizError: a layer that the network doesn't have or doesn't call, or whose output can't be read so.
        """
        if self.layer is not None:
            check_layers([self.layer], classifier.original)
        known = layouts(classifier)
        layer = _last_spatial(classifier, known) if self.layer is None else self.layer
        if layer not in known:
            raise LitVizError(f"layer {layer!r} can't be read: a forward doesn't call it, or it returns no tensor")
        self.layers = (layer,)
        self._maps = self.reshape or _maps_of(classifier, layer, known[layer])

    @property
    def reads_feature_maps(self) -> bool:
        """Whether the layer gives feature maps ``(N, C, h, w)`` by itself, without a reshape."""
        return self._maps is _as_they_are

    def record_fields(self) -> dict[str, Any]:
        """Return the layer, which may have been chosen."""
        return {"layer": self.layers[0] if self.layers else None}

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return an empty map a slot."""
        return {**super().init(x, tasks), "map": torch.zeros_like(x[:, :1])}

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Evaluate the photograph itself."""
        state["map"] = add_rows(state["map"], slots, self._class_activation(gather_rows(x, slots), slots, evaluate))
        return state

    def _class_activation(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        """Return the maps ``(M, 1, H, W)`` of the rows ``x``."""
        (layer,) = self.layers
        evaluation = evaluate(x, slots=slots)
        slope = self._maps(evaluation.backward(at=layer))
        weights = slope.mean((2, 3), keepdim=True)
        cam = (weights * self._maps(evaluation.activations[layer])).sum(1, keepdim=True)
        cam = cam.relu() if self.relu else cam
        return F.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)


def _as_they_are(output: Tensor) -> Tensor:
    return output


def _channels_first(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


def _last_spatial(classifier: Classifier, known: Mapping[str, Layout]) -> str:
    """Return the last layer in the order of a forward whose output still tells places apart, and decides the logits."""
    network = classifier.original
    if isinstance(network, timm_types(_VIT)):
        return f"blocks.{len(network.blocks) - 1}.norm1"
    spatial = [name for name, layout in known.items() if _places(layout) > 1]
    last = next((name for name in reversed(spatial) if _is_on_the_way(classifier, name)), None)
    if last is None:
        raise LitVizError(
            f"no layer of {classifier.name} gives feature maps (N, C, h, w), which Grad-CAM weighs: use gradient"
        )
    return last


def _is_on_the_way(classifier: Classifier, layer: str) -> bool:
    """Return whether the logits are calculated from what a layer gives: another output of the network may be."""
    images = probe_images(classifier.channels, classifier.size)[:1]
    with torch.enable_grad():
        logits, activations = classifier.original_network()(images.requires_grad_(), layers=[layer])
        return torch.autograd.grad(logits.sum(), activations[layer], allow_unused=True)[0] is not None


def _places(layout: Layout) -> int:
    """Return how many places an output tells apart, along its shorter side."""
    sides = {"maps": layout.shape[1:], "grid": layout.shape[:2], "tokens": layout.shape[:1]}
    return min(sides.get(layout.kind, (0,)))


def _maps_of(classifier: Classifier, layer: str, layout: Layout) -> Reshape:
    """Return how the output of a layer is read as feature maps."""
    network = classifier.original
    if layout.kind in ("maps", "grid"):
        return _as_they_are if layout.kind == "maps" else _channels_first
    if layout.kind == "tokens" and isinstance(network, timm_types(_VIT)):
        size: tuple[int, int] = network.patch_embed.grid_size
        prefix: int = network.num_prefix_tokens
        if layout.shape[0] == prefix + size[0] * size[1]:
            return lambda tokens: tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, *size)
    shape = layout.shape if layout.kind == "other" else (1, *layout.shape)
    raise LitVizError(
        f"Grad-CAM needs feature maps (N, C, h, w), but layer {layer!r} of {classifier.name} gives "
        f"{shape}: name another layer, or in Python give GradCAM a reshape= that makes maps of its output"
    )
