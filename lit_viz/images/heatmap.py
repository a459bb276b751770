"""Colors of maps: clipping limits, sequential and diverging color maps, and overlays on photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.fitting import LUMA

_POSITIVE, _NEGATIVE = "#ca0020", "#0571b0"  # ColorBrewer RdBu, distinguishable with color vision deficiency


def clip_limits(maps: Sequence[Tensor], quantile: float = 0.995, shared: bool = True) -> list[float]:
    """Compute the absolute value at which the color scale of each map ends.

    The limit is a quantile of the absolute values of the finite pixels, or their maximum if the quantile is zero.
    Gradients have a few outliers; without clipping, all other pixels would be black.

    Args:
        maps: ``(H, W)`` each, or one ``(N, H, W)`` tensor.
        quantile: in [0, 1]; 1 clips nothing.
        shared: compute one limit from the pixels of all maps, so that their colors are comparable.

    Returns:
        One limit per map; 0 for a map of zeros.

    Raises:
        LitVizError: if ``quantile`` is outside [0, 1].
    """
    if not 0 <= quantile <= 1:
        raise LitVizError(f"quantile must be between 0 and 1, got {quantile:g}")
    magnitudes = [values.detach().cpu().double().abs().numpy() for values in maps]
    finite = [values[np.isfinite(values)] for values in magnitudes]
    if shared:
        return [_limit(np.concatenate(finite), quantile)] * len(finite) if finite else []
    return [_limit(values, quantile) for values in finite]


def _limit(values: NDArray[np.float64], quantile: float) -> float:
    """Compute the quantile by a partial sort (ten times as fast as ``np.quantile``), or the maximum if it is zero."""
    if values.size == 0:
        return 0.0
    position = quantile * (values.size - 1)
    index = int(position)
    partitioned = np.partition(values, index)
    lower = float(partitioned[index])
    upper = float(partitioned[index + 1 :].min(initial=np.inf)) if position > index else lower
    return lower + (position - index) * (upper - lower) or float(values.max())


def heat(values: Tensor, limit: float) -> Tensor:
    """Map values to matplotlib's "hot" colors: black, red, yellow, white.

    Args:
        values: ``(H, W)``; negative values are drawn as zero.
        limit: values from this limit on are white; 0 draws all pixels black (see :func:`clip_limits`).

    Returns:
        ``(3, H, W)`` in [0, 1]; non-finite values are black.
    """
    colors = _hot()
    indices = (_normalized(values, limit).clamp(0, 1) * colors.shape[1]).long().clamp(max=colors.shape[1] - 1)
    return _mask_non_finite(torch.stack([channel.take(indices) for channel in colors]), values)


@cache
def _hot() -> Tensor:
    """Return the color table ``(3, 256)``; indexing it is ten times as fast as calling the matplotlib color map."""
    color_map = mpl.colormaps["hot"]
    return torch.from_numpy(color_map(np.arange(color_map.N))[:, :3]).float().T.contiguous()


def signed_heat(values: Tensor, limit: float) -> Tensor:
    """Map values to diverging colors: white at zero, red for positive and blue for negative values.

    Args:
        values: ``(H, W)``.
        limit: absolute value of the most saturated colors.

    Returns:
        ``(3, H, W)`` in [0, 1]; non-finite values are black.
    """
    share = _normalized(values, limit).clamp(-1, 1)[..., None]
    positive, negative = (torch.tensor(to_rgb(color)) for color in (_POSITIVE, _NEGATIVE))
    colors = 1 - share.abs() * (1 - torch.where(share > 0, positive, negative))
    return _mask_non_finite(colors.float().permute(2, 0, 1), values)


def overlay(
    photograph: Tensor,
    values: Tensor,
    limit: float,
    alpha: float = 0.9,
    colors: Callable[[Tensor, float], Tensor] = heat,
) -> Tensor:
    """Blend the colors of a map over a darkened grayscale photograph.

    Args:
        photograph: ``(C, H, W)`` in [0, 1], C = 3 or 1.
        values: ``(H, W)``.
        limit: as for :func:`heat`.
        alpha: opacity at the limit; opacity is proportional to the absolute value.
        colors: :func:`heat` or :func:`signed_heat`.

    Returns:
        ``(3, H, W)`` in [0, 1]; non-finite values are black.

    Raises:
        LitVizError: if the sizes differ.
    """
    if photograph.shape[-2:] != values.shape:
        sizes = [" x ".join(map(str, shape)) for shape in (values.shape, photograph.shape[-2:])]
        raise LitVizError(f"map and photograph must have one size, got {sizes[0]} and {sizes[1]}")
    image = photograph.detach().cpu().float()
    gray = (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(0) if len(image) == 3 else image[0]
    opacity = alpha * _normalized(values, limit).abs().clamp(max=1)
    opacity = opacity.masked_fill(~values.detach().cpu().isfinite(), 1.0)
    return ((1 - opacity) * 0.7 * gray + opacity * colors(values, limit)).float()


def _mask_non_finite(picture: Tensor, values: Tensor) -> Tensor:
    """Set the pixels of non-finite values to black, in place."""
    return picture.mul_(values.detach().cpu().isfinite())


def _normalized(values: Tensor, limit: float) -> Tensor:
    """Divide by the limit; non-finite values become 0."""
    values = values.detach().cpu().double().nan_to_num(0.0)
    return values / limit if limit > 0 else torch.zeros_like(values)
