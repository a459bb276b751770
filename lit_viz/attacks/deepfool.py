"""DeepFool: from one linearized decision boundary to the next, until one is crossed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_viz.attacks.base import Attack
from lit_viz.attacks.norms import Norm, checked_norm, distance_to_boundary, steepest, ways
from lit_viz.errors import LitVizError
from lit_viz.objectives import Margin
from lit_viz.optim import Evaluation, State
from lit_viz.optim.rule import chosen, per_slot
from lit_viz.utils.device import to_list

#: A step is no shorter than that, so that a point on the boundary itself is left.
_LEAST = 1e-4


class DeepFool(Attack):
    """DeepFool (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599, algorithm 2, and section 3.3 for other norms).

    With ``f_k = z_k - z_y`` and ``w_k`` its gradient, the nearest boundary of those to the likeliest classes is ``l =
    argmin |f_k| / ||w_k||_2`` and the step to it ``r = |f_l| / ||w_l||_2^2 * w_l``; in the largest value
    ``argmin |f_k| / ||w_k||_1`` and ``|f_l| / ||w_l||_1 * sign(w_l)``. A targeted attack goes to the boundary between
    the target and the likeliest other class.

    Images are ``source + (1 + overshoot) * (the sum of all r)``, as the authors' code evaluates them. Pixels that are
    black or white already and would have to go further are left out of ``w_k``, since the image stays in [0, 1].

    An update costs a backward for each of the classes that are compared, for a targeted attack one.

    Args:
        norm: in which the change is to be small.
        overshoot: part of the whole perturbation that is added to it in order to cross the boundary.
        classes: likeliest classes that are compared, the one to be left among them.

    Raises:
        LitVizError: for values that make no attack.
    """

    iterations: int = 50

    def __init__(self, norm: Norm = "l2", overshoot: float = 0.02, classes: int = 10) -> None:
        if not 0 <= overshoot < math.inf:
            raise LitVizError(f"an overshoot of {overshoot} crosses no boundary: give a small number such as 0.02.")
        if classes < 2:
            raise LitVizError(f"DeepFool compares 2 classes or more and was given {classes}: give a number such as 10.")
        self.norm = checked_norm(norm)
        self.overshoot = overshoot
        self.classes, self.backwards_per_step = classes, classes - 1
        self.objective = Margin()

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Step onto the nearest boundary, and the overshoot further.

        The overshoot of every step adds up to that of the sum, because it is taken from where the step before led.
        """
        distance, slope = self._nearest(x, state, evaluation, rows)
        length = (1 + self.overshoot) * torch.where(distance.isfinite(), distance.clamp(min=_LEAST), 0)
        return (x + per_slot(length, x) * steepest(slope, self.norm)).clamp(0, 1), state

    def _nearest(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance of each image's nearest boundary ``(N,)`` and the slope that leads there."""
        logits, goal, targeted = evaluation.logits, state["goal"], state["targeted"]
        others = logits.scatter(1, goal[:, None], -torch.inf)
        rivals = others.topk(min(self.classes, logits.shape[1]) - 1).indices
        if all(aimed for aimed, wanted in zip(to_list(targeted), to_list(rows), strict=True) if wanted):
            rivals = rivals[:, :1]
        distance = torch.full_like(evaluation.score, torch.inf)
        nearest = torch.zeros_like(x)
        lowest, highest = ways(x)
        for k, rival in enumerate(rivals.unbind(1)):
            reached, left = torch.where(targeted, goal, rival), torch.where(targeted, rival, goal)
            asked = rows & ~targeted if k else rows
            slope = _slope(evaluation, reached, left, asked, keep=k + 1 < rivals.shape[1]).clamp_(lowest, highest)
            here = distance_to_boundary(_gap(logits, reached, left), slope, self.norm)
            nearer = asked & (here < distance)
            distance, nearest = torch.where(nearer, here, distance), chosen(nearer, slope, nearest)
        return distance, nearest


def _gap(logits: Tensor, reached: Tensor, left: Tensor) -> Tensor:
    """Return ``z_reached - z_left`` ``(M,)`` of logits ``(M, K)``."""
    return (logits.gather(1, reached[:, None]) - logits.gather(1, left[:, None]))[:, 0]


def _slope(evaluation: Evaluation, reached: Tensor, left: Tensor, rows: Tensor, keep: bool) -> Tensor:
    def gap(logits: Tensor) -> Tensor:
        views = len(logits) // len(reached)
        return _gap(logits, reached.repeat_interleave(views), left.repeat_interleave(views))

    return evaluation.backward(of=gap, rows=rows, keep=keep)
