"""Projected gradient descent, with or without momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_viz.attacks.base import masked_gradient
from lit_viz.attacks.budget import ClimbingAttack
from lit_viz.attacks.norms import Norm, steepest
from lit_viz.errors import LitVizError
from lit_viz.objectives import CrossEntropy, Objective
from lit_viz.optim import Evaluation, State
from lit_viz.optim.rule import norm, per_slot
from lit_viz.types import Task

#: The steps together go so many radii far (Madry et al. 2018), so that any point of the ball can be reached and left.
_REACH = 2.5


class PGD(ClimbingAttack):
    """``x <- P(x + alpha * direction(g))`` (Madry et al. 2018, arXiv:1706.06083): the direction is the gradient's sign,
    or the gradient over its length, and P the projection onto what is feasible.

    Args:
        norm, eps, restarts, early_stop: see :class:`~lit_viz.attacks.budget.ClimbingAttack`.
        alpha: length of a step, in the norm, in units of [0, 1]; 2.5 eps over the number of steps unless given.
        momentum: factor mu of the accumulated gradients ``v <- mu * v + g / ||g||_1`` whose direction is taken instead
            (Dong et al. 2018, arXiv:1710.06081, algorithm 1).
        nesterov: takes the direction of ``g / ||g||_1 + mu * v``, so that a step looks ahead as in ``torch.optim.SGD``.
        random_start: whether the first update is a random point of the ball.
        objective: what is maximized; the cross-entropy unless given.

    Raises:
        LitVizError: for values that make no attack.
    """

    iterations: int = 40

    def __init__(
        self,
        norm: Norm = "linf",
        eps: float | None = None,
        alpha: float | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        random_start: bool = True,
        restarts: int = 1,
        early_stop: bool = True,
        objective: Objective | None = None,
    ) -> None:
        super().__init__(norm, eps, random_start, restarts, early_stop)
        if alpha is not None and not 0 < alpha < math.inf:
            raise LitVizError(f"the step alpha {alpha} moves nothing: give a positive number such as 0.004.")
        if not 0 <= momentum < math.inf or (nesterov and momentum == 0):
            raise LitVizError(
                f"a momentum of {momentum} makes no attack: give 0 or more, and more than 0 for nesterov."
            )
        self.alpha = alpha
        self.momentum = momentum
        self.nesterov = nesterov
        self.objective = CrossEntropy() if objective is None else objective

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the accumulated gradients ``velocity`` besides, where there is momentum."""
        memory = {"velocity": torch.zeros_like(x)} if self.momentum else {}
        return {**super().init(x, tasks), **memory}

    def climb(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Take a step up and project."""
        _, iteration, _ = self.where(state)
        gradient = masked_gradient(evaluation, x, rows)
        if self.momentum:
            mean = norm(gradient, 1)
            gradient = gradient / per_slot(torch.where(mean > 0, mean, 1), x)
            velocity = self.momentum * torch.where(per_slot(iteration, x) > 0, state["velocity"], 0) + gradient
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
            state = {**state, "velocity": velocity}
        length = per_slot(self.length(state), x)
        return self.project(torch.addcmul(x, length, steepest(gradient, self.norm)), state), state

    def length(self, state: State) -> Tensor:
        """Return how long the steps are ``(N,)``."""
        _, _, total = self.where(state)
        return _REACH * state["eps"] / total if self.alpha is None else torch.full_like(state["eps"], self.alpha)
