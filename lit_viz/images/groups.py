"""The images of one task beside one another as one picture, and back."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDEST = 4


def _gap(width: int) -> int:
    """Return the pixels between images: few between small ones, for figures enlarge both."""
    return max(1, min(_WIDEST, width // 32))


def join_group(images: Tensor) -> Tensor:
    """Return images ``(G, C, H, W)`` as one picture ``(C, H, G * W + (G - 1) * gap)``, with white between them."""
    *many, last = images
    gap = images.new_ones(*images.shape[1:3], _gap(images.shape[3]))
    return torch.cat([piece for image in many for piece in (image, gap)] + [last], dim=2)


def apart(picture: Tensor, group: int) -> Tensor:
    """Return the G images ``(G, C, H, W)`` of :func:`join_group`."""
    gaps = range(1, _WIDEST + 1)
    widths = {gap: (picture.shape[2] - (group - 1) * gap) // group for gap in gaps}
    gap, width = next((gap, width) for gap, width in widths.items() if _gap(width) == gap)
    return torch.stack([picture[..., g * (width + gap) :][..., :width] for g in range(group)])
