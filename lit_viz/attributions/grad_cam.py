"""Grad-CAM and guided Grad-CAM: feature maps weighted by their mean gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_viz.attributions.gradient import Gradient
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.layers import Layout, check_layers, layouts, timm_types
from lit_viz.classifiers.outputs import probe_images
from lit_viz.errors import LitVizError
from lit_viz.optim import Evaluate

#: Function from the output of a layer to feature maps ``(N, C, h, w)``.
Reshape = Callable[[Tensor], Tensor]
_VIT = "timm.models.vision_transformer.VisionTransformer"


class GradCAM(Gradient):
    """``ReLU(sum over c of w_c A_c)``, upsampled to the input (Selvaraju et al. 2017, arXiv:1610.02391, section 3).

    ``A`` ``(N, C, h, w)`` are the feature maps of a layer, and ``w_c`` is the mean of ``d score / d A_c`` over the
    positions. The backward stops at the layer. Upsampling is bilinear.

    Args:
        layer: name; default: the last layer before the logits that has feature maps (then positions are pooled). In
            timm's ``VisionTransformer`` it is the first norm of the last block, because only the class token reaches
            the score after it; in timm's ``SwinTransformer`` it is the last norm, which gives the CAM of Zhou et al.
            2016.
        relu: keep positive values only; otherwise the map is signed.
        reshape: function from the output of the layer to feature maps ``(N, C, h, w)``. Not required for feature maps,
            channels-last maps ``(N, h, w, C)`` and the tokens of timm's ``VisionTransformer``.
    """

    spatial = True

    def __init__(self, layer: str | None = None, relu: bool = True, reshape: Reshape | None = None) -> None:
        self.layer, self.relu, self.reshape = layer, relu, reshape
        self.layers = () if layer is None else (layer,)
        self._maps: Reshape = _identity if reshape is None else reshape

    def bind(self, classifier: Classifier) -> None:
        """Select the default layer, and the conversion of its output to feature maps.

        Raises:
            LitVizError: if the network does not have or call the layer, or its output has no feature maps.
        """
        if self.layer is not None:
            check_layers([self.layer], classifier.original)
        layouts_by_name = layouts(classifier)
        layer = _last_spatial(classifier, layouts_by_name) if self.layer is None else self.layer
        if layer not in layouts_by_name:
            raise LitVizError(f"layer {layer!r} can't be read: a forward doesn't call it, or it returns no tensor")
        self.layers = (layer,)
        self._maps = self.reshape or _maps_of(classifier, layer, layouts_by_name[layer])
        super().bind(classifier)

    @property
    def reads_feature_maps(self) -> bool:
        """Whether the output of the layer is ``(N, C, h, w)`` without a conversion."""
        return self._maps is _identity

    def record_fields(self) -> dict[str, Any]:
        """Return the layer."""
        return {"layer": self.layers[0] if self.layers else None}

    def evaluate_map(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        """Evaluate the maps ``(M, 1, H, W)``."""
        (layer,) = self.layers
        evaluation = evaluate(x, slots=slots)
        gradient = self._maps(evaluation.backward(at=layer))
        weights = gradient.mean((2, 3), keepdim=True)
        cam = (weights * self._maps(evaluation.activations[layer])).sum(1, keepdim=True)
        return F.interpolate(cam.relu() if self.relu else cam, x.shape[2:], mode="bilinear", align_corners=False)


class GuidedGradCAM(GradCAM):
    """Guided backpropagation times Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, section 3.2).

    The iteration evaluates the image twice: in the plain copy of the network, down to the layer, and in the guided one.

    Args:
        layer, reshape: see :class:`GradCAM`.
    """

    spatial = False
    networks = ("plain", "guided")

    def __init__(self, layer: str | None = None, reshape: Reshape | None = None) -> None:
        super().__init__(layer, reshape=reshape)

    def evaluate_map(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        """Evaluate the product of the maps of both copies."""
        return super().evaluate_map(x, slots, evaluate) * Gradient.evaluate_map(self, x, slots, evaluate)


def _identity(output: Tensor) -> Tensor:
    return output


def _last_spatial(classifier: Classifier, layouts_by_name: Mapping[str, Layout]) -> str:
    """Return the last layer in forward order whose output has several positions and affects the logits."""
    network = classifier.original
    if isinstance(network, timm_types(_VIT)):
        return f"blocks.{len(network.blocks) - 1}.norm1"
    for name, layout in reversed(list(layouts_by_name.items())):
        sides = {"maps": layout.shape[1:], "grid": layout.shape[:2], "tokens": layout.shape[:1]}
        if min(sides.get(layout.kind, (0,))) > 1 and _affects_logits(classifier, name):
            return name
    raise LitVizError(
        f"Grad-CAM requires a layer with feature maps (N, C, h, w), and {classifier.name} has none: use gradient"
    )


def _affects_logits(classifier: Classifier, layer: str) -> bool:
    """Return whether the logits depend on the output of a layer, which can be part of another head."""
    images = probe_images(classifier.channels, classifier.size)[:1]
    with torch.enable_grad():
        logits, activations = classifier.original_network()(images.requires_grad_(), layers=[layer])
        return torch.autograd.grad(logits.sum(), activations[layer], allow_unused=True)[0] is not None


def _maps_of(classifier: Classifier, layer: str, layout: Layout) -> Reshape:
    """Return the conversion of the output of a layer to feature maps."""
    network = classifier.original
    if layout.kind == "maps":
        return _identity
    if layout.kind == "grid":
        return lambda output: output.permute(0, 3, 1, 2)
    if layout.kind == "tokens" and isinstance(network, timm_types(_VIT)):
        size: tuple[int, int] = network.patch_embed.grid_size
        prefix: int = network.num_prefix_tokens
        if layout.shape[0] == prefix + size[0] * size[1]:
            return lambda tokens: tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, *size)
    shape = layout.shape if layout.kind == "other" else (1, *layout.shape)
    raise LitVizError(
        f"Grad-CAM requires feature maps (N, C, h, w), got {shape} from layer {layer!r} of {classifier.name}: choose "
        "another layer, or in Python give GradCAM a reshape= function"
    )
