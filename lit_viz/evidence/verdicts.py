"""What a network says of a picture, in the numbers that records hold."""

from __future__ import annotations

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


def top(logits: Tensor, count: int = 5) -> list[tuple[int, float]]:
    """Return the most probable classes as (index, probability)."""
    values, indices = torch.softmax(logits, 0).topk(min(count, len(logits)))
    return list(zip(indices.tolist(), values.tolist(), strict=True))
