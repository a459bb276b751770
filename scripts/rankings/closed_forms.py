"""Networks of which the maps of saliency methods are known exactly.

A linear and a quadratic network, whose gradients, integrals along a path and Shapley values have closed forms, and a
piecewise-linear one that reads a window of the image only, so that maps must be zero beyond their reach.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_viz.attributions import (
    ATTRIBUTIONS,
    Attribution,
    FeatureAblation,
    GradCAM,
    GuidedGradCAM,
    KernelShap,
    Occlusion,
    ShapleyInteractions,
    attribute,
)
from lit_viz.networks import Network
from lit_viz.networks.loading import load

#: Side of the images in pixels; they have one channel.
SIDE = 12
_CLASSES = 3
_STRIDE = 2  # of the convolution of the network with a window
_WINDOW = slice(2, 4)  # rows and columns of its features
_TARGET = 1


class LinearNetwork(nn.Module):
    """Logits ``w_k · x``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(_normal(1, _CLASSES, SIDE**2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        return x.flatten(1) @ self.weight.T


class QuadraticNetwork(nn.Module):
    """Logits ``x · A_k x / 2`` of symmetric matrices."""

    def __init__(self) -> None:
        super().__init__()
        matrices = _normal(2, _CLASSES, SIDE**2, SIDE**2)
        self.matrices = nn.Parameter(matrices + matrices.mT)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        flat = x.flatten(1)
        return torch.einsum("ni,kij,nj->nk", flat, self.matrices, flat) / 2


class WindowNetwork(nn.Module):
    """Logits that depend on 4 x 4 pixels only: rectified features of 2 x 2 pixels, summed in a window."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, _STRIDE, stride=_STRIDE)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, _CLASSES)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(_normal(3 + number, *parameter.shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        features = self.relu(self.conv(x))
        logits: Tensor = self.head(features[:, :, _WINDOW, _WINDOW].sum((2, 3)))
        return logits


def image() -> Tensor:
    """Return the explained image, float64 ``(1, 1, 12, 12)``, on the 8-bit lattice."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(1, 1, SIDE, SIDE, generator=generator, dtype=torch.float64) * 255).round() / 255


def window() -> Tensor:
    """Return the pixels that :class:`WindowNetwork` reads, bool ``(12, 12)``."""
    pixels = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside = slice(_WINDOW.start * _STRIDE, _WINDOW.stop * _STRIDE)
    pixels[inside, inside] = True
    return pixels


#: The networks by name.
NETWORKS = {"linear": LinearNetwork, "quadratic": QuadraticNetwork, "window": WindowNetwork}


@cache
def network_of(network: str) -> Network:
    """Return a network of one of :data:`NETWORKS`, without a normalization."""
    return load(NETWORKS[network](), labels=["a", "b", "c"], mean=0.0, std=1.0, size=SIDE)


def closed_form_errors(name: str, evaluations: int = 64) -> dict[str, float]:
    """Return the largest errors of a method's map by network, relative to the largest value of the map.

    Args:
        name: of :data:`~lit_viz.attributions.ATTRIBUTIONS`.
        evaluations: of sampled maps.

    Returns:
        ``linear`` and ``quadratic``, where the method has a closed form, and ``outside``: the largest value beyond the
        reach of the method from the window.

    Raises:
        LitVizError: the method does not apply to these networks.
    """
    errors = {}
    for form, closed_forms in _EXPECTED.items():
        expected = closed_forms.get(name)
        if expected is not None:
            method = ATTRIBUTIONS[name](**_OPTIONS.get(name, {}))
            errors[form] = _largest(_map(method, form, evaluations) - expected(), expected())
    method = ATTRIBUTIONS[name](**_OPTIONS.get(name, {}))
    values = _map(method, "window", evaluations)
    errors["outside"] = _largest(values[..., ~_reached(method)], values)
    return errors


def _map(method: Attribution, network: str, evaluations: int) -> Tensor:
    classifier = network_of(network)
    method.bind(classifier)
    networks: dict[str, Any] = {}
    for name in method.networks:
        networks[name] = classifier.fast(method.layers, dtype=torch.float64, backprop=name)
    takes_all = method.fixed or isinstance(method, ShapleyInteractions)
    count = method.default_evaluations((1, SIDE, SIDE)) if takes_all else evaluations
    return attribute(method, networks, image(), [_TARGET], evaluations=count)[0]


def _largest(values: Tensor, reference: Tensor) -> float:
    largest = float(reference.abs().max())
    return float(values.abs().max()) / largest if largest > 0 else float("nan")


def _reached(method: Attribution) -> Tensor:
    """Return the pixels with a value that may differ from zero, bool ``(12, 12)``."""
    pixels = window()
    if isinstance(method, Occlusion):
        return _grown(pixels, max(method.windows) - 1)
    if isinstance(method, (FeatureAblation, KernelShap)):
        segments = method.segments(image())[0, 0]
        return torch.isin(segments, segments[pixels])
    if isinstance(method, GradCAM) and not isinstance(method, GuidedGradCAM):
        return _grown(pixels, _STRIDE)
    return pixels


def _grown(pixels: Tensor, margin: int) -> Tensor:
    return F.max_pool2d(pixels[None, None].float(), 2 * margin + 1, 1, margin)[0, 0].bool()


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- Closed forms


def _weight() -> Tensor:
    return LinearNetwork().weight[_TARGET].detach().double().view(1, 1, SIDE, SIDE)


def _product() -> Tensor:
    """Return ``A x``, the gradient of the quadratic network."""
    matrix = QuadraticNetwork().matrices[_TARGET].detach().double()
    return (matrix @ image().flatten()).view(1, 1, SIDE, SIDE)


def _change() -> Tensor:
    """Return the contributions ``w (x - m)`` to the linear score, with the image's mean ``m``."""
    return _weight() * (image() - image().mean())


def _shapley() -> Tensor:
    """Return the sums of the contributions over superpixels, at each of their pixels."""
    segments = _superpixels()
    sums = torch.zeros(int(segments.max()) + 1, dtype=torch.float64)
    sums.index_add_(0, segments.flatten(), _change().flatten())
    return sums[segments]


def _alone() -> Tensor:
    """Return the change of the quadratic score when a superpixel alone is not the image's mean, at its pixels."""
    matrix = QuadraticNetwork().matrices[_TARGET].detach().double()
    segments = _superpixels()
    baseline = torch.full((SIDE**2,), float(image().mean()), dtype=torch.float64)
    values = torch.zeros_like(image())
    for k in range(int(segments.max()) + 1):
        change = torch.where(segments == k, image() - image().mean(), 0).flatten()
        values[segments == k] = change @ matrix @ (baseline + change / 2)
    return values


def _superpixels() -> Tensor:
    return FeatureAblation(**_OPTIONS["feature_ablation"]).segments(image())


def _occlusion() -> Tensor:
    """Return at each pixel the mean over its windows of their contributions."""
    side, stride = _OPTIONS["occlusion"]["window"], _OPTIONS["occlusion"]["stride"]
    change, total, count = _change()[0, 0], torch.zeros(SIDE, SIDE).double(), torch.zeros(SIDE, SIDE).double()
    for top in range(0, SIDE - side + stride, stride):
        for left in range(0, SIDE - side + stride, stride):
            place = slice(top, top + side), slice(left, left + side)
            total[place] += change[place].sum()
            count[place] += 1
    return (total / count)[None, None]


_GRAY = 51 / 255
_OPTIONS: dict[str, dict[str, Any]] = {
    "gradient_shap": {"baselines": "black"},
    "expected_gradients": {"baselines": torch.full((1, 1, SIDE, SIDE), _GRAY)},
    "deep_lift": {"baseline": "black"},
    "occlusion": {"window": 4, "stride": 2},
    "feature_ablation": {"segments": 9},
    "kernel_shap": {"segments": 9},
    "shapley_interactions": {"segments": 9},
    "extremal_perturbation": {"sigma": 1.0, "cell": 1, "blur": 1.0},
}
_EXPECTED: dict[str, dict[str, Callable[[], Tensor]]] = {
    "linear": {
        "gradient": _weight,
        "smoothgrad": _weight,
        "smoothgrad_squared": lambda: _weight().square(),
        "input_x_gradient": lambda: _weight() * image(),
        "integrated_gradients": lambda: _weight() * image(),
        "gradient_shap": lambda: _weight() * image(),
        "expected_gradients": lambda: _weight() * (image() - _GRAY),
        "deep_lift": lambda: _weight() * image(),
        "occlusion": _occlusion,
        "feature_ablation": _shapley,
        "kernel_shap": _shapley,
        "shapley_interactions": _shapley,
    },
    "quadratic": {
        "gradient": _product,
        "input_x_gradient": lambda: image() * _product(),
        "integrated_gradients": lambda: image() * _product() / 2,
        "shapley_interactions": _alone,
    },
}
