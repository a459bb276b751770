"""Grad-CAM and variants: feature maps weighted by their gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_viz.attributions.base import GradientRule, networks_of
from lit_viz.attributions.gradient import Gradient
from lit_viz.attributions.tokens import TokenGrid, logit_gradient, parse_grid, patch_grid
from lit_viz.errors import LitVizError, require
from lit_viz.networks import Network
from lit_viz.networks.attention import attention_layers
from lit_viz.networks.isolation import state_preserved
from lit_viz.networks.layers import Layout, hooked, in_module, layer_name, layouts, modules_of, unreadable
from lit_viz.networks.reading import reading
from lit_viz.networks.sources import import_object
from lit_viz.networks.summaries import probe_images
from lit_viz.optim import Evaluate

#: Number of candidates of a detector by which the layer that all depend on is found.
_CANDIDATES = 4
#: Function from the output of a layer to feature maps ``(N, C, h, w)``.
Reshape = Callable[[Tensor], Tensor]


class GradCAM(Gradient):
    """``ReLU(sum over c of w_c A_c)``, upsampled to the input (Selvaraju et al. 2017, arXiv:1610.02391, section 3).

    ``A`` ``(N, C, h, w)`` are the feature maps of a layer, and ``w_c`` is the mean of ``d score / d A_c`` over the
    positions. The backward stops at the layer. Upsampling is bilinear. Subclasses override :meth:`weights`.

    Args:
        layer: name, or the module itself; default: the last layer before the logits that has feature maps (then
            positions are pooled). In transformers with attention between all tokens it is the layer before the last
            attention (the first norm of the last block), because only the class token reaches the score after it; in
            timm's ``SwinTransformer`` it is the last norm, which gives the CAM of Zhou et al. 2016. In detectors it is
            the last layer of the backbone on which its maps of all scales depend, or without a module ``backbone`` the
            last layer before the scores on which the candidates of all scales depend.
        relu: keep positive values only; otherwise the map is signed.
        reshape: function from the output of the layer to feature maps ``(N, C, h, w)``, or ``module:function``. Not
            required for feature maps, channels-last maps ``(N, h, w, C)`` and tokens ``(N, T, C)``, of which the last
            are the patches.
        grid: rows and columns of the patches of tokens; by default from the convolution that embeds them.
        backprop: ``libra`` detaches attention weights, deviations of norms and gates of activations in the backward
            (:class:`~lit_viz.attributions.gradient.LibraGradient`).
    """

    title = "Grad-CAM"
    spatial = True

    completed = ("layer",)

    def __init__(
        self,
        layer: str | nn.Module | None = None,
        relu: bool = True,
        reshape: str | Reshape | None = None,
        grid: TokenGrid = None,
        backprop: GradientRule = "plain",
    ) -> None:
        self.layer: Any = layer  # a module until it is bound
        self.networks = networks_of(backprop)
        self.relu, self.grid = relu, parse_grid(grid)
        self.reshape: Reshape | None = import_object(reshape, "reshape") if isinstance(reshape, str) else reshape
        valid = self.reshape is None or callable(self.reshape)
        require(valid, "reshape of Grad-CAM must be a function", type(self.reshape).__name__)
        self.layers = (layer,) if isinstance(layer, str) else ()
        self._maps: Reshape = self.reshape or _identity

    def bind(self, network: Network) -> None:
        if self.layer is not None:
            self.layer = layer_name(self.layer, network.original)
        layouts_by_name = layouts(network)
        layer = self.layer
        if layer is None:
            layer = _last_spatial(network, layouts_by_name)
        if layer not in layouts_by_name:
            raise unreadable(layer)
        self.layers = (layer,)
        self._maps = self.reshape or self._maps_of(network, layer, layouts_by_name)
        super().bind(network)

    @property
    def reads_feature_maps(self) -> bool:
        """Whether the output of the layer is ``(N, C, h, w)`` without a conversion."""
        return self._maps is _identity

    def record_fields(self) -> dict[str, Any]:
        if not self.layers:
            return {"layer": None}
        return {"layer": self.layers[0]}

    def evaluate_map(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        (layer,) = self.layers
        evaluation = evaluate(x, slots=slots, network=self.networks[0])
        output_gradient, output = evaluation.gradients_at([layer])[layer], evaluation.activations[layer]
        gradient, maps = self._maps(output_gradient), self._maps(output)
        got = f"shape {tuple(maps.shape)} from an output of shape {tuple(output.shape)}"
        require(maps.ndim == 4, "reshape of Grad-CAM must return feature maps (N, C, h, w)", got)
        gradient, maps = gradient.to(x.dtype), maps.to(x.dtype)  # products underflow in float16
        cam = (self.weights(maps, gradient) * maps).sum(1, keepdim=True)
        if self.relu:
            cam = cam.relu()
        return F.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)

    def weights(self, maps: Tensor, gradient: Tensor) -> Tensor:
        """Return the weights of feature maps, given their gradient; each ``(M, C, h, w)``, or sides of 1."""
        return gradient.mean((2, 3), keepdim=True)

    def _maps_of(self, network: Network, layer: str, layouts_by_name: Mapping[str, Layout]) -> Reshape:
        """Return the conversion of the output of a layer to feature maps."""
        layout = layouts_by_name[layer]
        if layout.kind == "maps":
            return _identity
        if layout.kind == "grid":
            return lambda output: output.permute(0, 3, 1, 2)
        if layout.kind == "tokens":
            rows, columns = patch_grid(network, layout.shape[0], layouts_by_name, self.grid)
            return lambda tokens: tokens[:, -rows * columns :].transpose(1, 2).reshape(len(tokens), -1, rows, columns)
        shape = layout.shape
        if layout.kind != "other":
            shape = (1, *shape)
        raise LitVizError(
            f"Grad-CAM requires feature maps (N, C, h, w), got {shape} from layer {layer!r} of {network.name}: "
            "choose another layer, or give reshape, a function to feature maps (MODULE:FUNCTION)"
        )


class GradCAMPlusPlus(GradCAM):
    """Grad-CAM++: :class:`GradCAM` with the weights ``sum over positions of a relu(g)``.
    Chattopadhay et al. 2018, arXiv:1710.11063, equations 11 and 19.

    ``a = g^2 / (2 g^2 + g^3 sum over positions of A)`` for feature maps A with gradient g of the score, which the paper
    passes through an exponential: its higher derivatives are powers of g, and its value, a factor of the map, is
    omitted.
    """

    title = "Grad-CAM++"

    def weights(self, maps: Tensor, gradient: Tensor) -> Tensor:
        denominator = 2 + gradient * maps.sum((2, 3), keepdim=True)
        alpha = torch.where((gradient == 0) | (denominator == 0), 0.0, 1 / denominator)
        return (alpha * gradient.relu()).sum((2, 3), keepdim=True)


class LayerCAM(GradCAM):
    """LayerCAM: :class:`GradCAM` with the positive part of the gradient at each position as weights.
    Jiang et al. 2021, IEEE TIP 30:5875, equation 7."""

    title = "LayerCAM"

    def weights(self, maps: Tensor, gradient: Tensor) -> Tensor:
        return gradient.relu()


class HiResCAM(GradCAM):
    """HiResCAM: :class:`GradCAM` with the gradient at each position as weights.
    Draelos and Carin 2020, arXiv:2011.08891, equation 6."""

    title = "HiResCAM"

    def weights(self, maps: Tensor, gradient: Tensor) -> Tensor:
        return gradient


class GuidedGradCAM(GradCAM):
    """Guided backpropagation times Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, section 3.2).

    The iteration evaluates the image twice: in the plain copy of the network, down to the layer, and in the guided one.

    Args:
        layer, reshape, grid: see :class:`GradCAM`.
    """

    title = "guided Grad-CAM"
    spatial = False

    def __init__(
        self, layer: str | nn.Module | None = None, reshape: str | Reshape | None = None, grid: TokenGrid = None
    ) -> None:
        super().__init__(layer, reshape=reshape, grid=grid)
        self.networks = ("plain", "guided")

    def evaluate_map(self, x: Tensor, slots: Tensor, evaluate: Evaluate) -> Tensor:
        return super().evaluate_map(x, slots, evaluate) * Gradient.evaluate_map(self, x, slots, evaluate)


def _identity(output: Tensor) -> Tensor:
    return output


def _last_spatial(network: Network, layouts_by_name: Mapping[str, Layout]) -> str:
    """Return the last layer in forward order with an output of several positions that affects the logits.

    Tokens of one feature are the pooled features of a network that averages its tokens.
    """
    backbone = network.output.backbone
    if backbone is not None and network.output.detects:
        if backbone in dict(network.original.named_modules()):
            return _last_of_backbone(network, backbone, layouts_by_name)
        return _last_of_candidates(network, layouts_by_name)
    attention = attention_layers(network)
    inside = tuple(f"{name}." for name in attention.layers)
    names = []
    for name in layouts_by_name:
        if not in_module(name, backbone):
            continue
        if attention.problem is None and f"{name}.".startswith(inside[-1]):
            break
        if not name.startswith(inside):
            names.append(name)
    for name in reversed(names):
        layout = layouts_by_name[name]
        sides = {"maps": layout.shape[1:], "grid": layout.shape[:2], "tokens": layout.shape}
        if min(sides.get(layout.kind, (0,))) > 1 and _affects_logits(network, name, layout):
            return name
    raise LitVizError(
        f"Grad-CAM requires a layer with feature maps (N, C, h, w), and {network.name} has none: use gradient"
    )


def _feature_maps(layouts_by_name: Mapping[str, Layout]) -> list[str]:
    """Return the layers with feature maps of several rows and columns, in forward order."""
    names: list[str] = []
    for name, layout in layouts_by_name.items():
        if layout.kind == "maps" and min(layout.shape[1:]) > 1:
            names.append(name)
    return names


def _last_of_backbone(network: Network, backbone: str, layouts_by_name: Mapping[str, Layout]) -> str:
    """Return the last layer with feature maps inside a backbone on which all maps that the backbone returns depend."""
    names = [name for name in _feature_maps(layouts_by_name) if in_module(name, backbone)]
    returned: list[Tensor] = []

    def read(name: str, module: nn.Module, args: Any, output: Any) -> None:
        returned.extend(output.values() if isinstance(output, Mapping) else [output])

    images = probe_images(network.channels, network.size)[:1].requires_grad_()
    with torch.enable_grad(), hooked(modules_of(network.original, [backbone]), read):
        _, activations = network.original_network()(images, layers=names)
    for name in reversed(names):
        if all(_depends(maps, activations[name]) for maps in returned):
            return name
    raise LitVizError(f"the backbone of {network.name} has no layer with feature maps (N, C, h, w): give layer")


def _last_of_candidates(network: Network, layouts_by_name: Mapping[str, Layout]) -> str:
    """Return the last layer with feature maps on which the candidates of a detector depend, whatever their scale.

    Candidates of a scale follow each other, so that some at equal distances are of all scales. Maps of the scores
    themselves are left out.
    """
    names = _feature_maps(layouts_by_name)
    images = probe_images(network.channels, network.size)[:1].requires_grad_()
    with torch.enable_grad(), state_preserved(network.original) as module, reading(module, names) as read:
        (candidates, *_), _ = network.output.returned(module, network.normalize(images))
    outputs = {name: output for name, output in read.outputs.items() if output.requires_grad}
    rows, classes = candidates.log_odds.shape
    for row in torch.linspace(0, rows - 1, _CANDIDATES).long().tolist():
        if not outputs:
            break
        score = candidates.log_odds[row, 0]
        gradients = torch.autograd.grad(score, [*outputs.values()], retain_graph=True, allow_unused=True)
        for name, gradient in zip(list(outputs), gradients, strict=True):
            if gradient is None or not bool(gradient.any()) or _is_head(gradient, classes):
                del outputs[name]
    if not outputs:
        raise LitVizError(
            f"Grad-CAM requires a layer with feature maps (N, C, h, w) of all candidates, and {network.name} has none: "
            "give layer, or use gradient"
        )
    return [*outputs][-1]


def _is_head(gradient: Tensor, classes: int) -> bool:
    """Return whether maps are the scores of K classes, by the gradient of the score of a class in a candidate.

    It is at one place, and of one channel (a sigmoid for each class), two (with an objectness), K or K + 1 (a softmax).
    """
    is_used = gradient[0] != 0
    channels = int(is_used.flatten(1).any(1).sum())
    return int(is_used.any(0).sum()) == 1 and channels in (1, 2, classes, classes + 1)


def _depends(value: Tensor, activation: Tensor) -> bool:
    """Return whether the graph of a tensor contains an activation."""
    (gradient,) = torch.autograd.grad(value.sum(), activation, retain_graph=True, allow_unused=True)
    return gradient is not None


def _affects_logits(network: Network, layer: str, layout: Layout) -> bool:
    """Return whether the logits depend on the output of a layer, and not on a single token of it."""
    gradient = logit_gradient(network, layer)
    if gradient is None:
        return False
    channel_dim = 0 if layout.kind == "maps" else -1
    return int((gradient[0] != 0).any(channel_dim).sum()) != 1
