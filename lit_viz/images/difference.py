"""Comparison of two images: signed difference images and structural similarity."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lit_viz.errors import LitVizError
from lit_viz.images.reading import to_uint8

#: Magnification of differences in frames and figures.
MAGNIFIED = 10.0
_TOLERANCE = 1e-6  # float32 rounding of a difference at the end of the scale
_WINDOW, _SIGMA = 11, 1.5  # side and standard deviation of SSIM's Gaussian window, in pixels
_C1, _C2 = 0.01**2, 0.03**2  # SSIM's constants for values in [0, 1]


def difference(image: Tensor, source: Tensor, times: float = 1.0) -> tuple[Tensor, float]:
    """Compute the difference image ``0.5 + times * (image - source)``, clipped to [0, 1]; no change is mid-gray.

    Args:
        image: ``(C, H, W)`` in [0, 1], C = 3 or 1.
        source: same shape.
        times: magnification.

    Returns:
        ``(3, H, W)`` float32 in [0, 1], and the fraction of clipped values. Non-finite values count as clipped; NaN is
        black.

    Raises:
        LitVizError: if the shapes differ.
    """
    if image.shape != source.shape:
        shapes = [" x ".join(map(str, shape)) for shape in (image.shape, source.shape)]
        raise LitVizError(f"image and source must have the same shape, got {shapes[0]} and {shapes[1]}")
    change = times * (image.detach().cpu().double() - source.detach().cpu().double())
    in_range = change.abs() <= 0.5 + _TOLERANCE
    picture = (0.5 + change).nan_to_num(0.0).clamp(0, 1).float()
    return picture.expand(3, -1, -1), 1.0 - float(in_range.double().mean())


def gray_levels(picture: Tensor) -> NDArray[np.uint8]:
    """Convert a difference image ``(3, H, W)`` to bytes ``(H, W, 3)``: 128 is zero, one level of change is one level.

    Rounding 127.5 as for other images could map zero and a change of one level to the same byte.
    """
    return to_uint8((128 + (picture.double() - 0.5).mul(255).round()) / 255)


def out_of_range_fraction(image: Tensor) -> float:
    """Return the fraction of values outside [0, 1] or non-finite."""
    values = image.detach().cpu().double()
    return 1.0 - float(((values >= -_TOLERANCE) & (values <= 1 + _TOLERANCE)).double().mean())


def ssim(image: Tensor, reference: Tensor) -> float:
    """Compute the mean structural similarity (Wang et al. 2004) over the full windows; NaN below 11 pixels.

    Args:
        image: ``(C, H, W)`` float32 in [0, 1].
        reference: same shape.
    """
    if min(image.shape[-2:]) < _WINDOW:
        return torch.nan
    maps = torch.cat([image, reference, image * reference, image * image + reference * reference])
    offsets = torch.arange(_WINDOW, dtype=torch.float32) - _WINDOW // 2  # independent of the default dtype
    column = torch.exp(-0.5 * (offsets / _SIGMA).square())
    column = (column / column.sum()).repeat(len(maps), 1)[:, None, :, None]
    means = F.conv2d(F.conv2d(maps[None], column, groups=len(maps)), column.mT, groups=len(maps))
    a, b, product, squares = means[0].chunk(4)
    norms = a * a + b * b
    numerator = (2 * a * b + _C1) * (2 * (product - a * b) + _C2)
    return float((numerator / ((norms + _C1) * (squares - norms + _C2))).mean())
