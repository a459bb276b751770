"""Decoupling direction and norm: the smallest Euclidean perturbation that fools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, is_adversarial, masked_gradient
from lit_viz.errors import LitVizError
from lit_viz.objectives import CrossEntropy
from lit_viz.optim import Cosine, Evaluation, State
from lit_viz.optim.rule import per_slot, unit
from lit_viz.types import Task

_LEVELS = 255  # steps from black to white in 8 bits


class DDN(Attack):
    """Decoupled direction and norm (Rony et al. 2019, arXiv:1811.09600, algorithm 1).

    The perturbation goes ``alpha * g / ||g||_2`` further and is rescaled to the length eps, which shrinks by gamma
    where the image fooled the network and grows by gamma where it didn't. The image is brought into [0, 1] and onto the
    8-bit lattice, so that what fools is what a file holds; the perturbation is carried on unrounded, so that steps
    below half a level add up.

    Args:
        init_norm: length at the start, in units of [0, 1]; it limits nothing, so it isn't called eps.
        gamma: by what part the length changes a step.
        alpha: length of a step at the start; goes to a hundredth of it along half a cosine.
        quantize: whether images are rounded to multiples of 1/255.

    Raises:
        LitVizError: for values that make no attack.
    """

    iterations: int = 100
    minimal: ClassVar[bool] = True

    def __init__(self, init_norm: float = 1.0, gamma: float = 0.05, alpha: float = 1.0, quantize: bool = True) -> None:
        if not 0 < init_norm < math.inf:
            raise LitVizError(f"init_norm {init_norm} of DDN is no length: give a positive number such as 1.0.")
        if not 0 < gamma < 1:
            raise LitVizError(
                f"gamma {gamma} of DDN is no part of a length: give a number between 0 and 1 such as 0.05."
            )
        self.init_norm = init_norm
        self.gamma = gamma
        self.alpha = Cosine(alpha, final=0.01)
        self.quantize = quantize
        self.objective = CrossEntropy()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return besides: ``eps`` ``(N,)``, the unrounded perturbation ``change``, and the base rate of alpha."""
        state = {**super().init(x, tasks), **self.alpha.init(x, tasks)}
        lengths = torch.full((len(x),), self.init_norm, dtype=torch.float64, device=x.device)
        return {**state, "change": torch.zeros_like(x), "eps": lengths}

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Turn the perturbation, then set its length."""
        fooled = is_adversarial(evaluation.logits, state["goal"], state["targeted"])
        eps = torch.where(fooled, state["eps"] * (1 - self.gamma), state["eps"] * (1 + self.gamma))
        turned = state["change"] + per_slot(self.alpha(state), x) * unit(masked_gradient(evaluation, x, rows))
        moved = (state["source"] + per_slot(eps, x) * unit(turned)).clamp(0, 1)
        state = {**state, "eps": eps, "change": moved - state["source"]}
        return ((moved * _LEVELS).round() / _LEVELS if self.quantize else moved), state
