"""How far is it, to first order, to where the network changes its mind?"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.attacks.feasible import Norm
from lit_viz.optim.rule import norm


def to_boundary(gap: Tensor, slope: Tensor, ball: Norm) -> Tensor:
    """Return the distances ``|gap| / ||slope||`` ``(N,)`` at which a linear gap closes, infinite where nothing slopes.

    Args:
        gap: differences of two logits ``(N,)``.
        slope: their gradients ``(N, C, H, W)``, measured in the dual of the norm: L1 for linf, L2 for l2.
        ball: the norm of the distances.
    """
    steepness = norm(slope, 1 if ball == "linf" else 2)
    return torch.where(steepness > 0, gap.abs() / steepness, torch.inf)


def ways(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest slopes up which the pixels of ``x`` ``(N, C, H, W)`` can go.

    Slopes clamped to them are zero where a way up them would leave [0, 1] at once, at black pixels down and at white
    ones up: a pixel that can't go along brings no boundary nearer.
    """
    x = x.contiguous(memory_format=torch.channels_last)  # as a network's slopes are
    return torch.where(x <= 0, 0, -torch.inf), torch.where(x >= 1, 0, torch.inf)
