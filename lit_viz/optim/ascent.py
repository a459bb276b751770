"""Plain and normalized gradient ascent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from lit_viz.optim.evaluation import Evaluate
from lit_viz.optim.rule import State, StepRule, never, per_slot, unit
from lit_viz.optim.schedules import LearningRate, learning_rate
from lit_viz.types import Task


class _Ascent(StepRule):
    """``x <- x + lr * direction(g)`` with the gradient g of the score.

    Args:
        lr: learning rate, a number or a schedule.
    """

    def __init__(self, lr: float | LearningRate) -> None:
        self.lr = learning_rate(lr)

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """Return the direction of the update, ``(N, ...)`` like the gradient."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the base rate per slot."""
        return self.lr.init(x, tasks)

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Evaluate once and take one step."""
        gradient = evaluate(x).gradient
        return x + per_slot(self.lr(state), x) * self.direction(gradient), state, never(x)


class GradientAscent(_Ascent):
    """``x <- x + lr * g``."""

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient


class NormalizedAscent(_Ascent):
    """``x <- x + lr * g / ||g||_2``: steps of L2 norm ``lr``; zero where the gradient is zero."""

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the gradient divided by its norm, per image."""
        return unit(gradient)
