"""One perturbation for many photographs: stochastic gradient ascent inside a ball."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.budget import BudgetAttack
from lit_viz.attacks.norms import Norm, shortened, steepest
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.objectives import ClippedCrossEntropy
from lit_viz.optim import Cosine, Evaluate, Evaluation, State
from lit_viz.optim.rule import never, per_slot
from lit_viz.types import Task

#: The first step is that part of the radius, and the last one a tenth of the first.
_STEP, _LAST = 0.2, 0.1


class Universal(BudgetAttack):
    """A universal perturbation (Moosavi-Dezfooli et al. 2017, arXiv:1610.08401), found by stochastic projected gradient
    ascent (Shafahi et al. 2020, arXiv:1811.11304).

    ``x`` is the perturbation itself ``(N, C, H, W)``, zero at first; what it is added to is the method's. ``delta <-
    P(delta + alpha * direction(g))``, g the gradient of the mean score of a mini-batch of photographs, the direction
    its sign or g over its length, and P the projection onto the ball.

    Args:
        norm, eps: of the ball; 10/255 in the largest value and 2000/255 in Euclidean length unless given, the paper's.
        alpha: length of the first step, in the norm, in units of [0, 1]; a fifth of eps unless given. It goes to a
            tenth of that along half a cosine.
        clip: cross-entropy at which a photograph that is fooled pulls no more (Shafahi's beta).

    Raises:
        LitVizError: for values that make no attack.
    """

    objective: ClippedCrossEntropy
    iterations: int = 100
    views: ClassVar[int] = 8

    def __init__(
        self, norm: Norm = "linf", eps: float | None = None, alpha: float | None = None, clip: float = 9.0
    ) -> None:
        eps = {"linf": 10 / 255, "l2": 2000 / 255}.get(norm) if eps is None else eps
        super().__init__(norm, eps, early_stop=False)
        if alpha is not None and not 0 < alpha < math.inf:
            raise LitVizError(f"the step alpha {alpha} moves nothing: give a positive number such as 0.004.")
        self.alpha = alpha
        self.objective = ClippedCrossEntropy(clip)

    def bind(self, classifier: Classifier) -> None:
        """Refuse to attack one photograph."""
        raise LitVizError("a universal perturbation is no attack of one photograph: make it by UniversalPerturbation.")

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the radii ``eps`` ``(N,)``; a task's option ``eps`` overrides the attack's."""
        return {"eps": self.radii(x, tasks)}

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Take a step up and project; nobody is done early."""
        evaluation = evaluate(x)
        every = ~never(x)
        moved, state = self.update(x, state, evaluation, every)
        return moved, state, ~every

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Return the next perturbations; ``rows`` are all."""
        first = _STEP * state["eps"] if self.alpha is None else torch.full_like(state["eps"], self.alpha)
        length = first * Cosine(1.0, _LAST).factor(state["iteration"].double() / state["iterations"])
        moved = x + per_slot(length, x) * steepest(evaluation.gradient, self.norm)
        return self.project(moved, state), state

    def project(self, x: Tensor, state: State) -> Tensor:
        """Return the nearest perturbations in the ball."""
        eps = per_slot(state["eps"], x)
        if self.norm == "linf":
            return torch.minimum(torch.maximum(x, -eps), eps)
        return shortened(x, torch.full_like(x, -1.0), torch.ones_like(x), state["eps"])
