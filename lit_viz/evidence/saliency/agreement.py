"""Do two maps agree? Elementwise first; rank and structure are only told beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_viz.images.difference import ssim

#: The formula in float64: largest difference, as a part of the map's maximum.
FORMULA_TOLERANCE = 1e-8
#: The map delivered in float32: at most so many times Captum's own error in float32, and a little.
DELIVERED_FACTOR, DELIVERED_SLACK = 2.0, 1e-6
#: Where Captum's own error in float32 allows more than that, a part of the maximum, it tells nothing of the map: a map
#: of another class, or of a randomized network, would pass as well.
UNDECIDED = 0.2
#: Of the pixels, that count as the top ones.
TOP = 0.1


def largest_difference(ours: Tensor, reference: Tensor) -> float:
    """Return ``max |ours - reference| / max |reference|``: 0 for equal maps, infinite where a value is not finite."""
    difference = (ours.double() - reference.double()).abs().max()
    largest = reference.double().abs().max()
    if not bool(difference.isfinite()):
        return float("inf")
    return 0.0 if difference == 0 else float(difference / largest) if largest > 0 else float("inf")


@dataclass(frozen=True)
class Similarity:
    """How alike two maps look ``(C, H, W)``.

    Attributes:
        difference: the largest, as a part of the reference's maximum.
        spearman: rank correlation of the values; weak: softmax instead of logit still gives 0.985.
        ssim: structural similarity of the reduced maps (largest absolute value over the channels).
        top_iou: intersection over union of their top 10 % pixels.
    """

    difference: float
    spearman: float
    ssim: float
    top_iou: float

    @classmethod
    def of(cls, ours: Tensor, reference: Tensor) -> Similarity:
        """Compare ``ours`` with the reference."""
        if not bool(ours.isfinite().all() and reference.isfinite().all()):
            return cls(math.inf, math.nan, math.nan, math.nan)
        mine, its = (a.double().abs().amax(0) for a in (ours, reference))
        span = float(its.max()) or 1.0
        return cls(
            difference=largest_difference(ours, reference),
            spearman=spearman(ours.double(), reference.double()),
            ssim=ssim(*((a / span).float()[None] for a in (mine, its))),
            top_iou=_top_iou(mine.flatten(), its.flatten()),
        )


def _top_iou(ours: Tensor, reference: Tensor) -> float:
    count = max(1, round(TOP * len(ours)))
    mine, its = (set(values.topk(count).indices.tolist()) for values in (ours, reference))
    return len(mine & its) / len(mine | its)


@dataclass(frozen=True)
class Agreement:
    """The verdict on one map.

    Attributes:
        formula: largest difference of our formula to Captum's, both in float64, as a part of the maximum.
        delivered: of the delivered float32 map to Captum's in float64.
        captum_float32: of Captum's own float32 maps to Captum's in float64, the largest; what the delivered one is held
            against.
        similarity: of the delivered map to Captum's in float64.
        controls: how alike to Captum's map are maps that must not agree, by name.
        rounding: by how much Captum's own formula is off in float64.
    """

    formula: float
    delivered: float
    captum_float32: float
    similarity: Similarity
    controls: Mapping[str, Similarity] = field(default_factory=dict)
    rounding: float = 0.0

    @property
    def formula_passed(self) -> bool:
        """Whether the formula is the same."""
        return self.formula <= FORMULA_TOLERANCE + self.rounding

    @property
    def allowed(self) -> float:
        """What the delivered map may be off: float32 can't be held against a constant, for at the kinks of a ReLU the
        last bit decides whether a pixel's gradient passes."""
        return min(DELIVERED_FACTOR * self.captum_float32 + DELIVERED_SLACK, UNDECIDED)

    @property
    def delivered_passed(self) -> bool:
        """Whether the map is as good as Captum's own in float32."""
        return self.delivered <= self.allowed

    @property
    def decided(self) -> bool:
        """Whether float32 tells the map from a wrong one: it does not where Captum's own maps differ as much, as on a
        photograph with flat areas, in which the largest of equal neighbours is a matter of the last bit."""
        return self.delivered == math.inf or self.delivered <= UNDECIDED or self.allowed < UNDECIDED

    @property
    def passed(self) -> bool:
        """Whether both gates were passed."""
        return self.formula_passed and self.delivered_passed


def random_map(like: Tensor, seed: int = 0) -> Tensor:
    """Return normal noise of a map's shape and largest value: a map that agrees with nothing."""
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise / noise.abs().max() * like.double().abs().max().cpu()


def spearman(a: Tensor, b: Tensor) -> float:
    """Return the rank correlation of two tensors of one shape, ties at their mean rank; 0 where one is constant."""
    pair = torch.stack([_ranks(a.flatten()), _ranks(b.flatten())])
    centred = pair - pair.mean(1, keepdim=True)
    norm = centred.norm(dim=1).prod()
    return 0.0 if norm == 0 else float(centred.prod(0).sum() / norm)


def _ranks(values: Tensor) -> Tensor:
    """Return the ranks in float64: in integers of 32 bits the ranks of many equal values overflow when added up."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0) - (counts.double() - 1) / 2)[inverse]
    return ranks
