"""Comparison of two images or maps: signed difference images, SSIM, PSNR and rank correlation."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lit_viz.errors import LitVizError
from lit_viz.images.reading import to_uint8

#: Magnification of differences in frames and figures.
MAGNIFIED = 10.0
_TOLERANCE = 1e-6  # float32 rounding of a difference at the end of the scale
_WINDOW, _SIGMA = 11, 1.5  # side and standard deviation of SSIM's Gaussian window, in pixels


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
    """Compute the structural similarity, averaged over the channels and all full windows; NaN below 11 pixels.

    Reference: Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13.

    Args:
        image: ``(C, H, W)`` float32 in [0, 1].
        reference: same shape.
    """
    if min(image.shape[-2:]) < _WINDOW:
        return math.nan
    values = structural_similarity_index_measure(
        image[None], reference[None], sigma=_SIGMA, data_range=1.0, return_full_image=True
    )[1]
    border = _WINDOW // 2
    return float(values[..., border:-border, border:-border].mean())


def psnr(image: Tensor, reference: Tensor) -> float:
    """Compute the peak signal-to-noise ratio of two images in [0, 1] in dB; infinite for equal images."""
    return float(peak_signal_noise_ratio(image, reference, data_range=1.0))


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Compute Spearman's rank correlation of two tensors of equal shape; 0 if one is constant, NaN if not finite."""
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return math.nan
    if bool((a == a.flatten()[0]).all() or (b == b.flatten()[0]).all()):
        return 0.0
    from scipy.stats import spearmanr  # takes 0.5 s to import

    first, second = (values.detach().flatten().to("cpu", torch.float64).numpy() for values in (a, b))
    return float(spearmanr(first, second).statistic)
