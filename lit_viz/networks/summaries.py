"""Summaries of scores: probabilities, ranks and decisions; and probe images, by which networks are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.networks.outputs import Decision, Logits, Output

#: The most probable classes as (label, probability).
Ranking = tuple[tuple[str, float], ...]
#: Largest relative difference between the logits of equal networks; different kernels round differently.
LOGITS_TOLERANCE = 1e-4


def decision_logits(
    scores: Tensor, labels: Tensor, thresholds: Tensor | None = None, against: Tensor | None = None
) -> Tensor:
    """Return logits ``(N, K)`` of the decisions on one score per row, where scores do not exclude each other.

    The label has the margin z of its score above the threshold, one other class has 0, and the rest can't be predicted:
    the label is predicted where z > 0, and its softmax is the sigmoid of z. One more class is added to a single score.

    Args:
        scores: ``(N, K)`` of a multi-label network, or numbers.
        labels: ``(N,)`` int64, the score that is decided on.
        thresholds: ``(N,)``; 0 by default.
        against: ``(N,)`` int64, a score that must be negative as well, so that z is the smaller one of two margins; -1
            for none.
    """
    if scores.shape[1] == 1:
        scores = torch.cat([scores, torch.zeros_like(scores)], dim=1)
    margins = scores.gather(1, labels[:, None])
    if thresholds is not None:
        margins = margins - thresholds[:, None].to(margins)
    if against is not None:
        of_other = -scores.gather(1, against.clamp(min=0)[:, None])
        margins = torch.where((against >= 0)[:, None], torch.minimum(margins, of_other), margins)
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
    """Return the summary of :func:`prediction_summaries` for scores ``(K,)``."""
    (summary,) = prediction_summaries(scores[None], [target], decision)
    return summary


def prediction_summaries(
    scores: Tensor, targets: Sequence[int], decision: Decision = "exclusive"
) -> list[dict[str, float]]:
    """Return logit, probability and rank of a class for each row of scores ``(N, K)``; of numbers the score alone.

    Rank 1 is the largest logit, also of a multi-label network; of equal logits the first is ahead, as in argmax. If the
    probability is NaN, the rank is the last.
    """
    columns = torch.tensor(targets, device=scores.device)[:, None]
    values = scores.gather(1, columns)
    if decision == "number":
        return [{"score": value} for value in values[:, 0].tolist()]
    chances = probabilities(scores, decision).gather(1, columns)
    is_before = torch.arange(scores.shape[1], device=scores.device) < columns
    ranks = 1 + ((scores > values) | ((scores == values) & is_before)).sum(1, keepdim=True)
    ranks = ranks.masked_fill(chances.isnan(), scores.shape[1])
    summaries: list[dict[str, float]] = []
    for (value,), (chance,), (rank,) in zip(values.tolist(), chances.tolist(), ranks.tolist(), strict=True):
        summaries.append({"logit": value, "probability": chance, "rank": rank})
    return summaries


def group_summary(summaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean probability and the worst rank of a class for the images of a group."""
    return {
        "probability": fmean(summary["probability"] for summary in summaries),
        "rank": max(summary["rank"] for summary in summaries),
    }


def top5(scores: Tensor, labels: Sequence[str], decision: Decision = "exclusive") -> Ranking:
    """Return the ranking of :func:`rankings` for scores ``(K,)``."""
    (ranking,) = rankings(scores[None], labels, decision)
    return ranking


def rankings(scores: Tensor, labels: Sequence[str], decision: Decision = "exclusive") -> list[Ranking]:
    """Return label and probability of the five most probable classes for each row of scores ``(N, K)``, in order of
    rank; all, if there are fewer.

    Numbers have no probability and no order: the rankings are empty.
    """
    if decision == "number":
        return [()] * len(scores)
    count = min(5, scores.shape[1])
    leading, order = scores.topk(min(count + 1, scores.shape[1]))
    is_unique = (leading.diff(dim=1) < 0).all(1).tolist()
    order = order[:, :count].clone()
    for row, unique in enumerate(is_unique):
        if not unique:  # of equal scores the first is ahead, and NaN is ahead of all
            order[row] = scores[row].argsort(descending=True, stable=True)[:count]
    chances = probabilities(scores, decision).gather(1, order)
    named: list[Ranking] = []
    for indices, values in zip(order.tolist(), chances.tolist(), strict=True):
        named.append(tuple((labels[index], value) for index, value in zip(indices, values, strict=True)))
    return named


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
