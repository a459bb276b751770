"""What the score is when only random parts of the photograph are seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_viz.attributions.base import gather_rows, keys, relative
from lit_viz.attributions.sampling import Sampling
from lit_viz.errors import LitVizError
from lit_viz.objectives import Objective, Probability
from lit_viz.optim import Evaluate, State
from lit_viz.rng import Draws, Key
from lit_viz.types import Task
from lit_viz.utils.device import to_list


class RISE(Sampling):
    """``sum of score(x * M) * M / (n p)`` over n random masks M of mean p (Petsiuk et al. 2018, arXiv:1806.07421,
    equation 6): the mean score of the class when a pixel is seen.

    The score is the class's softmax probability. It is the image in [0, 1] that is masked: what is hidden turns black.
    Forward only. The paper takes 4000 to 8000 masks; how far fewer are off is told by the standard error.

    Args:
        grid: cells along a side of a mask, before it is enlarged.
        p: how likely a cell is seen.
    """

    evaluations = 1000
    spatial: ClassVar[bool] = True
    reducer: ClassVar[str] = "above_least"  # every pixel has the mean score, and some more
    objective: Objective = Probability()

    def __init__(self, grid: int = 8, p: float = 0.5) -> None:
        if grid < 1:
            raise LitVizError(f"the masks of RISE need 1 or more cells along a side, not {grid}: 8 is usual.")
        if not 0 < p < 1:
            raise LitVizError(
                f"a cell of RISE's masks is seen with a probability between 0 and 1, not {p}: 0.5 is usual."
            )
        self.grid = grid
        self.p = p

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return an empty map a slot.

        Raises:
            LitVizError: x is no batch of images.
        """
        if x.ndim != 4:
            raise LitVizError(f"RISE masks images (N, C, H, W), not {tuple(x.shape)}: choose another method.")
        return super().init(x, tasks)

    def samples(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> Tensor:
        """Return the masks, times the score of what they leave over p."""
        seen = masks(keys(state, slots, numbers), x, self.grid, self.p)
        scores = evaluate(gather_rows(x, slots) * seen, gradient=False, slots=slots).score
        return scores.view(-1, 1, 1, 1).to(x.dtype) * seen / self.p

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return the mean's standard error as for every mean; its ``error`` is relative to what the map has above its
        least pixel, as it is drawn."""
        found = super().uncertainty(x, state)
        above_least = state["mean"] - state["mean"].amin((-2, -1), keepdim=True)
        return {**found, "error": relative(found["standard_error"], above_least)}


def masks(keys: Sequence[Key], x: Tensor, grid: int, p: float) -> Tensor:
    """Return random masks ``(M, 1, H, W)`` in [0, 1], whose mean is ``p`` at every pixel (section 3.2 of the paper).

    A grid of zeros and ones is enlarged bilinearly, so that it is a cell larger than the image, of which the image is
    cut out at random.

    Args:
        keys: M of them, who draws.
        x: of the images' device, type, height and width.
        grid: cells along a side.
        p: how likely a cell is 1.
    """
    draws = Draws(keys, x.device).scoped("rise")
    cells = (draws.uniform("cells", shape=(1, grid, grid)) < p).to(x.dtype)
    height, width = x.shape[-2:]
    down, right = math.ceil(height / grid), math.ceil(width / grid)
    large = F.interpolate(cells, size=((grid + 1) * down, (grid + 1) * right), mode="bilinear", align_corners=False)
    tops, lefts = to_list(draws.integers("top", 0, down - 1)), to_list(draws.integers("left", 0, right - 1))
    cut = [row[:, t : t + height, u : u + width] for row, t, u in zip(large, tops, lefts, strict=True)]
    return torch.stack(cut)
