"""Auto-PGD: projected gradient descent with momentum that chooses its own step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from lit_viz.attacks.base import masked_gradient
from lit_viz.attacks.budget import ClimbingAttack
from lit_viz.attacks.norms import Norm, steepest
from lit_viz.errors import LitVizError
from lit_viz.objectives import DLR, CrossEntropy
from lit_viz.optim import Evaluation, State
from lit_viz.optim.rule import chosen, per_slot
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list

Loss = Literal["ce", "dlr"]

_MOMENTUM = 0.75  # alpha of algorithm 1: the share of the new step
_RISES = 0.75  # rho of algorithm 1: the share of steps that should raise the loss


class APGD(ClimbingAttack):
    """Auto-PGD (Croce and Hein 2020, arXiv:2003.01690, algorithm 1).

    With eta = 2 eps at first, ``z = P(x + eta * direction(g))`` and ``x <- P(x + .75 (z - x) + .25 (x - x_before))``,
    without the last term in the first step. At the checkpoints (see :func:`checkpoints`) an image halves its eta and
    returns to its best point so far, where the score rose in at most 75 % of the steps since the last checkpoint, or
    where eta was not halved there and the best score has not improved since.

    Args:
        norm, eps, restarts, early_stop: see :class:`~lit_viz.attacks.budget.ClimbingAttack`.
        loss: ``ce`` the cross-entropy or ``dlr`` the difference of logits ratio, both also targeted.
        random_start: whether the first update is a random point of the ball.

    Raises:
        LitVizError: for values that make no attack.
    """

    iterations: int = 100
    without_objective: ClassVar[str] = "take --attack.loss ce"

    def __init__(
        self,
        norm: Norm = "linf",
        eps: float | None = None,
        loss: Loss = "ce",
        random_start: bool = True,
        restarts: int = 1,
        early_stop: bool = True,
    ) -> None:
        super().__init__(norm, eps, random_start, restarts, early_stop)
        if loss not in get_args(Loss):
            raise LitVizError(f"APGD has no loss '{loss}': take ce or dlr.")
        self.objective = CrossEntropy() if loss == "ce" else DLR()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return besides, of the present part of the run: the step ``eta``; the best point ``peak`` with its ``top``
        score and ``peak_slope``; ``before`` and ``score``, the point that the last step was made from; ``rises`` since
        the last checkpoint, the top score ``checked`` there, and whether eta was ``halved`` there."""
        state = super().init(x, tasks)
        number = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        return {
            **state,
            **{key: torch.zeros_like(x) for key in ("peak", "peak_slope", "before")},
            **{key: number.clone() for key in ("top", "score", "checked")},
            "eta": torch.zeros_like(state["eps"]),
            "rises": torch.zeros_like(state["seed"]),
            "halved": torch.zeros_like(state["fooled"]),
        }

    def climb(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Halve where it is time, and take a step."""
        _, iteration, _ = self.where(state)
        first = iteration == 0
        improved = first | (evaluation.score > state["top"])
        state, halve = self._scored(state, evaluation.score, first, improved)
        here = masked_gradient(evaluation, x, rows & (improved | ~halve))
        peak = chosen(improved, x, state["peak"])
        peak_slope = chosen(improved, here, state["peak_slope"])
        x, here = chosen(halve, peak, x), chosen(halve, peak_slope, here)
        z = self.project(x + per_slot(state["eta"], x) * steepest(here, self.norm), state)
        drift = chosen(first, torch.zeros_like(x), x - state["before"])
        share = per_slot(torch.where(first, 1.0, _MOMENTUM), x)
        moved = self.project(x + share * (z - x) + (1 - share) * drift, state)
        return moved, {**state, "peak": peak, "peak_slope": peak_slope, "before": x}

    def _scored(self, state: State, score: Tensor, first: Tensor, improved: Tensor) -> tuple[State, Tensor]:
        """Return the state after a score ``(N,)`` became known, and which images halve their step."""
        _, iteration, total = self.where(state)
        period = _periods(iteration, total)
        check = period > 0
        top = torch.where(improved, score, state["top"])
        rises = torch.where(first, 0, state["rises"] + (score > state["score"]))
        checked = torch.where(first, top, state["checked"])
        halved = state["halved"] & ~first
        halve = check & ((rises <= _RISES * period) | (~halved & (top <= checked)))
        eta = torch.where(first, 2 * state["eps"], state["eta"])
        known = {
            "top": top,
            "score": torch.where(halve, top, score),
            "rises": torch.where(check, 0, rises),
            "checked": torch.where(check, top, checked),
            "halved": torch.where(check, halve, halved),
            "eta": torch.where(halve, eta / 2, eta),
        }
        return {**state, **known}, halve


@lru_cache(maxsize=256)
def checkpoints(total: int) -> Mapping[int, int]:
    """Return ``{checkpoint: steps since the one before}`` for so many steps; 22, 41, 57, 70, 80, 87, 93, 99 for 100.

    A period is shorter than the one before by a step at least, as in the authors' code: of twenty steps the last ones
    are checked one by one, so that the step gets small before the end.
    """
    period = at = max(int(0.22 * total), 1)
    found = {}
    while at <= total:
        found[at] = period
        period = max(period - max(int(0.03 * total), 1), int(0.06 * total), 1)
        at += period
    return MappingProxyType(found)


def _periods(iteration: Tensor, total: Tensor) -> Tensor:
    """Return the steps since the last checkpoint where there is one now ``(N,)``, else 0."""
    periods = [checkpoints(n).get(k, 0) for k, n in zip(to_list(iteration), to_list(total), strict=True)]
    return to_device(periods, iteration.device)
