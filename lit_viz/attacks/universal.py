"""A universal perturbation: stochastic projected gradient ascent over many photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.base import BudgetAttack
from lit_viz.attacks.norms import NormName, norm_of
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.objectives import ClippedCrossEntropy
from lit_viz.optim import Cosine, Evaluate, Evaluation, State
from lit_viz.optim.rule import never, per_slot
from lit_viz.types import Task

#: First step in radii, and the final step relative to the first.
_FIRST_STEP, _DECAY = 0.2, 0.1


class Universal(BudgetAttack):
    """A universal perturbation by stochastic projected gradient ascent.
    Moosavi-Dezfooli et al. 2017, arXiv:1610.08401; Shafahi et al. 2020, arXiv:1811.11304.

    ``x`` is the perturbation ``(N, C, H, W)``, initially zero; the method adds it to the photographs. ``delta <-
    P(delta + alpha * d(g))``, with g the gradient of the mean score of a mini-batch of photographs, d the steepest
    direction of the norm and P the projection onto the ball.

    Args:
        norm, eps: of the ball; the paper's 10/255 for linf and 2000/255 for l2 by default.
        alpha: length of the first step, in the norm, in units of [0, 1]; a fifth of eps by default. It decays to a
            tenth along half a cosine.
        clip: cross-entropy above which a photograph has no gradient (Shafahi's beta).
    """

    objective: ClippedCrossEntropy
    views: ClassVar[int] = 8

    def __init__(
        self,
        norm: NormName = "linf",
        eps: float | str | None = None,
        alpha: float | str | None = None,
        clip: float = 9.0,
    ) -> None:
        if eps is None:
            eps = norm_of(norm).universal_eps
        super().__init__(norm, eps, early_stop=False)
        self.alpha = self.step_length(alpha)
        self.objective = ClippedCrossEntropy(clip)

    def bind(self, network: Network) -> None:
        """Reject use as an attack of one photograph."""
        raise LitVizError("Universal attacks many photographs at once: use it with UniversalPerturbation")

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return {"eps": self.radii(x, tasks)}

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        done = never(x)
        return *self.update(x, state, evaluate(x), ~done), done

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        moved = x + per_slot(self._step_size(state), x) * self.norm.steepest(evaluation.gradient)
        return self.project(moved, state), state

    def nominal_rate(self, iteration: int, iterations: int) -> float:
        state = {"iteration": torch.tensor([iteration]), "iterations": torch.tensor([iterations])}
        return float(self._step_size(state | {"eps": torch.tensor([self.eps])}))

    def _step_size(self, state: State) -> Tensor:
        """Return the lengths of the steps ``(N,)``."""
        first = _FIRST_STEP * state["eps"]
        if self.alpha is not None:
            first = torch.full_like(first, self.alpha)
        return first * Cosine(1.0, _DECAY).factor(state["iteration"].double() / state["iterations"])

    def project(self, x: Tensor, state: State) -> Tensor:
        return self.norm.shorten(x, torch.full_like(x, -1.0), torch.ones_like(x), state["eps"])
