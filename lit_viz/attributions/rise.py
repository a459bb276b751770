"""RISE: mean score over random masks of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_viz.attributions.base import MAX_COARSE_ERROR, Sampling, gather_rows, keys
from lit_viz.attributions.terms import SCORES, record_scores
from lit_viz.errors import require
from lit_viz.objectives import Objective, Probability
from lit_viz.optim import Evaluate, State
from lit_viz.rng import Draws, Key
from lit_viz.types import Task
from lit_viz.utils.device import to_list


class RISE(Sampling):
    """``sum of score(x * M) * M / (n p)`` over n random masks M of mean p: mean score given that a pixel is visible.
    Petsiuk et al. 2018, arXiv:1806.07421, equation 6.

    The score is the probability. The image in [0, 1] is masked, so hidden pixels are black. Forward only. The
    paper uses 4000 to 8000 masks; the standard error estimates the accuracy of fewer.

    Args:
        grid: cells along a side of a mask before upsampling.
        p: probability that a cell is visible.
    """

    title = "RISE"
    evaluations = 1000
    spatial = True
    max_error: ClassVar[float] = MAX_COARSE_ERROR
    fewest: ClassVar[int] = 512
    reducer: ClassVar[str] = "above_least"  # every pixel contains the mean score
    objective: Objective = Probability()

    def __init__(self, grid: int = 8, p: float = 0.5) -> None:
        require(grid >= 1, "grid of RISE must be at least 1", grid, hint="8 is usual")
        require(0 < p < 1, "p of RISE must be between 0 and 1", p, hint="0.5 is usual")
        self.grid = grid
        self.p = p

    @property
    def recorded(self) -> str | None:
        return SCORES

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        require(x.ndim == 4, "RISE requires images (N, C, H, W)", f"shape {tuple(x.shape)}")
        return super().init(x, tasks)

    def samples(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> Tensor:
        visible = masks(keys(state, slots, numbers), x, self.grid, self.p)
        scores = evaluate(gather_rows(x, slots) * visible, gradient=False, slots=slots).score
        record_scores(state, slots, numbers, scores)
        return scores.view(-1, 1, 1, 1).to(x.dtype) * visible / self.p

    def pattern(self, maps: Tensor) -> Tensor:
        """Return the maps less their mean over the pixels, since every pixel contains the mean score."""
        return maps - maps.mean((-2, -1), keepdim=True)


def masks(keys: Sequence[Key], x: Tensor, grid: int, p: float) -> Tensor:
    """Draw a mask ``(1, H, W)`` in [0, 1] with mean ``p`` at every pixel per key (section 3.2 of the paper).

    A binary grid is upsampled bilinearly to one cell more than the images ``x``, and cropped at a random position.
    """
    draws = Draws(keys, x.device).scoped("rise")
    cells = (draws.uniform("cells", shape=(1, grid, grid)) < p).to(x.dtype)
    height, width = x.shape[-2:]
    down, right = math.ceil(height / grid), math.ceil(width / grid)
    large = F.interpolate(cells, size=((grid + 1) * down, (grid + 1) * right), mode="bilinear", align_corners=False)
    tops, lefts = to_list(draws.integers("top", 0, down - 1)), to_list(draws.integers("left", 0, right - 1))
    cropped = []
    for mask, top, left in zip(large, tops, lefts, strict=True):
        cropped.append(mask[:, top : top + height, left : left + width])
    return torch.stack(cropped)
