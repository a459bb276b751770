"""Learning rates as functions of the image's own iteration."""

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
    """A learning rate; a slot's image asks at its own iteration, so late arrivals start at the beginning."""

    def __init__(self, lr: float) -> None:
        if not (lr > 0 and math.isfinite(lr)):
            raise LitVizError(f"the learning rate {lr} is not a positive number: give one such as 0.05.")
        self.lr = lr

    @abstractmethod
    def factor(self, progress: Tensor) -> Tensor:
        """Return what the base rate is multiplied by, where ``progress`` ``(N,)`` runs from 0 to 1."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the base rate a slot: the task's option ``lr`` where it has one (a sweep)."""
        rates = [float(task.options.get("lr", self.lr)) for task in tasks]
        return {"lr": to_device(rates, x.device, torch.float64)}

    def __call__(self, state: State) -> Tensor:
        """Return the rates ``(N,)`` of the iterations in which the slots are."""
        progress = state["iteration"].double() / state["iterations"].clamp(min=1)
        return state["lr"] * self.factor(progress)


class Constant(LearningRate):
    """The same rate throughout."""

    def factor(self, progress: Tensor) -> Tensor:
        """Return ones."""
        return torch.ones_like(progress)


class Cosine(LearningRate):
    """Half a cosine from ``lr`` down to ``lr * final``.

    Args:
        lr: rate of the first update.
        final: fraction of it that is reached at the end, in [0, 1].
    """

    def __init__(self, lr: float, final: float = 0.0) -> None:
        super().__init__(lr)
        if not 0 <= final <= 1:
            raise LitVizError(f"the final fraction {final} of the learning rate is not between 0 and 1.")
        self.final = final

    def factor(self, progress: Tensor) -> Tensor:
        """Return ``final + (1 - final) * (1 + cos(pi * progress)) / 2``."""
        return self.final + (1 - self.final) * (1 + torch.cos(math.pi * progress)) / 2


def learning_rate(lr: float | LearningRate) -> LearningRate:
    """Return a plain number as a constant rate."""
    return lr if isinstance(lr, LearningRate) else Constant(lr)
