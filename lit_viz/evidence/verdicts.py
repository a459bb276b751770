"""What a network says of a picture, in the numbers that records hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor


def verdict(logits: Tensor, target: int) -> dict[str, float]:
    """Return logit, probability and rank (1 is the top) of a class among logits ``(K,)``."""
    value = logits[target]
    return {
        "logit": float(value),
        "probability": float(torch.softmax(logits, 0)[target]),
        "rank": int((logits > value).sum()) + 1,
    }


def of_group(verdicts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean probability and the worst rank of a class in the pictures of a group."""
    return {"probability": fmean(one["probability"] for one in verdicts), "rank": max(one["rank"] for one in verdicts)}


def top5(logits: Tensor, labels: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return the five most probable classes, or all of fewer, as (label, probability)."""
    values, indices = torch.softmax(logits, 0).topk(min(5, len(logits)))
    return tuple((labels[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True))
