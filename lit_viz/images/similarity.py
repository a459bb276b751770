"""Structural similarity of two images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_WINDOW, _SIGMA = 11, 1.5  # pixels across, of SSIM's Gaussian window, and its width
_C1, _C2 = 0.01**2, 0.03**2  # its constants, for values in [0, 1]


def ssim(mine: Tensor, its: Tensor) -> float:
    """Return the mean structural similarity of two images ``(C, H, W)`` in [0, 1], float32; NaN below 11 pixels."""
    if min(mine.shape[-2:]) < _WINDOW:
        return torch.nan
    maps = torch.cat([mine, its, mine * its, mine * mine + its * its])
    places = torch.arange(_WINDOW, dtype=torch.float32) - _WINDOW // 2  # whatever torch's default is
    column = torch.exp(-0.5 * (places / _SIGMA).square())
    column = (column / column.sum()).repeat(len(maps), 1)[:, None, :, None]
    means = F.conv2d(F.conv2d(maps[None], column, groups=len(maps)), column.mT, groups=len(maps))
    a, b, product, squares = means[0].chunk(4)
    lengths = a * a + b * b
    similar = (2 * a * b + _C1) * (2 * (product - a * b) + _C2)
    return float((similar / ((lengths + _C1) * (squares - lengths + _C2))).mean())
