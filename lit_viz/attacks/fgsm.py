"""The fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lit_viz.attacks.norms import Norm
from lit_viz.attacks.pgd import PGD
from lit_viz.objectives import Objective
from lit_viz.optim import State


class FGSM(PGD):
    """``clip(x + eps * sign(g))``, one step to the border of the ball (Goodfellow et al. 2015, arXiv:1412.6572, section
    4); in Euclidean length ``P(x + eps * g / ||g||_2)``. Further iterations are not used.

    Args:
        norm, eps: see :class:`~lit_viz.attacks.budget.BudgetAttack`.
        objective: what is maximized; the cross-entropy unless given.
    """

    iterations: int = 1
    fixed: ClassVar[bool] = True

    def __init__(self, norm: Norm = "linf", eps: float | None = None, objective: Objective | None = None) -> None:
        super().__init__(norm, eps, random_start=False, objective=objective)

    def finished(self, state: State) -> Tensor:
        """Return which images fool the network, or had their step."""
        return super().finished(state) | (state["iteration"] > 0)

    def length(self, state: State) -> Tensor:
        """Return the radii."""
        return state["eps"]
