"""Carlini and Wagner's L2 attack: distance and margin in one loss, balanced by bisection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack, RestartSchedule, is_adversarial, masked_gradient
from lit_viz.errors import require
from lit_viz.objectives import Margin
from lit_viz.optim import Adam, Evaluation, State
from lit_viz.optim.rule import chosen, per_slot
from lit_viz.types import Task

#: Position of white in the range of tanh. At 1, w would be infinite and its gradient zero; at 1 - 1e-6, as in the
#: authors' code, Adam needs some 500 steps to change a white pixel; at 0.9, ten.
_WHITE = 0.9
_W_MAX = math.atanh(_WHITE)
#: Adam's usual 1e-8 slows down networks with small gradients.
_ADAM_EPS = 1e-16


class CarliniWagner(Attack):
    """The L2 attack of Carlini and Wagner (2017, arXiv:1608.04644, section VI-A).

    With ``x = (tanh(w) / 0.9 + 1) / 2`` Adam minimizes ``||x - source||_2^2 + c * max(-margin, 0)`` over w, which is
    clamped to [black, white]. Each value of c restarts at the photograph with a new optimizer state.

    If the second half of a restart had a success, c is the new upper bound, else the new lower bound. The next c is the
    middle, or ``10 c`` without an upper bound. Successes of the first half are candidates for the result, but not for
    the bisection, since the length of Adam's first steps is independent of c.

    The iterations are split evenly over the values of c. The return to the photograph is an update without a backward;
    a success needs no backward either.

    Args:
        c: initial weight of the margin.
        steps: number of values of c.
        lr: learning rate of Adam; a task's option ``lr`` overrides it.
    """

    iterations: int = 900
    minimal: ClassVar[bool] = True

    def __init__(self, c: float = 1e-3, steps: int = 9, lr: float = 0.01) -> None:
        require(0 < c < math.inf, "CarliniWagner: c must be positive", c)
        require(steps >= 1, "CarliniWagner: steps must be at least 1", steps)
        self.c = c
        self.restart_schedule = RestartSchedule(steps, "values of c")
        self.adam = Adam(lr, eps=_ADAM_EPS)
        self.objective = Margin()

    def nominal_rate(self, iteration: int, iterations: int) -> float:
        return self.adam.nominal_rate(iteration, iterations)

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Add ``w``, Adam's state, ``c`` with its bounds ``low`` and ``high``, and whether it was ``enough``."""
        c = torch.full((len(x),), self.c, dtype=torch.float64, device=x.device)
        bisection = {
            "w": to_tanh(x),
            "c": c,
            "low": torch.zeros_like(c),
            "high": torch.full_like(c, torch.inf),
            "enough": torch.zeros(len(x), dtype=torch.bool, device=x.device),
        }
        return super().init(x, tasks) | self.adam.init(x, tasks) | bisection

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        number, iteration, total = self.restart_schedule.locate(state)
        iteration = iteration - (number > 0).long()  # the first update of a later restart is the return
        restart, second_half = iteration < 0, (iteration < 0) | (2 * iteration >= total)
        fooled = is_adversarial(evaluation.logits, state["goal"], state["targeted"])
        state = state | {"enough": state["enough"] | (second_half & fooled)}
        gradient = masked_gradient(evaluation, x, rows & ~restart & (evaluation.score <= 0))
        ascent = _gradient_by_w(x, gradient, state)
        w, memory = self.adam.ascend(state["w"], ascent, state | {"iteration": iteration})
        w = w.clamp_(-_W_MAX, _W_MAX)
        # By the logistic function: torch's tanh takes six times as long. An unchanged w keeps x bit-equal: Adam would
        # amplify a rounding error of the transform to a full step.
        images = (2 * w).sigmoid_().sub_((1 - _WHITE) / 2).div_(_WHITE).clamp_(0, 1)
        moved = torch.where(w == state["w"], x, images)
        state = memory | {"w": w, "iteration": state["iteration"]}
        if bool(restart.any()):
            return chosen(restart, state["source"], moved), _bisect(state, restart)
        return moved, state


def to_tanh(x: Tensor) -> Tensor:
    """Return w of images ``(N, C, H, W)`` in [0, 1]; finite for black and white."""
    return ((2 * x.clamp(0, 1) - 1) * _WHITE).atanh().clamp_(-_W_MAX, _W_MAX)


def _gradient_by_w(x: Tensor, gradient: Tensor, state: State) -> Tensor:
    """Return the gradient of ``-loss / c`` by w; the ``gradient`` of the margin by x is zero for a success."""
    # dx/dw = (1 - tanh(w)^2) / (2 * 0.9), as a function of x
    derivative = torch.addcmul(x, x, x, value=-1).mul_(2 * _WHITE).add_((1 - _WHITE**2) / (2 * _WHITE))
    distance_gradient = (state["source"] - x).mul_(per_slot(2 / state["c"], x))
    return distance_gradient.add_(gradient).mul_(derivative)


def _bisect(state: State, rows: Tensor) -> State:
    """Return the state with the next c and the photograph's w in these rows."""
    c, enough = state["c"], state["enough"]
    low, high = torch.where(enough, state["low"], c), torch.where(enough, c, state["high"])
    restarted = {
        "w": to_tanh(state["source"]),
        "enough": torch.zeros_like(enough),
        "c": torch.where(high.isfinite(), (low + high) / 2, 10 * c),
        "low": low,
        "high": high,
    }
    state = dict(state)
    for key, value in restarted.items():
        state[key] = chosen(rows, value, state[key])
    return state
