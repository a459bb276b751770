"""Saliency methods on images and networks of which the relevant pixels are known.

Known answers: planted evidence, where a glyph alone decides the class, and disconnected cells (DiFull, Rao et al. 2022,
arXiv:2205.10435), of which all but one cannot influence the score. Proxies: mosaics of photographs (grid pointing game,
Boehle et al. 2021, arXiv:2104.00032), where the evidence is assumed to lie in the cell of the class, and removal of
pixels (Petsiuk et al. 2018, arXiv:1806.07421). Networks whose maps are known exactly:
``tests/support/closed_forms.py``.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_viz.attributions import (
    ATTRIBUTIONS,
    RISE,
    Attribution,
    ExpectedGradients,
    ExtremalPerturbation,
    FeatureAblation,
    GradCAM,
    KernelShap,
    Occlusion,
    ShapleyInteractions,
    VarGrad,
    attribute,
)
from lit_viz.attributions.baselines import Baseline
from lit_viz.attributions.reducers import reduce_channels
from lit_viz.attributions.shapley_interactions import MOST as MOST_SUPERPIXELS
from lit_viz.errors import require
from lit_viz.evidence.saliency.metrics import replacement_curve, saliency_order
from lit_viz.networks import Network
from lit_viz.zoo import planted_images
from lit_viz.zoo.planted import DrawImages

#: Evaluations of a map (forward and backward); a forward alone counts a third.
BUDGETS = (1, 16, 128, 1024)
#: Methods with the average of photographs as the baseline, or with the LibraGrad rule of backward, by their names here.
VARIANTS = (
    "input_x_gradient+mean",
    "input_x_gradient+libra",
    "input_x_gradient+mean+libra",
    "integrated_gradients+mean",
    "integrated_gradients+libra",
    "integrated_gradients+mean+libra",
    "gradient_shap+mean",
    "gradient_shap+mean+libra",
    "expected_gradients+libra",
    "deep_lift+mean",
    "hires_cam+libra",
)
#: A budget, or the number of evaluations of the method's own default.
Budget = int | Literal["default"]

_FORWARDS = 3  # forwards of an evaluation
_SIDE = 224  # pixels for which the sizes of extremal perturbation are chosen
_BATCH = 64


@dataclass(frozen=True)
class GroundTruth:
    """Images with the pixels that are relevant for the score of a class.

    Attributes:
        images: ``(N, C, H, W)`` in [0, 1].
        targets: ``(N,)`` explained classes.
        regions: bool ``(N, H, W)``.
        bands: ``(N,)`` indices of the relevant bands, where they are known.
    """

    images: Tensor
    targets: Tensor
    regions: Tensor
    bands: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


# -- Scores


def rank_accuracy(saliency: Tensor, region: Tensor, count: int | None = None) -> float:
    """Return the share of a region that is among the most salient pixels, by default as many as the region has.

    Arras et al. 2022, arXiv:2003.07258, section 3.3. Ties count with the share of the region among the tied pixels, so
    that a constant map has the share of the region in the image.

    Args:
        saliency: ``(H, W)``.
        region: bool ``(H, W)``.
        count: number of the most salient pixels.
    """
    values, inside = saliency.double().flatten(), region.flatten()
    if count is None:
        count = int(inside.sum())
    threshold = values[saliency_order(saliency)[count - 1]]
    above, tied = values > threshold, values == threshold
    rest = (count - int(above.sum())) * float(inside[tied].double().mean())
    return (float(inside[above].sum()) + rest) / int(inside.sum())


def mass_accuracy(saliency: Tensor, region: Tensor) -> float:
    """Return the share of the positive saliency ``(H, W)`` in a region; that of the region for a map without any."""
    positive = saliency.double().clamp_min(0)
    total = float(positive.sum())
    if total == 0:
        return float(region.double().mean())
    return float(positive[region].sum()) / total


def band_accuracy(attribution: Tensor, band: int) -> float:
    """Return 1 if a band has the largest sum of absolute values of an attribution ``(C, H, W)``, otherwise 0."""
    require(len(attribution) > 1, "the attribution must have a value per band", f"{len(attribution)} channel")
    return float(attribution.double().abs().sum((1, 2)).argmax() == band)


def removal_score(
    classifier: Network, image: Tensor, target: int, saliency: Tensor, steps: int = 32, batch: int = 16
) -> float:
    """Return the area of insertion less that of deletion, of the class probability (higher is better).

    Deleted pixels become the mean color; insertion starts from the blurred image.
    """
    network = classifier.fast()

    def score(images: Tensor) -> Tensor:
        logits: Tensor = network(images)[0]
        shares: Tensor = classifier.rule.probabilities(logits)[:, target]
        return shares

    blank, blurred = (Baseline(kind)(image[None], [0])[0] for kind in ("mean", "blurred"))
    deletion = replacement_curve(score, image, blank, saliency, steps=steps, batch=batch)
    insertion = replacement_curve(score, blurred, image, saliency, steps=steps, batch=batch)
    return insertion.area - deletion.area


# -- Images


def planted_truth(count: int, seed: int = 0, draw: DrawImages = planted_images) -> GroundTruth:
    """Draw images with planted evidence by :func:`~lit_viz.zoo.planted_images` or
    :func:`~lit_viz.zoo.planted_bands`; the regions are the glyphs."""
    planted = draw(range(count), seed, 0)
    return GroundTruth(planted.images, planted.labels, planted.masks, planted.bands)


def mosaics(
    network: Network, photographs: Tensor, count: int, cells: int, seed: int = 0, least: float = 0.8
) -> GroundTruth:
    """Draw mosaics of photographs of different predicted classes; the class of one cell is explained.

    Args:
        network: of which the photographs are the input.
        photographs: ``(P, C, H, W)`` in [0, 1]; only photographs classified with probability ``least`` are used.
        count: number of mosaics.
        cells: along a side.
        seed: of the draws.
        least: smallest probability.

    Returns:
        Mosaics of ``(cells * H) x (cells * W)`` pixels.

    Raises:
        LitVizError: the photographs have too few classes.
    """
    shares = []
    for first in range(0, len(photographs), _BATCH):
        shares.append(network.scores(photographs[first : first + _BATCH]).softmax(1))
    probability, classes = torch.cat(shares).max(1)
    by_class = defaultdict(list)
    for index in (probability >= least).nonzero()[:, 0].tolist():
        by_class[int(classes[index])].append(index)
    constraint = f"the photographs must have {cells**2} classes with a probability of at least {least:g}"
    require(len(by_class) >= cells**2, constraint, len(by_class))
    generator = random.Random(seed)
    height, width = photographs.shape[2:]
    images, targets, regions = [], [], []
    for _ in range(count):
        drawn = generator.sample(sorted(by_class), cells**2)
        chosen = torch.stack([photographs[generator.choice(by_class[label])] for label in drawn])
        cell = generator.randrange(cells**2)
        images.append(stitched(chosen, cells)[0])
        targets.append(drawn[cell])
        regions.append(_cell(cell, cells, height, width))
    return GroundTruth(torch.stack(images), torch.tensor(targets), torch.stack(regions))


def disconnected_truth(
    network: Network, photographs: Tensor, count: int, cells: int, classes: int, seed: int = 0
) -> GroundTruth:
    """Draw mosaics for :class:`DisconnectedCells`, of any photographs; the predicted class of one cell is explained.

    Args:
        network: of one cell.
        photographs: ``(P, C, H, W)`` in [0, 1].
        count: number of mosaics.
        cells: along a side.
        classes: of a cell.
        seed: of the draws.
    """
    generator = random.Random(seed)
    height, width = photographs.shape[2:]
    images, targets, regions = [], [], []
    for _ in range(count):
        chosen = photographs[generator.sample(range(len(photographs)), cells**2)]
        cell = generator.randrange(cells**2)
        images.append(stitched(chosen, cells)[0])
        targets.append(cell * classes + int(network.scores(chosen[cell : cell + 1]).argmax()))
        regions.append(_cell(cell, cells, height, width))
    return GroundTruth(torch.stack(images), torch.tensor(targets), torch.stack(regions))


def _cell(cell: int, cells: int, height: int, width: int) -> Tensor:
    region = torch.zeros(cells * height, cells * width, dtype=torch.bool)
    row, column = divmod(cell, cells)
    region[row * height : (row + 1) * height, column * width : (column + 1) * width] = True
    return region


class DisconnectedCells(nn.Module):
    """A network for each cell of a mosaic, with scores of their own: no cell influences the scores of another.

    The feature maps of the cells, side by side, are the output of the layer ``maps``. Scores are logarithms of the
    probabilities in a cell, so that the probabilities of a class among all scores do not depend on other cells either.

    Args:
        features: returns maps ``(N, C, h, w)`` of normalized cells.
        head: returns logits ``(N, K)`` of maps.
        cells: along a side. The scores of cell i are ``i * K`` to ``i * K + K - 1``.
        normalized: whether scores are logarithms of probabilities; otherwise they are logits, as the LibraGrad rule
            requires.
    """

    def __init__(self, features: nn.Module, head: nn.Module, cells: int, normalized: bool = True) -> None:
        super().__init__()
        self.features, self.maps, self.head, self.cells = features, nn.Identity(), head, cells
        self.normalized = normalized

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores ``(N, cells * cells * K)`` of mosaics."""
        features = self.features(separated(x, self.cells))
        stacked = self.maps(stitched(features, self.cells))
        logits: Tensor = self.head(separated(stacked, self.cells))
        if self.normalized:
            logits = logits - logits.logsumexp(1, keepdim=True)
        return logits.reshape(len(x), -1)


