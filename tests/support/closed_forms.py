"""Networks of which the maps of saliency methods are known exactly.

A linear and a quadratic network, whose gradients, integrals along a path and Shapley values have closed forms, and a
piecewise-linear one that reads a window of the image only, so that maps must be zero beyond their reach. Units after
XAI-Units (arXiv:2506.01059) combine two pixels, with known Shapley values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.networks.loading import load

#: Side of the images in pixels; they have one channel.
SIDE = 12
_CLASSES = 3
_STRIDE = 2  # of the convolution of the network with a window
_WINDOW = slice(2, 4)  # rows and columns of its features
_TARGET = 1
_PAIR = ((2, 2), (9, 8))  # row and column of the two pixels of a unit


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


class UnitNetwork(nn.Module):
    """Logits of two pixels a and b: their ``interaction`` a b, ``cancellation`` relu(a - b), or ``saturation``
    min(a + b, 1) = 1 - relu(1 - a - b)."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit, self.relu = unit, nn.ReLU()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images, of which the second is that of the unit."""
        maps = self.conv(x)[:, 0]
        (a_row, a_column), (b_row, b_column) = _PAIR
        a, b = maps[:, a_row, a_column], maps[:, b_row, b_column]
        if self.unit == "interaction":
            score = a * b
        elif self.unit == "cancellation":
            score = self.relu(a - b)
        else:
            score = 1 - self.relu(1 - a - b)
        return torch.stack([torch.zeros_like(score), score, -score], 1)


@dataclass(frozen=True)
class Unit:
    """Values of two pixels, and the Shapley values of a unit for them and a black baseline."""

    pixels: tuple[float, float]
    shapley: tuple[float, float]


#: Units by name. Without b, the score of the cancellation is a; without a it is 0.
UNITS = {
    "interaction": Unit((0.8, 0.4), (0.16, 0.16)),
    "cancellation": Unit((0.4, 0.8), (0.2, -0.2)),
    "saturation": Unit((1.0, 1.0), (0.5, 0.5)),
}


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


@cache
def unit_network(unit: str) -> Network:
    """Return a network of one of :data:`UNITS`, without a normalization."""
    return load(UnitNetwork(unit), labels=["a", "b", "c"], mean=0.0, std=1.0, size=SIDE)


def unit_errors(name: str, evaluations: int = 64) -> dict[str, float | None]:
    """Return the difference of a method's map from the Shapley values of the two pixels of each unit.

    Both are divided by their largest absolute value. The baseline is black. None is a map that shows neither pixel; a
    unit to which the method does not apply is omitted.

    Args:
        name: of :data:`~lit_viz.attributions.ATTRIBUTIONS`.
        evaluations: of sampled maps.
    """
    errors: dict[str, float | None] = {}
    for name_of_unit, unit in UNITS.items():
        x = image()
        rows, columns = map(list, zip(*_PAIR, strict=True))
        x[0, 0, rows, columns] = torch.tensor(unit.pixels, dtype=x.dtype)
        method = ATTRIBUTIONS[name](**_OPTIONS.get(name, {}) | _BLACK.get(name, {}))
        try:
            values = _map(method, unit_network(name_of_unit), x, evaluations)
        except LitVizError:
            continue
        shown = values[0, 0, rows, columns]
        expected = torch.tensor(unit.shapley, dtype=torch.float64)
        if shown.abs().max() < 1e-12:
            errors[name_of_unit] = None
        else:
            shown, expected = shown / shown.abs().max(), expected / expected.abs().max()
            errors[name_of_unit] = float((shown - expected).abs().max())
    return errors


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
            values = _map(method, network_of(form), image(), evaluations)
            errors[form] = _largest(values - expected(), expected())
    method = ATTRIBUTIONS[name](**_OPTIONS.get(name, {}))
    values = _map(method, network_of("window"), image(), evaluations)
    errors["outside"] = _largest(values[..., ~_reached(method)], values)
    return errors


def _map(method: Attribution, classifier: Network, x: Tensor, evaluations: int) -> Tensor:
    method.bind(classifier)
    networks: dict[str, Any] = {}
    for name in method.networks:
        networks[name] = classifier.fast(method.layers, dtype=torch.float64, backprop=name)
    takes_all = method.fixed or isinstance(method, ShapleyInteractions)
    count = method.default_evaluations((1, SIDE, SIDE)) if takes_all else evaluations
    return attribute(method, networks, x, [_TARGET], evaluations=count)[0]


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
    "gradient_shap": {"baseline": "black"},
    "expected_gradients": {"baseline": torch.full((1, 1, SIDE, SIDE), _GRAY)},
    "deep_lift": {"baseline": "black"},
    "occlusion": {"window": 4, "stride": 2},
    "feature_ablation": {"segments": 9},
    "kernel_shap": {"segments": 9},
    "shapley_interactions": {"segments": 9},
    "extremal_perturbation": {"sigma": 1.0, "cell": 1, "blur": 1.0},
}
#: Options of the black baseline, which that of expected gradients is a photograph of.
_BLACK: dict[str, dict[str, Any]] = {
    "expected_gradients": {"baseline": torch.zeros(1, 1, SIDE, SIDE)},
    "occlusion": {"baseline": "black"},
    "feature_ablation": {"baseline": "black"},
    "kernel_shap": {"baseline": "black"},
    "shapley_interactions": {"baseline": "black"},
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
