"""Step rules: one independent update of every image of a batch. Learning rates and arithmetic per slot."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_viz.errors import require
from lit_viz.optim.evaluation import Evaluate
from lit_viz.types import Task
from lit_viz.utils.device import to_device
from lit_viz.utils.parts import Part

#: State of a step rule: tensors with a leading slot dimension. The engine adds ``iteration`` (updates made),
#: ``iterations`` (updates allowed) and ``until`` (next logged iteration, or the last), each ``(N,)`` int64. Tensors may
#: share memory with each other and with the images; only the rule that created one writes to it.
State = dict[str, Tensor]
ENGINE_KEYS = ("iteration", "iterations", "until")

_SHORT = 1e-12  # below it, and above its inverse, the squared norm underflows or overflows in float32


class StepRule(Part, ABC):
    """One update x_k -> x_k+1 of a batch. Row n of every tensor belongs to slot n; rows are independent.

    Attributes:
        networks: network copies that are evaluated, the default one first (see :class:`~lit_viz.optim.Evaluate`).
        backwards_per_step: upper bound of the mean number of backwards.
    """

    networks: tuple[str, ...] = ("plain",)
    backwards_per_step: float = 1

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the initial state of slots with images ``x`` ``(N, ...)``, one task per slot."""
        return {}

    def advance(self, state: State) -> Tensor:
        """Return the number of iterations that the next step counts for, ``(N,)`` int64; ones by default."""
        return torch.ones_like(state["iteration"])

    def nominal_rate(self, iteration: int, iterations: int) -> float:
        """Return the learning rate or length of a step, as callbacks of Lightning log it; 0.0 for a rule without one.

        Args:
            iteration: updates made.
            iterations: updates of the image in total.
        """
        rate = getattr(self, "lr", getattr(self, "alpha", None))
        if isinstance(rate, LearningRate):
            progress = torch.tensor([iteration / max(iterations, 1)], dtype=torch.float64)
            return rate.lr * float(rate.factor(progress))
        return 0.0 if rate is None else float(rate)

    @abstractmethod
    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Return the next images, the next state, and which images are done ``(N,)`` bool.

        An image that is done is returned unchanged; x_k is its last. ``x`` is not modified in place: the engine
        restores it after a failed update.
        """


class LearningRate(Part, ABC):
    """Learning rate per slot, at the iteration of the slot's image.

    Args:
        lr: base learning rate, positive.
    """

    def __init__(self, lr: float) -> None:
        require(lr > 0 and math.isfinite(lr), "lr must be positive and finite", lr, hint="try 0.05")
        self.lr = lr

    @abstractmethod
    def factor(self, progress: Tensor) -> Tensor:
        """Return the factor of the base rate at ``progress`` ``(N,)`` in [0, 1]."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the base rate per slot: the task's option ``lr`` if it has one, as in a sweep."""
        rates = [float(self.lr if task.lr is None else task.lr) for task in tasks]
        return {"lr": to_device(rates, x.device, torch.float64)}

    def __call__(self, state: State) -> Tensor:
        """Return the rates ``(N,)`` at the current iterations."""
        progress = state["iteration"].double() / state["iterations"].clamp(min=1)
        return state["lr"] * self.factor(progress)


class Constant(LearningRate):
    """Constant learning rate."""

    def factor(self, progress: Tensor) -> Tensor:
        return torch.ones_like(progress)


class Cosine(LearningRate):
    """Half a cosine from ``lr`` down to ``lr * final``.

    Args:
        lr: rate of the first update.
        final: final fraction of ``lr``, in [0, 1].
    """

    def __init__(self, lr: float, final: float = 0.0) -> None:
        super().__init__(lr)
        require(0 <= final <= 1, "final, a fraction of the learning rate, must be in [0, 1]", final)
        self.final = final

    def factor(self, progress: Tensor) -> Tensor:
        return self.final + (1 - self.final) * (1 + torch.cos(math.pi * progress)) / 2


def learning_rate(lr: float | LearningRate) -> LearningRate:
    """Return a number as a constant schedule."""
    if isinstance(lr, LearningRate):
        return lr
    return Constant(lr)


def never(x: Tensor) -> Tensor:
    """Return False for each image ``(N,)``: no image is done before its last iteration."""
    return torch.zeros(len(x), dtype=torch.bool, device=x.device)


def per_slot(values: Tensor, x: Tensor) -> Tensor:
    """Reshape ``(N,)`` to broadcast over the images ``x`` ``(N, ...)``."""
    return values.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def chosen(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return ``first`` in the given rows ``(N,)`` bool, and ``second`` in the others.

    On the CPU one of the two is returned without a copy if all rows are its own. On a GPU this test would wait for the
    queue.
    """
    if rows.is_cpu:
        if bool(rows.all()):
            return first
        if not bool(rows.any()):
            return second
    return torch.where(rows.view(-1, *[1] * (first.ndim - 1)), first, second)


def norm(x: Tensor, order: int = 2) -> Tensor:
    """Return the L2 (or L1) norm of each image, ``(N,)``.

    Rounding is independent of the other rows, unlike that of ``sum(1)``, which torch splits for a single row.
    """
    length: Tensor = torch.linalg.vector_norm(x.flatten(1), order, dim=1)
    return length


def unit(x: Tensor) -> Tensor:
    """Return each image divided by its L2 norm, and zero for zero images; squares may underflow or overflow."""
    length = norm(x)
    regular = (length > _SHORT) & (length < 1 / _SHORT)
    direct = x / per_slot(torch.where(regular, length, 1), x)
    if x.is_cpu and bool(regular.all()):
        return direct
    largest = x.flatten(1).abs().amax(1)
    scaled = x / per_slot(torch.where(largest > 0, largest, 1), x)
    # Both branches are computed for every row, so that rounding is independent of the other rows.
    return chosen(regular, direct, scaled / per_slot(norm(scaled).clamp(min=1), x))
