"""The summary of a group of images; and probe images, by which networks are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

#: Largest relative difference between the logits of equal networks; different kernels round differently.
LOGITS_TOLERANCE = 1e-4


def group_summary(summaries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean probability and the worst rank of a class for the images of a group."""
    return {
        "probability": fmean(summary["probability"] for summary in summaries),
        "rank": max(summary["rank"] for summary in summaries),
    }


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
        if value.shape == reference.shape:
            return 0.0
        return math.inf
    value, reference = value.double(), reference.double()
    difference = (value - reference).abs().max() / reference.abs().max().clamp_min(1e-30)
    if difference.isfinite():
        return difference.item()
    equal = value == reference  # true for equal infinities
    largest = reference.masked_fill(reference.isinf() & equal, 0).abs().max().clamp_min(1e-30)
    difference = (value - reference).masked_fill(equal, 0).abs().max() / largest
    if difference.isfinite():
        return difference.item()
    return math.inf
