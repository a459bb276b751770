"""Saliency metrics: deletion and insertion, sensitivity, the pointing game, and cascading randomization."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor, nn

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.errors import LitVizError
from lit_viz.images.reading import Box
from lit_viz.images.rendering import rank_correlation, ssim
from lit_viz.networks import FrozenNetwork
from lit_viz.rng import Draws, Key

#: Function of images ``(M, C, H, W)``: their scores ``(M,)``, or their maps ``(M, ...)``.
ImageFunction = Callable[[Tensor], Tensor]

#: Largest distance of a hit from the box in pixels (Zhang et al. 2018, arXiv:1608.00507, section 4.1).
POINTING_TOLERANCE = 15.0
#: Rank correlation with the map of the trained network from which a map counts as unchanged.
UNCHANGED = 0.9


@dataclass(frozen=True)
class ReplacementCurve:
    """A score while pixels are replaced.

    Attributes:
        shares: ``(S + 1,)``, replaced share of the pixels, from 0 to 1.
        scores: ``(S + 1,)``.
    """

    shares: Tensor
    scores: Tensor

    @property
    def area(self) -> float:
        """Area under the curve by the trapezoidal rule."""
        return float(torch.trapezoid(self.scores, self.shares))


def saliency_order(saliency: Tensor) -> Tensor:
    """Return the flat pixel indices ``(H * W,)`` of a map ``(H, W)``, most salient first; ties in reading order."""
    return saliency.flatten().argsort(descending=True, stable=True)


@torch.no_grad()
def replacement_curve(
    score: ImageFunction,
    start: Tensor,
    end: Tensor,
    saliency: Tensor,
    has_data: Tensor | None = None,
    *,
    steps: int = 32,
    batch: int = 16,
) -> ReplacementCurve:
    """Return the score while pixels of ``start`` are replaced by pixels of ``end``, the most salient first.

    From the photograph to an uninformative image this is *deletion*, where a small area is good; from a blurred image
    to the photograph it is *insertion*, where a large area is good (Petsiuk et al. 2018, arXiv:1806.07421, section
    4.2). Takes ``steps + 1`` forward passes.

    Args:
        score: of the class that the map explains.
        start, end: ``(C, H, W)``.
        saliency: ``(H, W)``; all channels of a pixel are replaced together.
        has_data: bool ``(H, W)``: pixels that are replaced; by default all.
        steps: number of equal steps, at most the number of these pixels.
        batch: images per forward pass.
    """
    pixels = saliency.numel()
    if has_data is not None:  # the other pixels are last
        saliency = saliency.masked_fill(~has_data, -torch.inf)
        pixels = int(has_data.sum())
    counts = torch.linspace(0, pixels, min(steps, pixels) + 1, dtype=torch.float64).round().long().to(start.device)
    ranks = torch.empty(saliency.numel(), dtype=torch.long, device=start.device)
    ranks[saliency_order(saliency).to(start.device)] = torch.arange(saliency.numel(), device=start.device)
    ranks = ranks.view(1, 1, *saliency.shape)
    scores = []
    for first in range(0, len(counts), batch):
        replaced = ranks < counts[first : first + batch].view(-1, 1, 1, 1)
        scores.append(score(torch.where(replaced, end, start)))
    return ReplacementCurve((counts / pixels).double().cpu(), torch.cat(scores).double().cpu())


def max_sensitivity(
    explain: ImageFunction, x: Tensor, attribution: Tensor, draws: Draws, *, radius: float = 0.02, batch: int = 8
) -> float:
    """Return ``max |A(x + d) - A(x)| / |A(x)|`` over random perturbations ``d`` of a photograph.

    ``d`` is uniform in the L∞ ball, and the perturbed image is clamped to [0, 1] (Yeh et al. 2019, arXiv:1901.09392,
    section 4; relative as in Captum). The maximum grows with the number of draws. Takes one map per draw.

    Args:
        explain: the method, with the same draws of its own for all images.
        x: photograph ``(C, H, W)``.
        attribution: its map ``A(x)``.
        draws: one row per perturbation.
        radius: in units of [0, 1].
        batch: images per call of ``explain``.

    Returns:
        0 if no map changes; infinite if only the photograph's own map is zero.
    """
    changes = []
    for first in range(0, len(draws), batch):
        rows = draws.rows(range(first, min(first + batch, len(draws))))
        perturbed = (x + rows.uniform("perturbation", -radius, radius, x.shape).to(x.dtype)).clamp(0, 1)
        changes.append((explain(perturbed).double() - attribution.double()).flatten(1).norm(dim=1))
    largest = torch.cat(changes).max()
    if largest == 0:
        return 0.0
    return float(largest / attribution.double().norm())


def is_pointing_hit(saliency: Tensor, boxes: Sequence[Box], tolerance: float = POINTING_TOLERANCE) -> bool:
    """Return whether the map's maximum is in or near a box (pointing game; Zhang et al. 2018, section 4.1).

    Args:
        saliency: ``(H, W)``; the first of several maxima in reading order counts.
        boxes: (left, top, right, bottom) in pixels of the map; the first pixel spans 0 to 1.
        tolerance: largest distance of the pixel's center from the box in pixels.
    """
    row, column = divmod(int(saliency_order(saliency)[0]), saliency.shape[1])
    x, y = column + 0.5, row + 0.5
    for left, top, right, bottom in boxes:
        distance = math.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom))
        if distance <= tolerance:
            return True
    return False


def random_map(reference: Tensor, seed: int = 0) -> Tensor:
    """Return normal noise with the shape and the maximum of a map, as a control."""
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise / noise.abs().max() * reference.double().abs().max().cpu()


@dataclass(frozen=True)
class RandomizationStage:
    """Similarity of the map of a partly randomized network to that of the trained one.

    Attributes:
        layer: lowest randomized layer.
        layers: number of randomized layers.
        spearman: rank correlation of the reduced maps.
        ssim: structural similarity of the reduced maps.
    """

    layer: str
    layers: int
    spearman: float
    ssim: float


def last_unchanged(stages: Sequence[RandomizationStage]) -> RandomizationStage | None:
    """Return the last stage before the first change of the map; None if the first stage changes it."""
    unchanged = list(takewhile(lambda stage: stage.spearman >= UNCHANGED, stages))
    return unchanged[-1] if unchanged else None


def cascading_randomization(
    networks: Mapping[str, FrozenNetwork], seed: int, stages: int
) -> Iterator[tuple[str, int, Mapping[str, FrozenNetwork]]]:
    """Randomize the layers of a network from the top down (Adebayo et al. 2018, arXiv:1810.03292, section 3.1).

    A map that does not change depends on the photograph and the architecture only. The draws depend on the parameter's
    name, so that networks that differ in their backward pass only remain equal.

    Args:
        networks: networks of the method by name; they are copied.
        seed: of the random weights.
        stages: number of stages; the first randomizes the uppermost layer, the last all layers.

    Yields:
        The lowest randomized layer, the number of randomized layers, and the networks, which the next stage modifies.

    Raises:
        LitVizError: a network can't be copied.
    """
    for network in networks.values():
        if next(network.parameters(), None) is None:
            raise LitVizError("the layers of a network that can't be copied can't be randomized")
    copies = {name: copy.deepcopy(network) for name, network in networks.items()}
    layers: list[str] = []  # the uppermost first
    for name, module in next(iter(copies.values())).named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            layers.insert(0, name)
    counts = sorted(set(torch.linspace(1, len(layers), stages).round().int().tolist()))
    for previous, count in zip([0, *counts], counts, strict=False):
        for layer in layers[previous:count]:
            for network in copies.values():
                randomize_layer(network.get_submodule(layer), layer, seed)
        yield layers[count - 1].partition(".")[2], count, copies


@torch.no_grad()
def randomize_layer(layer: nn.Module, name: str, seed: int) -> None:
    """Replace a layer's own parameters by normal draws of equal mean and standard deviation; buffers are kept."""
    for parameter_name, parameter in layer.named_parameters(recurse=False):
        draws = Draws([Key(seed, 0)], parameter.device).scoped("cascade")
        noise = draws.normal(f"{name}.{parameter_name}", parameter.shape)[0].to(parameter.dtype)
        parameter.copy_(parameter.mean() + parameter.std(unbiased=False) * noise)


def map_similarity(
    values: Tensor, reference: Tensor, reducer: str = "max_abs", has_data: Tensor | None = None
) -> tuple[float, float]:
    """Return rank correlation and SSIM of two maps ``(C, H, W)``, reduced over the channels and divided by their
    maximum; NaN if ``values`` is not finite. Pixels without data have no rank, and are zero for the SSIM."""
    first, second = reduce_channels(values.double(), reducer)[0], reduce_channels(reference.double(), reducer)[0]
    if has_data is None:
        has_data = torch.ones(first.shape, dtype=torch.bool)
    first, second = first.masked_fill(~has_data, 0.0), second.masked_fill(~has_data, 0.0)
    if not bool(first.isfinite().all()):
        return math.nan, math.nan
    first, second = _to_maximum_1(first), _to_maximum_1(second)
    correlation = rank_correlation(first[has_data], second[has_data])
    return correlation, ssim(first.float()[None], second.float()[None])


def _to_maximum_1(values: Tensor) -> Tensor:
    """Divide a map by its maximum if that is positive."""
    largest = values.max()
    return values / largest if largest > 0 else values
