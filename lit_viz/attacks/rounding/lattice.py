"""The 8-bit lattice: the images that a file can hold, and those of them that an attack may give.

Levels are whole numbers from 0 to 255, held in float64, so that lengths are exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.attacks.norms import ROUNDING, Norm
from lit_viz.images.reading import decode, encode_png

LEVELS = 255  # steps from black to white
# A photograph of 8 bits is no whole number of 255ths in float32, nor is its radius; so much they may be off.
_OFF_LATTICE = 1e-4  # of a level
_RADIUS = 1e-6  # of the radius


def holds_no_other(eps: float) -> bool:
    """Return whether a ball of this radius, in either norm, holds no 8-bit image but its centre."""
    return float(eps) * LEVELS < 1 - ROUNDING


def levels_of(image: Tensor) -> Tensor:
    """Return an image in [0, 1] in units of a level, on the CPU in float64; whole numbers if it lies on the lattice."""
    levels = image.detach().cpu().double() * LEVELS
    whole = levels.round()
    return torch.where((levels - whole).abs() < _OFF_LATTICE, whole, levels)


def image_of(levels: Tensor) -> Tensor:
    """Return levels as an image in [0, 1], float32, bit-equal to what is decoded from a file."""
    return levels.float() / LEVELS


def filed(levels: Tensor) -> Tensor:
    """Return what a reader of the PNG with these levels gets, ``(C, H, W)`` float32 in [0, 1]."""
    return decode(encode_png(image_of(levels)))


class LatticeBall:
    """The images on the lattice that are no further than eps from a photograph.

    Args:
        source: the photograph ``(C, H, W)`` in [0, 1]; it needn't lie on the lattice itself.
        norm: of the ball; None if everything in [0, 1] is allowed.
        eps: its radius in units of [0, 1].

    Attributes:
        source: in levels.
        low, high: the lowest and the highest level that each value may have.
    """

    def __init__(self, source: Tensor, norm: Norm | None = None, eps: float | None = None) -> None:
        if (norm is None) != (eps is None):
            raise ValueError("a ball has a norm and a radius, or neither")
        self.source = levels_of(source)
        self._radius = torch.inf if eps is None else eps * LEVELS * (1 + _RADIUS)
        self._norm = norm
        reach = self._radius if norm == "linf" else torch.inf
        self.low = (self.source - reach).ceil().clamp(min=0)
        self.high = (self.source + reach).floor().clamp(max=LEVELS)

    def nearest(self, image: Tensor) -> Tensor:
        """Return the levels nearest to an image ``(C, H, W)``; in an L2 ball these may lie a little outside.

        Values that are no numbers become black.
        """
        return levels_of(image).nan_to_num(0.0).round().clamp(self.low, self.high)

    def contains(self, levels: Tensor) -> bool:
        """Return whether levels lie in the ball."""
        within = bool(((levels >= self.low) & (levels <= self.high)).all())
        return within and self._excess(levels) <= 0

    def shorten(self, levels: Tensor, slope: Tensor) -> Tensor:
        """Return levels that lie in the L2 ball: some values step back towards the photograph, a level each.

        A step back shortens the squared length of the change d by ``2 |d| - 1``. Those go first that lower the margin
        the least for it, as few as are enough: the greedy solution of a knapsack problem, which where every step lowers
        the margin costs at most its last step more than the best (Dantzig 1957, doi:10.1287/opre.5.2.266). One pass is
        enough for the rounding of an image in the ball around an image on the lattice. Where nothing on the lattice
        lies in the ball, what is nearest to the photograph is returned.

        Args:
            levels: ``(C, H, W)``.
            slope: of the margin by the level of each value.
        """
        while (excess := self._excess(levels)) > 0:
            change = levels - self.source
            shorter = (2 * change.abs() - 1).flatten()
            loss = (slope * change.sign()).flatten()
            order = torch.where(shorter > 0, loss / shorter, torch.inf).argsort(stable=True)[: int((shorter > 0).sum())]
            if len(order) == 0:
                break
            enough = int((shorter[order].cumsum(0) < excess).sum()) + 1
            back = torch.zeros_like(shorter).index_fill(0, order[:enough], 1.0)
            levels = levels - back.view_as(change) * change.sign()
        return levels

    def _excess(self, levels: Tensor) -> float:
        """Return by how much the squared length passes the radius' square."""
        if self._norm != "l2":
            return 0.0
        return float((levels - self.source).square().sum()) - self._radius**2
