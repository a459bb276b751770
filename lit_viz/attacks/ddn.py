"""Minimal perturbations by decoupled direction and norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, is_adversarial, masked_gradient
from lit_viz.attacks.norms import L2, LINF, NormName, norm_of
from lit_viz.attacks.rounding import LEVELS
from lit_viz.errors import require
from lit_viz.objectives import CrossEntropy, Margin
from lit_viz.optim import Cosine, Evaluation, State
from lit_viz.optim.rule import per_slot, unit
from lit_viz.types import Task


class DDN(Attack):
    """Decoupled direction and norm (Rony et al. 2019, arXiv:1811.09600, algorithm 1).

    ``delta <- delta + alpha * g / ||g||_2``, rescaled to the length eps, which becomes ``(1 - gamma) eps`` after a
    success and ``(1 + gamma) eps`` after a failure. Evaluated images are clipped to [0, 1] and rounded to 8 bits; delta
    itself is not rounded, so that steps below half a level accumulate.

    Args:
        init_norm: initial length, in units of [0, 1]; not a bound.
        gamma: relative change of the length in each step.
        alpha: initial length of a step; decays to a hundredth along half a cosine.
        quantize: whether images are rounded to multiples of 1/255.
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
        """Add the length ``eps`` ``(N,)``, the unrounded perturbation ``change`` and the base rate of alpha."""
        state = {**super().init(x, tasks), **self.alpha.init(x, tasks)}
        eps = torch.full((len(x),), self.init_norm, dtype=torch.float64, device=x.device)
        return {**state, "change": torch.zeros_like(x), "eps": eps}

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        fooled = is_adversarial(evaluation.logits, state["goal"], state["targeted"])
        eps = torch.where(fooled, state["eps"] * (1 - self.gamma), state["eps"] * (1 + self.gamma))
        delta = state["change"] + per_slot(self.alpha(state), x) * unit(masked_gradient(evaluation, x, rows))
        moved = (state["source"] + per_slot(eps, x) * unit(delta)).clamp(0, 1)
        state = {**state, "eps": eps, "change": moved - state["source"]}
        return ((moved * LEVELS).round() / LEVELS if self.quantize else moved), state


_ALPHA = {L2: 1.0, LINF: 10.0}  # default L2 length of the first step, from the authors' code
_BEYOND = 1 + 1e-3  # factor of the estimated distance, so that a linear boundary is crossed
_SHORTER = 1 - 1e-6  # factor of the smallest success: a success of equal length differs by rounding only


class FMN(Attack):
    """Fast minimum-norm attack (Pintor et al. 2021, arXiv:2102.12827, algorithm 1).

    ``delta <- delta + alpha * g / ||g||_2`` with g the gradient of the margin, projected onto the ball of radius eps
    and into [0, 1]. Before the first success ``eps = ||delta|| + |margin| / ||g||_*``, the distance of the linearized
    boundary. From then on eps is ``min((1 - gamma) eps, smallest success)`` after a success, ``(1 + gamma) eps`` after
    a failure.

    Args:
        norm: the minimized norm.
        alpha: initial L2 length of a step; decays to a hundredth along half a cosine. 1 for l2 and 10 for linf by
            default; a task's option ``lr`` overrides it.
        gamma: initial relative change of eps; decays to a fiftieth along half a cosine.
    """

    minimal: ClassVar[bool] = True

    def __init__(self, norm: NormName = "l2", alpha: float | None = None, gamma: float = 0.05) -> None:
        require(0 < gamma < 1, "FMN: gamma must be between 0 and 1", gamma)
        self.norm = norm_of(norm)
        self.alpha = Cosine(_ALPHA[self.norm] if alpha is None else alpha, final=0.01)
        self.gamma = Cosine(gamma, final=0.02)
        self.objective = Margin()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        eps = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return {**super().init(x, tasks), **self.alpha.init(x, tasks), "eps": eps}

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        source = state["source"]
        g = masked_gradient(evaluation, x, rows)
        distance = self.norm.distance_to_boundary(evaluation.score, g)
        estimate = _BEYOND * (self.norm.length(x - source) + distance)
        gamma = self.gamma.lr * self.gamma.factor(state["iteration"].double() / state["iterations"])
        wider = torch.where(state["fooled"], state["eps"] * (1 + gamma), estimate)
        narrower = torch.minimum(state["eps"] * (1 - gamma), state["size"] * _SHORTER)
        fooled = is_adversarial(evaluation.logits, state["goal"], state["targeted"])
        eps = torch.where(fooled, narrower, wider)
        eps = torch.minimum(eps, self.norm.length(torch.maximum(source, 1 - source)))  # the largest within [0, 1]
        moved = x + per_slot(self.alpha(state), x) * unit(g)
        return self.norm.project(moved, source, eps), {**state, "eps": eps}
