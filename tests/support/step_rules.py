"""Step rules with other numbers of evaluations per step than one."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_viz.optim.evaluation import Evaluate
from lit_viz.optim.rule import State, StepRule, never, per_slot

#: Values of the optimum of the tests.
TOP = 3.0


class HillClimb(StepRule):
    """Evaluates forwards only: keeps a fixed probe step where it raises the score."""

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        here = evaluate(x, gradient=False).score
        probe = x + 0.1 * torch.where(x < TOP, 1.0, -1.0)
        better = evaluate(probe, gradient=False).score > here
        return torch.where(per_slot(better, x) > 0, probe, x), state, ~better


class ExtraGradient(StepRule):
    """Evaluates twice a step: the gradient at a look-ahead moves the image (Korpelevich 1976)."""

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        ahead = x + 0.1 * evaluate(x).gradient
        return x + 0.1 * evaluate(ahead).gradient, state, never(x)