def stitched(parts: Tensor, cells: int) -> Tensor:
    """Return mosaics ``(N, C, cells * h, cells * w)`` of parts ``(N * cells * cells, C, h, w)`` in reading order."""
    count, channels, height, width = parts.shape
    grid = parts.reshape(count // cells**2, cells, cells, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, cells * height, cells * width)


def separated(images: Tensor, cells: int) -> Tensor:
    """Return the parts of mosaics: the inverse of :func:`stitched`."""
    count, channels, height, width = images.shape
    grid = images.reshape(count, channels, cells, height // cells, cells, width // cells).permute(0, 2, 4, 1, 3, 5)
    return grid.reshape(count * cells**2, channels, height // cells, width // cells)


# -- Maps


def method_at(
    name: str,
    budget: Budget,
    shape: tuple[int, int, int],
    baselines: Tensor | None = None,
    layer: str | None = None,
    by_bands: bool = False,
) -> tuple[Attribution, int | None] | None:
    """Return a method and its number of evaluations for a budget; None if it needs a larger one.

    Windows, superpixels and coalitions of methods that only evaluate forwards follow from the budget. The number of
    the method's own default is None.

    Args:
        name: of :data:`~lit_viz.attributions.ATTRIBUTIONS` or :data:`VARIANTS`.
        budget: one of :data:`BUDGETS`, or ``default``.
        shape: of the input, ``(C, H, W)``.
        baselines: photographs of expected gradients ``(B, C, H, W)``.
        layer: that variants of Grad-CAM read; by default their own choice.
        by_bands: whether features are bands instead of superpixels.
    """
    name, *changes = name.split("+")
    options = _options(name, shape, baselines, layer)
    if "mean" in changes and baselines is not None:
        options["baseline"] = baselines.mean(0)
    if "libra" in changes:
        options["backprop"] = "libra"
    if by_bands and name in ("feature_ablation", "kernel_shap"):
        options["features"] = "bands"
    kind = ATTRIBUTIONS[name]
    if budget == "default":
        return kind(**options), None
    side, forwards = min(shape[1:]), _FORWARDS * budget
    if issubclass(kind, Occlusion):
        windows = math.isqrt(forwards - 1)  # along a side
        if windows < 2:
            return None
        stride = math.ceil(side / (windows + 1))
        occlusion = Occlusion(window=2 * stride, stride=stride)
        return occlusion, occlusion.default_evaluations(shape)
    if issubclass(kind, FeatureAblation) and by_bands:
        evaluations = 1 + shape[0]
        return (kind(**options), evaluations) if evaluations <= forwards else None
    if issubclass(kind, FeatureAblation):
        ablation = FeatureAblation(segments=min(forwards - 1, side**2 // 4))
        return ablation, ablation.default_evaluations(shape)
    if issubclass(kind, ShapleyInteractions):
        segments = (math.isqrt(4 * forwards - 7) - 1) // 2  # at most, that the forwards determine
        return (ShapleyInteractions(segments=min(segments, MOST_SUPERPIXELS)), forwards) if segments > 1 else None
    if issubclass(kind, (RISE, KernelShap)):
        return (kind(**options), forwards) if budget > 1 else None
    if issubclass(kind, (VarGrad, ExtremalPerturbation)) and budget == 1:
        return None
    method = kind(**options)
    return method, 1 if method.fixed else budget


def _options(name: str, shape: tuple[int, int, int], baselines: Tensor | None, layer: str | None) -> dict[str, Any]:
    kind = ATTRIBUTIONS[name]
    if issubclass(kind, ExpectedGradients) and baselines is not None:
        return {"baseline": baselines}
    if issubclass(kind, GradCAM) and layer is not None:
        return {"layer": layer}
    if issubclass(kind, ExtremalPerturbation):
        scale = min(shape[1:]) / _SIDE
        cell = max(1, round(7 * scale))
        return {"sigma": max(1.0, 8 * scale), "cell": cell, "blur": max(1.0, 10 * scale)}
    return {}


def saliency_maps(
    method: Attribution, network: Network, truth: GroundTruth, evaluations: int | None = None, seed: int = 0
) -> Tensor:
    """Return maps ``(N, H, W)`` as a run delivers them: with the method's own reducer, and by default its evaluations;
    errors as in :func:`attributions`."""
    return reduce_channels(attributions(method, network, truth, evaluations, seed), method.reducer)


def attributions(
    method: Attribution, network: Network, truth: GroundTruth, evaluations: int | None = None, seed: int = 0
) -> Tensor:
    """Return attributions ``(N, C, H, W)`` as a run delivers them, by default of the method's own evaluations.

    Raises:
        LitVizError: the method does not apply to the network.
    """
    method.bind(network)
    method.objective.bind(network)
    method.batch = _BATCH
    networks: dict[str, Any] = {}
    for name in method.networks:
        networks[name] = network.fast(method.layers, backprop=name)
    maps = []
    for first in range(0, len(truth), _BATCH):
        images, targets = truth.images[first : first + _BATCH], truth.targets[first : first + _BATCH]
        seeds = [seed + first + n for n in range(len(images))]
        attribution, _ = attribute(method, networks, images, targets, evaluations=evaluations, seeds=seeds)
        maps.append(attribution)
    return torch.cat(maps)


# -- Ranks


@dataclass(frozen=True)
class Measurement:
    """A score of a map.

    Attributes:
        test, network, method, budget: what was measured.
        image: index of the image.
        seed: of the method's draws.
        score: higher is better.
    """

    test: str
    network: str
    method: str
    budget: Budget
    image: int
    seed: int
    score: float


@dataclass(frozen=True)
class Summary:
    """Mean of a method's scores, with a 95 % bootstrap interval over networks, images and seeds."""

    mean: float
    low: float
    high: float
    count: int


def summarize(measurements: Sequence[Measurement], draws: int = 1000) -> Summary:
    """Return the mean over networks of the means over images, and its percentile interval.

    Networks are drawn with replacement, then the images of each, then the seeds of each image.
    """
    scores: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for measurement in measurements:
        scores[measurement.network][measurement.image].append(measurement.score)
    generator = random.Random(0)

    def redrawn(items: Sequence[Any]) -> list[Any]:
        return generator.choices(items, k=len(items))

    networks = [list(of_network.values()) for of_network in scores.values()]
    means = []
    for _ in range(draws):
        drawn = []
        for images in redrawn(networks):
            drawn.append(fmean(fmean(redrawn(seeds)) for seeds in redrawn(images)))
        means.append(fmean(drawn))
    means.sort()
    mean = fmean(fmean(fmean(seeds) for seeds in images) for images in networks)
    images = sum(map(len, networks))
    return Summary(mean, means[round(0.025 * (draws - 1))], means[round(0.975 * (draws - 1))], images)


def kendall_tau(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return Kendall's rank correlation (tau-b) of the scores of the same methods; NaN if one side has ties only."""
    names = sorted(first.keys() & second.keys())
    a, b = (torch.tensor([scores[name] for name in names], dtype=torch.float64) for scores in (first, second))
    signs_a, signs_b = (values[:, None].sub(values).sign() for values in (a, b))
    return float((signs_a * signs_b).sum() / (signs_a.square().sum() * signs_b.square().sum()).sqrt())


def agreement_of_halves(measurements: Iterable[Measurement]) -> float:
    """Return Kendall's tau of the order of the methods on images of even and of odd index."""
    halves: list[dict[str, list[float]]] = [defaultdict(list), defaultdict(list)]
    for measurement in measurements:
        halves[measurement.image % 2][measurement.method].append(measurement.score)
    even, odd = ({name: fmean(scores) for name, scores in half.items()} for half in halves)
    return kendall_tau(even, odd)
