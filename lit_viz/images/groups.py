"""The images of one task beside one another as one picture, and back."""

from __future__ import annotations

import torch
from torch import Tensor

_GAP = 4


def side_by_side(images: Tensor) -> Tensor:
    """Return images ``(G, C, H, W)`` as one picture ``(C, H, G * W + (G - 1) * 4)``, with white between them."""
    *many, last = images
    gap = images.new_ones(*images.shape[1:3], _GAP)
    return torch.cat([piece for image in many for piece in (image, gap)] + [last], dim=2)


def apart(picture: Tensor, group: int) -> Tensor:
    """Return the G images ``(G, C, H, W)`` of :func:`side_by_side`."""
    width = (picture.shape[2] - (group - 1) * _GAP) // group
    return torch.stack([picture[..., g * (width + _GAP) :][..., :width] for g in range(group)])
