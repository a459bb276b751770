"""Fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lit_viz.attacks.norms import NormName
from lit_viz.attacks.pgd import PGD
from lit_viz.objectives import Objective
from lit_viz.optim import State


class FGSM(PGD):
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv:1412.6572, section 4).

    One step to the surface of the ball: ``clip(x + eps * sign(g))``; in L2 ``P(x + eps * g / ||g||_2)``.

    Args:
        norm, eps: see :class:`~lit_viz.attacks.budget.BudgetAttack`.
        objective: what is maximized; the cross-entropy by default.
    """

    iterations: int = 1
    fixed: ClassVar[bool] = True

    def __init__(self, norm: NormName = "linf", eps: float | None = None, objective: Objective | None = None) -> None:
        super().__init__(norm, eps, random_start=False, objective=objective)

    def is_done(self, state: State) -> Tensor:
        return super().is_done(state) | (state["iteration"] > 0)

    def step_size(self, state: State) -> Tensor:
        return state["eps"]
