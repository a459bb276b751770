"""Summaries of scores: probabilities, ranks and decisions; and probe images, by which networks are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.networks.outputs import Decision, Logits, Output

#: Largest relative difference between the logits of equal networks; different kernels round differently.
LOGITS_TOLERANCE = 1e-4


def decision_logits(scores: Tensor, labels: Tensor, thresholds: Tensor | None = None) -> Tensor:
    """Return logits ``(N, K)`` of the decisions on one score per row, where scores do not exclude each other.

    The label has the margin z of its score above the threshold, one other class has 0, and the rest can't be predicted:
    the label is predicted where z > 0, and its softmax is the sigmoid of z. One more class is added to a single score.

    Args:
        scores: ``(N, K)`` of a multi-label network, or numbers.
        labels: ``(N,)`` int64, the score that is decided on.
        thresholds: ``(N,)``; 0 by default.
    """
    if scores.shape[1] == 1:
        scores = torch.cat([scores, torch.zeros_like(scores)], dim=1)
    margins = scores.gather(1, labels[:, None])
    if thresholds is not None:
        margins = margins - thresholds[:, None].to(margins)
    decisions = torch.full_like(scores, -1e9).scatter(1, (labels[:, None] + 1) % scores.shape[1], 0.0)
    return decisions.scatter(1, labels[:, None], margins)


#: What captions state of a multi-label network.
MULTI_LABEL_CAPTION = (
    "Multi-label network: p is the sigmoid of one logit; probabilities of several labels do not sum to 1. "
    "Fooled: the decision on one label, p > 0.5, is reversed."
)


def scores_caption(output: Output, decision: Decision) -> str:
    """Return what captions state of the scores of a network; empty for the logits of exclusive classes."""
    name = type(output).__name__
    if decision == "number":
        return f"Score: {output.unit} ({name}). It is a number and no probability."
    if isinstance(output, Logits):
        return MULTI_LABEL_CAPTION if decision == "independent" else ""
    if decision == "independent":
        return f"p is the sigmoid of one score ({output.unit}, {name}); fooled: the decision p > 0.5 is reversed."
    return f"p is the softmax of the scores ({output.unit}, {name})."


def probabilities(scores: Tensor, decision: Decision = "exclusive") -> Tensor:
    """Return the probabilities ``(..., K)``: the softmax of exclusive scores, the sigmoids of independent ones.

    Raises:
        LitVizError: the scores are numbers.
    """
    if decision == "number":
        raise LitVizError("the scores of this network are numbers, which have no probability")
    return scores.sigmoid() if decision == "independent" else scores.softmax(-1)


def prediction_summary(scores: Tensor, target: int, decision: Decision = "exclusive") -> dict[str, float]:
    """Return logit, probability and rank of a class for scores ``(K,)``; of a number the score alone.

    Rank 1 is the largest logit, also of a multi-label network; of equal logits the first is ahead, as in argmax. If the
    probability is NaN, the rank is the last.
    """
    value = scores[target]
    if decision == "number":
        return {"score": float(value)}
    probability = float(probabilities(scores, decision)[target])
    rank = len(scores)
    if not math.isnan(probability):
        rank = 1 + int((scores[:target] >= value).sum() + (scores[target + 1 :] > value).sum())
    return {"logit": float(value), "probability": probability, "rank": rank}


def group_summary(summaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean probability and the worst rank of a class for the images of a group."""
    return {
        "probability": fmean(summary["probability"] for summary in summaries),
        "rank": max(summary["rank"] for summary in summaries),
    }


def top5(scores: Tensor, labels: Sequence[str], decision: Decision = "exclusive") -> tuple[tuple[str, float], ...]:
    """Return label and probability of the five most probable classes, in order of rank; all, if there are fewer.

    Numbers have no probability and no order: the result is empty.
    """
    if decision == "number":
        return ()
    least = scores.topk(min(5, len(scores))).values[-1]
    leading = (~(scores < least)).nonzero()[:, 0]  # with all that are equal to the least, and NaN, as in argsort
    best = leading[scores[leading].argsort(descending=True, stable=True)[:5]]
    values = probabilities(scores, decision)[best]
    return tuple((labels[i], value) for i, value in zip(best.tolist(), values.tolist(), strict=True))


def probe_images(channels: int, size: tuple[int, int]) -> Tensor:
    """Return two fixed images ``(2, channels, *size)`` in [0, 1], for comparisons: dark noise and a smooth pattern."""
    noise = 0.5 * torch.rand(channels, *size, generator=torch.Generator().manual_seed(0))
    down, right = torch.linspace(0, 3, size[0])[:, None], torch.linspace(0, 4, size[1])
    phases = torch.arange(channels).view(-1, 1, 1)
    return torch.stack([noise, 0.5 + 0.5 * torch.sin(down + right + phases)])


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """Return ``max |value - reference| / max |reference|``.

    Equal infinities are ignored. The result is infinite where shapes differ or any other value is not finite.
    """
    if value.shape != reference.shape or not value.numel():
        return 0.0 if value.shape == reference.shape else math.inf
    value, reference = value.double(), reference.double()
    equal = value == reference  # true for equal infinities
    largest = reference.masked_fill(reference.isinf() & equal, 0).abs().max().clamp_min(1e-30)
    difference = (value - reference).masked_fill(equal, 0).abs().max() / largest
    return difference.item() if difference.isfinite() else math.inf
