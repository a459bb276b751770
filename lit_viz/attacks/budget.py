"""Attacks with a budget: the best image within eps of the photograph."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, RestartSchedule
from lit_viz.attacks.norms import NormName, norm_of
from lit_viz.errors import LitVizError
from lit_viz.optim import Evaluation, State
from lit_viz.types import Task
from lit_viz.utils.device import to_device


class BudgetAttack(Attack):
    """An attack inside a ball around the photograph and inside [0, 1].

    Args:
        norm: norm of the ball.
        eps: radius in units of [0, 1]; 4/255 for linf and 1.0 for l2 by default. A task's option ``eps`` overrides it.
        early_stop: whether an image is done at its first success; else its score is raised to the final iteration.

    Raises:
        LitVizError: for an unknown norm or a radius that is not a length.
    """

    def __init__(self, norm: NormName, eps: float | None, early_stop: bool = True) -> None:
        self.norm = norm_of(norm)
        self.eps = self.check_radius(self.norm.default_eps if eps is None else eps, type(self).__name__)
        self.early_stop = early_stop

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return {**super().init(x, tasks), "eps": self.radii(x, tasks)}

    def radii(self, x: Tensor, tasks: Sequence[Task]) -> Tensor:
        """Return the radii ``(N,)``: the attack's, or those of the tasks' option ``eps``."""
        radii = [self.check_radius(float(task.options.get("eps", self.eps)), task.name) for task in tasks]
        return to_device(radii, x.device, torch.float64)

    def check_radius(self, eps: float, owner: str) -> float:
        """Return a radius; raise :class:`LitVizError`, which names its ``owner``, unless it is valid in the norm."""
        if not 0 <= eps < math.inf:
            raise LitVizError(f"eps of {owner} must be 0 or more and finite, got {eps:g}: try 0.0157 (4/255)")
        if eps > self.norm.max_eps:
            raise LitVizError(f"eps of {owner} must be at most {self.norm.max_eps:g}, got {eps:g}: write {eps:g}/255")
        return eps

    def record_fields(self, state: State) -> dict[str, Any]:
        return {"norm": self.norm.name, "eps": float(state["eps"])}

    def project(self, x: Tensor, state: State) -> Tensor:
        """Return the nearest feasible images."""
        return self.norm.project(x, state["source"], state["eps"])


class ClimbingAttack(BudgetAttack):
    """An attack that ascends the score inside the ball, from one or several starts.

    The iterations are split evenly over the restarts. A random start is the first update of its restart, without a
    backward.

    Args:
        norm, eps, early_stop: see :class:`BudgetAttack`.
        random_start: whether a restart starts at random in the ball, else at the photograph.
        restarts: number of starts, each of at least two updates.

    Raises:
        LitVizError: for fewer than one restart, or several without a random start.
    """

    def __init__(self, norm: NormName, eps: float | None, random_start: bool, restarts: int, early_stop: bool) -> None:
        super().__init__(norm, eps, early_stop)
        if restarts < 1:
            raise LitVizError(f"restarts must be at least 1, got {restarts}")
        if restarts > 1 and not random_start:
            raise LitVizError(f"restarts must be 1 without random_start, got {restarts}")
        self.random_start = random_start
        self.restart_schedule = RestartSchedule(restarts)

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        restart, iteration, _ = self.locate(state)
        starting = rows & (iteration < 0)
        moved, state = self.climb(x, state, evaluation, rows & ~starting)
        if self.random_start and bool(starting.any()):
            n = starting.nonzero()[:, 0]
            source, seeds, eps = (state[key][n] for key in ("source", "seed", "eps"))
            start = self.norm.random_start(source, seeds.tolist(), restart[n].tolist(), eps)
            moved = moved.index_put((n,), start)
        return moved, state

    @abstractmethod
    def climb(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Return the next images and state, as :meth:`update`; ``rows`` may be False throughout."""

    def locate(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(N,)`` int64 each: the number of the restart, the updates made since its start (-1 if the next
        update is the random start), and the updates after its start in total."""
        restart, iteration, total = self.restart_schedule.locate(state)
        start = int(self.random_start)
        return restart, iteration - start, (total - start).clamp(min=1)
