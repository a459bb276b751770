"""The gradient times the input."""

from __future__ import annotations

from torch import Tensor

from lit_viz.attributions.gradient import Gradient
from lit_viz.optim import State


class InputXGradient(Gradient):
    """``x * d score / d x`` (Shrikumar et al. 2016, arXiv:1605.01713): what each value adds to a score that is linear.

    It is the input in [0, 1] that is multiplied, not the normalized one: black adds nothing.
    """

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the product."""
        return x * state["map"]
