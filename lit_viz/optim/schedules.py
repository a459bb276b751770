"""Learning rates as functions of the iteration of each image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.optim.rule import State
from lit_viz.types import Task
from lit_viz.utils.device import to_device


class LearningRate(ABC):
    """Learning rate per slot, at the iteration of the slot's image.

    Args:
        lr: base learning rate, positive.
    """

    def __init__(self, lr: float) -> None:
        if not (lr > 0 and math.isfinite(lr)):
            raise LitVizError(f"the learning rate must be positive and finite, got {lr}: try 0.05.")
        self.lr = lr

    @abstractmethod
    def factor(self, progress: Tensor) -> Tensor:
        """Return the factor of the base rate at ``progress`` ``(N,)`` in [0, 1]."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the base rate per slot: the task's option ``lr`` if it has one, as in a sweep."""
        rates = [float(task.options.get("lr", self.lr)) for task in tasks]
        return {"lr": to_device(rates, x.device, torch.float64)}

    def __call__(self, state: State) -> Tensor:
        """Return the rates ``(N,)`` at the current iterations."""
        progress = state["iteration"].double() / state["iterations"].clamp(min=1)
        return state["lr"] * self.factor(progress)


class Constant(LearningRate):
    """Constant learning rate."""

    def factor(self, progress: Tensor) -> Tensor:
        """Return ones."""
        return torch.ones_like(progress)


class Cosine(LearningRate):
    """Half a cosine from ``lr`` down to ``lr * final``.

    Args:
        lr: rate of the first update.
        final: final fraction of ``lr``, in [0, 1].
    """

    def __init__(self, lr: float, final: float = 0.0) -> None:
        super().__init__(lr)
        if not 0 <= final <= 1:
            raise LitVizError(f"final, a fraction of the learning rate, must be in [0, 1], got {final}.")
        self.final = final

    def factor(self, progress: Tensor) -> Tensor:
        """Return ``final + (1 - final) * (1 + cos(pi * progress)) / 2``."""
        return self.final + (1 - self.final) * (1 + torch.cos(math.pi * progress)) / 2


def learning_rate(lr: float | LearningRate) -> LearningRate:
    """Return a number as a constant schedule."""
    return lr if isinstance(lr, LearningRate) else Constant(lr)
