"""The interface of step rules: one update of a batch of images, every image for itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lit_viz.engine.tasks import Task

#: A rule's memory: tensors with a leading slot dimension. The engine keeps ``iteration`` (updates made so far) and
#: ``iterations`` (updates allowed) in it, both ``(N,)`` int64; the other keys are the rule's own.
State = dict[str, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of N slots gave.

    Attributes:
        score: ``(N,)``, the mean objective over the slot's views, less its priors.
        logits: ``(N, K)``, the mean over the slot's views.
        gradient: of the score with respect to what is trained, ``(N, ...)``; None where it was not asked for.
        terms: ``(N,)`` each: the objective and every prior, by name.
    """

    score: Tensor
    logits: Tensor
    gradient: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)


class Evaluate(Protocol):
    """Asks the frozen network about the slots' images, at the iteration that each slot is in."""

    def __call__(self, x: Tensor, *, gradient: bool = True) -> Evaluation:
        """Evaluate ``x`` ``(N, ...)``: forward, and backward too where the gradient is asked for."""
        ...


class StepRule(ABC):
    """One update x_k -> x_k+1 of a batch. Row n of everything belongs to slot n, and no row may depend on another."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the state of slots that start at ``x`` ``(N, ...)``, one task a slot."""
        return {}

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


def norm(x: Tensor) -> Tensor:
    """Return each row's Euclidean norm ``(N,)``."""
    length: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return length
