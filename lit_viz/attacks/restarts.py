"""The parts of an attack that begins anew several times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_viz.optim import State


@dataclass(frozen=True)
class RestartSchedule:
    """The iterations of an image in equal parts, the last of which takes what is left over.

    Attributes:
        at_most: parts, each of two updates at least.
        what: they are.
    """

    at_most: int = 1
    what: str = "parts"

    def count(self, iterations: int) -> int:
        """Return into how many so many iterations are split."""
        return max(1, min(self.at_most, iterations // 2))

    def remarks(self, iterations: int) -> list[str]:
        """Say where so many iterations are too few for all."""
        few = self.count(iterations)
        said = f"{few} of {self.at_most} {self.what} fit into {iterations} iterations: each takes two at least"
        return [said] if few < self.at_most else []

    def at(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return where the images are ``(N,)`` int64 each: the number of the part, the updates made in it, and its
        updates in all."""
        whole, iteration = state["iterations"], state["iteration"]
        count = (whole // 2).clamp(1, self.at_most)
        length = whole // count
        number = torch.minimum(iteration // length.clamp(min=1), count - 1)
        total = torch.where(number == count - 1, whole - number * length, length)
        return number, iteration - number * length, total
