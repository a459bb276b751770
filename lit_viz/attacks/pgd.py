"""Projected gradient descent, with or without momentum, and its single step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.base import ClimbingAttack, masked_gradient
from lit_viz.attacks.norms import NormName
from lit_viz.errors import require
from lit_viz.objectives import CrossEntropy, Objective
from lit_viz.optim import Evaluation, State
from lit_viz.optim.rule import norm as p_norm
from lit_viz.optim.rule import per_slot
from lit_viz.types import Task

#: Total length of the steps in radii, so that the whole ball is within reach (Madry et al. 2018).
_REACH = 2.5
_MOST_MOMENTUM = 2.0  # decay factors of Dong et al. 2018 (MI-FGSM), figure 2


class PGD(ClimbingAttack):
    """Projected gradient descent (Madry et al. 2018, arXiv:1706.06083).

    ``x <- P(x + alpha * d(g))``, with d the steepest direction of the norm (the sign of g, or g / ||g||_2) and P the
    projection onto the ball and [0, 1].

    Args:
        norm, eps, restarts, early_stop: see :class:`~lit_viz.attacks.base.ClimbingAttack`.
        alpha: length of a step, in the norm, in units of [0, 1]; 2.5 eps over the number of steps by default.
        momentum: mu of ``v <- mu * v + g / ||g||_1``. The direction of v replaces that of g (Dong et al. 2018,
            arXiv:1710.06081, algorithm 1).
        nesterov: use the direction of ``g / ||g||_1 + mu * v``, as ``torch.optim.SGD``.
        random_start: whether the first update is a random point of the ball.
        objective: what is maximized; the cross-entropy by default.
    """

    iterations: int = 40

    def __init__(
        self,
        norm: NormName = "linf",
        eps: float | str | None = None,
        alpha: float | str | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        random_start: bool = True,
        restarts: int = 1,
        early_stop: bool = True,
        objective: Objective | None = None,
    ) -> None:
        super().__init__(norm, eps, random_start, restarts, early_stop)
        self.alpha = self.step_length(alpha)
        require(
            0 <= momentum <= _MOST_MOMENTUM, f"momentum must be 0 to {_MOST_MOMENTUM:g}", momentum, hint="1 is usual"
        )
        require(not nesterov or momentum > 0, "momentum must be positive for nesterov", momentum)
        self.momentum = momentum
        self.nesterov = nesterov
        if objective is None:
            objective = CrossEntropy()
        self.objective = objective

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        state = super().init(x, tasks)
        if self.momentum:
            state["velocity"] = torch.zeros_like(x)
        return state

    def climb(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        _, iteration, _ = self.locate(state)
        gradient = masked_gradient(evaluation, x, rows)
        if self.momentum:
            total = p_norm(gradient, 1)
            gradient = gradient / per_slot(torch.where(total > 0, total, 1), x)
            velocity = self.momentum * torch.where(per_slot(iteration, x) > 0, state["velocity"], 0) + gradient
            state = state | {"velocity": velocity}
            if self.nesterov:
                gradient = gradient + self.momentum * velocity
            else:
                gradient = velocity
        alpha = per_slot(self.step_size(state), x)
        return self.project(torch.addcmul(x, alpha, self.norm.steepest(gradient)), state), state

    def nominal_rate(self, iteration: int, iterations: int) -> float:
        state = {"iteration": torch.tensor([iteration]), "iterations": torch.tensor([iterations])}
        return float(self.step_size(state | {"eps": torch.tensor([self.eps])}))

    def step_size(self, state: State) -> Tensor:
        """Return the lengths of the steps ``(N,)``."""
        if self.alpha is not None:
            return torch.full_like(state["eps"], self.alpha)
        _, _, total = self.locate(state)
        return _REACH * state["eps"] / total


class FGSM(PGD):
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv:1412.6572, section 4).

    One step to the surface of the ball: ``clip(x + eps * sign(g))``; in L2 ``P(x + eps * g / ||g||_2)``.

    Args:
        norm, eps: see :class:`~lit_viz.attacks.base.BudgetAttack`.
        objective: what is maximized; the cross-entropy by default.
    """

    iterations: int = 1
    fixed: ClassVar[bool] = True

    def __init__(
        self, norm: NormName = "linf", eps: float | str | None = None, objective: Objective | None = None
    ) -> None:
        super().__init__(norm, eps, random_start=False, objective=objective)

    def is_done(self, state: State) -> Tensor:
        return super().is_done(state) | (state["iteration"] > 0)

    def step_size(self, state: State) -> Tensor:
        return state["eps"]
