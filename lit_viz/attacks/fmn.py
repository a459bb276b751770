"""The fast minimum-norm attack: as DDN, with the length of the first perturbations guessed from the boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, is_adversarial, masked_gradient
from lit_viz.attacks.norms import Norm, checked_norm, distance_to_boundary, extent, project
from lit_viz.errors import LitVizError
from lit_viz.objectives import Margin
from lit_viz.optim import Cosine, Evaluation, State
from lit_viz.optim.rule import per_slot, unit
from lit_viz.types import Task

#: Length of the first step unless another is given, in L2, the authors' for each norm.
_ALPHA: dict[Norm, float] = {"l2": 1.0, "linf": 10.0}
#: The guessed length is that much more than the paper's, so that a plane is crossed and not only touched.
_BEYOND = 1 + 1e-3
#: A success at just the length of the smallest one so far would be better or worse by rounding alone.
_SHORTER = 1 - 1e-6


class FMN(Attack):
    """Fast minimum-norm attack (Pintor et al. 2021, arXiv:2102.12827, algorithm 1).

    The perturbation delta goes ``alpha * g / ||g||_2`` further, g the gradient of the margin, and is projected onto the
    ball of radius eps and into [0, 1]. Before an image's first success ``eps = ||delta|| + |margin| / ||g||_dual``,
    where the boundary would be if the margin were linear. After it, eps shrinks by gamma where the image fooled the
    network, to the smallest success at most, and grows by gamma where it didn't.

    Args:
        norm: that is made small.
        alpha: Euclidean length of a step at the start; goes to a hundredth of it along half a cosine. 1 for l2 and 10
            for linf unless given; a task's option ``lr`` overrides it.
        gamma: by what part eps changes at the start; goes to a fiftieth of it along half a cosine.

    Raises:
        LitVizError: for values that make no attack.
    """

    iterations: int = 100
    minimal: ClassVar[bool] = True

    def __init__(self, norm: Norm = "l2", alpha: float | None = None, gamma: float = 0.05) -> None:
        if not 0 < gamma < 1:
            raise LitVizError(
                f"gamma {gamma} of FMN is no part of a length: give a number between 0 and 1 such as 0.05."
            )
        self.norm = checked_norm(norm)
        self.alpha = Cosine(_ALPHA[norm] if alpha is None else alpha, final=0.01)
        self.gamma = Cosine(gamma, final=0.02)
        self.objective = Margin()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return besides: the radii ``eps`` ``(N,)``, of which there are none yet, and the base rate of alpha."""
        return {
            **super().init(x, tasks),
            **self.alpha.init(x, tasks),
            "eps": torch.zeros(len(x), dtype=torch.float64, device=x.device),
        }

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Find the radius, take a step and project."""
        source = state["source"]
        gradient = masked_gradient(evaluation, x, rows)
        boundary = _BEYOND * (self.extent(x - source) + distance_to_boundary(evaluation.score, gradient, self.norm))
        gamma = self.gamma.lr * self.gamma.factor(state["iteration"].double() / state["iterations"])
        wider = torch.where(state["fooled"], state["eps"] * (1 + gamma), boundary)
        narrower = torch.minimum(state["eps"] * (1 - gamma), state["size"] * _SHORTER)
        eps = torch.where(is_adversarial(evaluation.logits, state["goal"], state["targeted"]), narrower, wider)
        eps = torch.minimum(eps, self.extent(torch.maximum(source, 1 - source)))  # nothing in [0, 1] is further away
        moved = x + per_slot(self.alpha(state), x) * unit(gradient)
        return project(moved, source, eps, self.norm), {**state, "eps": eps}

    def extent(self, change: Tensor) -> Tensor:
        """Return the changes' lengths in the attack's norm ``(N,)``."""
        return extent(change, self.norm)
