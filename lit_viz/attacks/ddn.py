"""Decoupled direction and norm: a minimal L2 perturbation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, is_adversarial, masked_gradient
from lit_viz.errors import require
from lit_viz.images.formats import FileFormat
from lit_viz.objectives import CrossEntropy
from lit_viz.optim import Cosine, Evaluation, State
from lit_viz.optim.rule import per_slot, unit
from lit_viz.types import Task


class DDN(Attack):
    """Decoupled direction and norm (Rony et al. 2019, arXiv:1811.09600, algorithm 1).

    ``delta <- delta + alpha * g / ||g||_2``, rescaled to the length eps, which becomes ``(1 - gamma) eps`` after a
    success and ``(1 + gamma) eps`` after a failure. Evaluated images are clipped to [0, 1] and rounded to the values of
    the file; delta itself is not rounded, so that steps below half a level accumulate.

    Args:
        init_norm: initial length, in units of [0, 1]; not a bound.
        gamma: relative change of the length in each step.
        alpha: initial length of a step; decays to a hundredth along half a cosine.
        quantize: whether images are rounded to whole numbers of the file, which are multiples of 1/255 of 8 bits.
    """

    minimal: ClassVar[bool] = True

    def __init__(self, init_norm: float = 1.0, gamma: float = 0.05, alpha: float = 1.0, quantize: bool = True) -> None:
        require(0 < init_norm < math.inf, "DDN: init_norm must be positive", init_norm)
        require(0 < gamma < 1, "DDN: gamma must be between 0 and 1", gamma)
        self.init_norm = init_norm
        self.gamma = gamma
        self.alpha = Cosine(alpha, final=0.01)
        self.quantize = quantize
        self.objective = CrossEntropy()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Add the length ``eps`` ``(N,)``, the unrounded perturbation ``change``, the base rate of alpha, and the steps
        from 0 to 1 and the value at 0 of the file's lattice ``(N, C)``."""
        state = super().init(x, tasks) | self.alpha.init(x, tasks)
        state["change"] = torch.zeros_like(x)
        state["eps"] = torch.full((len(x),), self.init_norm, dtype=torch.float64, device=x.device)
        state["steps"], state["zero"] = x.new_zeros(x.shape[:2]), x.new_zeros(x.shape[:2])
        for row, task in enumerate(tasks):
            file_format = FileFormat.of(task.format)
            if not file_format.is_float:
                state["steps"][row] = torch.as_tensor(file_format.steps).flatten()
                state["zero"][row] = torch.as_tensor(file_format.zero).flatten()
        return state

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        fooled = is_adversarial(evaluation.logits, state["goal"], state["targeted"])
        eps = torch.where(fooled, state["eps"] * (1 - self.gamma), state["eps"] * (1 + self.gamma))
        delta = state["change"] + per_slot(self.alpha(state), x) * unit(masked_gradient(evaluation, x, rows))
        moved = (state["source"] + per_slot(eps, x) * unit(delta)).clamp(0, 1)
        state = state | {"eps": eps, "change": moved - state["source"]}
        if self.quantize:
            moved = _rounded(moved, state["steps"], state["zero"])
        return moved, state


def _rounded(images: Tensor, steps: Tensor, zero: Tensor) -> Tensor:
    """Round images ``(N, C, ...)`` to a lattice, given ``(N, C)``; images without steps stay as they are."""
    shape = (*steps.shape, *[1] * (images.ndim - 2))
    steps, zero = steps.view(shape), zero.view(shape)
    levels = (images * steps + zero).round() - zero
    return torch.where(steps > 0, levels / steps, images)
