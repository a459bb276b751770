"""The interface of step rules: one independent update of every image of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_viz.optim.evaluation import Evaluate
from lit_viz.types import Task

#: State of a step rule: tensors with a leading slot dimension. The engine adds ``iteration`` (updates made),
#: ``iterations`` (updates allowed) and ``until`` (next logged iteration, or the last), each ``(N,)`` int64. Tensors may
#: share memory with each other and with the images; only the rule that created one writes to it.
State = dict[str, Tensor]
ENGINE_KEYS = ("iteration", "iterations", "until")

_SHORT = 1e-12  # below it, and above its inverse, the squared norm underflows or overflows in float32


class StepRule(ABC):
    """One update x_k -> x_k+1 of a batch. Row n of every tensor belongs to slot n; rows are independent."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the initial state of slots with images ``x`` ``(N, ...)``, one task per slot."""
        return {}

    def advance(self, state: State) -> Tensor:
        """Return the number of iterations that the next step counts for, ``(N,)`` int64; ones by default."""
        return torch.ones_like(state["iteration"])

    @abstractmethod
    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Return the next images, the next state, and which images are done ``(N,)`` bool.

        An image that is done is returned unchanged; x_k is its last. ``x`` is not modified in place: the engine
        restores it after a failed update.
        """


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
