"""The gradient of the class score: one evaluation, and exact."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_viz.attributions.base import Estimator, add_rows, gather_rows
from lit_viz.optim import Evaluate, State
from lit_viz.types import Task


class Gradient(Estimator):
    """``d score / d x`` (Simonyan et al. 2014, arXiv:1312.6034, section 3; their map is its maximum over the channels
    in absolute value). One evaluation says it all: more are not made."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return an empty map a slot."""
        return {**super().init(x, tasks), "map": torch.zeros_like(x)}

    def advance(self, state: State) -> Tensor:
        """Return one, for every slot."""
        return torch.ones_like(state["iteration"])

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Evaluate the photograph itself."""
        state["map"] = add_rows(state["map"], slots, evaluate(gather_rows(x, slots), slots=slots).gradient)
        return state

    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the gradient."""
        return state["map"]

    def converged(self, x: Tensor, state: State) -> Tensor:
        """Return which maps have their evaluation."""
        return state["iteration"] > 0
