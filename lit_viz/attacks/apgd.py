"""Auto-PGD: projected gradient descent with momentum and an adaptive step size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_viz.attacks.base import ClimbingAttack, masked_gradient
from lit_viz.attacks.norms import NormName
from lit_viz.errors import require
from lit_viz.objectives import DLR, CrossEntropy
from lit_viz.optim import Evaluation, State
from lit_viz.optim.rule import chosen, per_slot
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list

Loss = Literal["ce", "dlr"]

_ALPHA = 0.75  # algorithm 1: weight of the new step against the momentum
_RHO = 0.75  # algorithm 1: required fraction of steps that raise the score


class APGD(ClimbingAttack):
    """Auto-PGD (Croce and Hein 2020, arXiv:2003.01690, algorithm 1).

    From eta = 2 eps, ``z = P(x + eta * d(g))`` and ``x <- P(x + .75 (z - x) + .25 (x - x_previous))``, without the
    final term in the first step. At a checkpoint (see :func:`checkpoints`) eta is halved and the search returns to the
    best point, if the score rose in at most 75 % of the steps since the previous checkpoint, or if eta was not halved
    there and the best score has not improved since.

    Args:
        norm, eps, restarts, early_stop: see :class:`~lit_viz.attacks.base.ClimbingAttack`.
        loss: ``ce``, cross-entropy, or ``dlr``, difference of logits ratio; both also targeted.
        random_start: whether the first update is a random point of the ball.
    """

    def __init__(
        self,
        norm: NormName = "linf",
        eps: float | str | None = None,
        loss: Loss = "ce",
        random_start: bool = True,
        restarts: int = 1,
        early_stop: bool = True,
    ) -> None:
        super().__init__(norm, eps, random_start, restarts, early_stop)
        require(loss in get_args(Loss), "loss must be ce or dlr", repr(loss))
        self.objective = CrossEntropy() if loss == "ce" else DLR()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Add the state of a restart: the step ``eta``; the best point ``peak`` with its score ``top`` and its
        ``peak_gradient``; ``previous``, the point before x, with its ``score``; and of the previous checkpoint the best
        score ``checked``, whether eta was ``halved``, and the number of ``rises`` since."""
        state = super().init(x, tasks)
        for key in ("peak", "peak_gradient", "previous"):
            state[key] = torch.zeros_like(x)
        for key in ("top", "score", "checked"):
            state[key] = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        state["eta"] = torch.zeros_like(state["eps"])
        state["rises"] = torch.zeros_like(state["seed"])
        state["halved"] = torch.zeros_like(state["fooled"])
        return state

    def climb(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        _, iteration, _ = self.locate(state)
        first = iteration == 0
        improved = first | (evaluation.score > state["top"])
        state, halve = self._adapt(state, evaluation.score, first, improved)
        # A return reuses the gradient at the peak.
        gradient = masked_gradient(evaluation, x, rows & (improved | ~halve))
        peak = chosen(improved, x, state["peak"])
        peak_gradient = chosen(improved, gradient, state["peak_gradient"])
        x, gradient = chosen(halve, peak, x), chosen(halve, peak_gradient, gradient)
        z = self.project(x + per_slot(state["eta"], x) * self.norm.steepest(gradient), state)
        drift = chosen(first, torch.zeros_like(x), x - state["previous"])
        alpha = per_slot(torch.where(first, 1.0, _ALPHA), x)
        moved = self.project(x + alpha * (z - x) + (1 - alpha) * drift, state)
        return moved, state | {"peak": peak, "peak_gradient": peak_gradient, "previous": x}

    def _adapt(self, state: State, score: Tensor, first: Tensor, improved: Tensor) -> tuple[State, Tensor]:
        """Return the state after the scores ``(N,)`` of x_k, and the rows that halve eta ``(N,)`` bool."""
        _, iteration, total = self.locate(state)
        periods = []
        for k, n in zip(to_list(iteration), to_list(total), strict=True):
            periods.append(checkpoints(n).get(k, 0))  # 0: no checkpoint
        period = to_device(periods, iteration.device)
        check = period > 0
        top = torch.where(improved, score, state["top"])
        rises = torch.where(first, 0, state["rises"] + (score > state["score"]))
        checked = torch.where(first, top, state["checked"])
        halved = state["halved"] & ~first
        halve = check & ((rises <= _RHO * period) | (~halved & (top <= checked)))
        eta = torch.where(first, 2 * state["eps"], state["eta"])
        adapted = {
            "top": top,
            "score": torch.where(halve, top, score),
            "rises": torch.where(check, 0, rises),
            "checked": torch.where(check, top, checked),
            "halved": torch.where(check, halve, halved),
            "eta": torch.where(halve, eta / 2, eta),
        }
        return state | adapted, halve


@lru_cache(maxsize=256)
def checkpoints(total: int) -> Mapping[int, int]:
    """Return ``{checkpoint: steps since the previous one}``; 22, 41, 57, 70, 80, 87, 93, 99 for a total of 100 steps.

    Each period is shorter than the previous one by at least a step, as in the authors' code.
    """
    period = checkpoint = max(int(0.22 * total), 1)
    periods = {}
    while checkpoint <= total:
        periods[checkpoint] = period
        period = max(period - max(int(0.03 * total), 1), int(0.06 * total), 1)
        checkpoint += period
    return MappingProxyType(periods)
