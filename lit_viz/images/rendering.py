"""Maps and differences as images, and the similarity of two images or maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lit_viz.errors import require
from lit_viz.images.reading import LUMA, to_uint8

#: Magnification of differences in frames and figures.
MAGNIFIED = 10.0
_TOLERANCE = 1e-6  # float32 rounding of a difference at the end of the scale
_STRONG = 0.25  # negative values, relative to the largest positive one, from which a picture shows both signs
_SIDE = 128  # pixels; the pixels of a smaller picture are repeated
_BETWEEN = 8  # white pixels between pictures
_WINDOW, _SIGMA = 11, 1.5  # side and standard deviation of SSIM's Gaussian window, in pixels
#: Colors of positive and negative values.
POSITIVE, NEGATIVE = "#ca0020", "#0571b0"  # ColorBrewer RdBu, distinguishable with color vision deficiency


# -- maps


def clip_limits(maps: Sequence[Tensor], quantile: float = 0.995, shared: bool = True) -> list[float]:
    """Compute the largest absolute value of the color scale of each map.

    The limit is a quantile of the absolute values of the finite pixels, or their maximum if the quantile is zero; 0 for
    a map of zeros. Gradients have a few outliers; without clipping, all other pixels would be black. ``shared`` limits
    are computed from the pixels of all maps, so that their colors are comparable.
    """
    require(0 <= quantile <= 1, "quantile must be between 0 and 1", f"{quantile:g}")
    finite = []
    for values in maps:
        magnitudes = values.detach().cpu().double().abs().numpy()
        finite.append(magnitudes[np.isfinite(magnitudes)])
    if shared and finite:
        return [_limit(np.concatenate(finite), quantile)] * len(finite)
    return [_limit(values, quantile) for values in finite]


def _limit(values: NDArray[np.float64], quantile: float) -> float:
    if not values.size:
        return 0.0
    place = quantile * (values.size - 1)
    below = int(place)
    ordered = np.partition(values, below)  # np.quantile takes four times as long, several percent of a gradient map
    lower = ordered[below]
    upper = lower
    if place > below:
        upper = ordered[below + 1 :].min()
    return float(lower + (place - below) * (upper - lower)) or float(values.max())


def heat(values: Tensor, limit: float) -> Tensor:
    """Map values ``(H, W)`` in [0, limit] to matplotlib's "hot" colors ``(3, H, W)``: black, red, yellow, white.

    Negative values are drawn as zero; non-finite values, and all values if the limit is 0, are black.
    """
    colors = _hot_colors()
    index = (_normalized(values, limit) * colors.shape[1]).clamp_(0, colors.shape[1] - 1).long()
    return _mask_non_finite(colors[:, index], values)


@cache
def _hot_colors() -> Tensor:
    """Return the colors of matplotlib's "hot" ``(3, K)``."""
    colormap = mpl.colormaps["hot"]
    return torch.from_numpy(colormap(np.arange(colormap.N))[:, :3]).float().T.contiguous()


@dataclass(frozen=True, eq=False)
class Heat:
    """A map ``(H, W)`` that is drawn by :func:`heat` when its picture is read; most pictures of a run never are.

    Attributes:
        values: the map.
        signed: the map with both signs, which :func:`signed_heat` draws if :func:`has_both_signs`; None without signs.
    """

    values: Tensor
    signed: Tensor | None = None

    @cached_property
    def picture(self) -> Tensor:
        """The picture ``(3, H, W)``, with the limit of the map alone."""
        if self.signed is not None and has_both_signs(self.signed):
            return signed_heat(self.signed, clip_limits([self.signed])[0])
        return heat(self.values, clip_limits([self.values])[0])


def has_both_signs(values: Tensor) -> bool:
    """Return whether the largest negative value of a signed map exceeds a quarter of the largest positive one."""
    finite = values[values.isfinite()]
    if not len(finite):
        return False
    return bool(-finite.min() > _STRONG * finite.max().clamp_min(0))


