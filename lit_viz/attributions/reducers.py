"""Channel reducers: from an attribution with channels to a saliency map with one value per pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_viz.errors import LitVizError, did_you_mean


@dataclass(frozen=True)
class Reducer:
    """Reduction of the channels of an attribution.

    Attributes:
        apply: ``(..., C, H, W)`` -> ``(..., H, W)``.
        description: phrase for figure captions.
        signed: whether maps can be negative and need diverging colors.
    """

    apply: Callable[[Tensor], Tensor]
    description: str
    signed: bool = False


def _above_least(attribution: Tensor) -> Tensor:
    total = attribution.sum(-3)
    return total - total.where(total.isfinite(), torch.inf).amin((-2, -1), keepdim=True)


REDUCERS = {
    "max_abs": Reducer(lambda a: a.abs().amax(-3), "maximum absolute value over the channels"),
    "sum_abs": Reducer(lambda a: a.abs().sum(-3), "sum of the absolute values over the channels"),
    "l2": Reducer(lambda a: torch.linalg.vector_norm(a, dim=-3), "Euclidean norm over the channels"),
    "positive": Reducer(lambda a: a.sum(-3).clamp(min=0), "positive part of the sum over the channels"),
    "above_least": Reducer(_above_least, "sum over the channels minus its minimum over the pixels"),
    "sum": Reducer(lambda a: a.sum(-3), "sum over the channels", signed=True),
}
"""Channel reducers by name; ``max_abs`` is that of Simonyan et al. 2014 (arXiv:1312.6034, section 3.1)."""
#: The reducer of pictures with both signs.
SIGNED = "sum"


def reducer(how: str) -> Reducer:
    """Return a channel reducer by name; raise :class:`LitVizError` if there is none."""
    if how not in REDUCERS:
        raise LitVizError(f"reducer must be one of {', '.join(REDUCERS)}, got {how!r}{did_you_mean(how, REDUCERS)}")
    return REDUCERS[how]


def reduce_channels(attribution: Tensor, how: str = "max_abs") -> Tensor:
    """Reduce attributions to maps with one value per pixel.

    Args:
        attribution: ``(N, C, H, W)``, or ``(C, H, W)`` for one image; C = 1 for spatial methods.
        how: key of ``REDUCERS``. For C = 1, ``sum`` is the identity, ``positive`` clamps at zero, ``above_least``
            subtracts the minimum, and the others take the absolute value.

    Returns:
        ``(N, H, W)``, N = 1 for one image; NaN where a channel is NaN.
    """
    maps = reducer(how).apply(attribution)
    if maps.ndim == 2:
        return maps[None]
    return maps


def to_one_channel(attribution: Tensor, how: str) -> Tensor:
    """Reduce the channels of attributions that have several; one channel keeps its sign.

    Args:
        attribution: ``(..., C, H, W)``.
        how: key of ``REDUCERS``.

    Returns:
        ``(..., 1, H, W)``.
    """
    if attribution.shape[-3] == 1:
        return attribution
    return reducer(how).apply(attribution).unsqueeze(-3)
