"""How faithful is a map to the network? Pixels are taken away, photographs moved a little, and the network is asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_viz.images.fitting import Box
from lit_viz.rng import Draws

#: Images ``(M, C, H, W)`` -> what the network gives the class, ``(M,)``.
Score = Callable[[Tensor], Tensor]
#: Images ``(M, C, H, W)`` -> their maps ``(M, ...)``.
Explain = Callable[[Tensor], Tensor]

#: Pixels from a true box, at which a map still points at it (Zhang et al. 2018, arXiv:1608.00507, section 4.1).
POINTING_TOLERANCE = 15.0


@dataclass(frozen=True)
class Curve:
    """A score while pixels are replaced.

    Attributes:
        shares: ``(S + 1,)`` of the pixels that are replaced, from 0 to 1.
        scores: ``(S + 1,)``.
    """

    shares: Tensor
    scores: Tensor

    @property
    def area(self) -> float:
        """The area under the curve by the trapezoidal rule, both ends included: the score's mean over the shares."""
        return float(torch.trapezoid(self.scores, self.shares))


def order(saliency: Tensor) -> Tensor:
    """Return the places ``(H * W,)`` in a map ``(H, W)``, most salient first; of equal ones the first in reading."""
    return saliency.flatten().argsort(descending=True, stable=True)


@torch.no_grad()
def replacement_curve(
    score: Score, start: Tensor, end: Tensor, saliency: Tensor, *, steps: int = 32, batch: int = 16
) -> Curve:
    """Follow the score while pixels of ``start`` are replaced by those of ``end``, the most salient first.

    From the photograph to an image that says nothing this is *deletion*: the sooner the score falls, the smaller the
    area. From a blurred image to the photograph it is *insertion*: the sooner it rises, the larger the area (Petsiuk
    et al. 2018, arXiv:1806.07421, section 4.2; there with 224 steps of 224 pixels).

    Costs ``steps + 1`` evaluations, forward only.

    Args:
        score: of the class that the map explains.
        start, end: ``(C, H, W)``.
        saliency: ``(H, W)``; all channels of a pixel are replaced together.
        steps: of equal size, up to rounding; never more than there are pixels.
        batch: images that are evaluated at once, which bounds the memory.
    """
    pixels = saliency.numel()
    counts = torch.linspace(0, pixels, min(steps, pixels) + 1, dtype=torch.float64).round().long().to(start.device)
    places = torch.empty(pixels, dtype=torch.long, device=start.device)
    places[order(saliency).to(start.device)] = torch.arange(pixels, device=start.device)
    turns = places.view(1, 1, *saliency.shape)
    scores = [
        score(torch.where(turns < counts[first : first + batch].view(-1, 1, 1, 1), end, start))
        for first in range(0, len(counts), batch)
    ]
    return Curve((counts / pixels).double().cpu(), torch.cat(scores).double().cpu())


def max_sensitivity(
    explain: Explain, x: Tensor, attribution: Tensor, draws: Draws, *, radius: float = 0.02, batch: int = 8
) -> float:
    """Return ``max |A(x + d) - A(x)| / |A(x)|`` over random ``d``: how much of a map a tiny change of the photograph
    may change (Yeh et al. 2019, arXiv:1901.09392, section 4; relative as in Captum).

    ``d`` is uniform in the max-norm ball, and the image it leads to is kept in [0, 1]. The maximum grows with the
    number of draws: only values of the same number and radius can be compared. Costs as many maps as there are draws.

    Args:
        explain: the method, with the same draws of its own for every image.
        x: the photograph ``(C, H, W)``.
        attribution: its map ``A(x)``, as ``explain`` gives it.
        draws: one row a perturbation.
        radius: in units of [0, 1].
        batch: images that are explained at once.

    Returns:
        0 where no map changes; infinite where the photograph's own map is zero and another one is not.
    """
    changes = []
    for first in range(0, len(draws), batch):
        rows = draws.rows(range(first, min(first + batch, len(draws))))
        near = (x + rows.uniform("perturbation", -radius, radius, x.shape).to(x.dtype)).clamp(0, 1)
        changes.append((explain(near).double() - attribution.double()).flatten(1).norm(dim=1))
    largest = torch.cat(changes).max()
    return 0.0 if largest == 0 else float(largest / attribution.double().norm())


def is_pointing_hit(saliency: Tensor, boxes: Sequence[Box], tolerance: float = POINTING_TOLERANCE) -> bool:
    """Return whether the map points at one of the boxes: its maximum lies inside, or near (the pointing game; Zhang et
    al. 2018, arXiv:1608.00507, section 4.1). Costs no evaluation.

    Args:
        saliency: ``(H, W)``; of several maxima the first in reading order counts.
        boxes: (left, top, right, bottom) in pixels of the map, whose first pixel spans 0 to 1.
        tolerance: largest distance of the pixel's centre from the box, in pixels.
    """
    row, column = divmod(int(order(saliency)[0]), saliency.shape[1])
    x, y = column + 0.5, row + 0.5
    return any(
        math.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom)) <= tolerance
        for left, top, right, bottom in boxes
    )
