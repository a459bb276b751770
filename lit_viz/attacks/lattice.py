"""The 8-bit lattice: images that a file can hold, and balls of them.

Levels are whole numbers from 0 to 255 in float64, so that lengths are exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_viz.attacks.norms import TOLERANCE, Norm
from lit_viz.images.reading import decode, encode_png

LEVELS = 255  # steps from black to white
#: Tolerances for float32: an 8-bit image is not exactly a multiple of 1/255, nor is a radius.
_OFF_LATTICE = 1e-4  # in levels
_RADIUS = 1e-6  # relative to the radius


def is_singleton(eps: float) -> bool:
    """Return whether a ball of this radius holds no 8-bit image but its center, in any norm."""
    return eps * LEVELS < 1 - TOLERANCE


def levels_of(image: Tensor) -> Tensor:
    """Return an image in [0, 1] in levels, float64 on the CPU; whole numbers if it is on the lattice."""
    levels = image.detach().cpu().double() * LEVELS
    whole = levels.round()
    return torch.where((levels - whole).abs() < _OFF_LATTICE, whole, levels)


def image_of(levels: Tensor) -> Tensor:
    """Return levels as an image in [0, 1], float32, bit-equal to the decoded file."""
    return levels.float() / LEVELS


def decoded_png(levels: Tensor) -> Tensor:
    """Return the image ``(C, H, W)``, float32 in [0, 1], that is decoded from a PNG of these levels."""
    return decode(encode_png(image_of(levels)))


class LatticeBall:
    """Images on the lattice at a distance of at most eps from a source image ``(C, H, W)``, which may be off it.

    Without ``norm`` and ``eps`` all of [0, 1] is feasible. ``source`` and the bounds ``low`` and ``high`` of each value
    are in levels.
    """

    def __init__(self, source: Tensor, norm: Norm | None = None, eps: float | None = None) -> None:
        self.source = levels_of(source)
        self._radius = math.inf if eps is None else eps * LEVELS * (1 + _RADIUS)
        self._norm = norm
        bound = math.inf if norm is None else norm.value_bound(self._radius)
        self.low = (self.source - bound).ceil().clamp(min=0)
        self.high = (self.source + bound).floor().clamp(max=LEVELS)

    def nearest(self, image: Tensor) -> Tensor:
        """Return the nearest levels of an image, which may be slightly outside an L2 ball; NaN becomes black."""
        return levels_of(image).nan_to_num(0.0).round().clamp(self.low, self.high)

    def contains(self, levels: Tensor) -> bool:
        """Return whether the levels are in the ball."""
        within = bool(((levels >= self.low) & (levels <= self.high)).all())
        return within and self._excess(levels) <= 0

    def shorten(self, levels: Tensor, gradient: Tensor) -> Tensor:
        """Return levels inside the ball, by moving some values one level towards the source.

        Values are selected greedily by the least loss of margin, from ``gradient``, for the removed excess, a knapsack
        problem: the loss exceeds the optimum by at most that of one step (Dantzig 1957, doi:10.1287/opre.5.2.266). A
        single pass suffices for the rounding of an image in a ball around a lattice image. If the ball holds no lattice
        image, the result is the nearest to the source.
        """
        if self._norm is None:
            return levels
        while (excess := self._excess(levels)) > 0:
            change = levels - self.source
            removed = self._norm.excess_removed(change).flatten()
            loss = (gradient * change.sign()).flatten()
            cost = torch.where(removed > 0, loss / removed, torch.inf)
            order = cost.argsort(stable=True)[: int((removed > 0).sum())]
            if len(order) == 0:
                break
            count = int((removed[order].cumsum(0) < excess).sum()) + 1
            step = torch.zeros_like(removed).index_fill(0, order[:count], 1.0)
            levels = levels - step.view_as(change) * change.sign()
        return levels

    def _excess(self, levels: Tensor) -> float:
        return 0.0 if self._norm is None else self._norm.excess(levels - self.source, self._radius)
