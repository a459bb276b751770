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
    """``x <- x + lr * direction(g)`` with g the gradient of the score.

    Args:
        lr: learning rate, a number or a schedule over the image's own iteration.
    """

    def __init__(self, lr: float | LearningRate) -> None:
        self.lr = learning_rate(lr)

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """Return where to go for the gradient ``(N, ...)``."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the base rate a slot."""
        return self.lr.init(x, tasks)

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Evaluate once and take one step up."""
        gradient = evaluate(x).gradient
        return x + per_slot(self.lr(state), x) * self.direction(gradient), state, never(x)


class GradientAscent(_Ascent):
    """``x <- x + lr * g``."""

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the gradient itself."""
        return gradient


class NormalizedAscent(_Ascent):
    """``x <- x + lr * g / ||g||_2``: steps of Euclidean length lr; where the gradient is zero the image stays."""

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the gradient over its norm, row by row."""
        return unit(gradient)
