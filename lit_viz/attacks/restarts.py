"""The restarts of an attack: its iterations, split into equal runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_viz.optim import State


@dataclass(frozen=True)
class RestartSchedule:
    """Split of an image's iterations into restarts of equal length; the final one takes the remainder.

    Attributes:
        maximum: number of restarts, fewer where the iterations allow less than two updates each.
        noun: plural noun for messages.
    """

    maximum: int = 1
    noun: str = "restarts"

    def count(self, iterations: int) -> int:
        """Return the number of restarts for this number of iterations."""
        return max(1, min(self.maximum, iterations // 2))

    def notes(self, iterations: int) -> list[str]:
        """Return a remark if the iterations allow fewer restarts than configured."""
        count = self.count(iterations)
        if count == self.maximum:
            return []
        return [
            f"{iterations} iterations allow {count} of {self.maximum} {self.noun}: each takes at least two iterations"
        ]

    def locate(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(N,)`` int64 each: the number of the restart, the updates made in it, and its updates in total."""
        iterations, iteration = state["iterations"], state["iteration"]
        count = (iterations // 2).clamp(1, self.maximum)
        length = iterations // count
        number = torch.minimum(iteration // length.clamp(min=1), count - 1)
        total = torch.where(number == count - 1, iterations - number * length, length)
        return number, iteration - number * length, total
