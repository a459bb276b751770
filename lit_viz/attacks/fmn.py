"""Fast minimum-norm attack: DDN with an initial length estimated from the distance to the boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, is_adversarial, masked_gradient
from lit_viz.attacks.norms import L2, LINF, NormName, norm_of
from lit_viz.errors import require
from lit_viz.objectives import Margin
from lit_viz.optim import Cosine, Evaluation, State
from lit_viz.optim.rule import per_slot, unit
from lit_viz.types import Task

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
        if alpha is None:
            alpha = _ALPHA[self.norm]
        self.alpha = Cosine(alpha, final=0.01)
        self.gamma = Cosine(gamma, final=0.02)
        self.objective = Margin()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        eps = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return super().init(x, tasks) | self.alpha.init(x, tasks) | {"eps": eps}

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
        return self.norm.project(moved, source, eps), state | {"eps": eps}
