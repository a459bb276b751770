"""The interface of step rules: one update of a batch of images, every image for itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_viz.optim.evaluation import Evaluate
from lit_viz.types import Task

#: A rule's memory: tensors with a leading slot dimension. The engine keeps ``iteration`` (updates made so far),
#: ``iterations`` (updates allowed) and ``until`` (the next iteration that is looked at, or the last) in it, each
#: ``(N,)`` int64; the other keys are the rule's own. They may share their memory with each other and with the images:
#: nobody but the rule that made one writes into it.
State = dict[str, Tensor]
OF_ENGINE = ("iteration", "iterations", "until")

_SHORT = 1e-12  # the squares of shorter rows, and of those longer than its inverse, may be no numbers in float32


class StepRule(ABC):
    """One update x_k -> x_k+1 of a batch. Row n of everything belongs to slot n, and no row may depend on another."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the state of slots that start at ``x`` ``(N, ...)``, one task a slot."""
        return {}

    def advance(self, state: State) -> Tensor:
        """Return how many iterations the next step counts for, ``(N,)`` int64: one, unless the rule takes several."""
        return torch.ones_like(state["iteration"])

    @abstractmethod
    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Return the next images, the next state, and which images were found done ``(N,)`` bool.

        An image that is done is returned as it was: x_k is its last. ``x`` is not changed in place: where an update
        went wrong the engine goes back to it.
        """


def never(x: Tensor) -> Tensor:
    """Return all-False ``(N,)``: for rules that end by the number of iterations only."""
    return torch.zeros(len(x), dtype=torch.bool, device=x.device)


def per_slot(values: Tensor, x: Tensor) -> Tensor:
    """Reshape ``(N,)`` so that it broadcasts over the slots' rows of ``x``."""
    return values.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def chosen(rows: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """Return images of which those in ``rows`` ``(N,)`` bool are from ``here`` and the others from ``there``.

    On the CPU it is one of the two itself where all are from it; to ask a GPU would be to wait for it.
    """
    if rows.is_cpu:
        if bool(rows.all()):
            return here
        if not bool(rows.any()):
            return there
    return torch.where(rows.view(-1, *[1] * (here.ndim - 1)), here, there)


def norm(x: Tensor, order: int = 2) -> Tensor:
    """Return each row's Euclidean norm ``(N,)``, or its sum of absolute values (1).

    A row's is rounded the same way whatever is beside it, as that of ``sum(1)`` is not: with one row torch splits it.
    """
    length: Tensor = torch.linalg.vector_norm(x.flatten(1), order, dim=1)
    return length


def unit(x: Tensor) -> Tensor:
    """Return the rows over their Euclidean lengths, zero where they are zero; also where their squares underflow or
    overflow."""
    length = norm(x)
    usual = (length > _SHORT) & (length < 1 / _SHORT)
    direct = x / per_slot(torch.where(usual, length, 1), x)
    if x.is_cpu and bool(usual.all()):
        return direct
    largest = x.flatten(1).abs().amax(1)
    scaled = x / per_slot(torch.where(largest > 0, largest, 1), x)
    # A row is rounded the same way whatever is beside it.
    return chosen(usual, direct, scaled / per_slot(norm(scaled).clamp(min=1), x))
