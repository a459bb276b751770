"""What a network says of a picture, in the numbers that records hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor


def prediction_summary(logits: Tensor, target: int) -> dict[str, float]:
    """Return logit, probability and rank (1 is the top) of a class among logits ``(K,)``.

    Of equal logits the first is ahead, as argmax has it. Where logits are no numbers so is the probability, and the
    rank is the last.
    """
    value, probability = logits[target], float(torch.softmax(logits, 0)[target])
    ahead = int((logits[:target] >= value).sum() + (logits[target + 1 :] > value).sum())
    rank = len(logits) if math.isnan(probability) else ahead + 1
    return {"logit": float(value), "probability": probability, "rank": rank}


def group_summary(verdicts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean probability and the worst rank of a class in the pictures of a group."""
    return {"probability": fmean(one["probability"] for one in verdicts), "rank": max(one["rank"] for one in verdicts)}


def top5(logits: Tensor, labels: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return the five most probable classes, or all of fewer, as (label, probability), in the order of their ranks."""
    probabilities, order = torch.softmax(logits, 0).tolist(), logits.argsort(descending=True, stable=True).tolist()
    return tuple((labels[i], probabilities[i]) for i in order[:5])