@dataclass(frozen=True, eq=False)
class BandBars(Heat):
    """Values of bands that are replaced as a whole, as a bar chart; such an attribution has no map.

    Attributes:
        bands: value of each band ``(C,)``.
    """

    bands: Tensor = field(default_factory=lambda: torch.zeros(0))

    @cached_property
    def picture(self) -> Tensor:
        """The bars ``(3, H, W)`` on white, red above and blue below the line of zero."""
        height, width = self.values.shape[-2:]
        values = self.bands.detach().cpu().double().nan_to_num(0.0)
        highest, lowest = float(values.max().clamp_min(0)), float(values.min().clamp_max(0))
        span = (highest - lowest) or 1.0
        zero = highest / span * (height - 1)
        rows = torch.arange(height)[:, None]
        band = (torch.arange(width) * len(values) // width)[None]
        ends = zero - values[band] / span * (height - 1)
        is_bar = (rows >= ends.minimum(torch.tensor(zero))) & (rows <= ends.maximum(torch.tensor(zero)))
        positive, negative = torch.tensor(to_rgb(POSITIVE)), torch.tensor(to_rgb(NEGATIVE))
        colors = torch.where((values[band] > 0)[..., None], positive, negative).expand(height, width, 3)
        return torch.where(is_bar[..., None], colors, 1.0).float().permute(2, 0, 1)


def signed_heat(values: Tensor, limit: float) -> Tensor:
    """Map values to colors as :func:`heat`: white at zero, red for positive and blue for negative values."""
    share = _normalized(values, limit).clamp(-1, 1)[..., None]
    positive, negative = torch.tensor(to_rgb(POSITIVE)), torch.tensor(to_rgb(NEGATIVE))
    colors = 1 - share.abs() * (1 - torch.where(share > 0, positive, negative))
    return _mask_non_finite(colors.float().permute(2, 0, 1), values)


def overlay(
    photograph: Tensor,
    values: Tensor,
    limit: float,
    alpha: float = 0.9,
    colors: Callable[[Tensor, float], Tensor] = heat,
) -> Tensor:
    """Blend the colors of a map over a darkened grayscale photograph ``(C, H, W)``.

    The opacity is proportional to the absolute value, ``alpha`` at the limit; non-finite values are black.
    """
    image = photograph.detach().cpu().float()
    gray = image[0]
    if len(image) == 3:
        gray = (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(0)
    opacity = alpha * _normalized(values, limit).abs().clamp(max=1)
    opacity = opacity.masked_fill(~values.detach().cpu().isfinite(), 1.0)
    return ((1 - opacity) * 0.7 * gray + opacity * colors(values, limit)).float()


def _mask_non_finite(picture: Tensor, values: Tensor) -> Tensor:
    """Set the pixels of non-finite values to black, in place."""
    return picture.mul_(values.detach().cpu().isfinite())


def _normalized(values: Tensor, limit: float) -> Tensor:
    """Divide by the limit; non-finite values become 0."""
    values = values.detach().cpu().double().nan_to_num(0.0)
    if limit > 0:
        return values / limit
    return torch.zeros_like(values)


# -- differences


def difference(image: Tensor, source: Tensor, times: float = 1.0) -> tuple[Tensor, float]:
    """Return the difference image ``0.5 + times * (image - source)`` ``(3, H, W)``, and the fraction of clipped values.

    The values are clipped to [0, 1]; no change is mid-gray. Non-finite values count as clipped; NaN is black.
    """
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


# -- pictures for people


def enlarged(image: Tensor) -> NDArray[np.uint8]:
    """Return an image ``(C, H, W)`` as bytes ``(H, W, 3)``; the pixels of a small one are repeated."""
    pixels = to_uint8(image)
    times = max(1, _SIDE // max(pixels.shape[:2]))
    return pixels.repeat(times, 0).repeat(times, 1)


def side_by_side(images: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Return images ``(C, H, W)`` as bytes in a row on white, :func:`enlarged` and aligned at their upper edges."""
    pictures = [enlarged(image) for image in images]
    height = max(picture.shape[0] for picture in pictures)
    row = []
    for picture in pictures:
        padding = ((0, height - picture.shape[0]), (0, _BETWEEN), (0, 0))
        row.append(np.pad(picture, padding, constant_values=255))
    return np.concatenate(row, axis=1)[:, :-_BETWEEN]


# -- similarity


def ssim(image: Tensor, reference: Tensor) -> float:
    """Compute the structural similarity of images ``(C, H, W)`` in [0, 1], averaged over the channels and all full
    windows; NaN below 11 pixels (Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13)."""
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
    return float(rank_correlations(a.flatten()[None], b.flatten()[None]))


def rank_correlations(a: Tensor, b: Tensor) -> Tensor:
    """Compute Spearman's rank correlations of the rows of ``(N, C)`` and ``(M, C)``, ``(N, M)``; 0 of constant rows."""
    correlations: Tensor = standardized_ranks(a) @ standardized_ranks(b).T
    return correlations


def standardized_ranks(rows: Tensor) -> Tensor:
    """Return the mean ranks of each row ``(N, C)``, centered and of length 1, float64; zeros for a constant row."""
    from scipy.stats import rankdata  # takes 0.5 s to import

    values = rows.detach().to("cpu", torch.float64)  # of float32, SciPy 1.18 has float32 ranks
    ranks = torch.from_numpy(rankdata(values.numpy(), axis=1))
    centered = ranks - ranks.mean(1, keepdim=True)
    lengths: Tensor = centered.norm(dim=1, keepdim=True)
    return centered / lengths.clamp(min=1e-12)
