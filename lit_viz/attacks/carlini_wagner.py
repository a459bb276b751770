"""Carlini and Wagner's attack: distance and margin in one loss, weighed against each other by bisection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, slope, succeeded
from lit_viz.engine.tasks import Task
from lit_viz.errors import LitVizError
from lit_viz.objectives import Margin
from lit_viz.optim import Constant, Evaluation, State
from lit_viz.optim.rule import chosen, per_slot

#: Where white lies in the range of tanh. At its end white would have no finite w and no slope. At 1 - 1e-6, as in the
#: authors' code, it has both, but Adam needs some 500 steps until a change of it can be seen, here ten. What is further
#: out than white is white.
_INSIDE = 0.9
_BETAS = (0.9, 0.999)
_MEMORY = ("mean", "square")  # Adam's, of the gradient and of its square
#: Less than Adam's usual 1e-8, which would slow down the networks whose gradients are small.
_TINY = 1e-16


class CarliniWagner(Attack):
    """The L2 attack of Carlini and Wagner (2017, arXiv:1608.04644, section VI-A).

    With ``x = (tanh(w) / 0.9 + 1) / 2`` Adam minimizes ``||x - source||_2^2 + c * max(-margin, 0)`` over w,
    from the photograph and from an empty memory for each c. If the network was fooled in the second half of the steps,
    c was large enough and is the new upper end, else the new lower one; the next c is the middle, or ten times as large
    as long as there is no upper end. Successes in the first half are kept, but Adam, whose first steps are as long
    whatever c is, made them.

    The iterations are split into equal parts, one a value of c, the last of which takes what is left over; they are
    the fewer the fewer iterations there are, none with less than two. To go back to the photograph is an update of its
    own that needs no backward; nor does an image that fools.

    Args:
        c: weight of the margin at first.
        steps: values of c that are tried.
        lr: of Adam; a task's option ``lr`` overrides it.

    Raises:
        LitVizError: for values that make no attack.
    """

    iterations: int = 900
    minimal: ClassVar[bool] = True

    def __init__(self, c: float = 1e-3, steps: int = 9, lr: float = 0.01) -> None:
        if not 0 < c < math.inf:
            raise LitVizError(f"the weight c {c} weighs nothing: give a positive number such as 0.001.")
        if steps < 1:
            raise LitVizError(f"{steps} steps of bisection make no attack: give 1 or more, such as 9.")
        self.c = c
        self.steps = steps
        self.lr = Constant(lr)
        self.objective = Margin()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return besides: ``offset``, by how much w is above the photograph's; Adam's ``mean`` and ``square``; ``c``
        with its ends ``low`` and ``high``, and whether it was ``enough``; the base rate ``lr``."""
        c = torch.full((len(x),), self.c, dtype=torch.float64, device=x.device)
        return {
            **super().init(x, tasks),
            **self.lr.init(x, tasks),
            **{key: torch.zeros_like(x) for key in ("offset", *_MEMORY)},
            "c": c,
            "low": torch.zeros_like(c),
            "high": torch.full_like(c, torch.inf),
            "enough": torch.zeros(len(x), dtype=torch.bool, device=x.device),
        }

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Take a step of Adam, or go back to the photograph with another c."""
        since, length = self._part(state)
        again, late = since < 0, (since < 0) | (2 * since >= length)
        state = {**state, "enough": state["enough"] | (late & succeeded(evaluation.logits, state))}
        gradient = slope(evaluation, x, rows & ~again & (evaluation.score <= 0))
        moved, state = _adam(state, x, gradient, since, self.lr(state))
        return chosen(again, state["source"], moved), _bisected(state, again)

    def _part(self, state: State) -> tuple[Tensor, Tensor]:
        """Return the updates of Adam since it began anew ``(N,)`` int64, -1 where it is to begin, and how many its part
        has in all."""
        whole, iteration = state["iterations"], state["iteration"]
        count = (whole // 2).clamp(1, self.steps)
        length = whole // count
        part = torch.minimum(iteration // length, count - 1)
        back = (part > 0).long()  # the update that opens every part but the first
        return iteration - part * length - back, length


def to_tanh(x: Tensor) -> Tensor:
    """Return w for images ``(N, C, H, W)`` in [0, 1]; finite also for black and white."""
    return ((2 * x.clamp(0, 1) - 1) * _INSIDE).atanh()


def _adam(state: State, x: Tensor, gradient: Tensor, since: Tensor, lr: Tensor) -> tuple[Tensor, State]:
    """Return the images and the state after a step down the loss over c, which has the loss's directions.

    Args:
        state: of the attack.
        x: images.
        gradient: of the margin, zero where there is none of the hinge.
        since: steps made before ``(N,)``.
        lr: rates ``(N,)``.
    """
    source, start = state["source"], to_tanh(state["source"])
    slope_of_x = (1 - (start + state["offset"]).tanh().square()) / (2 * _INSIDE)
    down = (2 * (x - source) / per_slot(state["c"], x) - gradient) * slope_of_x
    mean, square = (
        torch.lerp(now, state[key], beta) for now, key, beta in zip((down, down.square()), _MEMORY, _BETAS, strict=True)
    )
    first, second = (per_slot(1 - beta ** (since.double() + 1), x) for beta in _BETAS)
    offset = state["offset"] - per_slot(lr, x) * (mean / first) / ((square / second).sqrt() + _TINY)
    moved = (((start + offset).tanh() / _INSIDE + 1) / 2).clamp(0, 1)
    # Where nothing pulled, the change is zero to the last bit: Adam would make a full step of a rounding error.
    moved = torch.where(offset == 0, source, moved)
    return moved, {**state, "offset": offset, "mean": mean, "square": square}


def _bisected(state: State, again: Tensor) -> State:
    """Return the state with another c, and an empty memory, where an image begins ``again``."""
    c, enough = state["c"], state["enough"]
    low, high = torch.where(enough, state["low"], c), torch.where(enough, c, state["high"])
    anew = {
        **{key: torch.zeros_like(state[key]) for key in ("offset", *_MEMORY, "enough")},
        "c": torch.where(high.isfinite(), (low + high) / 2, 10 * c),
        "low": low,
        "high": high,
    }
    return {**state, **{key: chosen(again, value, state[key]) for key, value in anew.items()}}
