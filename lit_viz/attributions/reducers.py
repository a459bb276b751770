"""From an attribution to colours: one number a pixel, a limit, and a colour map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.colors import to_rgb
from torch import Tensor

from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.images.modes import LUMA

_RED, _BLUE = "#ca0020", "#0571b0"  # ColorBrewer's RdBu; told apart also by the colour-blind


@dataclass(frozen=True)
class Reducer:
    """What becomes of the colour channels.

    Attributes:
        apply: ``(..., C, H, W)`` -> ``(..., H, W)``.
        said: the same in words, for a caption.
        signed: whether maps may be negative, and are shown in diverging colours.
    """

    apply: Callable[[Tensor], Tensor]
    said: str
    signed: bool = False


def _above_least(attribution: Tensor) -> Tensor:
    total = attribution.sum(-3)
    return total - total.where(total.isfinite(), torch.inf).amin((-2, -1), keepdim=True)


REDUCERS = {
    "max_abs": Reducer(lambda a: a.abs().amax(-3), "largest absolute value over the channels"),
    "sum_abs": Reducer(lambda a: a.abs().sum(-3), "sum of the absolute values over the channels"),
    "l2": Reducer(lambda a: torch.linalg.vector_norm(a, dim=-3), "Euclidean norm over the channels"),
    "positive": Reducer(lambda a: a.sum(-3).clamp(min=0), "sum over the channels, where it is positive"),
    "above_least": Reducer(_above_least, "sum over the channels, less that of the least pixel"),
    "sum": Reducer(lambda a: a.sum(-3), "sum over the channels", signed=True),
}
"""How channels are reduced, by name; ``max_abs`` is that of Simonyan et al. 2014 (arXiv:1312.6034, section 3.1)."""


def reducer(how: str) -> Reducer:
    """Return a reducer by name.

    Raises:
        LitVizError: there is none of that name.
    """
    if how not in REDUCERS:
        near = did_you_mean(how, REDUCERS)
        raise LitVizError(f"no channel reducer is called {how!r}: choose {', '.join(REDUCERS)}{near}")
    return REDUCERS[how]


def reduce_channels(attribution: Tensor, how: str = "max_abs") -> Tensor:
    """Return maps of one number a pixel.

    Args:
        attribution: ``(N, C, H, W)``, or ``(C, H, W)`` of one image; C is 1 for a spatial method.
        how: a name of ``REDUCERS``. Of a single channel, ``sum`` is that channel, ``positive`` what of it speaks for
            the class, ``above_least`` how much more a pixel has than the least one, and every other its absolute value.

    Returns:
        ``(N, H, W)``, N = 1 for one image; NaN where a channel is NaN.
    """
    maps = reducer(how).apply(attribution)
    return maps[None] if maps.ndim == 2 else maps


def clip_limits(maps: Sequence[Tensor], quantile: float = 0.995, shared: bool = True) -> list[float]:
    """Return the value at which the colours of each map end.

    A gradient has a few outliers, beside which all else is black. They are clipped by their number: the limit is a
    quantile of the absolute values of the *pixels*, those that are not finite left out. It is the largest value where
    that quantile is zero (a map with few pixels that are not), and 0 for a map that is zero.

    Args:
        maps: ``(H, W)`` each; an ``(N, H, W)`` tensor will do.
        quantile: in [0, 1]; 1 clips nothing.
        shared: one limit, from the pixels of all maps together, so that they can be compared; else one a map.
    """
    if not 0 <= quantile <= 1:
        raise LitVizError(f"a quantile lies between 0 and 1, and is not {quantile:g}")
    values = [
        magnitudes[np.isfinite(magnitudes)] for magnitudes in (m.detach().cpu().double().abs().numpy() for m in maps)
    ]
    if shared:
        return [_limit(np.concatenate(values), quantile)] * len(values) if values else []
    return [_limit(of_map, quantile) for of_map in values]


def _limit(values: np.ndarray, quantile: float) -> float:
    if values.size == 0:
        return 0.0
    return _quantile(values, quantile) or float(values.max())


def _quantile(values: np.ndarray, quantile: float) -> float:
    """Return what ``np.quantile`` does, ten times as fast: it sorts out three places, of which one will do."""
    place = quantile * (values.size - 1)
    below = int(place)
    sorted_out = np.partition(values, below)
    lower = float(sorted_out[below])
    upper = float(sorted_out[below + 1 :].min(initial=np.inf)) if place > below else lower
    return lower + (place - below) * (upper - lower)


def heat(values: Tensor, limit: float) -> Tensor:
    """Return a map in matplotlib's "hot": black, red, yellow, white.

    Args:
        values: ``(H, W)``; what is negative shows as zero.
        limit: at least this is white; 0 makes all black (see :func:`clip_limits`).

    Returns:
        ``(3, H, W)`` in [0, 1]; black where a value is not finite.
    """
    shades = _hot()
    places = (_share(values, limit).clamp(0, 1) * shades.shape[1]).long().clamp(max=shades.shape[1] - 1)
    return _finite(torch.stack([channel.take(places) for channel in shades]), values)


@cache
def _hot() -> Tensor:
    """Return all colours of the map ``(3, 256)``; to look them up here is ten times as fast as by matplotlib."""
    of_all = mpl.colormaps["hot"]
    return torch.from_numpy(of_all(np.arange(of_all.N))[:, :3]).float().T.contiguous()


def signed_heat(values: Tensor, limit: float) -> Tensor:
    """Return a map in diverging colours: white at zero, red above it and blue below.

    Args:
        values: ``(H, W)``.
        limit: the colours are full at plus and minus this.

    Returns:
        ``(3, H, W)`` in [0, 1]; black where a value is not finite.
    """
    share = _share(values, limit).clamp(-1, 1)[..., None]
    above, below = (torch.tensor(to_rgb(colour)) for colour in (_RED, _BLUE))
    colours = 1 - share.abs() * (1 - torch.where(share > 0, above, below))
    return _finite(colours.float().permute(2, 0, 1), values)


def overlay(
    photograph: Tensor,
    values: Tensor,
    limit: float,
    alpha: float = 0.9,
    colours: Callable[[Tensor, float], Tensor] = heat,
) -> Tensor:
    """Return the heat over the photograph, which has lost its colours and some of its light.

    Args:
        photograph: ``(C, H, W)`` in [0, 1], C = 3 or 1.
        values: ``(H, W)``.
        limit: as for :func:`heat`.
        alpha: how much the heat covers at the limit; it grows with the map, so that the photograph is whole
            where nothing was found.
        colours: :func:`heat` or :func:`signed_heat`.

    Returns:
        ``(3, H, W)`` in [0, 1]; black where a value is not finite.

    Raises:
        LitVizError: the map has not the size of the photograph.
    """
    if photograph.shape[-2:] != values.shape:
        sizes = [" x ".join(map(str, shape)) for shape in (values.shape, photograph.shape[-2:])]
        raise LitVizError(f"a map of {sizes[0]} pixels can't be laid over a photograph of {sizes[1]}")
    image = photograph.detach().cpu().float()
    grey = (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(0) if len(image) == 3 else image[0]
    cover = alpha * _share(values, limit).abs().clamp(max=1)
    cover = cover.masked_fill(~values.detach().cpu().isfinite(), 1.0)
    return ((1 - cover) * 0.7 * grey + cover * colours(values, limit)).float()


def _finite(picture: Tensor, values: Tensor) -> Tensor:
    """Return the picture ``(3, H, W)``, a new one, black where the value isn't finite."""
    return picture.mul_(values.detach().cpu().isfinite())


def _share(values: Tensor, limit: float) -> Tensor:
    """Return the values as shares of the limit; 0 where there is none."""
    values = values.detach().cpu().double().nan_to_num(0.0)
    return values / limit if limit > 0 else torch.zeros_like(values)
