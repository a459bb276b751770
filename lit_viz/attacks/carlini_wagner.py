"""Carlini and Wagner's attack: distance and margin in one loss, weighed against each other by bisection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, is_adversarial, masked_gradient
from lit_viz.attacks.restarts import RestartSchedule
from lit_viz.errors import LitVizError
from lit_viz.objectives import Margin
from lit_viz.optim import Adam, Evaluation, State
from lit_viz.optim.rule import chosen, per_slot
from lit_viz.types import Task

#: Where white lies in the range of tanh. At its end white would have no finite w and no slope. At 1 - 1e-6, as in the
#: authors' code, it has both, but Adam needs some 500 steps until a change of it can be seen, here ten.
_INSIDE = 0.9
_WHITE = math.atanh(_INSIDE)
#: Less than Adam's usual 1e-8, which would slow down the networks whose gradients are small.
_TINY = 1e-16


class CarliniWagner(Attack):
    """The L2 attack of Carlini and Wagner (2017, arXiv:1608.04644, section VI-A).

    With ``x = (tanh(w) / 0.9 + 1) / 2`` Adam minimizes ``||x - source||_2^2 + c * max(-margin, 0)`` over w, which goes
    no further than where black and white are, from the photograph and from an empty memory for each c.

    If the network was fooled in the second half of the steps, c was large enough and is the new upper end, else the
    new lower one; the next c is the middle, or ten times as large as long as there is no upper end. Successes in the
    first half are kept, but Adam, whose first steps are as long whatever c is, made them.

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
        self.parts = RestartSchedule(steps, "values of c")
        self.adam = Adam(lr, eps=_TINY)
        self.objective = Margin()

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return besides: ``w``; what Adam keeps; ``c`` with its ends ``low`` and ``high``, and whether it was
        ``enough``."""
        c = torch.full((len(x),), self.c, dtype=torch.float64, device=x.device)
        return {
            **super().init(x, tasks),
            **self.adam.init(x, tasks),
            "w": to_tanh(x),
            "c": c,
            "low": torch.zeros_like(c),
            "high": torch.full_like(c, torch.inf),
            "enough": torch.zeros(len(x), dtype=torch.bool, device=x.device),
        }

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Take a step of Adam, or go back to the photograph with another c."""
        part, since, length = self.parts.at(state)
        since = since - (part > 0).long()  # the update that opens every part but the first goes back
        again, late = since < 0, (since < 0) | (2 * since >= length)
        state = {
            **state,
            "enough": state["enough"] | (late & is_adversarial(evaluation.logits, state["goal"], state["targeted"])),
        }
        gradient = masked_gradient(evaluation, x, rows & ~again & (evaluation.score <= 0))
        w, memory = self.adam.climb(state["w"], _upwards(x, gradient, state), {**state, "iteration": since})
        w = w.clamp_(-_WHITE, _WHITE)
        # Where nothing pulled, the change is zero to the last bit: Adam would make a full step of a rounding error.
        moved = torch.where(w == state["w"], x, _from_tanh(w))
        state = {**memory, "w": w, "iteration": state["iteration"]}
        if bool(again.any()):
            return chosen(again, state["source"], moved), _bisected(state, again)
        return moved, state


def to_tanh(x: Tensor) -> Tensor:
    """Return w for images ``(N, C, H, W)`` in [0, 1]; finite also for black and white."""
    return ((2 * x.clamp(0, 1) - 1) * _INSIDE).atanh().clamp_(-_WHITE, _WHITE)


def _from_tanh(w: Tensor) -> Tensor:
    """Return the images of w, by the logistic function: torch takes six times as long for tanh."""
    return (2 * w).sigmoid_().sub_((1 - _INSIDE) / 2).div_(_INSIDE).clamp_(0, 1)


def _upwards(x: Tensor, gradient: Tensor, state: State) -> Tensor:
    """Return the slope up from the loss over c, which has the loss's directions, with respect to w.

    Args:
        x: images.
        gradient: of the margin, zero where there is none of the hinge.
        state: of the attack.
    """
    # (1 - tanh(w)^2) / (2 * 0.9), told from x
    of_x = torch.addcmul(x, x, x, value=-1).mul_(2 * _INSIDE).add_((1 - _INSIDE**2) / (2 * _INSIDE))
    back = (state["source"] - x).mul_(per_slot(2 / state["c"], x))
    return back.add_(gradient).mul_(of_x)


def _bisected(state: State, again: Tensor) -> State:
    """Return the state with another c, and the photograph's w, where an image begins ``again``."""
    c, enough = state["c"], state["enough"]
    low, high = torch.where(enough, state["low"], c), torch.where(enough, c, state["high"])
    anew = {
        "w": to_tanh(state["source"]),
        "enough": torch.zeros_like(enough),
        "c": torch.where(high.isfinite(), (low + high) / 2, 10 * c),
        "low": low,
        "high": high,
    }
    return {**state, **{key: chosen(again, value, state[key]) for key, value in anew.items()}}
