"""Attacks with a budget: the best image no further than eps from the photograph."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack
from lit_viz.attacks.norms import Norm, checked_norm, project, random_start
from lit_viz.attacks.restarts import RestartSchedule
from lit_viz.errors import LitVizError
from lit_viz.optim import Evaluation, State
from lit_viz.types import Task
from lit_viz.utils.device import to_device

#: Radii that are used unless another is given, in units of [0, 1]: RobustBench's for ImageNet in the largest value.
EPS: dict[Norm, float] = {"linf": 4 / 255, "l2": 1.0}


class BudgetAttack(Attack):
    """Stays inside a ball around the photograph and inside [0, 1].

    Args:
        norm: of the ball.
        eps: its radius in units of [0, 1]; 4/255 in the largest value and 1.0 in Euclidean length unless given. A
            task's option ``eps`` overrides it.
        early_stop: whether an image is done at its first success; else the score is raised to the last iteration.

    Raises:
        LitVizError: for values that make no attack.
    """

    def __init__(self, norm: Norm, eps: float | None, early_stop: bool = True) -> None:
        self.norm = checked_norm(norm)
        self.eps = self.radius(EPS[norm] if eps is None else eps, type(self).__name__)
        self.early_stop = early_stop

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the radii ``eps`` ``(N,)`` besides."""
        return {**super().init(x, tasks), "eps": self.radii(x, tasks)}

    def radii(self, x: Tensor, tasks: Sequence[Task]) -> Tensor:
        """Return the radii ``(N,)``: the attack's, or that of a task's option ``eps``."""
        radii = [self.radius(float(task.options.get("eps", self.eps)), task.name) for task in tasks]
        return to_device(radii, x.device, torch.float64)

    def radius(self, eps: float, whose: str) -> float:
        """Return a radius if it is one in the norm.

        Raises:
            LitVizError: it isn't; ``whose`` it was to be is said.
        """
        if self.norm == "linf" and 1 < eps < math.inf:
            raise LitVizError(
                f"the radius eps {eps:g} of {whose} is more than a pixel's whole range: for /255, say so."
            )
        if not 0 <= eps < math.inf:
            raise LitVizError(f"the radius eps {eps} of {whose} is no length: give a number such as 0.0157 (4/255).")
        return eps

    def record_fields(self, state: State) -> dict[str, Any]:
        """Return the ball."""
        return {"norm": self.norm, "eps": float(state["eps"])}

    def project(self, x: Tensor, state: State) -> Tensor:
        """Return the nearest feasible images."""
        return project(x, state["source"], state["eps"], self.norm)


class ClimbingAttack(BudgetAttack):
    """Climbs inside the ball from where it starts, once or several times.

    With restarts the iterations are split into equal parts, the last of which takes what is left over. A random start
    is an update of its own, the first of its part; it needs no backward.

    Args:
        norm, eps, early_stop: see :class:`BudgetAttack`.
        start_at_random: whether a part starts at random in the ball, else at the photograph.
        restarts: parts, each of at least two updates.

    Raises:
        LitVizError: for values that make no attack.
    """

    def __init__(self, norm: Norm, eps: float | None, start_at_random: bool, restarts: int, early_stop: bool) -> None:
        super().__init__(norm, eps, early_stop)
        if restarts < 1 or (restarts > 1 and not start_at_random):
            raise LitVizError(f"{restarts} restarts make no attack: give 1 or more, and more than 1 only at random.")
        self.start_at_random = start_at_random
        self.parts = RestartSchedule(restarts, "restarts")

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Let the images climb, or start."""
        part, iteration, _ = self.where(state)
        starting = rows & (iteration < 0)
        moved, state = self.climb(x, state, evaluation, rows & ~starting)
        if self.start_at_random and bool(starting.any()):
            n = starting.nonzero()[:, 0]
            source, seeds, eps = (state[key][n] for key in ("source", "seed", "eps"))
            moved = moved.index_put((n,), random_start(source, seeds.tolist(), part[n].tolist(), eps, self.norm))
        return moved, state

    @abstractmethod
    def climb(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Return the next images, as :meth:`update`; ``rows`` may be none."""

    def where(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return where the images are ``(N,)`` int64 each: the number of the part, the updates made since its start (-1
        where the next update is the start), and the updates that follow its start in all."""
        part, iteration, total = self.parts.at(state)
        start = int(self.start_at_random)
        return part, iteration - start, (total - start).clamp(min=1)
